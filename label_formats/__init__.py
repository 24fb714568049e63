"""One module per label format (COCO, YOLO, Pascal VOC), and how images are read."""

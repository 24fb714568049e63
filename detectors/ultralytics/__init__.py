"""The networks that the ultralytics package builds: YOLO and RT-DETR."""

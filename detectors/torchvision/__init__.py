"""The detectors of torchvision: Faster R-CNN, Mask R-CNN, RetinaNet, FCOS, SSD, also with a Swin backbone."""

"""The original anchor-based YOLOv5 (repository ultralytics/yolov5), n to x and P6, up to release 7.0."""

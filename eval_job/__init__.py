"""Stage 3: COCO and VOC metrics, latency and size, the report."""

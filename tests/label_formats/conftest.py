"""Drawn validation data in every format."""

from tests.drawn import coco_file, images, instances, voc_folder, write_coco, yolo_folder

__all__ = ["coco_file", "images", "instances", "voc_folder", "write_coco", "yolo_folder"]

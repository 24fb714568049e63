"""Detectors of Hugging Face's transformers package that end in a query set: D-FINE, RT-DETR, RT-DETRv2.

The package is an extra of zsq. `saved_model` needs neither it nor torch.
"""

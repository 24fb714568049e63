"""Quantizers, the conversion policy, student save and load, and ONNX export with Q/DQ nodes."""

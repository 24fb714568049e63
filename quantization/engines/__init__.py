"""Engines beside ONNX Runtime and OpenVINO that run a student, one module or folder each."""

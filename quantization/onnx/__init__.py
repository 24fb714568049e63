"""Students as ONNX models with quantization operators, and the engines that run them."""

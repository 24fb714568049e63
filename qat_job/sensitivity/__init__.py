"""How much each layer suffers from quantization, and the mixed precision that follows."""

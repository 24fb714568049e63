"""A quantized product of two activations is exported with both of its quantizers."""

from pathlib import Path

import torch
from torch import Tensor, nn

from quantization.convert import activations_in_float
from quantization.layers import QuantizedMatMul
from quantization.onnx.engine import open_engine
from quantization.onnx.graph import to_onnx, write_onnx
from quantization.onnx.quantizers import replace_quantizers
from quantization.plan import QuantizerSpec


class Product(nn.Module):
    """An image times itself, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.product = QuantizedMatMul(QuantizerSpec(4, "per_tensor", "affine"))
        for quantizer, step in ((self.product.left_quantizer, 0.05), (self.product.right_quantizer, 0.07)):
            quantizer.step_size.data.fill_(step)

    def forward(self, images: Tensor) -> Tensor:
        """`(B, 3, H, H)` of `(B, 3, H, W)`."""
        product: Tensor = self.product(images, images.transpose(2, 3))
        return product


def test_the_file_rounds_both_sides_and_only_where_activations_are_not_left_in_float(tmp_path: Path) -> None:
    network = Product().eval()
    images = torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        rounded = network(images)
        with activations_in_float(network):
            exact = network(images)
    torch.testing.assert_close(exact, images @ images.transpose(2, 3))
    assert float((rounded - exact).abs().max()) > 0.1
    replace_quantizers(network)
    write_onnx(to_onnx(network, 8, {}), tmp_path / "product.onnx")
    found = torch.from_numpy(open_engine(tmp_path / "product.onnx")(images.numpy()))
    torch.testing.assert_close(found, rounded, rtol=1e-5, atol=1e-5)

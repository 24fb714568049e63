"""A training as TensorBoard event files: loss, learning rate, step sizes."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from quantization.convert import quantized_layers


class EventRecord:
    """Writes where `train` already waits for the device, so that recording costs no further wait.

    Args:
        folder: of the event files.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # an optional extra, and slow to import

        self._writer = SummaryWriter(folder)
        self._steps = 0

    def write(self, losses: Sequence[Tensor], learning_rate: float, network: nn.Module) -> None:
        """The losses of all steps so far, of which those not written yet are; rate and step sizes at the last one."""
        for loss in losses[self._steps :]:
            self._steps += 1
            self._writer.add_scalar("loss", loss.item(), self._steps)
        self._writer.add_scalar("learning_rate", learning_rate, self._steps)
        for name, layer in quantized_layers(network).items():
            for role, quantizer in (("weight", layer.weight_quantizer), ("input", layer.input_quantizer)):
                step_size = quantizer.step_size.detach().abs().mean().item()
                self._writer.add_scalar(f"step_size.{role}/{name}", step_size, self._steps)
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()

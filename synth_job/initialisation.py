"""Where forming images start, and the random numbers of each sample."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from schemas.image_size import ImageSize
from schemas.synth_config import Initialisation

OCTAVES = ((5, 0.5), (10, 0.35), (20, 0.25), (40, 0.18), (80, 0.12), (160, 0.08), (320, 0.05))
"""Longer side of the grid and amplitude of each octave of smooth noise; energy falls with frequency as in natural
images."""
LUMINANCE, CHROMINANCE = 0.8, 0.6
"""Standard deviation of what the colour channels share, and of what each has on its own."""
BRIGHTNESS, CONTRAST = 0.45, 0.25
"""Mean and amplitude of the noise in [0, 1]."""


def sample_generator(seed: int, index: int, attempt: int = 0) -> torch.Generator:
    """The random generator of sample `index` of a set; another one for each attempt at it."""
    entropy = [seed, index, attempt] if attempt else [seed, index]
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) % 2**63)


def initial_images(
    kind: Initialisation, seed: int, indices: Sequence[int], size: ImageSize, attempt: int = 0
) -> Tensor:
    """Start images `(B, 3, H, W)` of a size in [0, 1]; image k depends on (seed, its sample index, attempt) alone."""
    generators = [sample_generator(seed, index, attempt) for index in indices]
    if kind is Initialisation.NOISE:
        return torch.stack([torch.rand(3, size.height, size.width, generator=generator) for generator in generators])
    return torch.cat([low_frequency_noise(size, generator) for generator in generators])


def low_frequency_noise(size: ImageSize, generator: torch.Generator) -> Tensor:
    """Smooth colour noise, `(1, 3, H, W)` of a size in [0, 1]; as coarse downwards as across."""
    height_width = (size.height, size.width)
    total = torch.zeros(1, 3, *height_width)
    for side, amplitude in OCTAVES:
        grid = [max(1, round(side * each / size.longer)) for each in height_width]
        colour = CHROMINANCE * torch.randn(1, 3, *grid, generator=generator)
        grey = LUMINANCE * torch.randn(1, 1, *grid, generator=generator)
        total += amplitude * F.interpolate(colour + grey, size=height_width, mode="bicubic", align_corners=False)
    return (BRIGHTNESS + CONTRAST * total).clamp(0, 1)


def enlarged(images: Tensor, size: ImageSize) -> Tensor:
    """Images that were optimised at a smaller size, `(B, 3, H, W)` of `size` in [0, 1]."""
    height_width = (size.height, size.width)
    if tuple(images.shape[2:]) == height_width:
        return images
    return F.interpolate(images, size=height_width, mode="bicubic", align_corners=False).clamp(0, 1)

"""Images as engines take them."""

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor


@pytest.fixture(scope="session")
def pixels(images: Tensor) -> NDArray[np.float32]:
    """The scenes as an array."""
    return images.numpy()

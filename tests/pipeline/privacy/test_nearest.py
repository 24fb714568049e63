"""The nearest real images are the same however they pass by."""

import numpy as np
import pytest

from pipeline.privacy.nearest import NOBODY, Nearest


def unit(generator: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = generator.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_they_are_those_of_brute_force(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.privacy.nearest.BLOCK", 5)
    generator = np.random.default_rng(0)
    references = unit(generator, 40, 3, 8)
    queries = [unit(generator, 1 + number % 4, 8) for number in range(12)]
    own = [NOBODY] * 6 + [0, 5, 10, 20, 30, 39]
    for number, index in enumerate(own):
        if index != NOBODY:
            queries[number] = references[index, :1]  # itself: must not count
    nearest = Nearest(queries, own)
    for first in range(0, 40, batch):
        nearest.update(references[first : first + batch], first)
    for number, views in enumerate(queries):
        distances = np.linalg.norm(views[:, None, None] - references[None], axis=-1).min((0, 2))
        if own[number] != NOBODY:
            distances[own[number]] = np.inf
        order = np.argsort(distances)
        assert nearest.index[number] == order[0]
        np.testing.assert_allclose(nearest.distances()[number], distances[order[:2]], atol=1e-3)
        assert nearest.ratios()[number] == pytest.approx(distances[order[0]] / distances[order[1]], abs=1e-3)

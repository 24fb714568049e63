"""Scenes of flat geometric objects, rendered with numpy alone and reproducible from two integers.

Every shape is a signed distance field (negative inside), so edges are anti-aliased at any size and rotation. Arrays see
only additions, products, square roots and comparisons; sines and cosines are taken of scalars.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SCENE_SIZE: int = 160
TRAINING_SEED: int = 1
VALIDATION_SEED: int = 2

MAX_OBJECTS: int = 6
MIN_VISIBLE_FRACTION: float = 0.3
"""An object of which less than this share of its in-frame area stays visible is left out of the scene."""
MIN_COLOUR_DISTANCE: float = 0.3
"""Smallest mean absolute RGB difference, in [0, 1], between an object's main colour and what lies behind it."""

TEXTURES: tuple[str, ...] = ("plain", "stripes", "checks", "dots", "gradient", "noise")


@dataclass(frozen=True)
class Scene:
    """One rendered image and its objects.

    image: (H, W, 3) uint8 RGB. boxes: (N, 4) float32, pixels, (x1, y1, x2, y2) tight around the visible part of each
    object. classes: (N,) int64 indices into `CLASS_NAMES`. masks: (N, H, W) bool, the visible part of each object.
    placements: where each object lies.
    """

    image: NDArray[np.uint8]
    boxes: Floats
    classes: NDArray[np.int64]
    masks: NDArray[np.bool_]
    placements: "tuple[Placement, ...]"


def _polygon(corners: list[tuple[float, float]]) -> Callable[[Floats, Floats], Floats]:
    """Exact signed distance to a simple polygon given by its corners in order."""

    def distance(x: Floats, y: Floats) -> Floats:
        nearest = np.full(x.shape, np.inf, dtype=np.float32)
        inside = np.zeros(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
            ex, ey = bx - ax, by - ay
            px, py = x - ax, y - ay
            along = np.clip((px * ex + py * ey) * (1.0 / (ex * ex + ey * ey)), 0.0, 1.0)
            nearest = np.minimum(nearest, (px - along * ex) ** 2 + (py - along * ey) ** 2)
            if ey != 0.0:
                crosses = (y >= ay) != (y >= by)
                inside ^= crosses & (px < py * (ex / ey))
        return np.where(inside, -1.0, 1.0).astype(np.float32) * np.sqrt(nearest)

    return distance


def _spokes(radii: list[float], turn: float = 0.0) -> list[tuple[float, float]]:
    """Corners at equal angles around the origin, at the given radii, the first one pointing up."""
    angles = [turn - math.pi / 2 + 2 * math.pi * i / len(radii) for i in range(len(radii))]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _disc(x: Floats, y: Floats) -> Floats:
    return np.sqrt(x * x + y * y) - np.float32(1.0)


def _ring(x: Floats, y: Floats) -> Floats:
    return np.abs(np.sqrt(x * x + y * y) - np.float32(0.78)) - np.float32(0.22)


def _crescent(x: Floats, y: Floats) -> Floats:
    bite = np.sqrt((x - np.float32(0.55)) ** 2 + y * y) - np.float32(0.8)
    return np.maximum(_disc(x, y), -bite)


_CROSS = [(0.3, -1.0), (0.3, -0.3), (1.0, -0.3), (1.0, 0.3), (0.3, 0.3), (0.3, 1.0)]
_ARROW = [(0.0, -1.0), (0.85, -0.05), (0.3, -0.05), (0.3, 1.0), (-0.3, 1.0), (-0.3, -0.05), (-0.85, -0.05)]

_SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "disc": _disc,
    "ring": _ring,
    "square": _polygon([(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]),
    "triangle": _polygon(_spokes([1.05] * 3)),
    "star": _polygon(_spokes([1.05, 0.45] * 5)),
    "cross": _polygon(_CROSS + [(-x, -y) for x, y in _CROSS]),
    "crescent": _crescent,
    "arrow": _polygon(_ARROW),
}

CLASS_NAMES: tuple[str, ...] = tuple(_SHAPES)


@dataclass(frozen=True)
class Placement:
    """Where and how large an object lies: centre and half-sides in pixels, rotation as (cosine, sine)."""

    class_index: int
    centre: tuple[float, float]
    half: tuple[float, float]
    rotation: tuple[float, float]

    def local(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Object coordinates of the points (x, y), in pixels; the shape spans about [-1, 1]."""
        dx, dy = x - np.float32(self.centre[0]), y - np.float32(self.centre[1])
        cos, sin = (np.float32(v) for v in self.rotation)
        across, along = (np.float32(1 / half) for half in self.half)
        return (dx * cos + dy * sin) * across, (dy * cos - dx * sin) * along

    def in_image(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels `(K, 2)` of points that are given in object coordinates."""
        (cos, sin), (x, y) = self.rotation, (points * np.array(self.half)).T
        return np.stack((x * cos - y * sin, x * sin + y * cos), axis=1) + np.array(self.centre)

    def coverage(self, size: int, shift: float = 0.0, softness: float = 1.0) -> Floats:
        """Share of each pixel that the shape, moved by `shift` pixels on both axes, covers: (size, size) in [0, 1].

        `softness` is the width of the edge in pixels.
        """
        reach = 1.2 * max(self.half) + softness
        left, top = (max(int(c + shift - reach), 0) for c in self.centre)
        right, bottom = (max(int(c + shift + reach) + 1, 0) for c in self.centre)
        window = (slice(top, bottom), slice(left, right))
        x, y = (axis[window] - np.float32(shift) for axis in _pixel_grid(size))
        distance = _SHAPES[CLASS_NAMES[self.class_index]](*self.local(x, y)) * np.float32(min(self.half))
        covered = np.zeros((size, size), dtype=np.float32)
        covered[window] = np.clip(np.float32(0.5) - distance / np.float32(softness), 0.0, 1.0)
        return covered


def _pixel_grid(size: int) -> tuple[Floats, Floats]:
    centres = np.arange(size, dtype=np.float32) + np.float32(0.5)
    return np.broadcast_to(centres, (size, size)), np.broadcast_to(centres[:, None], (size, size))


def _place(rng: np.random.Generator, size: int, kinds: Sequence[int], stretch_range: float) -> Placement:
    half = 0.5 * size * 0.12 * (0.6 / 0.12) ** rng.uniform()
    stretch = math.exp(rng.uniform(-stretch_range, stretch_range))
    angle = rng.uniform(0.0, 2 * math.pi)
    x, y = rng.uniform(0.08, 0.92, 2) * size
    return Placement(
        class_index=kinds[int(rng.integers(len(kinds)))],
        centre=(float(x), float(y)),
        half=(half * stretch, half / stretch),
        rotation=(math.cos(angle), math.sin(angle)),
    )


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Floats:
    """Random values on a coarse grid, smoothly interpolated to (size, size) in [0, 1]."""
    grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
    position = np.arange(size, dtype=np.float32) * np.float32(cells / size)
    low = position.astype(np.int64)
    t = position - np.floor(position)
    t = t * t * (3 - 2 * t)
    rows = grid[low] * (1 - t)[:, None] + grid[low + 1] * t[:, None]
    return rows[:, low] * (1 - t) + rows[:, low + 1] * t


def _wave(phase: Floats) -> Floats:
    """Triangle wave of period 1 in [-1, 1]."""
    return np.abs(phase - np.floor(phase) - np.float32(0.5)) * np.float32(4.0) - np.float32(1.0)


def _texture(rng: np.random.Generator, kind: str, x: Floats, y: Floats) -> Floats:
    """How much of the second colour each pixel takes, (size, size) in [0, 1]; x and y are about [-1, 1]."""
    density = np.float32(rng.uniform(1.2, 3.0))
    px, py = x * density + np.float32(rng.uniform()), y * density + np.float32(rng.uniform())
    if kind == "plain":
        return np.zeros(x.shape, dtype=np.float32)
    if kind == "stripes":
        return np.clip(_wave(px) * 4 + np.float32(0.5), 0.0, 1.0)
    if kind == "checks":
        return np.clip(_wave(px) * _wave(py) * 12 + np.float32(0.5), 0.0, 1.0)
    if kind == "dots":
        u, v = px - np.floor(px) - np.float32(0.5), py - np.floor(py) - np.float32(0.5)
        return np.clip((np.float32(0.3) - np.sqrt(u * u + v * v)) * 8 + np.float32(0.5), 0.0, 1.0)
    if kind == "gradient":
        return np.clip(x * np.float32(0.5) + np.float32(0.5), 0.0, 1.0)
    return _smooth_noise(rng, x.shape[0], int(rng.integers(8, 40)))


def _blend(image: Floats, colour: Floats, amount: Floats) -> Floats:
    """`image` (3, H, W) moved towards `colour`, (3,) or (3, H, W), by `amount` (H, W) in [0, 1]."""
    return image + (colour.reshape(3, *(colour.shape[1:] or (1, 1))) - image) * amount


def _background(rng: np.random.Generator, size: int) -> Floats:
    """(3, size, size) in [0, 1]: a texture between two related colours, uneven, with lines and soft blobs."""
    angle, zoom = rng.uniform(0.0, 2 * math.pi), rng.uniform(0.7, 2.2)
    frame = Placement(0, (size / 2, size / 2), (size / 2 / zoom, size / 2 / zoom), (math.cos(angle), math.sin(angle)))
    first = rng.random(3, dtype=np.float32)
    second = first + (rng.random(3, dtype=np.float32) - first) * np.float32(rng.uniform(0.15, 0.7))
    kind = TEXTURES[rng.choice(len(TEXTURES), p=(0.1, 0.12, 0.1, 0.08, 0.3, 0.3))]
    texture = _texture(rng, kind, *frame.local(*_pixel_grid(size)))
    image = _blend(np.broadcast_to(first[:, None, None], (3, size, size)), second, texture)
    tint = rng.random(3, dtype=np.float32)
    image = _blend(image, tint, np.float32(rng.uniform(0.0, 0.6)) * _smooth_noise(rng, size, int(rng.integers(2, 7))))
    x, y = _pixel_grid(size)
    for _ in range(int(rng.integers(0, 5)) if rng.uniform() < 0.6 else 0):
        ax, ay, bx, by = (np.float32(v) for v in rng.uniform(0.0, size, 4))
        length = np.float32(max(math.hypot(bx - ax, by - ay), 1.0))
        ex, ey = (bx - ax) / length, (by - ay) / length
        along = np.clip((x - ax) * ex + (y - ay) * ey, 0.0, length)
        distance = np.sqrt((x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
        width = np.float32(rng.uniform(0.003, 0.012) * size)
        image = _blend(image, rng.random(3, dtype=np.float32), np.clip(width - distance + np.float32(0.5), 0.0, 1.0))
    for _ in range(int(rng.integers(0, 5)) if rng.uniform() < 0.5 else 0):
        cx, cy = (np.float32(v) for v in rng.uniform(0.0, size, 2))
        radius = rng.uniform(0.05, 0.3) * size
        fade = np.clip(1 - np.sqrt((x - cx) ** 2 + (y - cy) ** 2) * np.float32(1 / radius), 0.0, 1.0)
        image = _blend(image, rng.random(3, dtype=np.float32), fade * np.float32(rng.uniform(0.4, 0.9)))
    return image


def _paint(rng: np.random.Generator, image: Floats, placement: Placement, coverage: Floats) -> Floats:
    """`image` (3, H, W) with one object, and sometimes its shadow, painted over it."""
    size = image.shape[1]
    if rng.uniform() < 0.4:
        offset = rng.uniform(0.02, 0.12) * max(placement.half)
        shadow = placement.coverage(size, shift=offset, softness=rng.uniform(2.0, 8.0))
        image = _blend(image, np.zeros(3, dtype=np.float32), shadow * np.float32(rng.uniform(0.2, 0.6)))
    weight = coverage / coverage.sum()
    behind = (image * weight).sum(axis=(1, 2))
    colour = rng.random(3, dtype=np.float32)
    while np.abs(colour - behind).mean() < MIN_COLOUR_DISTANCE:
        colour = rng.random(3, dtype=np.float32)
    kind = TEXTURES[rng.choice(len(TEXTURES), p=(0.35, 0.13, 0.13, 0.13, 0.13, 0.13))]
    other = colour + (rng.random(3, dtype=np.float32) - colour) * np.float32(rng.uniform(0.3, 0.8))
    texture = _texture(rng, kind, *placement.local(*_pixel_grid(size)))
    skin = _blend(np.broadcast_to(colour[:, None, None], image.shape), other, texture)
    return _blend(image, skin, coverage)


def _visible_masks(coverages: list[Floats]) -> list[NDArray[np.bool_]]:
    """For each of one or more objects, back to front, the (H, W) pixels that it owns and no later one covers."""
    covered: NDArray[np.bool_] = np.zeros_like(coverages[0], dtype=bool)
    masks: list[NDArray[np.bool_]] = []
    for coverage in reversed(coverages):
        solid = coverage >= 0.5
        masks.append(solid & ~covered)
        covered = covered | solid
    return masks[::-1]


def _tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2) in pixels around the true entries of `mask` (H, W), which holds at least one."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def render_scene(
    seed: int,
    index: int,
    size: int = SCENE_SIZE,
    *,
    kinds: Sequence[int] = range(len(CLASS_NAMES)),
    stretch: float = 0.2,
) -> Scene:
    """Render scene `index` of the sequence `seed` as a (size, size, 3) image with 1 to 6 objects.

    The same arguments give the same bytes. Objects may overlap and may reach out of the frame; one that is mostly
    hidden by those in front of it is left out rather than shown without a box. Their classes are drawn from `kinds`,
    and the logarithm of how much each is longer than wide, halved, from ± `stretch`.
    """
    rng = np.random.default_rng([seed, index])
    image = _background(rng, size)
    placements = [_place(rng, size, kinds, stretch) for _ in range(int(rng.integers(1, MAX_OBJECTS + 1)))]
    drawn = [(placement, placement.coverage(size)) for placement in placements]
    masks = _visible_masks([coverage for _, coverage in drawn])
    drawn = [
        (placement, coverage)
        for (placement, coverage), mask in zip(drawn, masks, strict=True)
        if mask.sum() > MIN_VISIBLE_FRACTION * (coverage >= 0.5).sum()
    ]
    for placement, coverage in drawn:
        image = _paint(rng, image, placement, coverage)

    unevenness = np.float32(rng.uniform(0.0, 0.35)) * (_smooth_noise(rng, size, 2) - np.float32(0.5))
    image = image * (np.float32(rng.uniform(0.7, 1.15)) + unevenness) + np.float32(rng.uniform(-0.06, 0.06))
    image = image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0.0, 0.05))
    visible = _visible_masks([coverage for _, coverage in drawn])
    boxes = [_tight_box(mask) for mask in visible]
    return Scene(
        image=np.ascontiguousarray(np.clip(image * 255 + np.float32(0.5), 0, 255).astype(np.uint8).transpose(1, 2, 0)),
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        classes=np.array([placement.class_index for placement, _ in drawn], dtype=np.int64),
        masks=np.stack(visible),
        placements=tuple(placement for placement, _ in drawn),
    )

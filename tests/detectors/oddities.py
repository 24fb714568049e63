"""Seeded mutators: odd values in the fields of whatever a pickle or a JSON file holds, and odd numbers in tensors."""

import collections
import random
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import nn

NAN, INFINITE = float("nan"), float("inf")


def odd_values() -> list[Any]:
    """What a field may hold of what unpickles safely; new objects each time."""
    half_empty = torch.zeros(1).expand(50_000, 50_000)
    return [
        None, True, 0, -1, 1, 3, 32, 5120, 10**6, 2**70, 0.5, NAN, INFINITE, 1e308, "", "x", "\ud800", "\x1b[31m\n",
        "None", "[/x]", "١٢", "a" * 5000, b"bytes", [], [1], [640, 640], [[[]]], {}, {1: "a"}, {"0": "a", "1": "b"},
        (), {"a": {"b": None}}, collections.OrderedDict(a=5), PurePosixPath("/home/user/x.yaml"),
        torch.zeros(0), torch.tensor(3.0), torch.tensor([NAN]), torch.tensor([1e6]), half_empty,
        torch.zeros(2, 2, dtype=torch.cfloat), torch.zeros(3, 3).to_sparse(), torch.ones(2).long(),
        nn.Identity(), nn.Conv2d(1, 1, 1), nn.Sequential(nn.Identity(), nn.Conv2d(3, 8, 3)),
    ]  # fmt: skip


def odd_plain_values() -> list[Any]:
    """What a field of JSON or YAML may hold; new objects each time."""
    return [
        None, True, False, 0, -1, 1, 3, 33, 640, 10**6, 2**53, 2**62, 2**70, 0.5, -0.5, 1e-320, 1e38, 1e308, NAN,
        INFINITE, "", " ", "x", "\x1b[31m\n", "\ud800", "None", "auto", "\u202e", "<b>", "../x", "/etc/passwd",
        "pipe:x", "\u0661\u0662", "a" * 20_000, [], [1], ["a", "a"], [[[]]], [0] * 50_000, {}, {"a": {"b": None}},
        {"": 1}, {"0": "a", "1": "b"}, [{}] * 3,
    ]  # fmt: skip


def slots(value: Any, depth: int = 0) -> Iterator[tuple[int, Any, Any]]:
    """Every `(depth, container, key)` below a value: entries of dictionaries and lists, attributes of modules."""
    if depth > 12:
        return
    below = value.__dict__ if isinstance(value, nn.Module) else value
    keys: list[Any] = []
    if isinstance(below, dict):
        keys = list(below)
    elif isinstance(below, list):
        keys = list(range(len(below)))
    for key in keys:
        yield depth, below, key
        yield from slots(below[key], depth + 1)


def spoil(content: Any, rng: random.Random, values: Callable[[], list[Any]] = odd_values) -> str:
    """Change one to three fields in place; says which. Each depth is as likely as any other."""
    said = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        by_depth: dict[int, list[tuple[Any, Any]]] = {}
        for depth, container, key in slots(content):
            by_depth.setdefault(depth, []).append((container, key))
        container, key = rng.choice(by_depth[rng.choice(sorted(by_depth))])
        value = rng.choice(values())
        if rng.random() < 0.15:
            del container[key]
            said.append(f"without {key!r}")
        else:
            container[key] = value
            said.append(f"{key!r} = {type(value).__name__} {str(value)[:30]!r}")
    return ", ".join(said)


def spoil_tensor(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """A tensor of the same name with odd numbers, or of another shape or type."""
    number = rng.choice((NAN, INFINITE, -INFINITE, 0.0, -1.0, 1e-30, 1e30, -1e30, 3e38, 0.5))
    kind = rng.randrange(6)
    if kind == 0:
        return tensor.flatten()[: rng.randrange(max(tensor.numel(), 1))].clone()
    if kind == 1:
        return tensor.to(rng.choice((torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.cfloat)))
    changed = tensor.clone()
    if not changed.numel():
        return changed
    if changed.dtype.is_floating_point:
        changed.view(-1)[rng.randrange(changed.numel()) if kind < 4 else slice(None)] = number
    else:
        changed.fill_(rng.choice((-1, 0, 1, 127)))
    return changed

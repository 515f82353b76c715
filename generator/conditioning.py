"""What of a training clip is known: the mixture of conditionings that teaches one model every editing task.

A conditioning is a function of a latent grid (t, h, w) and a random generator that says which cells are known, bool
(t, h, w): the canvas of a task, drawn at random. Known cells are shown, never masked, and carry no loss. Training on a
mixture of such tasks is MAGVIT's (arXiv 2212.05199); which one a sample gets is data, names and weights in a recipe:
``{text: 0.6, first: 0.1, suffix: 0.3}``.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Grid = tuple[int, int, int]
Conditioning = Callable[[Grid, torch.Generator], Tensor]


def text(grid: Grid, rng: torch.Generator) -> Tensor:
    """Nothing but the text: text2video."""
    return torch.zeros(grid, dtype=torch.bool)


def first(grid: Grid, rng: torch.Generator) -> Tensor:
    """The first latent frame: image2video."""
    return _known(grid, slice(1))


def prefix(grid: Grid, rng: torch.Generator) -> Tensor:
    """Some frames from the first one on: extend."""
    return _known(grid, slice(_between(1, grid[0] - 1, rng)))


def past(grid: Grid, rng: torch.Generator) -> Tensor:
    """All frames but the last one: play."""
    return _known(grid, slice(grid[0] - 1))


def suffix(grid: Grid, rng: torch.Generator) -> Tensor:
    """Some frames up to the last one: extend-back."""
    return _known(grid, slice(_between(1, grid[0] - 1, rng), None))


def ends(grid: Grid, rng: torch.Generator) -> Tensor:
    """Some frames at both ends, a gap between them: interpolate, connect, loop."""
    gap = _between(1, grid[0] - 2, rng)
    start = _between(1, grid[0] - gap - 1, rng)
    return ~_known(grid, slice(start, min(start + gap, grid[0] - 1)))


def frames(grid: Grid, rng: torch.Generator) -> Tensor:
    """Some whole frames, wherever they are."""
    return _known(grid, torch.randperm(grid[0], generator=rng)[: _between(1, grid[0] - 1, rng)])


def region(grid: Grid, rng: torch.Generator) -> Tensor:
    """All but a box (inpaint), or a box alone (outpaint); half of the boxes last the whole clip, half a part of it."""
    inside = torch.ones(grid, dtype=torch.bool)
    lasting = _between(0, 1, rng)
    for axis, size in enumerate(grid):
        length = size if axis == 0 and lasting else _between(1, size, rng)
        start = _between(0, size - length, rng)
        index = torch.arange(size)
        span = (index >= start) & (index < start + length)
        inside &= span.view([-1 if i == axis else 1 for i in range(3)])
    return inside if _between(0, 1, rng) else ~inside


CONDITIONINGS: dict[str, Conditioning] = {
    c.__name__: c for c in (text, first, ends, prefix, past, suffix, region, frames)
}


def draw_known(mixture: Mapping[str, float], count: int, grid: Grid, rng: torch.Generator) -> Tensor:
    """What is known of ``count`` samples, bool (count, t, h, w), each by a conditioning drawn by its weight.

    Where a conditioning leaves nothing to predict, as the first frame of an image, the sample has its text only.
    """
    names, weights = list(mixture), torch.tensor(list(mixture.values()), dtype=torch.float64)
    drawn = torch.multinomial(weights, count, replacement=True, generator=rng)
    known = torch.stack([CONDITIONINGS[names[i]](grid, rng) for i in drawn.tolist()])
    return known & ~known.flatten(1).all(1)[:, None, None, None]


def checked(mixture: Mapping[str, float]) -> dict[str, float]:
    """A mixture as it was given. ``ValueError`` for unknown names and for weights that are none."""
    unknown = [name for name in mixture if name not in CONDITIONINGS]
    if unknown:
        raise ValueError(f"mixture: got {', '.join(unknown)}, expected some of {', '.join(CONDITIONINGS)}")
    if min(mixture.values(), default=0) < 0 or not sum(mixture.values()) > 0:
        raise ValueError(f"mixture: got the weights {dict(mixture)}, expected none below 0 and some above it")
    return dict(mixture)


def _known(grid: Grid, frames: slice | Tensor) -> Tensor:
    known = torch.zeros(grid, dtype=torch.bool)
    known[frames] = True
    return known


def _between(low: int, high: int, rng: torch.Generator) -> int:
    """An integer from low to high, both included; low where there is none between."""
    return int(torch.randint(low, max(low, high) + 1, (), generator=rng))

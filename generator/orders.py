"""Orders: which of the masked cells are committed first. A sampler scores the cells and commits the highest.

Every order is told as much as it needs in one ``Cells``; what is known without the network makes it ``blind``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cells:
    """What an order is told of the n = t*h*w cells of each sample; where nothing is masked, the numbers mean nothing.

    Attributes:
        grid: (t, h, w).
        progress: share of the steps that are done, in [0, 1).
        gumbel: (b, n), fresh Gumbel noise.
        confidence: (b, n), log-probability of the token drawn for each cell. In nats, as all that follow; these blind
            orders are not told.
        margin: (b, n), how far the second best token is behind the best: with several digits the least of their
            margins, since the next best token differs in the least sure digit alone.
        entropy: (b, n), of the token: the sum over its digits, each given the drawn ones before it.
    """

    grid: tuple[int, int, int]
    progress: float
    gumbel: Tensor
    confidence: Tensor | None = None
    margin: Tensor | None = None
    entropy: Tensor | None = None


class Order:
    """Which cells come first.

    Attributes:
        blind: nothing but grid, progress and noise matters, so that the cells are known before the network is asked.
        noisy: the noise matters; it is zero for an order that says it does not.
    """

    blind, noisy = False, True

    def scores(self, cells: Cells) -> Tensor:
        """A number a cell, (b, n): the highest of the masked ones are committed, as many as the schedule demands."""
        raise NotImplementedError("an order has to define scores(cells)")

    def sure(self, cells: Cells) -> Tensor | None:
        """Cells (b, n) that are committed in any case, beyond what the schedule demands; None: none are."""
        return None


class Halton(Order):
    """Low-discrepancy order in space and time: cells that are committed together are far apart, so that they can hardly
    contradict each other (Halton-MaskGIT, arXiv 2503.17076, in three dimensions)."""

    blind, noisy = True, False

    def scores(self, cells: Cells) -> Tensor:
        return _halton_scores(cells.grid, cells.gumbel.device).expand_as(cells.gumbel)


class Random(Order):
    """Any cell may come next: the order of the training masks."""

    blind = True

    def scores(self, cells: Cells) -> Tensor:
        return cells.gumbel


@dataclass(frozen=True)
class Confidence(Order):
    """Where the drawn token is likeliest, with Gumbel noise that fades out (MaskGIT, arXiv 2202.04200).

    Args:
        temperature: of the noise at the start; 0 is greedy, which tends to commit still background first.
    """

    temperature: float = 4.5

    def scores(self, cells: Cells) -> Tensor:
        return cells.confidence + self.temperature * (1 - cells.progress) * cells.gumbel


@dataclass(frozen=True)
class Margin(Order):
    """Where the best token is farthest ahead of the second best (arXiv 2502.06768): a cell that wavers between two
    tokens waits, though both be likely. Noise as in ``Confidence``."""

    temperature: float = 4.5

    def scores(self, cells: Cells) -> Tensor:
        return cells.margin + self.temperature * (1 - cells.progress) * cells.gumbel


@dataclass(frozen=True)
class Entropy(Order):
    """Where the whole distribution is narrowest, whatever was drawn from it (Dream, arXiv 2508.15487). Noise as in
    ``Confidence``."""

    temperature: float = 4.5

    def scores(self, cells: Cells) -> Tensor:
        return self.temperature * (1 - cells.progress) * cells.gumbel - cells.entropy


@dataclass(frozen=True)
class Threshold(Order):
    """All cells at once whose token is likely enough (Fast-dLLM, arXiv 2505.22618), beyond those of ``Confidence``.

    A sample that is ahead of its schedule is not computed until the schedule has caught up: there are at most ``steps``
    calls and, of a sure model, few.

    Args:
        threshold: probability of the whole token, all its digits together; 1: none is likely enough, 0: all are.
        temperature: see ``Confidence``; 0 is greedy, as in the paper.
    """

    threshold: float = 0.9
    temperature: float = 4.5

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}, expected a probability")

    def scores(self, cells: Cells) -> Tensor:
        return cells.confidence + self.temperature * (1 - cells.progress) * cells.gumbel

    def sure(self, cells: Cells) -> Tensor:
        return cells.confidence > (math.log(self.threshold) if self.threshold > 0 else -math.inf)


ORDERS: dict[str, Callable[[], Order]] = {
    "halton": Halton,
    "confidence": Confidence,
    "random": Random,
    "margin": Margin,
    "entropy": Entropy,
    "threshold": Threshold,
}


@lru_cache(maxsize=64)
def halton_ranks(grid: tuple[int, int, int]) -> Tensor:
    """The place (t*h*w,) of each cell in the 3-D Halton order: a permutation of 0 ... n-1.

    Points of the Halton sequence in bases 3, 2 and 5 (time, height, width) are dropped into the grid; a cell comes when
    the first point hits it.
    """
    t, h, w = grid
    n = t * h * w
    ranks, found, start = torch.full((n,), -1, dtype=torch.long), 0, 0
    while found < n:
        index = torch.arange(start, start + 4 * n)
        start += 4 * n
        cells = [(_radical_inverse(index, base) * size).long() for base, size in ((3, t), (2, h), (5, w))]
        for cell in (cells[0] * h * w + cells[1] * w + cells[2]).tolist():
            if ranks[cell] < 0:
                ranks[cell] = found
                found += 1
    return ranks


@lru_cache(maxsize=64)
def _halton_scores(grid: tuple[int, int, int], device: torch.device) -> Tensor:
    """The same, the first cell the highest, float32 (1, t*h*w)."""
    return -halton_ranks(grid)[None].to(device, torch.float32)


def _radical_inverse(index: Tensor, base: int) -> Tensor:
    """The digits of ``index`` in ``base``, mirrored behind the point: in [0, 1), float64."""
    index, value, scale = index.clone(), torch.zeros(len(index), dtype=torch.float64), 1.0
    while index.any():
        scale /= base
        value += scale * (index % base)
        index //= base
    return value

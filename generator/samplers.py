"""Sampling: fill the masked cells of a canvas in a few steps, most promising ones first.

A sampler knows neither network nor trainer. It is given ``predict(tokens, where)`` and an ``Order``, which
scores the cells: the highest are committed first. Every draw of a sample comes from a generator of its own, so that a
sample depends on its seed and not on the batch that it happened to be in.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from generator.schedules import Cosine, Schedule
from generator.tasks import Canvas
from vq.quantizers import from_digits

# tokens (b, t, h, w) and where (b, t, h, w) -> for each digit: the digits before it (m, i) -> logits (m, k)
Predict = Callable[[Tensor, Tensor], list[Callable[[Tensor], Tensor]]]


class Order:
    """Which cells come first. ``scores`` gives each cell a number; the highest of the masked ones are committed."""

    def scores(self, grid: tuple[int, int, int], confidence: Tensor, gumbel: Tensor, progress: float) -> Tensor:
        """Scores (b, n) of the n = t*h*w cells.

        Args:
            confidence: (b, n), log-probability of the token drawn for each cell.
            gumbel: (b, n), fresh Gumbel noise.
            progress: share of the steps that are done, in [0, 1).
        """
        raise NotImplementedError("an order has to define scores(grid, confidence, gumbel, progress)")


class Halton(Order):
    """Low-discrepancy order in space and time: cells that are committed together are far apart, so that they can hardly
    contradict each other (Halton-MaskGIT, arXiv 2503.17076, in three dimensions)."""

    def scores(self, grid, confidence, gumbel, progress):
        return -halton_ranks(grid).to(confidence).expand_as(confidence)


class Confidence(Order):
    """Where the model is surest, with Gumbel noise that fades out (MaskGIT, arXiv 2202.04200).

    Args:
        temperature: of the noise at the start; 0 is greedy, which tends to commit still background first.
    """

    def __init__(self, temperature: float = 4.5) -> None:
        self.temperature = temperature

    def scores(self, grid, confidence, gumbel, progress):
        return confidence + self.temperature * (1 - progress) * gumbel


class Random(Order):
    """Any cell may come next: the order of the training masks."""

    def scores(self, grid, confidence, gumbel, progress):
        return gumbel


ORDERS: dict[str, Callable[[], Order]] = {"halton": Halton, "confidence": Confidence, "random": Random}


@torch.no_grad()
def sample(
    predict: Predict,
    canvas: Canvas,
    seeds: Sequence[int],
    order: Order,
    steps: int = 16,
    schedule: Schedule | None = None,
    temperature: float = 1.0,
    revisions: int = 0,
) -> Tensor:
    """Fills a canvas: known tokens stay untouched, each other cell is committed exactly once, no mask is left.

    What was committed early was a guess at almost nothing. ``revisions`` are second thoughts: each makes a third of the
    cells anew, told all the others, at half the temperature. They are the corrector steps of arXiv 2205.14987, or
    blocked Gibbs sampling.

    Args:
        predict: for each digit of the codebook a function that gives its logits (m, k) at the m asked cells, told the
            digits before it.
        canvas: tokens (b, t, h, w) and which of them are known.
        seeds: one a sample.
        order: which cells come first.
        steps: calls of ``predict``; fewer where there are fewer cells.
        schedule: share of the cells still masked over the steps; None: cosine.
        temperature: of the tokens' distribution; 0 takes the likeliest.
        revisions: further calls of ``predict``; three of them visit every cell once.

    Returns: tokens (b, t, h, w) in [0, K).
    """
    if len(seeds) != len(canvas.tokens):
        raise ValueError(f"got {len(seeds)} seeds for {len(canvas.tokens)} samples: give one a sample")
    schedule = schedule or Cosine()
    grid, device = tuple(canvas.tokens.shape[1:]), canvas.tokens.device
    rngs = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    tokens = canvas.masked_tokens()
    unknown = (~canvas.known).flatten(1).sum(1)
    for step in range(steps):
        masked = tokens == canvas.mask_id
        left = (schedule(torch.tensor((step + 1) / steps, dtype=torch.float64)) * unknown.double()).round().long()
        if step == steps - 1:
            left = torch.zeros_like(left)
        count = masked.flatten(1).sum(1) - left  # to commit now, (b,)
        if not count.any():
            continue
        drawn, confidence = _draw(predict(tokens, masked), masked, rngs, temperature)
        gumbel = torch.stack([_gumbel((masked[0].numel(),), rng) for rng in rngs])
        scores = order.scores(grid, _on_grid(confidence, masked).flatten(1), gumbel, step / steps)
        ranks = (
            scores.masked_fill(~masked.flatten(1), -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(1)
        )
        commit = masked & (ranks < count[:, None]).view_as(masked)
        tokens = torch.where(commit, _on_grid(drawn, masked), tokens)
    for revision in range(revisions):
        again = third(grid, revision).to(device) & ~canvas.known
        if not again.any():
            continue
        drawn, _ = _draw(predict(tokens.masked_fill(again, canvas.mask_id), again), again, rngs, temperature / 2)
        tokens = torch.where(again, _on_grid(drawn, again), tokens)
    return tokens


def third(grid: tuple[int, int, int], turn: int) -> Tensor:
    """Every third frame, or of an image every third diagonal, from the second one on: bool (t, h, w).

    Whole frames told the ones before and after: that mends motions and shapes that change on the way, which scattered
    cells do not (docs/LOG.md).
    """
    t, h, w = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
    return (t if grid[0] > 1 else h + w) % 3 == (turn + 1) % 3


def _draw(
    predictions: list[Callable[[Tensor], Tensor]], masked: Tensor, rngs: list[torch.Generator], temperature: float
) -> tuple[Tensor, Tensor]:
    """A token for each masked cell by the Gumbel-max trick, (m,), and its log-probability (m,)."""
    cells = masked.flatten(1).sum(1).tolist()
    digits = torch.empty(sum(cells), 0, dtype=torch.long, device=masked.device)
    sizes, confidence = [], 0
    for predict in predictions:
        logits = predict(digits).float()
        noisy = logits
        if temperature > 0:
            gumbel = torch.cat([_gumbel((m, logits.shape[1]), rng) for m, rng in zip(cells, rngs, strict=True)])
            noisy = logits + temperature * gumbel
        chosen = noisy.argmax(1, keepdim=True)
        confidence = confidence + logits.log_softmax(1).gather(1, chosen).squeeze(1)
        digits = torch.cat([digits, chosen], dim=1)
        sizes.append(logits.shape[1])
    return from_digits(digits, tuple(sizes)), confidence


def _gumbel(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Gumbel(0, 1) noise in fp32: in half precision the tails, which decide, are cut off (arXiv 2409.02908)."""
    exponential = torch.empty(shape, device=rng.device).exponential_(generator=rng)
    return -exponential.clamp_min(1e-20).log()


def _on_grid(values: Tensor, masked: Tensor) -> Tensor:
    """Values (m,) of the masked cells, laid out on the grid with zeros elsewhere."""
    grid = torch.zeros(masked.shape, dtype=values.dtype, device=values.device)
    grid[masked] = values
    return grid


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


def _radical_inverse(index: Tensor, base: int) -> Tensor:
    """The digits of ``index`` in ``base``, mirrored behind the point: in [0, 1), float64."""
    index, value, scale = index.clone(), torch.zeros(len(index), dtype=torch.float64), 1.0
    while index.any():
        scale /= base
        value += scale * (index % base)
        index //= base
    return value

"""Sampling: fill the masked cells of a canvas in a few steps, most promising ones first.

A sampler knows neither network nor trainer. It is given ``predict(tokens, where, progress)`` and an ``Order``, which
scores the cells: the highest are committed first. Every draw is a function of the sample's seed (``generator.draws``):
a sample does not depend on the batch that it happens to be in.

There is one loop. Before a step some cells may be forgotten: a share of the committed ones (re-masking), or once all
steps are done every third frame in turn (revisions). Then the schedule says how many masked cells may be left.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from generator.draws import Draws
from generator.orders import Cells, Order
from generator.schedules import Cosine, Schedule
from generator.tasks import Canvas
from vq.hardware import moved
from vq.quantizers import from_digits

# for each digit: the digits before it (m, i) -> logits (m, k)
Predictions = list[Callable[[Tensor], Tensor]]
# tokens (b, t, h, w), where (b, t, h, w) and the share of the steps that are done, in [0, 1]
Predict = Callable[[Tensor, Tensor, float], Predictions]
Draw = Callable[..., tuple[Tensor, ...]]  # arguments and results of ``draw_tokens``, whatever ``predict`` gives


@torch.no_grad()
def sample(
    predict: Predict,
    canvas: Canvas,
    seeds: Sequence[int],
    order: Order,
    steps: int = 16,
    schedule: Schedule | None = None,
    temperature: float | tuple[float, float] = 1.0,
    revisions: int = 0,
    top_k: int | None = None,
    top_p: float = 1.0,
    remask: float = 0.0,
    lean: bool = True,
    draw: Draw | None = None,
) -> Tensor:
    """Fills a canvas: known tokens stay, each other cell is committed, once unless it is forgotten, no mask is left.

    What was committed early was a guess at almost nothing. ``revisions`` are second thoughts: each makes a third of the
    cells anew, told all the others, at half the temperature. They are the corrector steps of arXiv 2205.14987, or
    blocked Gibbs sampling. ``remask`` has second thoughts on the way, for the same number of steps: each forgets some
    committed cells and commits as many more, as ReMDM does (arXiv 2503.00307), which however forgets after a step.

    Args:
        predict: for each digit of the codebook a function that gives its logits (m, k) at the m asked cells, told the
            digits before it.
        canvas: tokens (b, t, h, w) and which of them are known.
        seeds: one a sample.
        order: which cells come first.
        steps: calls of ``predict``; fewer where there are fewer cells.
        schedule: share of the cells still masked over the steps; None: cosine.
        temperature: of the tokens' distribution, or that of the first step and that of the last, with a straight line
            between them; 0 takes the likeliest.
        revisions: further calls of ``predict``; three of them visit every cell once.
        top_k: of each digit only so many of the likeliest values are drawn; None: all.
        top_p: of each digit only the likeliest values that together have this probability, at the temperature
            (arXiv 1904.09751).
        remask: share of the committed cells that each step forgets, the unlikely ones rather than others.
        lean: ask only for the cells that a step commits, where the order knows them beforehand. False: for all that are
            left, for the same distribution with more logits; the samples are others.
        draw: how cells are drawn from what ``predict`` gives for them; None: tokens from logits, ``draw_tokens``.

    Returns: tokens (b, t, h, w) in [0, K).
    """
    if len(seeds) != len(canvas.tokens):
        raise ValueError(f"got {len(seeds)} seeds for {len(canvas.tokens)} samples: give one a sample")
    schedule, lean, draw = schedule or Cosine(), lean and order.blind, draw or draw_tokens
    first, last = temperature if isinstance(temperature, tuple | list) else (temperature, temperature)
    grid, device = tuple(canvas.tokens.shape[1:]), canvas.tokens.device
    draws, n = Draws(seeds, device, steps + revisions), math.prod(grid)
    tokens, unknown = canvas.masked_tokens(), ~canvas.known
    likely = torch.zeros(tokens.shape, device=device)  # the probability that each committed token was drawn with
    # a GPU that is asked how many there are is waited for: what can be reckoned is kept on the CPU
    open_cells = unknown.cpu()
    total = open_cells.flatten(1).sum(1)
    hidden = total  # cells that are masked, (b,)
    for step in range(steps + revisions):
        revising, progress, now = step >= steps, min(1.0, step / steps), draws.at(step)
        left = torch.zeros_like(total)
        if step < steps - 1:
            share = schedule(torch.tensor((step + 1) / steps, dtype=torch.float64))
            left = (share * total.double()).round().long()
        if revising:
            again = third(grid, step - steps)
            tokens = tokens.masked_fill(moved(again, device) & unknown, canvas.mask_id)
            hidden = (again & open_cells).flatten(1).sum(1)
        elif remask:
            waits = hidden <= left  # it would be computed for nothing else
            count = (remask * (total - hidden)).round().long().masked_fill(waits, 0)
            if count.any():
                forgotten = _unlikely(likely, unknown & (tokens != canvas.mask_id), count, now)
                tokens, hidden = tokens.masked_fill(forgotten, canvas.mask_id), hidden + count
            else:
                now.skip()
        count = (hidden - left).clamp_min(0)  # to commit now; a sample that is ahead of the schedule waits
        if not count.any():
            continue
        masked = tokens == canvas.mask_id
        if not count.all():
            masked = masked & moved(count > 0, device)[:, None, None, None]
        asked = masked
        noise = now.gumbel if order.noisy else now.silence
        if lean:
            asked = _highest(order.scores(Cells(grid, progress, noise(n))), masked, count)
        places = asked.flatten().nonzero()[:, 0]  # before the network is asked, as a GPU is waited for
        heat = last / 2 if revising else first + (last - first) * step / max(1, steps - 1)
        drawn, *judged = draw(predict(tokens, asked, progress), places, n, now, heat, top_k, top_p, not order.blind)
        drawn, *judged = (_on_grid(numbers, places, tokens) for numbers in (drawn, *judged))
        commit = asked
        if not lean and not revising:
            cells = Cells(grid, progress, noise(n), *(numbers.flatten(1) for numbers in judged))
            commit = _highest(order.scores(cells), masked, count)
            if (sure := order.sure(cells)) is not None:
                commit = commit | sure.view_as(masked) & masked
                count = commit.flatten(1).sum(1).cpu()
        tokens = torch.where(commit, drawn, tokens)
        likely = torch.where(commit, judged[0].exp(), likely)
        hidden = hidden - count
    return tokens


def third(grid: tuple[int, int, int], turn: int) -> Tensor:
    """Every third frame, or of an image every third diagonal, from the second one on: bool (t, h, w).

    Whole frames told the ones before and after: that mends motions and shapes that change on the way, which scattered
    cells do not (docs/LOG.md).
    """
    t, h, w = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
    return (t if grid[0] > 1 else h + w) % 3 == (turn + 1) % 3


def _unlikely(likely: Tensor, committed: Tensor, count: Tensor, draws: Draws) -> Tensor:
    """``count`` (b,) of the committed cells (b, t, h, w), drawn with the odds exp(-probability) of ReMDM-conf."""
    return _highest(draws.gumbel(committed[0].numel()) - likely.flatten(1), committed, count)


def _highest(scores: Tensor, cells: Tensor, count: Tensor) -> Tensor:
    """Of the ``cells`` (b, t, h, w) of each sample the ``count`` (b,), on the CPU, with the highest scores (b, n)."""
    scores = scores.masked_fill(~cells.flatten(1), -torch.inf)
    ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(1)
    most = int(count[0]) if (count == count[0]).all() else moved(count, cells.device)[:, None]
    return cells & (ranks < most).view_as(cells)


def choose_tokens(
    predictions: Predictions,
    places: Tensor,
    shares: Tensor | None,
    temperature: float,
    top_k: int | None,
    top_p: float,
    judge: bool,
) -> tuple[Tensor, ...]:
    """``draw_tokens``, given a number in (0, 1) for each of d digits of each cell, (d, m); of temperature 0 none."""
    digits = torch.empty(len(places), 0, dtype=torch.long, device=places.device)
    sizes, confidence, margins, entropy = [], 0, [], 0
    for i, predict in enumerate(predictions):
        logits = predict(digits).float()
        if temperature > 0:
            odds = _heated(_likeliest(logits, temperature, top_k, top_p), temperature)
            chosen = _pick(odds, shares[i])
        else:
            chosen = logits.argmax(1, keepdim=True)
        log_probs = logits.log_softmax(1)
        confidence = confidence + log_probs.gather(1, chosen).squeeze(1)
        if judge:
            best = log_probs.topk(2, dim=1).values
            margins.append(best[:, 0] - best[:, 1])
            entropy = entropy - (log_probs.exp() * log_probs).sum(1)
        digits = torch.cat([digits, chosen], dim=1)
        sizes.append(logits.shape[1])
    tokens = from_digits(digits, tuple(sizes))
    return (tokens, confidence, torch.stack(margins).amin(0), entropy) if judge else (tokens, confidence)


def draw_tokens(
    predictions: Predictions,
    places: Tensor,
    n: int,
    draws: Draws,
    temperature: float,
    top_k: int | None,
    top_p: float,
    judge: bool,
    choose: Callable[..., tuple[Tensor, ...]] = choose_tokens,
) -> tuple[Tensor, ...]:
    """A token for each asked cell, (m,), and its confidence; to ``judge`` it also its margin and entropy, which cost
    further passes over the logits. See ``Cells``. ``places`` (m,): those of the asked cells, of n a sample.

    How sure the model is does not depend on temperature, top-k and top-p, which only say what is done about it.
    ``choose``: ``choose_tokens``, perhaps compiled.
    """
    shares = draws.uniforms(len(predictions), n).flatten(1)[:, places] if temperature > 0 else None
    return choose(predictions, places, shares, temperature, top_k, top_p, judge)


def _pick(odds: Tensor, u: Tensor) -> Tensor:
    """The value (m, 1) at which the sum of the odds (m, k) so far reaches the share u (m,) in (0, 1) of all.

    A number a cell: noise on each of a thousand logits (Gumbel-max) takes as long as the network. In float32.
    """
    reached = odds.cumsum(1)
    return torch.searchsorted(reached, u[:, None] * reached[:, -1:]).clamp_max(odds.shape[1] - 1)


def _heated(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities (m, k) at a temperature above 0, however small."""
    return ((logits - logits.amax(1, keepdim=True)) / temperature).softmax(1)


def _likeliest(logits: Tensor, temperature: float, top_k: int | None, top_p: float) -> Tensor:
    """Logits (m, k) with all but the likeliest values ruled out; the likeliest of all always stays."""
    if top_k is not None and top_k < logits.shape[1]:
        logits = logits.masked_fill(logits < logits.topk(top_k, dim=1).values[:, -1:], -torch.inf)
    if top_p < 1:
        sorted_, index = logits.sort(dim=1, descending=True)
        probabilities = _heated(sorted_, temperature)
        beyond = probabilities.cumsum(1) - probabilities >= top_p  # enough is likelier than this value
        beyond[:, 0] = False
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(1, index, beyond), -torch.inf)
    return logits


def _on_grid(values: Tensor, places: Tensor, like: Tensor) -> Tensor:
    """Values (m,) at their places in a grid (b, t, h, w) of zeros."""
    return values.new_zeros(like.numel()).scatter_(0, places, values).view_as(like)

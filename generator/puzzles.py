"""What a training step hides, shows and asks for.

tokens --conditioning--> known cells --schedule--> hidden ones among the others --corruption--> Puzzle
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from generator.conditioning import draw_known
from generator.schedules import Schedule
from generator.weights import Weight, slope
from vq.hardware import moved


@dataclass(frozen=True)
class Puzzle:
    """What the model is given, what it has to tell, and what each answer weighs.

    ``shown`` int64 (b, t, h, w) is ``mask_id`` where hidden. ``asked`` bool (b, t, h, w) is on the CPU, where it can be
    counted without waiting for a GPU. ``weights`` float of the same shape sum up the losses of the asked cells; None:
    their mean.
    """

    shown: Tensor
    asked: Tensor
    weights: Tensor | None = None


def draw_puzzle(
    tokens: Tensor,
    mask_id: int,
    rng: torch.Generator,
    schedule: Schedule,
    mixture: Mapping[str, float] | None = None,
    frame_ratios: float = 0.0,
    corruption: float = 0.0,
    weight: Weight | None = None,
    tails: Tensor | None = None,
) -> Puzzle:
    """A puzzle of clips, tokens (b, t, h, w) on any device; it is drawn on the CPU, the same for all of them.

    Args:
        schedule: how mask ratios are drawn.
        mixture: of conditionings, see ``generator.conditioning``; None: text alone.
        frame_ratios: how often each frame has a mask ratio of its own (MaskFlow, 2502.11234).
        corruption: see ``corrupt``.
        weight: of the hidden tokens, by the mask ratio; None: all alike.
        tails: bool (b, t) on the CPU, latent frames at the end that are known besides; see ``data.tails``.
    """
    b, t = tokens.shape[:2]
    # ratios spread evenly over the batch (shifted by one draw) have less variance than independent ones
    u = (torch.rand((), generator=rng) + torch.arange(b) / b) % 1
    known = draw_known(mixture, b, tuple(tokens.shape[1:]), rng) if mixture else torch.zeros(tokens.shape).bool()
    known = with_tails(known, tails)
    if frame_ratios and torch.rand((), generator=rng) < frame_ratios:
        u = torch.rand(b, t, generator=rng)
    hidden = random_masks(tokens.shape, schedule(u), rng, known)
    weights = moved(token_weights(hidden, known, u, schedule, weight), tokens.device) if weight else None
    shown, asked = tokens, hidden
    if corruption:
        shown, doubtful = corrupt(tokens, ~hidden & ~known, corruption, rng)
        asked = hidden | doubtful
    return Puzzle(shown.masked_fill(moved(hidden, tokens.device), mask_id), asked, weights)


def draw_clean(
    b: int,
    grid: tuple[int, int, int],
    rng: torch.Generator,
    schedule: Schedule,
    known_share: float,
    mixture: Mapping[str, float] | None = None,
    tails: Tensor | None = None,
) -> Tensor:
    """What of b noisy clips is known and stays clean, bool (b, t, h, w) on the CPU; masks show as much by themselves.

    Args:
        known_share: of the clips, of which random cells are known, as many as ``schedule`` does not mask.
        mixture: of conditionings, in place of both.
        tails: see ``draw_puzzle``.
    """
    if mixture:
        return with_tails(draw_known(mixture, b, grid, rng), tails)
    ratios = schedule(torch.rand(b, generator=rng))
    ratios = torch.where(torch.rand(b, generator=rng) < known_share, ratios, 1.0)
    return with_tails(~random_masks((b, *grid), ratios, rng), tails)


def with_tails(known: Tensor, tails: Tensor | None) -> Tensor:
    """What is known, cells (b, t, h, w), and the known ends of clips, latent frames (b, t), besides.

    The latent frame before a tail is never known: its token has seen the past, and the tail's have not. A piece that is
    nothing but a tail has none.
    """
    if tails is None:
        return known
    tails = tails & ~tails.all(1, keepdim=True)
    and_before = torch.cat([tails[:, 1:], tails[:, -1:]], dim=1)
    return known & ~and_before[:, :, None, None] | tails[:, :, None, None]


def random_masks(shape: Sequence[int], ratios: Tensor, rng: torch.Generator, known: Tensor | None = None) -> Tensor:
    """Masks (b, t, h, w), True where hidden: a share of the cells that are not known, at least one where there is one.

    ``ratios`` (b,): a share of each sample; (b, t): of each frame.
    """
    rows = (*ratios.shape, -1)
    order = torch.rand(*shape, generator=rng)
    known = torch.zeros(*shape, dtype=torch.bool) if known is None else known
    ranked = order.masked_fill(known, 2.0).view(rows).argsort(-1)  # what is known comes last
    places = torch.empty_like(ranked).scatter_(-1, ranked, torch.arange(ranked.shape[-1]).expand_as(ranked))
    free = (~known).view(rows).sum(-1)
    hidden = (ratios * free).ceil().clamp(min=1).minimum(free)
    return (places < hidden[..., None]).view(*shape)


def corrupt(tokens: Tensor, visible: Tensor, most: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Makes some visible tokens doubtful, so that a sampler's wrong ones can be found and repaired.

    In each sample up to a share ``most`` of the visible cells, drawn evenly from 0 on (Copilot4D, 2311.01017), are
    asked for as hidden ones are. Half of them show the token of another cell of the batch, half their own, as in BERT
    (1810.04805): were all of them wrong, then whatever is both asked for and seen would be. Tokens of the batch and not
    of the codebook: of 10^12 codes nearly all never occur, and would give themselves away.

    Args:
        tokens, visible: (b, t, h, w), the latter on the CPU. What is known for certain is not to be among it.

    Returns: what stands in the cells, int64 (b, t, h, w), and which of them are doubtful, bool (b, t, h, w).
    """
    share = most * torch.rand(len(tokens), 1, 1, 1, generator=rng)
    doubtful = (torch.rand(tokens.shape, generator=rng) < share) & visible
    wrong = doubtful & (torch.rand(tokens.shape, generator=rng) < 0.5)
    others = tokens.flatten()[moved(torch.randint(tokens.numel(), tokens.shape, generator=rng), tokens.device)]
    return torch.where(moved(wrong, tokens.device), others, tokens), doubtful


def token_weights(hidden: Tensor, known: Tensor, u: Tensor, schedule: Schedule, weight: Weight) -> Tensor:
    """Weights (b, t, h, w) that sum the cells' losses up to nats a token of all that is not known.

    ``u`` (b,) or (b, t) is where the mask ratios were drawn. Its cells have to be asked for; a doubtful one weighs 1.
    """
    rows = (*u.shape, -1)
    free = (~known).view(rows).sum(-1)
    ratio = hidden.view(rows).sum(-1) / free.clamp(min=1)  # as it came out: at least one cell, however small u's is
    each = weight(slope(schedule, u), ratio).view(*u.shape, *[1] * (4 - u.ndim))
    return torch.where(hidden, each, 1.0) / free.sum()

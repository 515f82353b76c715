"""Tasks as data: a Canvas is a grid of tokens and which of them are known; the sampler fills in the rest.

Known tokens are used as integers and are never encoded again. Every function here is a task that ``sample.py --task``
offers; it needs the tokens of its input and the grid to fill, and no model.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Canvas:
    """``tokens`` int64 (b, t, h, w), ``known`` bool of the same shape, and the id that stands for unknown.

    The first latent frame of a causal tokenizer holds one frame, and all others hold several. ``middle`` says that this
    grid is a piece from the middle of a video, without the first one.
    """

    tokens: Tensor
    known: Tensor
    mask_id: int
    middle: bool = False

    def masked_tokens(self) -> Tensor:
        return self.tokens.masked_fill(~self.known, self.mask_id)

    def repeat(self, count: int) -> "Canvas":
        """The same canvas ``count`` times."""
        return replace(self, tokens=self.tokens.repeat(count, 1, 1, 1), known=self.known.repeat(count, 1, 1, 1))

    def __getitem__(self, rows: slice) -> "Canvas":
        return replace(self, tokens=self.tokens[rows], known=self.known[rows])

    def to(self, device) -> "Canvas":
        return replace(self, tokens=self.tokens.to(device), known=self.known.to(device))


def text2video(grid: Grid, mask_id: int) -> Canvas:
    """Nothing is known."""
    tokens = torch.full((1, *grid), mask_id)
    return Canvas(tokens, torch.zeros_like(tokens, dtype=torch.bool), mask_id)


def extend(clip: Tensor, grid: Grid, mask_id: int) -> Canvas:
    """The beginning is known: tokens (1, t, h, w) of a clip or, with t = 1, of a still image that is to move."""
    canvas = text2video(grid, mask_id)
    t = clip.shape[1]
    if clip.shape[2:] != canvas.tokens.shape[2:] or t >= grid[0]:
        raise ValueError(
            f"a clip of {tuple(clip.shape[1:])} tokens cannot be the beginning of {grid}: ask for more frames"
        )
    canvas.tokens[:, :t], canvas.known[:, :t] = clip, True
    return canvas


def inpaint(clip: Tensor, region: Tensor, mask_id: int) -> Canvas:
    """All of a clip is known but a region (h, w) or (t, h, w), True where it is to be made anew."""
    unknown = region.expand(clip.shape)
    return Canvas(clip.masked_fill(unknown, mask_id), ~unknown, mask_id)


def edit(clip: Tensor, strength: float, mask_id: int, seed: int) -> Canvas:
    """A random share ``strength`` of a clip's tokens is forgotten and made anew after another prompt."""
    order = torch.rand(clip.numel(), generator=torch.Generator().manual_seed(seed)).argsort().argsort()
    unknown = (order < round(strength * clip.numel())).view_as(clip)
    return Canvas(clip.masked_fill(unknown, mask_id), ~unknown, mask_id)

"""Tasks as data: a Canvas is a grid of tokens and which of them are known; the sampler fills in the rest.

Known tokens are used as integers and are never encoded again. Every function here says what a task knows, and needs the
tokens of its inputs and the grid to fill, and no model. How pixels become those tokens stands in ``editing.py``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Canvas:
    """``tokens`` int64 (b, t, h, w), ``known`` bool of the same shape, and the id that stands for unknown.

    The first latent frame of a causal tokenizer holds one frame, and all others hold several. ``middle`` says that this
    grid is a piece from the middle of a video, without the first one, and ``start`` how many latent frames of that
    video are before it. ``draft``, int64 of the same shape, is what an upscaler is told of each cell, known or not.
    """

    tokens: Tensor
    known: Tensor
    mask_id: int
    middle: bool = False
    draft: Tensor | None = None
    start: int = 0

    def masked_tokens(self) -> Tensor:
        return self.tokens.masked_fill(~self.known, self.mask_id)

    def repeat(self, count: int) -> "Canvas":
        """The same canvas ``count`` times."""
        return self._map(lambda grid: grid.repeat(count, 1, 1, 1))

    def span(self, start: int, stop: int) -> "Canvas":
        """The latent frames from ``start`` to ``stop``, as a canvas of their own."""
        piece = self._map(lambda grid: grid[:, start:stop])
        return replace(piece, middle=self.middle or start > 0, start=self.start + start)

    def filled(self, start: int, tokens: Tensor) -> "Canvas":
        """The canvas with ``tokens`` (b, s, h, w) known from the latent frame ``start`` on."""
        grid, known = self.tokens.clone(), self.known.clone()
        grid[:, start : start + tokens.shape[1]], known[:, start : start + tokens.shape[1]] = tokens, True
        return replace(self, tokens=grid, known=known)

    def __getitem__(self, rows: slice) -> "Canvas":
        return self._map(lambda grid: grid[rows])

    def to(self, device) -> "Canvas":
        return self._map(lambda grid: grid.to(device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Canvas":
        grids = {name: grid for name, grid in vars(self).items() if isinstance(grid, Tensor)}
        return replace(self, **{name: function(grid) for name, grid in grids.items()})


def windows(length: int, size: int | None, backwards: bool = False, middle: bool = False) -> list[tuple[int, int]]:
    """Spans of latent frames that cover ``length``, in the order in which they are filled: [(start, stop), ...].

    The one at the beginning has ``size`` of them. The others, and with ``middle`` all, have one less, as a clip of the
    length that a model was trained at has without its first latent frame; each lies half over the one before. None: all
    at once.
    """
    if size is None or length <= (max(3, size - 1) if middle else size):  # a ring needs three
        return [(0, length)]
    inner = size - 1 if size > 2 else size
    first, step = inner if middle else size, inner - inner // 2
    if backwards:
        return [*((start, start + inner) for start in range(length - inner, 0, -step)), (0, first)]
    return [(0, first), *((stop - inner, stop) for stop in range(first + step, length, step)), (length - inner, length)]


def text2video(grid: Grid, mask_id: int) -> Canvas:
    """Nothing is known."""
    tokens = torch.full((1, *grid), mask_id)
    return Canvas(tokens, torch.zeros_like(tokens, dtype=torch.bool), mask_id)


def upscale(draft: Tensor, mask_id: int) -> Canvas:
    """Nothing is known, and all is told as it looks when it is enlarged: tokens (1, t, h, w) of a draft."""
    return replace(text2video(tuple(draft.shape[1:]), mask_id), draft=draft)


def extend(clip: Tensor, grid: Grid, mask_id: int) -> Canvas:
    """The beginning is known: tokens (1, t, h, w) of a clip or, with t = 1, of a still image that is to move."""
    _check(clip, grid, "beginning")
    return text2video(grid, mask_id).filled(0, clip)


def extend_back(tail: Tensor, grid: Grid, mask_id: int) -> Canvas:
    """The end is known: tokens (1, t, h, w) of a piece from the middle of a video."""
    _check(tail, grid, "end")
    return text2video(grid, mask_id).filled(grid[0] - tail.shape[1], tail)


def _check(clip: Tensor, grid: Grid, part: str) -> None:
    """``ValueError`` where a clip cannot be a part of a grid."""
    fits = tuple(clip.shape[2:]) == tuple(grid[1:])
    if not fits or clip.shape[1] >= grid[0]:
        raise ValueError(
            f"a clip of {tuple(clip.shape[1:])} tokens cannot be the {part} of {grid}: "
            + ("ask for more frames" if fits else "give it the size of the output")
        )


def interpolate(start: Tensor, end: Tensor, grid: Grid, mask_id: int) -> Canvas:
    """Both ends are known: tokens (1, t, h, w) of a beginning, and of a piece from the middle of a video."""
    if start.shape[1] + end.shape[1] >= grid[0]:
        raise ValueError(
            f"a beginning of {start.shape[1]} and an end of {end.shape[1]} latent frames leave nothing to make of "
            f"{grid[0]}: ask for more frames"
        )
    return extend_back(end, grid, mask_id).filled(0, extend(start, grid, mask_id).tokens[:, : start.shape[1]])


def connect(a: Tensor, b: Tensor, grid: Grid, mask_id: int, wipe: bool = True) -> Canvas:
    """Begins as ``a`` and ends as ``b``, tokens (1, t, h, w). Where both last nothing is known, or with ``wipe``, b
    takes the place of a from the right.

    Then at the share x of the way (1 - x)^2 of a frame's columns are a's and x^2 are b's; the band between them, half
    of the frame in the middle, is unknown, and has to reconcile the two.
    """
    t, first, last = grid[0], a.shape[1], grid[0] - b.shape[1]  # b begins at ``last``
    if not 0 < last <= t - 1 or first >= t or a.shape[2:] != b.shape[2:] or first == last:
        raise ValueError(
            f"clips of {a.shape[1]} and {b.shape[1]} latent frames cannot be connected in {t}: both have to keep an "
            f"end of their own, so ask for {max(a.shape[1], b.shape[1]) + 1} to {a.shape[1] + b.shape[1] - 1} of them"
        )
    canvas = text2video(grid, mask_id)
    index = torch.arange(t).view(1, t, 1, 1)
    from_a, from_b = (known.expand(1, *grid) for known in (index < min(first, last), index >= max(first, last)))
    if wipe and first > last:
        x = ((index - last + 1) / (first - last + 1)).clamp(0, 1)
        share = ((torch.arange(grid[2]) + 0.5) / grid[2]).expand(1, *grid)  # of the way to the right
        from_a, from_b = (share < (1 - x) ** 2) & (index < first), (share >= 1 - x**2) & (index >= last)
    tokens = torch.where(from_a, canvas.filled(0, a).tokens, canvas.filled(last, b).tokens)
    known = from_a | from_b
    return Canvas(tokens.masked_fill(~known, mask_id), known, mask_id)


def seam(ring: Tensor, size: int | None, mask_id: int) -> Canvas:
    """A loop (b, t, h, w) turned so that its seam lies within the first ``size`` latent frames, and open there.

    Half of those frames are unknown, with the ones before and after the seam on either side.
    """
    size = min(size or ring.shape[1], ring.shape[1])
    if size < 3:
        raise ValueError(f"a loop of {size} latent frames has no room for a seam: ask for at least 3")
    ring, known = ring.roll(size // 2, dims=1), torch.ones_like(ring, dtype=torch.bool)
    begin = size // 2 - size // 4
    known[:, begin : begin + size // 2] = False
    return Canvas(ring.masked_fill(~known, mask_id), known, mask_id, middle=True)


def inpaint(clip: Tensor, region: Tensor, mask_id: int) -> Canvas:
    """All of a clip is known but a region (h, w) or (t, h, w), True where it is to be made anew."""
    unknown = region.expand(clip.shape)
    return Canvas(clip.masked_fill(unknown, mask_id), ~unknown, mask_id)


def outpaint(clip: Tensor, grid: Grid, mask_id: int) -> Canvas:
    """The middle of every frame is known: tokens (1, t, h, w) of a clip smaller than the grid."""
    canvas = text2video(grid, mask_id)
    (t, height, width), (_, h, w) = grid, clip.shape[1:]
    if clip.shape[1] != t or h > height or w > width or (h, w) == (height, width):
        raise ValueError(f"a clip of {tuple(clip.shape[1:])} tokens has no border in {grid}: ask for a larger picture")
    top, left = (height - h) // 2, (width - w) // 2
    place = (slice(None), slice(None), slice(top, top + h), slice(left, left + w))
    canvas.tokens[place], canvas.known[place] = clip, True
    return canvas


def edit(clip: Tensor, strength: float, mask_id: int, scores: Tensor) -> Canvas:
    """The share ``strength`` of a clip's tokens with the lowest scores, (b, t, h, w), is forgotten and made anew."""
    clip = clip.expand(scores.shape)
    order = scores.flatten(1).argsort(dim=1, stable=True).argsort(1)
    unknown = (order < round(strength * order.shape[1])).view_as(clip)
    return Canvas(clip.masked_fill(unknown, mask_id), ~unknown, mask_id)


def cells(mask: Tensor, time: int, space: int) -> Tensor:
    """The cells (t', h', w') that a mask of pixels (1 + k * time, h, w) touches, of time x space x space pixels each.

    The first latent frame has one frame.
    """
    mask = torch.cat([mask[:1].expand(time, -1, -1), mask[1:]])
    return mask.unflatten(0, (-1, time)).unflatten(2, (-1, space)).unflatten(4, (-1, space)).any(5).any(3).any(1)

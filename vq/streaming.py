"""Long and large videos in pieces: streams in time, tiles in space.

A causal layer needs of the past what its window covers. Fed a video piece by piece, it is given the last frames of the
piece before in place of a padding, so that all outputs together are those of the whole video at once, at a memory of a
few frames a layer. In space there is no such order: tiles overlap, and are blended where they do.
"""

from collections.abc import Callable
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_pasts: ContextVar[dict[nn.Module, Tensor] | None] = ContextVar("pasts", default=None)


class Stream:
    """A causal network that is fed a video piece by piece, and remembers what it needs of the pieces before.

    Of ft frames a latent frame, an encoder's first piece has 1 + k * ft frames and each later one k * ft; a decoder's
    pieces are any number of latent frames.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network, self.pasts = network, {}

    def __call__(self, piece: Tensor) -> Tensor:
        """(b, c, t, h, w) -> what the network makes of it, (b, out, t', h', w')."""
        before = _pasts.set(self.pasts)
        try:
            return self.network(piece)
        finally:
            _pasts.reset(before)


def begins(layer: nn.Module) -> bool:
    """Whether what the layer is given is a video from its first frame on, not a later piece of a stream."""
    return layer not in (_pasts.get() or {})


def with_past(layer: nn.Module, x: Tensor, frames: int, stride: int = 1) -> Tensor:
    """Puts in front of x (b, c, t, h, w) what a layer sees that looks ``frames`` back: (b, c, frames + t, h, w).

    The first frame stands for its own past. A later piece of a stream gets the last ``frames + 1 - stride`` frames of
    the piece before: a strided layer goes on where its last window ended.
    """
    pasts = _pasts.get()
    if begins(layer):
        x = F.pad(x, (0, 0, 0, 0, frames, 0), mode="replicate")
    else:
        x = torch.cat([pasts[layer], x], dim=2).contiguous(memory_format=torch.channels_last_3d)
    if pasts is not None:
        pasts[layer] = x[:, :, x.shape[2] - (frames + 1 - stride) :].clone()
    return x


class Tiles:
    """A network on overlapping tiles of a frame, blended linearly where they overlap.

    Args:
        network: gives the function for a tile, called once for each: ``lambda: Stream(decoder)`` for streams.
        size, overlap: of a tile, in positions of the input; frames that fit into one tile are not cut.
        scale: how much larger the output is than the input: 8 for a decoder, 1/8 for an encoder. Sizes and overlaps
            have to be multiples of 1 / scale.
    """

    def __init__(self, network: Callable[[], Callable[[Tensor], Tensor]], size: int, overlap: int, scale: float):
        if not 0 <= overlap < size:
            raise ValueError(f"tiles of {size} cannot overlap by {overlap}: expected less than their size")
        self.network, self.size, self.overlap, self.scale = network, size, overlap, scale
        self.functions: dict[tuple[int, int], Callable[[Tensor], Tensor]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """(b, c, t, h, w) -> (b, out, t', h * scale, w * scale)."""
        total, weights = None, None
        height, width = (round(side * self.scale) for side in x.shape[3:])
        for top in self.starts(x.shape[3]):
            for left in self.starts(x.shape[4]):
                function = self.functions.setdefault((top, left), self.network())
                tile = function(x[..., top : top + self.size, left : left + self.size])
                ramp = self.ramp(tile.shape[3], top, x.shape[3])[:, None] * self.ramp(tile.shape[4], left, x.shape[4])
                if total is None:
                    total = tile.new_zeros(*tile.shape[:3], height, width)
                    weights = tile.new_zeros(height, width)
                rows, columns = (round(start * self.scale) for start in (top, left))
                place = (..., slice(rows, rows + tile.shape[3]), slice(columns, columns + tile.shape[4]))
                ramp = ramp.to(tile)
                total[place] += ramp * tile
                weights[place] += ramp
        return total / weights

    def starts(self, side: int) -> list[int]:
        """Where the tiles of a side begin; the last one ends with the side."""
        if side <= self.size:
            return [0]
        return [*range(0, side - self.size, self.size - self.overlap), side - self.size]

    def ramp(self, length: int, start: int, side: int) -> Tensor:
        """Weights (length,) of a tile's outputs: rising and falling over the overlap, except at the frame's border."""
        rise = round(self.overlap * self.scale)
        weights = torch.ones(length)
        slope = (torch.arange(rise) + 0.5) / max(1, rise)
        if start > 0:
            weights[:rise] = slope
        if start + self.size < side:
            weights[length - rise :] *= slope.flip(0)
        return weights

"""Partial steps: between two full calls of the network only the positions that matter now are computed.

Attention lets every position look at all others, and one more committed token changes them all a little. Steps that
ignore the little are cheap: positions that are asked for, and those whose tokens have changed, are computed anew, and
look at the keys and values that the others had when they were last computed (ReCAP, arXiv 2505.19089, for MaskGIT and
its kin). How much is lost, and how much time gained, stands in docs/sampling.md.
"""

from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor

from generator.backbone import TextMemory
from generator.masked import MaskedGenerator


class Cache:
    """The self-attention's keys and values of all n positions, a block.

    Attributes:
        positions: int64 (b, a), those that the next call computes; None: all.
    """

    def __init__(self) -> None:
        self.positions: Tensor | None = None
        self.blocks: dict[int, tuple[Tensor, Tensor]] = {}  # two (b, heads, n, head_dim)

    def take(self, hidden: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
        """hidden (b, n, d) and rotation (2, n, r), or (2, b, 1, n, r) -> (b, a, d) and (2, b, 1, a, r)."""
        if self.positions is None:
            return hidden, rotation
        if rotation.ndim == 3:
            rotation = rotation[:, self.positions].unsqueeze(2)
        else:  # times in seconds, of each sample or of all
            index = _expand(self.positions[None, :, None], rotation).expand(2, -1, -1, -1, -1)
            rotation = rotation.expand(-1, len(hidden), -1, -1, -1).gather(3, index)
        return hidden.gather(1, _expand(self.positions, hidden)), rotation

    def put(self, hidden: Tensor, n: int) -> Tensor:
        """hidden (b, a, d) -> (b, n, d), zero where nothing was computed."""
        if self.positions is None:
            return hidden
        everywhere = hidden.new_zeros(len(hidden), n, hidden.shape[2])
        return everywhere.scatter_(1, _expand(self.positions, hidden), hidden)

    def update(self, block: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (b, heads, a, d) of the computed positions -> those of all, the latest of each."""
        if self.positions is None:
            self.blocks[block] = k, v.contiguous()  # v is a third of a larger tensor
        else:
            index = _expand(self.positions[:, None].expand(-1, k.shape[1], -1), k)
            for old, new in zip(self.blocks[block], (k, v), strict=True):
                old.scatter_(2, index, new)
        return self.blocks[block]


class Pass:
    """The model told one text a sample: tokens and where, (b, t, h, w) -> logits, digit by digit.

    Args:
        refresh: the first of so many calls computes all positions; 1: every call, without a cache.
    """

    def __init__(
        self,
        model: MaskedGenerator,
        text: TextMemory,
        middle: bool = False,
        refresh: int = 1,
        fps: Tensor | None = None,
        draft: Tensor | None = None,
    ) -> None:
        self.model, self.text, self.middle, self.refresh, self.fps = model, text, middle, refresh, fps
        self.draft = draft
        self.cache = Cache() if refresh > 1 else None
        self.calls = 0

    def __call__(self, tokens: Tensor, where: Tensor, guidance: Tensor | None = None):
        """``guidance``: the scales (b,) that a model is told which answers guided; None: it is told none."""
        text = self.text
        if guidance is not None:
            text = replace(text, guidance=guidance)
        if self.cache is not None:
            full = self.calls % self.refresh == 0
            self.cache.positions = None if full else self.positions(where | (tokens != self.seen))
            self.seen, self.calls = tokens, self.calls + 1
        return self.model(tokens, where, text, self.middle, self.fps, self.cache, self.draft)

    def positions(self, active: Tensor) -> Tensor:
        """The transformer's positions (b, a) of the active cells (b, t, h, w). Where a sample has fewer than another,
        one of its own stands there again."""
        p = self.model.patch_size
        active = rearrange(active, "b t (h p) (w q) -> b (t h w) (p q)", p=p, q=p).any(2)
        counts = active.sum(1, keepdim=True)
        order = active.int().argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]
        return torch.where(torch.arange(order.shape[1], device=order.device) < counts, order, order[:, :1])


def _expand(index: Tensor, like: Tensor) -> Tensor:
    return index[..., None].expand(*index.shape, like.shape[-1])

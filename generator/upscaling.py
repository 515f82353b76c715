"""Drafts: what an upscaler is told of the clip that it makes, and how training comes by them.

    clip --shrink--> small clip --enlarge--> as large as the clip, and blurred --tokenizer--> draft, a token a cell

A cascade (CDM, arXiv 2106.15282) makes a small video and then a larger one that is told the small one. A small clip
that is enlarged and encoded has the very grid of the clip that is to be made: each of its tokens speaks of the cell
that it lies on, and an upscaler is a masked generator with a second table of embeddings, for tokens that it is told.

Small clips out of a generator are not what shrunk real ones are. So some of those in training are spoilt, as CDM does
with noise and blur: the tokenizer encodes them, some of their tokens are mixed up, and they are decoded again.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from generator.puzzles import corrupt
from vq.tokenizer import Tokenizer


def enlarge(video: Tensor, height: int, width: int) -> Tensor:
    """Video (b, 3, t, h, w) in [-1, 1] -> (b, 3, t, height, width), bicubic."""
    return _resize(video, height, width, antialias=False)


def shrink(video: Tensor, factor: int) -> Tensor:
    """Video (b, 3, t, h, w) in [-1, 1] -> (b, 3, t, h / factor, w / factor), bicubic with a wider kernel."""
    return _resize(video, video.shape[3] // factor, video.shape[4] // factor, antialias=True)


def _resize(video: Tensor, height: int, width: int, antialias: bool) -> Tensor:
    frames = video.transpose(1, 2).flatten(0, 1)  # (b t) 3 h w
    frames = F.interpolate(frames, size=(height, width), mode="bicubic", antialias=antialias)
    return frames.unflatten(0, (len(video), -1)).transpose(1, 2).clamp(-1, 1)


class Drafts:
    """Draws the drafts of training clips.

    Args:
        factor: how many times as large as the small clip the clip is.
        spoilt: share of the small clips that go through the tokenizer.
        corruption: up to which share of the tokens of these are doubtful, half of them wrong; see
            ``generator.puzzles.corrupt``.
    """

    def __init__(self, factor: int = 2, spoilt: float = 0.5, corruption: float = 0.1) -> None:
        if factor < 2:
            raise ValueError(f"drafts of clips shrunk by a factor of {factor}: expected 2 or more")
        self.factor, self.spoilt, self.corruption = factor, spoilt, corruption

    @torch.no_grad()
    def __call__(self, video: Tensor, tokenizer: Tokenizer, rng: torch.Generator) -> Tensor:
        """Clips (b, 3, t, h, w) in [-1, 1] -> their drafts, tokens (b, t', h', w')."""
        small = shrink(video, self.factor)
        chosen = (torch.rand(len(video), generator=rng) < self.spoilt).to(video.device)
        if chosen.any():
            tokens = tokenizer.encode(small[chosen])
            visible = torch.ones(tokens.shape, dtype=torch.bool)
            wrong, _ = corrupt(tokens, visible, self.corruption, rng)
            small[chosen] = tokenizer.decode(wrong).to(small.dtype)
        return tokenizer.encode(enlarge(small, *video.shape[3:]))

    def check(self, tokenizer: Tokenizer, height: int, width: int) -> None:
        """``ValueError`` for clips that this factor does not shrink to a size that fits the tokenizer."""
        step = self.factor * tokenizer.space_compression
        for name, size in (("height", height), ("width", width)):
            if size % step:
                nearest = sorted({max(step, size // step * step), size // step * step + step})
                raise ValueError(
                    f"{name} {size} shrunk by a factor of {self.factor} does not fit {tokenizer.space_compression}x "
                    f"compression: use {' or '.join(map(str, nearest))}"
                )

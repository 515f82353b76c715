"""Transitions: clips that become another one, as films do, told as "this, then that".

A generator that is to connect two clips, or to tell a story, has to have seen how one thing becomes another; and a
tokenizer that has never seen a ground change goes on showing the old one for seconds (docs/LOG.md).
"""

from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import Dataset

from data.module import sizes_of
from data.tokens import TokenCache
from data.video import Example

TRANSITIONS = 2  # these draws, beside others of the same seed and index
TRIES = 64  # to find another clip of the same shape


class Transitions(Dataset):
    """Another data set's clips, a share of which dissolve into another one of them.

    A dissolve of n frames blends n - 1 of them, evenly; of 1, it is a cut. Where it begins is drawn evenly, so that at
    least the first frame is the one clip's and the last is the other's. What cannot hold one stays as it is. All is
    drawn by (seed, index), and the caption is ``then`` of both.

    Args:
        dataset: of clips, no token cache. With actions or tails of its own it is refused: put those around this.
        share: of the clips.
        frames: of a dissolve, from the shortest to the longest, each as often.
        retold: dissolve into the same clip told otherwise, such as in another colour, rather than into any other: for a
            data set that can, see ``Shapes.retold``.
        seed: another seed, other transitions.
    """

    def __init__(
        self,
        dataset: Dataset,
        share: float = 0.1,
        frames: tuple[int, int] = (8, 16),
        retold: bool = False,
        seed: int = 0,
    ) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"got the share {share} of clips with a transition, expected 0 to 1")
        if not 1 <= frames[0] <= frames[1]:
            raise ValueError(f"got transitions of {frames[0]} to {frames[1]} frames, expected 1 or more, in order")
        if isinstance(dataset, TokenCache):
            raise ValueError("tokens cannot dissolve: give the clips, and write a token cache of what they become")
        if getattr(dataset, "actions", None) or getattr(dataset, "tails", None):
            raise ValueError("a clip with actions or a known end cannot become another: put those around transitions")
        if retold and not hasattr(dataset, "retold"):
            raise ValueError(f"{type(dataset).__name__} tells no clip otherwise: leave out retold")
        if any((one["seed"], one["retold"]) == (seed, retold) for one in getattr(dataset, "transitions", [])):
            raise ValueError(f"transitions of transitions with the same seed, {seed}, come together: give another seed")
        self.dataset, self.share, self.shortest, self.longest = dataset, share, *frames
        self.told_otherwise, self.seed = retold, seed

    def __getattr__(self, name: str):
        if name.startswith("__") or name == "dataset":  # which is not there yet while a copy is being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)  # size, buckets and all else: those of the clips

    @property
    def transitions(self) -> list[dict]:
        """What a token cache says of them, the outermost last."""
        own = {"share": self.share, "frames": [self.shortest, self.longest], "seed": self.seed}
        return [*getattr(self.dataset, "transitions", []), own | {"retold": self.told_otherwise}]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Example:
        example, rng = self.dataset[index], np.random.default_rng((self.seed, index, TRANSITIONS, self.told_otherwise))
        frames = example.clip.shape[1]
        if rng.random() >= self.share or frames <= self.shortest:
            return example
        other = self.dataset.retold(index) if self.told_otherwise else self._another(index, rng)
        if other is None or (other.clip.shape, other.fps) != (example.clip.shape, example.fps):
            return example
        length = int(rng.integers(self.shortest, min(self.longest, frames - 1) + 1))
        start = int(rng.integers(1, frames - length + 1))
        clip = dissolve(example.clip, other.clip, start, length)
        skipped = example.skipped + other.skipped
        return replace(example, clip=clip, text=then(example.text, other.text), attributes=None, skipped=skipped)

    def _another(self, index: int, rng: np.random.Generator) -> Example | None:
        """Any clip of the same shape; None where none is found."""
        alike, length = len(sizes_of(self.dataset)) == 1, len(self.dataset)
        for _ in range(TRIES):
            other = int(rng.integers(length))
            if other != index % length and (alike or self.dataset.shape_of(other) == self.dataset.shape_of(index)):
                return self.dataset[other + index // length * length]  # of the same pass
        return None


def dissolve(clip: torch.Tensor, other: torch.Tensor, start: int, length: int) -> torch.Tensor:
    """Clips (3, t, h, w): the one before the frame ``start``, the other from ``start + length - 1`` on."""
    weight = ((torch.arange(clip.shape[1]) - start + 1) / length).clamp(0, 1).view(-1, 1, 1)
    return torch.lerp(clip, other, weight)


def then(text: str, other: str) -> str:
    """What tells of the one and of the other; of two empty texts nothing."""
    return ", then ".join(part for part in (text, other) if part)

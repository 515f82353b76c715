"""Tails: clips whose end is known, as of a task that is given how a video ends.

A user who asks for what came before a clip gives that clip and no more, so that its tokens are those of a piece that
was encoded by itself. At the end of a longer clip the same frames have other tokens, since an encoder that is causal in
time sees their past. A generator that is to lead up to a given end has to be trained on the former.
"""

from dataclasses import replace

import numpy as np
from torch.utils.data import Dataset

from data.tokens import TokenCache
from data.video import Example

TAILS = 1  # these draws, beside others of the same seed and index


class Tails(Dataset):
    """Another data set's clips, a share of which names how many frames at its end are known: ``Example.tail``.

    1 + k * compression of them, k drawn evenly among the numbers of latent frames that leave something before; in place
    of the shortest, half of the time, 1: a still. All is drawn by (seed, index).

    Args:
        dataset: of clips, no token cache; images among them have no tails.
        share: of the clips.
        compression: frames of a latent frame, the tokenizer's.
        seed: another seed, other tails.
    """

    def __init__(self, dataset: Dataset, share: float = 0.1, compression: int = 4, seed: int = 0) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"got the share {share} of clips with a tail, expected 0 to 1")
        if compression < 1:
            raise ValueError(f"got a compression of {compression} frames, expected 1 or more")
        if isinstance(dataset, TokenCache):
            raise ValueError(
                "tails are encoded by themselves: give the clips, and write a token cache of them and their tails"
            )
        self.dataset, self.share, self.compression, self.seed = dataset, share, compression, seed

    def __getattr__(self, name: str):
        if name.startswith("__") or name == "dataset":  # which is not there yet while a copy is being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)  # size, buckets, actions and all else: those of the clips

    @property
    def tails(self) -> dict:
        """What a token cache says of them."""
        return {"share": self.share, "compression": self.compression, "seed": self.seed}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Example:
        example, rng = self.dataset[index], np.random.default_rng((self.seed, index, TAILS))
        pieces = (example.clip.shape[1] - 1) // self.compression  # latent frames behind the first
        if not pieces or rng.random() >= self.share:
            return example
        known = int(rng.integers(1, pieces + 1))
        still = known == 1 and rng.random() < 0.5
        return replace(example, tail=1 if still else 1 + known * self.compression)

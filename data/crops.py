"""Crops: windows of another data set's clips, for tokenizers.

A token speaks of a small square of the picture, and most of a picture is dull: windows around what happens teach a
tokenizer as much as whole clips do, at a fraction of the pixels. The model serves whole clips all the same.
"""

from dataclasses import replace

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from data.module import sizes_of
from data.video import Example


class Crops(Dataset):
    """One window of each clip of a data set, drawn by (seed, index); captions are those of the whole clip.

    Attributes:
        whole: the data set, whose size a model of the windows calls its own (``VideoData.clip``).

    Args:
        dataset: of clips that are at least as large.
        frames, height, width: of a window.
        tries: windows that are drawn for each, of which the one with the greatest variance of its pixels is taken;
            1: any.
        seed: another seed, other windows.
    """

    def __init__(
        self, dataset: Dataset, frames: int = 9, height: int = 32, width: int = 32, tries: int = 4, seed: int = 0
    ) -> None:
        window = frames, height, width
        for whole in sizes_of(dataset):
            if any(part < 1 or part > size for part, size in zip(window, whole, strict=True)):
                raise ValueError(
                    f"windows of {frames} frames of {height}x{width} do not fit into clips of {whole[0]} frames of "
                    f"{whole[1]}x{whole[2]}: ask for smaller ones"
                )
        if tries < 1:
            raise ValueError(f"got {tries} tries for a window, expected at least 1")
        self.whole, self.tries, self.seed = dataset, tries, seed
        self.frames, self.height, self.width, self.fps = frames, height, width, dataset.fps

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Example:
        example, rng = self.whole[index], np.random.default_rng((self.seed, index))
        windows = [self._window(example.clip, rng) for _ in range(self.tries)]
        busiest = max(windows, key=lambda window: window.var().item())
        return replace(example, clip=busiest.clone(), attributes=None, actions=None, tail=0)

    def _window(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        sizes = (self.frames, self.height, self.width)
        starts = [int(rng.integers(whole - size + 1)) for whole, size in zip(clip.shape[1:], sizes, strict=True)]
        return clip[:, *(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))]

"""Features of clips, computed once: kept on disk by what a clip shows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluation.protocol import clip_bytes, code_version, fingerprint

CODE = ("evaluation/features.py", "evaluation/extractor.py")  # what shows clips to networks


@dataclass(frozen=True)
class Extractor:
    """A network that looks at clips.

    Attributes:
        name: of its scores: "i3d", "videomae", "clip".
        network: videos (b, 3, t, h, w) in [-1, 1] of 8 bits -> features (b, d); or with b texts to scores (b,).
        identity: the network by its weights, and how clips are shown to it.
        distance: names of its Frechet and kernel distances: "fvd" and "kvd" of videos, "fid" and "kid" of frames.
        folder: where features are kept, a file a clip; None: nowhere.
    """

    name: str
    network: Callable[..., Tensor]
    identity: str
    distance: tuple[str, str] = ("fvd", "kvd")
    folder: Path | None = None

    @torch.no_grad()
    def __call__(self, video: Tensor, texts: list[str] | None = None) -> Tensor:
        """Features (b, d), or with texts scores (b,), on the CPU."""
        if self.folder is None:
            return self._look(video, texts)
        said = [b""] * len(video) if texts is None else [b"text\0" + text.encode() for text in texts]
        by = f"{self.identity} {code_version(code=CODE)}".encode()
        names = [fingerprint([by, clip_bytes(clip), text]) for clip, text in zip(video, said, strict=True)]
        files = [self.folder / name[:2] / f"{name}.npy" for name in names]
        new = [i for i, file in enumerate(files) if not file.is_file()]
        if new:
            seen = self._look(video[new], texts and [texts[i] for i in new])
            for i, features in zip(new, seen, strict=True):
                files[i].parent.mkdir(parents=True, exist_ok=True)
                partial = files[i].with_suffix(".partial.npy")
                np.save(partial, features.numpy())
                partial.rename(files[i])
        return torch.stack([torch.from_numpy(np.load(file)) for file in files])

    def _look(self, video: Tensor, texts: list[str] | None) -> Tensor:
        return (self.network(video) if texts is None else self.network(video, texts)).float().cpu()

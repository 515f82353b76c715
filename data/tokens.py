"""TokenCache: the tokens and captions of a data set, encoded once (``python -m vq.encode``), read from memory maps.

A cache is a folder: ``cache.json`` says whose tokens these are, and each shard of clips of one shape is
``00000.npy``, tokens (clips, t', h', w') in the narrowest integers that hold them, beside ``00000.jsonl``, a caption a
line. The captions come last and at once, so a shard that has them is whole, and an interrupted run goes on behind it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from data.video import Example, VideoError

HEADER = "cache.json"


@dataclass(frozen=True)
class CacheInfo:
    """Whose tokens a cache holds: those of ``clips`` clips of frames x height x width at fps, by one tokenizer.

    ``tokenizer`` is its fingerprint: tokens of another one mean something else.
    """

    tokenizer: str
    codebook_size: int
    clips: int
    frames: int
    height: int
    width: int
    fps: float | None


class TokenCache(torch.utils.data.Dataset):
    """Examples with ``tokens`` int64 (t', h', w') in place of a clip; an index beyond the length begins again.

    Args:
        folder: what ``python -m vq.encode`` has written. ``VideoError`` for one that is not a whole cache.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.info = read_info(self.folder)
        if self.info is None:
            raise VideoError(f"{folder}: holds no {HEADER}: expected a folder that python -m vq.encode has written")
        self.frames, self.height, self.width = self.info.frames, self.info.height, self.info.width
        self.fps, self.tokenizer = self.info.fps, self.info.tokenizer
        self.shards, self.captions, self.places = [], [], []
        for captions in sorted(self.folder.glob("*.jsonl")):
            lines = [json.loads(line) for line in captions.read_text(encoding="utf-8").splitlines()]
            self.places += [(len(self.shards), row) for row in range(len(lines))]
            self.shards.append(np.load(captions.with_suffix(".npy"), mmap_mode="r"))
            self.captions += lines
        self.sizes = sorted({shard.shape[1:] for shard in self.shards})
        if len(self) != self.info.clips:
            raise VideoError(
                f"{folder}: holds the tokens of {len(self)} of {self.info.clips} clips: run the same "
                "python -m vq.encode again, and it goes on where it was"
            )

    def __len__(self) -> int:
        return len(self.captions)

    def shape_of(self, index: int) -> tuple[int, ...]:
        """(t', h', w') of ``self[index]``, so that batches can be grouped by shape."""
        return self.shards[self.places[index % len(self)][0]].shape[1:]

    def __getitem__(self, index: int) -> Example:
        shard, row = self.places[index % len(self)]
        text, fps = self.captions[index % len(self)]
        tokens = torch.from_numpy(self.shards[shard][row].astype(np.int64))
        return Example(clip=None, text=text, fps=fps, tokens=tokens)


def read_info(folder: Path) -> CacheInfo | None:
    """What a cache says of itself; None where there is none. ``VideoError`` for something else of that name."""
    file = folder / HEADER
    if not file.is_file():
        return None
    try:
        return CacheInfo(**json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise VideoError(f"{file}: is not the header of a token cache: {error}") from error


def begin(folder: Path, info: CacheInfo) -> None:
    """Begins a cache, or goes on with the same one. ``VideoError`` where the folder holds another."""
    there = read_info(folder)
    if there not in (None, info):
        other = [name for name, value in asdict(info).items() if getattr(there, name) != value]
        raise VideoError(
            f"{folder}: holds a token cache of another {', '.join(other)}: delete it or give another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HEADER).write_text(json.dumps(asdict(info)))


def has_shard(folder: Path, number: int) -> bool:
    return (folder / f"{number:05d}.jsonl").is_file()


def write_shard(folder: Path, number: int, tokens: torch.Tensor, captions: list[tuple[str, float]]) -> None:
    """Writes a shard whole or not at all: tokens (clips, t', h', w'), and the caption and fps of each clip."""
    codebook_size = read_info(folder).codebook_size
    np.save(folder / f"{number:05d}.npy", tokens.numpy().astype(np.min_scalar_type(codebook_size - 1)))
    file = folder / f"{number:05d}.jsonl"
    file.with_suffix(".tmp").write_text("".join(json.dumps(c) + "\n" for c in captions), encoding="utf-8")
    file.with_suffix(".tmp").rename(file)

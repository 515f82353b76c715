"""TokenCache: the tokens and captions of a data set, encoded once (``python -m vq.encode``), read from memory maps.

A cache is a folder: ``cache.json`` says whose tokens these are, and each shard of clips of one shape is
``00000.npy``, tokens (clips, t', h', w') in the narrowest integers that hold them, beside ``00000.jsonl``, a line a
clip: caption, frames a second, words, and frames at its end that were encoded by themselves (``data.tails``). On
request there are ``00000.latents.npy`` (clips, d, t', h', w') and, of encoded captions one after the other,
``00000.words.npy`` (words, d), both in half precision; of games ``00000.actions.npy`` (clips, t), an action a frame.
The captions come last and at once, so a shard that has them is whole, and an interrupted run goes on behind it.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from data.video import Example, VideoError

HEADER = "cache.json"
ENDS = {"tokens": ".npy", "latents": ".latents.npy", "words": ".words.npy", "actions": ".actions.npy"}


@dataclass(frozen=True)
class CacheInfo:
    """Whose tokens a cache holds: those of ``clips`` clips of frames x height x width at fps, by one tokenizer.

    ``tokenizer`` is what ``vq.pretrained.code_of`` says of it: tokens of another one mean something else. A
    ``codebook_size`` of 0 means latents without tokens. ``text`` is the configuration of the encoder of the captions,
    where they are encoded; ``actions`` are the names of a game's; ``tails`` says how the ends were drawn that were
    encoded by themselves, and ``transitions`` how clips become others; ``data`` tells data sets apart, by some of the
    clips.
    """

    tokenizer: str
    codebook_size: int
    clips: int
    frames: int
    height: int
    width: int
    fps: float | None
    latents: bool = False
    text: dict | None = None
    actions: list[str] | None = None
    tails: dict | None = None
    data: str | None = None
    transitions: list[dict] | None = None


class TokenCache(torch.utils.data.Dataset):
    """Examples with ``tokens`` int64 (t', h', w') in place of a clip; an index beyond the length begins again.

    Caches that hold more give ``latents`` float32 (d, t', h', w'), ``words`` float32 (l, d), ``actions`` int64 (t,)
    and ``tail`` besides.

    Args:
        folder: what ``python -m vq.encode`` has written. ``VideoError`` for one that is not a whole cache.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.info = read_info(self.folder)
        if self.info is None:
            raise VideoError(f"{folder}: holds no {HEADER}: expected a folder that python -m vq.encode has written")
        self.frames, self.height, self.width = self.info.frames, self.info.height, self.info.width
        self.fps, self.tokenizer, self.actions = self.info.fps, self.info.tokenizer, self.info.actions
        self.transitions = self.info.transitions or []
        self.shards, self.captions, self.places, self.lengths = [], [], [], []
        for captions in sorted(self.folder.glob("*.jsonl")):
            lines = [json.loads(line) for line in captions.read_text(encoding="utf-8").splitlines()]
            self.places += [(len(self.shards), row) for row in range(len(lines))]
            self.shards.append({part: np.load(captions.with_suffix(end), mmap_mode="r") for part, end in self._parts()})
            lines = [(*line, 0, 0)[:4] for line in lines]  # older caches leave out what they have not got
            self.captions += [(text, fps, tail) for text, fps, _, tail in lines]
            self.lengths.append(np.cumsum([0, *(words for _, _, words, _ in lines)]))
        self.sizes = sorted({_grid(shard) for shard in self.shards})
        if len(self) != self.info.clips:
            raise VideoError(
                f"{folder}: holds the tokens of {len(self)} of {self.info.clips} clips: run the same "
                "python -m vq.encode again, and it goes on where it was"
            )

    def _parts(self) -> list[tuple[str, str]]:
        info = self.info
        there = {"tokens": info.codebook_size, "latents": info.latents, "words": info.text, "actions": info.actions}
        return [(part, ENDS[part]) for part, wanted in there.items() if wanted]

    def __len__(self) -> int:
        return len(self.captions)

    def shape_of(self, index: int) -> tuple[int, ...]:
        """(t', h', w') of ``self[index]``, so that batches can be grouped by shape."""
        return _grid(self.shards[self.places[index % len(self)][0]])

    def __getitem__(self, index: int) -> Example:
        shard, row = self.places[index % len(self)]
        text, fps, tail = self.captions[index % len(self)]
        begin, end = self.lengths[shard][row : row + 2]
        rows = {"tokens": row, "latents": row, "words": slice(begin, end), "actions": row}
        types = {"tokens": np.int64, "latents": np.float32, "words": np.float32, "actions": np.int64}
        parts = self.shards[shard].items()
        arrays = {part: torch.from_numpy(array[rows[part]].astype(types[part])) for part, array in parts}
        return Example(clip=None, text=text, fps=fps, tail=tail, **arrays)


def _grid(shard: dict[str, np.ndarray]) -> tuple[int, ...]:
    return shard["tokens" if "tokens" in shard else "latents"].shape[-3:]


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
    if there is None:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / HEADER, json.dumps(asdict(info)))


def has_shard(folder: Path, number: int) -> bool:
    return (folder / f"{number:05d}.jsonl").is_file()


def write_shard(
    folder: Path,
    number: int,
    captions: list[tuple[str, float, int]],
    tokens: torch.Tensor | None = None,
    latents: torch.Tensor | None = None,
    words: list[torch.Tensor] | None = None,
    actions: torch.Tensor | None = None,
) -> None:
    """Writes a shard whole or not at all.

    Args:
        captions: caption, fps and tail of each clip.
        tokens: (clips, t', h', w'). latents: (clips, d, t', h', w'). words: (l, d) for each clip. actions: (clips, t).
    """
    name, counts = str(folder / f"{number:05d}"), [0] * len(captions)
    if tokens is not None:
        codebook_size = read_info(folder).codebook_size
        np.save(name + ENDS["tokens"], tokens.numpy().astype(np.min_scalar_type(codebook_size - 1)))
    if latents is not None:
        np.save(name + ENDS["latents"], latents.half().numpy())
    if actions is not None:
        np.save(name + ENDS["actions"], actions.numpy().astype(np.uint8))
    if words is not None:
        np.save(name + ENDS["words"], torch.cat(words).half().numpy())
        counts = [len(row) for row in words]
    lines = [(text, fps, count, tail) for (text, fps, tail), count in zip(captions, counts, strict=True)]
    _write(Path(name + ".jsonl"), "".join(json.dumps(line) + "\n" for line in lines))


def _write(file: Path, text: str) -> None:
    """Whole or not at all, though other processes write and read it, too."""
    part = file.with_suffix(f".{os.getpid()}.tmp")
    part.write_text(text, encoding="utf-8")
    part.replace(file)

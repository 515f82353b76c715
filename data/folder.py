"""A folder of real videos and images with captions.

Captions stand in `metadata.jsonl` (the convention of Hugging Face data sets: one JSON object a line with `file_name`
and `text`; every other key becomes an attribute) or in a text file beside the video, `cat.mp4` and `cat.txt`. Folders
within the folder count, and may have a `metadata.jsonl` of their own. A file without a caption has the caption "".
A line may have longer captions too, `long_text`, one or a list, as `python -m data.captions` writes them: short and
long are then mixed, as DALL-E 3 did (Betker et al. 2023, "Improving Image Generation with Better Captions").

Which clip of a file comes out is a pure function of (seed, index): no state, so that a run can stop, resume and be
spread over workers without changing what it sees.
"""

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from data.buckets import Shape, fits, kept, nearest
from data.video import IMAGES, VIDEOS, Example, VideoError, is_image, probe, read_clip

METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class Caption:
    """What stands in the metadata of a file: its caption, longer ones, and all other keys."""

    text: str = ""
    long: tuple[str, ...] = ()
    attributes: dict | None = None


class Folder(Dataset):
    """Captioned clips (3, frames, height, width) of the videos in a folder, and its images as (3, 1, height, width).

    `dataset[index]` is a clip of file `index % len(dataset)`: an index beyond the length is another draw of the same
    file. A broken or too short file is passed over to the next one of the same shape, and `Example.skipped` says so.

    Args:
        path: the folder.
        frames: frames a clip; images have one.
        height: pixels; pictures are resized to cover height x width and cropped.
        width: pixels.
        fps: frames a second, resampled by timestamps; None keeps the rate of each file.
        seed: of the random clips.
        random: a random stretch of time and a random crop; otherwise the beginning and the centre, for validation.
        images: whether to use the images of the folder.
        buckets: several sizes, each frames, height and width, in place of the one. Every file is opened once, and goes
            into the bucket that is nearest to its own size and length; images as one frame. A file that fits none of
            them well is warned of. The first bucket is what a model of these clips calls its own size.
        metadata: a file of captions to read instead of the folder's own; its `file_name`s are relative to `path`.
        long_share: how often a clip gets one of its long captions, from 0 to 1, drawn by (seed, index). Where there is
            one kind only, that is used.
    """

    def __init__(
        self,
        path: str,
        frames: int = 17,
        height: int = 64,
        width: int = 64,
        fps: float | None = None,
        seed: int = 0,
        random: bool = True,
        images: bool = True,
        buckets: Sequence[Sequence[int]] | None = None,
        metadata: str | None = None,
        long_share: float = 0.0,
    ):
        if not 0 <= long_share <= 1:
            raise ValueError(f"long_share is {long_share}, expected a share between 0 and 1")
        if metadata is not None and not Path(metadata).is_file():
            raise VideoError(f"{metadata}: no such file: give one that python -m data.captions has written")
        self.root, self.metadata, self.long_share = Path(path), metadata, long_share
        self.buckets = [tuple(bucket) for bucket in buckets or [(frames, height, width)]]
        (self.frames, self.height, self.width), self.fps = self.buckets[0], fps
        self.seed, self.random = seed, random
        if not self.root.is_dir():
            raise VideoError(f"{path}: no such folder: give one with videos and a {METADATA}")
        suffixes = VIDEOS | IMAGES if images else VIDEOS
        self.files = self._files(suffixes)
        if not self.files:
            raise VideoError(f"{path}: holds no video{' or image' * images} ({' '.join(sorted(suffixes))})")
        self.entries = self._captions()
        self._warned: set[Path] = set()
        self.shape_by_file = self._assign() if buckets else [self._shape(file) for file in self.files]
        self.sizes = sorted(set(self.shape_by_file))

    def _files(self, suffixes: set[str]) -> list[Path]:
        found = (file for file in self.root.rglob("*") if file.suffix.lower() in suffixes)
        return sorted(file for file in found if not file.name.startswith("."))

    def __len__(self) -> int:
        return len(self.files)

    def shape_of(self, index: int) -> tuple[int, int, int]:
        """(t, h, w) of `self[index]`, known without opening the file, so that batches can be grouped by shape."""
        return self.shape_by_file[index % len(self)]

    def __getitem__(self, index: int) -> Example:
        skipped = []
        for file in self._candidates(index):
            try:
                clip, fps = self._read(file, index)
            except VideoError as error:
                skipped.append(str(error))
                self._warn_once(file, error)
                continue
            caption = self.entries.get(file, Caption())
            return Example(clip, self._drawn(caption, index), fps, caption.attributes, tuple(skipped))
        raise VideoError(f"{self.root}: none of {len(skipped)} files can be used; the first: {skipped[0]}")

    def _candidates(self, index: int):
        """The file of an index and, should it be broken, those after it with the same promised shape."""
        for step in range(len(self)):
            if self.shape_of(index + step) == self.shape_of(index):
                yield self.files[(index + step) % len(self)]

    def _read(self, file: Path, index: int):
        # Seeded by the pair, not by the sum: seed 0, index 1 and seed 1, index 0 have nothing in common.
        when, *crop = np.random.default_rng([self.seed, index]).random(3) if self.random else (0.0, 0.5, 0.5)
        return read_clip(file, *self.shape_of(index), self.fps, lambda latest: when * latest, tuple(crop))

    def _shape(self, file: Path, bucket: Shape | None = None) -> Shape:
        """A bucket, the first by default, as a file can fill it: an image has one frame."""
        frames, height, width = bucket or self.buckets[0]
        return (1 if is_image(file) else frames), height, width

    def _assign(self) -> list[Shape]:
        """The shape of each file's clips, from a look at each; warns of those that fit no bucket."""
        assigned: dict[Path, Shape] = {}
        left, strangers = [], []
        for file in self.files:
            try:
                info = probe(file)
            except VideoError:  # said again when its turn comes
                continue
            frames = 1 if info.is_image else ceil(info.duration * (self.fps or info.fps) - 1e-6)
            buckets = sorted({self._shape(file, bucket) for bucket in self.buckets})
            bucket = nearest(buckets, frames, info.height, info.width)
            if not fits(bucket, frames, info.height, info.width):
                strangers.append(f"{file.name} ({frames}x{info.height}x{info.width}) into {'x'.join(map(str, bucket))}")
            if bucket[0] <= frames:
                assigned[file] = bucket
                left.append(kept(bucket, info.height, info.width))
        self.kept = sum(left) / max(1, len(left))  # the share of the pictures that is left after cropping
        if strangers:
            warnings.warn(
                f"{self.root}: {len(strangers)} of {len(self)} files fit no bucket and go into the nearest, first "
                f"{strangers[0]}: add a bucket of their proportions and length",
                stacklevel=4,
            )
        # what is broken or too short will be passed over, and must not be alone in its bucket then, nor become a still
        stills = {still: Counter(s for f, s in assigned.items() if is_image(f) == still) for still in (True, False)}

        def common(file: Path) -> Shape:
            shapes = stills[is_image(file)] or Counter(assigned.values()) or Counter([self.buckets[0]])
            return shapes.most_common(1)[0][0]

        return [assigned.get(file) or common(file) for file in self.files]

    def _drawn(self, caption: Caption, index: int) -> str:
        if not caption.long:
            return caption.text
        # Another stream than that of the clip: which caption comes out changes nothing about the picture.
        rng = np.random.default_rng([self.seed, index if self.random else index % len(self), 1])
        if caption.text and rng.random() >= self.long_share:
            return caption.text
        return caption.long[rng.integers(len(caption.long))]

    def _warn_once(self, file: Path, error: VideoError) -> None:
        if file not in self._warned:
            self._warned.add(file)
            warnings.warn(f"passed over {error}", stacklevel=3)

    def _captions(self) -> dict[Path, Caption]:
        """file -> caption, from the metadata and the text files beside the videos."""
        entries = {}
        for file in self.files:
            beside = file.with_suffix(".txt")
            if beside.is_file():
                entries[file] = Caption(_text(beside).strip())
        given = [Path(self.metadata)] if self.metadata else []
        for metadata in given or sorted(self.root.rglob(METADATA)):
            for name, text, caption in _entries(metadata):
                file = (self.root if given else metadata.parent) / name
                # A line without a text adds to the caption beside the file.
                text = entries.get(file, Caption()).text if text is None else text
                entries[file] = replace(caption, text=text)

        missing = [file for file in entries.keys() - set(self.files) if not file.exists()]
        if missing:
            warnings.warn(f"{self.root}: {len(missing)} captions without a file, first {min(missing)}", stacklevel=3)
        captions = [entries.get(file, Caption()) for file in self.files]
        self.uncaptioned = sum(not (caption.text or caption.long) for caption in captions)
        if self.uncaptioned:
            warnings.warn(
                f'{self.root}: {self.uncaptioned} of {len(self)} files have no caption and get ""', stacklevel=3
            )
        return entries


def _entries(metadata: Path):
    """(file_name, text or None, caption without a text) of each line of a metadata file."""
    for number, line in enumerate(_text(metadata).split("\n"), start=1):  # splitlines would split within captions
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, text = entry.pop("file_name"), entry.pop("text", None)
            if not isinstance(name, str) or not isinstance(text, str | None):
                raise TypeError("file_name and text must be strings")
            long = entry.pop("long_text", None) or []
            long = [long] if isinstance(long, str) else long
            if not isinstance(long, list) or not all(isinstance(caption, str) for caption in long):
                raise TypeError("long_text must be a string or a list of strings")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise VideoError(
                f'{metadata}, line {number}: {reason}: expected {{"file_name": "a.mp4", "text": "a caption"}}'
            ) from error
        yield name, text, Caption(long=tuple(filter(None, long)), attributes=entry or None)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise VideoError(f"{file}: is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error

"""Where the samples come from: a model that draws them, or a folder of `sample.py`'s outputs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.video import VIDEOS, read_clip
from generator import tasks
from generator.pipeline import VideoGenerator

NO_PIXELS = ("model", "out", "device", "batch_size", "num", "task")  # settings that leave a sample as it is
SIZE = ("frames", "height", "width")


@dataclass(frozen=True)
class Drawn:
    """Samples that a model draws when they are asked for.

    Attributes:
        texts, seeds: one a sample.
        settings: further arguments of `VideoGenerator.fill`.
        sampling: the same as JSON can hold them.
    """

    model: VideoGenerator
    size: dict[str, int]
    texts: list[str]
    seeds: list[int]
    settings: dict
    sampling: dict

    def __call__(self, rows: slice) -> Tensor:
        """Videos (b, 3, t, h, w) in [-1, 1]."""
        canvas = tasks.text2video(self.model.tokenizer.latent_shape(**self.size), self.model.generator.mask_id)
        texts, seeds = self.texts[rows], self.seeds[rows]
        tokens = self.model.fill(canvas.repeat(len(texts)), texts, seeds, batch_size=len(texts), **self.settings)
        return self.model.decode(tokens)


@dataclass(frozen=True)
class Stored:
    """Samples in files. ``sampling`` is what their records say of the settings."""

    files: list[Path]
    size: dict[str, int]
    texts: list[str]
    seeds: list[int | None]
    sampling: dict

    def __call__(self, rows: slice) -> Tensor:
        return torch.stack([self._read(file) for file in self.files[rows]])

    def _read(self, file: Path) -> Tensor:
        clip, _ = read_clip(file)
        if clip.shape[1:] != tuple(self.size.values()):
            got, expected = ("x".join(map(str, shape)) for shape in (clip.shape[1:], self.size.values()))
            raise ValueError(f"{file} is {got}, the real clips are {expected}: sample and compare at one size")
        return clip


def records(folder: Path) -> dict[Path, dict]:
    """File -> its record, of a folder that `sample.py` has written. Raises ``ValueError`` where one is missing."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in VIDEOS and file.name[0] != ".")
    if not files:
        raise ValueError(f"{folder} holds no videos: expected a folder that sample.py has written")
    found = {}
    for file in files:
        try:
            found[file] = json.loads(file.with_suffix(".json").read_text())
            found[file]["prompt"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{file} has no record beside it: expected a .json with its "prompt" and "seed"'
            ) from error
    return found


def stored(found: dict[Path, dict], captions: Sequence[str], size: dict[str, int], fps: float | None) -> Stored:
    """A sample a caption, in their order, each used once; then further ones of the same captions, if there are any.

    Raises ``ValueError`` for a caption without a sample, and for samples of several settings or another frame rate.
    """
    waiting: dict[str, list[Path]] = {}
    for file, record in found.items():
        prompt = record.get("raw_prompt") or record["prompt"]
        if not isinstance(prompt, str):
            raise ValueError(f"{file} is a story of several prompts: expected samples of one caption each")
        waiting.setdefault(prompt, []).append(file)
    files = []
    for caption in captions:
        if not waiting.get(caption):
            again = "no further" if caption in waiting else "no"
            raise ValueError(
                f"there is {again} sample of {caption!r}: expected one for each of the first {len(captions)} captions; "
                "no sample is used twice"
            )
        files.append(waiting[caption].pop(0))
    files += [file for caption in dict.fromkeys(captions) for file in waiting[caption]]
    used = [found[file] for file in files]
    kept = [{k: v for k, v in r.get("settings", {}).items() if k not in (*NO_PIXELS, *SIZE, "fps")} for r in used]
    for file, record, settings in zip(files, used, kept, strict=True):
        if settings != kept[0]:
            other = next(name for name in (*settings, *kept[0]) if settings.get(name) != kept[0].get(name))
            raise ValueError(
                f"{other} is {settings.get(other)} in {file.name} and {kept[0].get(other)} in {files[0].name}: "
                "expected samples of one set of settings"
            )
        if None not in (fps, record.get("fps")) and record["fps"] != fps:
            raise ValueError(f"{file} has {record['fps']:g} frames a second, the real clips {fps:g}: expected the same")
    return Stored(files, size, [r["prompt"] for r in used], [r.get("seed") for r in used], kept[0])

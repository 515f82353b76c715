"""The sets of clips that a score is told of: the real ones, what samples are worth, and what a score can see at all."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from data.module import collate
from data.video import to_float, to_uint8
from evaluation.protocol import clip_bytes


@dataclass(frozen=True)
class Clips:
    """Clips of a data set in memory: pixels uint8 (t, h, w, 3) each, captions, frames a second and attributes."""

    pixels: list
    texts: list[str]
    fps: list[float]
    attributes: list[dict | None]

    def __len__(self) -> int:
        return len(self.pixels)

    def video(self, rows: slice) -> Tensor:
        """(b, 3, t, h, w) in [-1, 1]."""
        return torch.stack([to_float(clip) for clip in self.pixels[rows]])

    def hashes(self) -> list[bytes]:
        """What each clip shows, as bytes."""
        return [clip_bytes(to_float(clip)) for clip in self.pixels]


def read(dataset: Dataset, start: int, count: int, what: str, known: Sequence[bytes] = ()) -> Clips:
    """``count`` clips of a data set from index ``start`` on, rounded to 8 bits, with a progress bar.

    No clip counts twice: what shows the same as one before it or as a ``known`` one is passed over, such as the draws
    beyond the length of a folder whose videos have no other moment. Nor does a clip that stands in for a broken or too
    short one, of which the data set warns. Where all are used up, fewer come back. ``ValueError`` for tokens.
    """
    clips, seen = Clips([], [], [], []), set(known)
    with tqdm(total=count, unit="clip", desc=what) as bar:
        index, last = start, start + 2 * count
        while len(clips) < count and index < last:
            batch = collate([dataset[index]])
            index += 1
            if batch.video is None:
                raise ValueError("the data set holds tokens: expected one of videos, such as data.folder.Folder")
            pixels = to_uint8(batch.video[0])
            if batch.skipped:
                last += 1
            if batch.skipped or pixels.tobytes() in seen:
                continue
            seen.add(pixels.tobytes())
            clips.pixels.append(pixels)
            clips.texts.extend(batch.text)
            clips.fps.extend(batch.fps.tolist())
            clips.attributes.extend(batch.attributes)
            bar.update()
    return clips


def read_reference(dataset: Dataset, clips: int, floor: bool = True) -> tuple[Clips, Clips | None]:
    """The first ``clips`` of a data set, and for a ``floor`` as many further ones, or None if it has no others.

    Raises ``ValueError`` where it has fewer.
    """
    reference = read(dataset, 0, clips, "reading real clips")
    if len(reference) < clips:
        raise ValueError(
            f"the data set has {len(reference)} different clips: expected --clips {len(reference)} or less"
        )
    if not floor:
        return reference, None
    known = [pixels.tobytes() for pixels in reference.pixels]
    further = read(dataset, clips, clips, "reading further ones", known)
    return reference, further if len(further) == clips else None


def sets(
    real: Clips,
    further: Clips | None,
    samples: Callable[[slice], Tensor],
    reconstruct: Callable[[Tensor], Tensor] | None,
    rows: slice,
) -> Iterator[tuple[str, Tensor]]:
    """One batch of every set: its name and videos (b, 3, t, h, w) of 8 bits."""
    video = real.video(rows)
    yield "samples", eight_bits(samples(rows))
    if reconstruct is not None:
        yield "reconstructed", eight_bits(reconstruct(video)).cpu()
    yield "real", video
    if further is not None:
        yield "further real", further.video(rows)
    yield from spoilt(video, rows)
    yield "noise", noise(video, rows)


def spoilt(video: Tensor, rows: slice) -> Iterator[tuple[str, Tensor]]:
    """Real clips without what a distance of videos ought to see: the order of their frames, and their motion.

    ``rows`` are theirs in the data set: what is drawn depends on the clip, not on its batch.
    """
    orders = [torch.randperm(video.shape[2], generator=draw) for draw in draws(rows)]
    yield "frames shuffled", torch.stack([clip[:, order] for clip, order in zip(video, orders, strict=True)])
    yield "first frame", video[:, :, :1].expand_as(video).contiguous()


def noise(video: Tensor, rows: slice) -> Tensor:
    """Clips of the same size with nothing in them."""
    return eight_bits(torch.stack([2 * torch.rand(video.shape[1:], generator=draw) - 1 for draw in draws(rows)]))


def draws(rows: slice) -> list[torch.Generator]:
    """One for each clip of a data set."""
    return [torch.Generator().manual_seed(i) for i in range(rows.start, rows.stop)]


def eight_bits(video: Tensor) -> Tensor:
    """As it would come back from a lossless file."""
    return video.float().add(1).mul(127.5).round().clamp(0, 255).div(127.5).sub(1)

"""Clips from files, and where the [-1, 1] convention lives; the way back is in ``data.writing``.

A clip is a float tensor (3, t, h, w) in [-1, 1]; an image is a clip of one frame. Videos go through PyAV, still
images through Pillow. A file is a list of (timestamp, frame): frame k of a clip is the one on screen at
`start + k / fps`, so variable frame rates, offsets and resampling all follow from one rule. Frames are resized and
cropped as they are decoded, so that memory holds the clip and one frame of the file, whatever the file's size.

Every failure is a `VideoError` of one line that names the file.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image, ImageOps

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
VIDEOS = {".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv"}
# Without full chroma swscale gives neighbouring pixels one colour: 36 dB on saturated edges instead of 47.
SCALING = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
LONGEST_STILL = 1000  # frames; a damaged timestamp would otherwise fill the memory with one picture
IMAGE_FPS = 1.0  # an image stands for a second; nothing depends on it


class VideoError(ValueError):
    """One line: what was got, what was expected, how to mend it."""


@dataclass(frozen=True)
class Example:
    """One captioned clip, as every dataset of this package returns it."""

    clip: torch.Tensor | None  # float (3, t, h, w) in [-1, 1]; None out of a token cache
    text: str
    fps: float
    attributes: dict | None = None
    skipped: tuple[str, ...] = ()  # one line for each broken file that was passed over to get here
    tokens: torch.Tensor | None = None  # int64 (t', h', w'), out of a token cache
    latents: torch.Tensor | None = None  # float (d, t', h', w'), likewise
    words: torch.Tensor | None = None  # float (l, d), the encoded text, likewise
    actions: torch.Tensor | None = None  # int64 (t,), of a game: what led to each frame
    tail: int = 0  # frames at the end that are known, and encoded by themselves; see data.tails


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of itself."""

    duration: float  # seconds that the video is on screen
    fps: float  # frames a second, on average
    height: int  # as shown: after rotation
    width: int
    frames: int
    is_image: bool = False


# ---- The convention -------------------------------------------------------------------------------------------------


def to_float(frames: np.ndarray) -> torch.Tensor:
    """uint8 (t, h, w, 3) -> float (3, t, h, w) in [-1, 1]."""
    # In NumPy: torch wakes its threads for a clip of this size, and on a busy machine waits 15 ms for them, not 0.4.
    clip = np.ascontiguousarray(np.asarray(frames).transpose(3, 0, 1, 2)).astype(np.float32)
    clip /= 127.5
    clip -= 1
    return torch.from_numpy(clip)


def to_uint8(clip: torch.Tensor) -> np.ndarray:
    """float (3, t, h, w) in [-1, 1] -> uint8 (t, h, w, 3), rounded and clamped. The inverse of `to_float`."""
    levels = clip.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu().numpy()


def is_image(path: str | Path) -> bool:
    """Whether a file is a still image, by its suffix. An animated GIF counts as a video."""
    return Path(str(path)).suffix.lower() in IMAGES


# ---- Reading --------------------------------------------------------------------------------------------------------


def probe(path: str | Path) -> VideoInfo:
    """Duration, rate and size of a file; decodes one frame at most."""
    if is_image(path):
        with _image(path) as image:
            return VideoInfo(1 / IMAGE_FPS, IMAGE_FPS, image.height, image.width, frames=1, is_image=True)
    with _source(path) as source:
        for _, frame in source.frames():
            height, width = _turned((frame.height, frame.width), _quarter_turns(frame))
            return VideoInfo(source.duration, source.fps, height, width, round(source.duration * source.fps))
        raise VideoError(f"{path}: no frame can be decoded: the file is truncated or damaged")


def read_clip(
    path: str | Path,
    frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    fps: float | None = None,
    start: float | Callable[[float], float] = 0.0,
    crop: tuple[float, float] = (0.5, 0.5),
) -> tuple[torch.Tensor, float]:
    """Reads a clip, float (3, frames, height, width) in [-1, 1], and its rate in frames a second.

    Args:
        path: a video in any container and codec that FFmpeg knows, or an image, which is a video of one frame; or a
            part of another file with a name and an ``open()``, such as ``data.shards.Member``.
        frames: how many frames; None reads to the end.
        height: pixels. The picture is resized, keeping its proportions, until it covers height x width, and cropped.
        width: pixels; None for both keeps the size of the file.
        fps: frames a second, resampled by timestamps; None keeps the average rate of the file.
        start: seconds from the first frame; or a function of the latest start at which all frames fit.
        crop: where to crop (vertical, horizontal): 0 keeps the top or left edge, 0.5 the centre, 1 the other edge.
    """
    if (height is None) != (width is None):
        raise VideoError(f"got height {height} and width {width}: give both, or neither to keep the file's size")
    if (frames is not None and frames < 1) or (fps is not None and not 0 < fps < float("inf")):
        raise VideoError(f"got {frames} frames at {fps} fps: both must be positive")
    size = None if height is None else (height, width)

    if is_image(path):
        if frames is not None and frames > 1:
            raise VideoError(f"{path}: an image has one frame, not {frames}: ask for --frames 1 or give a video")
        with _image(path) as image:
            picture = _fit_image(image, size, crop)
        return to_float(np.stack([picture])), IMAGE_FPS if fps is None else fps

    with _source(path) as source:
        rate = source.fps if fps is None else fps
        lasts = 0.0 if frames is None else (frames - 1) / rate  # from the first asked instant to the last
        begin = start(max(0.0, source.duration - lasts - 1 / source.fps)) if callable(start) else start
        if begin < 0 or begin + lasts >= source.duration:
            raise VideoError(_too_short(path, source.duration, frames, rate, begin))

        pictures = list(_sample(source, frames, rate, begin, _fitting(source, size, crop)))
    return to_float(np.stack(pictures)), rate


def read_frames(
    path: str | Path, height: int | None = None, width: int | None = None, fps: float | None = None
) -> Iterator[np.ndarray]:
    """All frames of a video, uint8 (height, width, 3), one after the other, however long it is; see `read_clip`.

    At `probe(path).fps`, or at the rate `fps`.
    """
    size = None if height is None else (height, width)
    if is_image(path):
        with _image(path) as image:
            yield _fit_image(image, size, (0.5, 0.5))
        return
    with _source(path) as source:
        yield from _sample(source, None, fps or source.fps, 0.0, _fitting(source, size, (0.5, 0.5)))


def _fitting(source: "_Source", size, crop) -> Callable[[VideoFrame], np.ndarray]:
    """The function that makes a picture of a decoded frame."""
    reformatter = VideoReformatter()  # shared by all frames: setting up the scaler costs more than scaling

    def fit(frame: VideoFrame) -> np.ndarray:
        if frame.is_corrupt:
            raise VideoError(
                f"{source.path}: the frame at {frame.time:.2f} s is damaged: download or copy the file again"
            )
        return _fit(frame, size, crop, reformatter)

    return fit


def _sample(source: "_Source", frames: int | None, rate: float, begin: float, fit: Callable) -> Iterator[np.ndarray]:
    """The pictures on screen at begin + k / rate: each is the last frame at or before its instant."""
    # Containers round timestamps (Matroska to 1 ms, GIF to 10 ms), so "at" means within one such tick. Where a tick
    # is as long as a frame (AVI), nothing was rounded.
    tick = float(source.stream.time_base)
    tick = 1e-6 + (tick if tick <= 0.5 / source.fps else 0)
    shown = None  # the frame on screen, fitted once however often it is asked for
    k = 0

    def check_jump(until: float) -> None:
        if frames is None and (until - begin) * rate - k > LONGEST_STILL:
            raise VideoError(
                f"{source.path}: one picture stands until {until:.0f} s, {LONGEST_STILL} frames or more: "
                "its timestamps are damaged, or say how many frames to read"
            )

    for time, frame in source.frames(begin + tick):
        check_jump(time)
        while shown is not None and begin + k / rate < time - tick:
            yield shown()
            k += 1
            if k == frames:
                return
        shown = _once(fit, frame)
        while begin + k / rate <= time + tick:  # exactly this instant: no need to decode the next frame
            yield shown()
            k += 1
            if k == frames:
                return

    ends = 0.0 if shown is None else time + source.frame_duration(frame)
    # Headers round, and some count a frame too many.
    if shown is None or ends < source.duration - 1.5 / source.fps:
        raise VideoError(
            f"{source.path}: says it lasts {source.duration:.2f} s, but only {ends:.2f} s can be decoded: "
            "the file is truncated or damaged"
        )
    check_jump(ends)
    while k < frames if frames is not None else begin + k / rate < ends - tick:  # the last frame stays
        yield shown()
        k += 1


def _once(function: Callable, *arguments) -> Callable:
    """A call that is made when first asked for, and remembered."""
    result = None

    def call():
        nonlocal result
        result = function(*arguments) if result is None else result
        return result

    return call


def _too_short(path, duration: float, frames: int | None, rate: float, begin: float) -> str:
    if frames is None or begin < 0 or begin >= duration:
        return f"{path}: has {duration:.2f} s, asked from {begin:.2f} s: start between 0 and {duration:.2f} s"
    needed = (frames - 1) / rate
    start = f" from {begin:.2f} s" if begin else ""
    return (
        f"{path}: has {duration:.2f} s, {frames} frames at {rate:g} fps{start} need more than {needed:.2f} s: "
        "ask for fewer frames, raise the fps or give a longer video"
    )


@contextmanager
def _source(path: str | Path) -> Iterator["_Source"]:
    """An opened video; inside, every complaint of FFmpeg becomes a `VideoError` of one line."""
    _check_file(path)
    try:
        with closing(_Source(path)) as source:
            yield source
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise VideoError(f"{path}: not a readable video ({reason}): give an intact mp4, webm, gif...") from error


class _Source:
    """A video file as a list of (seconds from its first frame, frame)."""

    def __init__(self, path: str | Path):
        self.path = path
        self._open()
        self.fps = float(self.stream.average_rate or self.stream.guessed_rate or 25)
        self.duration = self._duration()
        if self.container.format.name == "gif" and self.stream.frames and self.duration:
            self.fps = self.stream.frames / self.duration  # FFmpeg's average is from the shortest delay

    def _open(self) -> None:
        self.container = av.open(_opened(self.path), metadata_errors="replace")
        if not self.container.streams.video:
            raise VideoError(f"{self.path}: has no video stream: give a video or an image")
        self.stream = self.container.streams.video[0]
        if self.stream.codec_context is None:
            raise VideoError(f"{self.path}: its codec is not known: convert it to mp4 (H.264) or webm (VP9)")
        self.stream.codec_context.thread_count = 1  # threads halve the speed of small clips; loaders have workers
        self.origin = float((self.stream.start_time or 0) * self.stream.time_base)

    def close(self) -> None:
        self.container.close()

    def frames(self, start: float = 0.0) -> Iterator[tuple[float, VideoFrame]]:
        """All frames from the last keyframe at or before `start`, which is in seconds."""
        if start > 1 / self.fps:
            try:
                self.container.seek(int((start + self.origin) / self.stream.time_base), stream=self.stream)
                decoded = self._decode()
                first = next(decoded, None)
            except av.FFmpegError:  # GIF among others cannot seek
                first = None
            if first is not None and first[1].pts is not None and first[0] <= start:
                yield first
                yield from decoded
                return
            # Some indices point behind the asked instant, some keyframes cannot be decoded from, and without timestamps
            # nobody knows where a seek ended: read from the beginning.
            self.container.close()
            self._open()
        yield from self._decode()

    def frame_duration(self, frame: VideoFrame) -> float:
        return frame.duration * float(frame.time_base) if frame.duration else 1 / self.fps

    def _decode(self) -> Iterator[tuple[float, VideoFrame]]:
        time = -1 / self.fps
        for frame in self.container.decode(self.stream):
            # Raw streams carry no timestamps: their frames follow one another at the average rate.
            time = time + 1 / self.fps if frame.pts is None else frame.time - self.origin
            yield time, frame

    def _duration(self) -> float:
        """Seconds. The container's own duration will not do: its sound may outlast its pictures."""
        if self.stream.duration:
            return float(self.stream.duration * self.stream.time_base)
        if tag := self.stream.metadata.get("DURATION"):  # Matroska: "00:00:02.040000000", the end of the last frame
            with suppress(ValueError):  # other programs write other things there
                hours, minutes, seconds = tag.split(":")
                return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - self.origin
        with av.open(_opened(self.path), metadata_errors="replace") as container:  # the timestamps, without decoding
            packets = [packet for packet in container.demux(video=0) if packet.size]
        ends = [
            (packet.pts + (packet.duration or 0)) * packet.time_base for packet in packets if packet.pts is not None
        ]
        return float(max(ends)) - self.origin if ends else len(packets) / self.fps


@contextmanager
def _image(path: str | Path) -> Iterator[Image.Image]:
    """An image as RGB, upright, on white."""
    _check_file(path)
    try:
        with Image.open(_opened(path)) as image:
            if getattr(image, "n_frames", 1) > 1 and image.format == "WEBP":
                raise VideoError(f"{path}: animated WebP cannot be read: convert it to mp4, webm or gif")
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):  # 16-bit grey
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            yield image.convert("RGB")
    except VideoError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VideoError(f"{path}: not a readable image ({reason}): give an intact png, jpg or webp") from error


def _opened(path: str | Path):
    """A file's name, or where it is a part of another file, that part."""
    return str(path) if isinstance(path, str | Path) else path.open()


def _check_file(path: str | Path) -> None:
    if not isinstance(path, str | Path):
        return
    if not os.path.isfile(path):
        raise VideoError(f"{path}: no such file: check the path")
    if not os.path.getsize(path):
        raise VideoError(f"{path}: is empty (0 bytes): download or copy it again")


def _fit(frame: VideoFrame, size, crop, reformatter: VideoReformatter) -> np.ndarray:
    """A decoded frame -> uint8 (h, w, 3): on white, upright, resized until it covers `size`, cropped to it."""
    if any(component.is_alpha for component in frame.format.components):
        frame = _on_white(frame)
    turns = _quarter_turns(frame)
    cover, (top, left) = _cover(_turned((frame.height, frame.width), turns), size, crop)
    height, width = _turned(cover, turns)
    # Scaling and conversion to RGB in one pass; swscale widens the bicubic kernel when it shrinks (antialiasing).
    # One thread: a pool costs more than a small frame, and data loaders have workers.
    frame = reformatter.reformat(frame, width, height, "rgb24", interpolation=SCALING, threads=1)
    picture = np.rot90(frame.to_ndarray(), turns)
    height, width = size or cover
    return picture[top : top + height, left : left + width]


def _fit_image(image: Image.Image, size, crop) -> np.ndarray:
    """The same for a still image."""
    cover, (top, left) = _cover((image.height, image.width), size, crop)
    image = image.resize(cover[::-1], Image.Resampling.BICUBIC)
    height, width = size or cover
    return np.asarray(image.crop((left, top, left + width, top + height)))


@lru_cache(maxsize=16)  # asked for every frame of a clip
def _cover(shape, size, crop) -> tuple[tuple[int, int], tuple[int, int]]:
    """The smallest size in the proportions of `shape` that covers `size`, and the crop's (top, left) in it."""
    if size is None:
        return shape, (0, 0)
    scale = max(asked / had for asked, had in zip(size, shape, strict=True))
    cover = tuple(max(asked, round(had * scale)) for asked, had in zip(size, shape, strict=True))
    return cover, tuple(round((c - s) * at) for c, s, at in zip(cover, size, crop, strict=True))


def _quarter_turns(frame: VideoFrame) -> int:
    """Phones store the picture as the sensor saw it, and beside it by how many degrees to turn it, anticlockwise."""
    return round(frame.rotation / 90) % 4


def _turned(shape: tuple[int, int], turns: int) -> tuple[int, int]:
    return shape[::-1] if turns % 2 else shape


def _on_white(frame: VideoFrame) -> VideoFrame:
    """Transparency composed on white, before resizing: transparent pixels hide arbitrary colours."""
    rgba = frame.to_ndarray(format="rgba").astype(np.uint16)
    rgb, alpha = rgba[..., :3], rgba[..., 3:]
    return VideoFrame.from_ndarray(((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8), format="rgb24")

"""Clips to files: mp4, webm, gif and png, whole or not at all."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from PIL import Image

from data.video import SCALING, VideoError, to_uint8

WRITABLE = (".mp4", ".webm", ".gif", ".png")
BT709 = 1  # in FFmpeg's tables of matrices, primaries and transfer curves alike
EXACT = {"fflags": "+bitexact"}  # no random identifiers, no version


def write_clip(path: str | Path, clip: torch.Tensor, fps: float) -> None:
    """Writes a clip, float (3, t, h, w) in [-1, 1], as the suffix of `path` says.

    .mp4 (H.264; players want even sizes, so an odd edge is doubled), .webm (VP9), .gif (256 colours a frame, times
    rounded to 1/100 s) or .png (several frames stand side by side). Parent folders are made. The file appears whole
    or not at all: it is written beside its name and then renamed.
    """
    write_pieces(path, [clip], fps)


def write_pieces(path: str | Path, pieces: Iterable[torch.Tensor], fps: float) -> None:
    """Writes a clip that comes in pieces (3, t, h, w) as one file; .mp4 and .webm hold one piece in memory at a time.

    What `pieces` raises passes through, and leaves no file behind.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise VideoError(f"{path}: cannot write '{suffix}': end the name in one of {', '.join(WRITABLE)}")
    if not 0 < fps <= 1000:
        raise VideoError(f"{path}: cannot write {fps} frames a second: expected a rate above 0 and up to 1000")
    if suffix == ".gif" and fps > 50:
        raise VideoError(f"{path}: a gif shows at most 50 frames a second, got {fps:g}: write .mp4 or .webm")

    write = {".mp4": _write_mp4, ".webm": _write_webm, ".gif": _write_gif, ".png": _write_png}[suffix]
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{suffix}")
    pictures = (picture for piece in pieces for picture in to_uint8(_checked(piece)))
    first = next(pictures, None)  # what is wrong with it is said before a folder is made
    if first is None:
        raise VideoError(f"{path}: there is no frame to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial, chain([first], pictures), fps)
        os.replace(partial, path)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: could not be written ({error}): check the folder and the disk") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _checked(clip: torch.Tensor) -> torch.Tensor:
    if clip.ndim != 4 or clip.shape[0] != 3 or 0 in clip.shape:
        raise VideoError(f"got a clip of shape {tuple(clip.shape)}: expected (3, t, h, w)")
    low, high = clip.min().item(), clip.max().item()
    if not (low >= -1.001 and high <= 1.001):  # also catches NaN
        raise VideoError(f"got a clip with values from {low:.3g} to {high:.3g}: expected [-1, 1]; clamp or rescale it")
    return clip


def _write_mp4(path: Path, pictures: Iterator[np.ndarray], fps: float) -> None:
    # faststart: the index goes in front, so that browsers play while loading. Without mbtree: that reads memory that
    # nobody wrote where pictures are small, and the same clip makes another file now and then.
    even = (np.pad(p, ((0, p.shape[0] % 2), (0, p.shape[1] % 2), (0, 0)), mode="edge") for p in pictures)
    _encode(
        path, even, fps, "libx264", {"crf": "12", "preset": "medium", "mbtree": "0"}, EXACT | {"movflags": "+faststart"}
    )


def _write_webm(path: Path, pictures: Iterator[np.ndarray], fps: float) -> None:
    _encode(path, pictures, fps, "libvpx-vp9", {"crf": "12", "b": "0", "deadline": "good", "cpu-used": "4"}, EXACT)


def _encode(
    path: Path, pictures: Iterator[np.ndarray], fps: float, codec: str, options: dict, container_options: dict
) -> None:
    reformatter = VideoReformatter()
    first = next(pictures)
    with av.open(str(path), "w", container_options=container_options) as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width, stream.pix_fmt = first.shape[0], first.shape[1], "yuv420p"
        # Said in the file, or players guess the colour matrix from the height.
        context = stream.codec_context
        context.thread_count = 1  # the same file on any machine, and threads gain nothing at these sizes
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = ColorRange.MPEG
        for picture in chain([first], pictures):
            frame = VideoFrame.from_ndarray(picture, format="rgb24")
            frame = reformatter.reformat(
                frame,
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                interpolation=SCALING,
                threads=1,
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _write_gif(path: Path, pictures: Iterator[np.ndarray], fps: float) -> None:
    # Pillow chooses the colours, FFmpeg writes: Pillow would merge equal neighbours, and a still clip lose its frames.
    frames = list(pictures)
    final_delay = round(100 * len(frames) / fps) - round(100 * (len(frames) - 1) / fps)
    with av.open(str(path), "w", container_options={"loop": "0", "final_delay": str(final_delay)}) as container:
        stream = container.add_stream("gif", rate=100)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "pal8"
        for k, picture in enumerate(frames):
            image = Image.fromarray(picture).quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            palette = np.full((256, 4), 255, np.uint8)  # ARGB
            colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
            palette[: len(colours), 1:] = colours
            frame = VideoFrame.from_ndarray((np.array(image), palette), format="pal8")
            frame.pts, frame.time_base = round(100 * k / fps), Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _write_png(path: Path, pictures: Iterator[np.ndarray], fps: float) -> None:
    Image.fromarray(np.concatenate(list(pictures), axis=1)).save(path)

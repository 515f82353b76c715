"""A video through the tokenizer and back: ``python -m vq.reconstruct in.mp4 out.mp4 --tokenizer DIR``.

Of any length and size: it is read, encoded, decoded and written piece by piece. Prints PSNR, SSIM, tokens and bits a
pixel.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jsonargparse.typing import PositiveFloat, PositiveInt
from torch import Tensor
from tqdm import tqdm

from data.commands import Parser, find_device, run
from data.video import probe, read_frames, to_float
from data.writing import write_pieces
from vq import pretrained
from vq.hardware import check_convolutions
from vq.losses import ssim


@dataclass
class Report:
    """What a video lost: ``psnr`` in dB over all pixels, ``ssim`` as the mean of the frames, and what it costs."""

    frames: int = 0
    tokens: int = 0
    bits: float = 0.0
    pixels: int = 0
    squared_error: float = 0.0
    similarity: float = 0.0

    @property
    def psnr(self) -> float:
        return 10 * math.log10(4 / max(self.squared_error / (3 * self.pixels), 1e-10))

    @property
    def ssim(self) -> float:
        return self.similarity / self.frames

    def add(self, original: Tensor, reconstruction: Tensor) -> None:
        """The next frames, (3, t, h, w) in [-1, 1]."""
        self.frames += original.shape[1]
        self.pixels += original[0].numel()
        self.squared_error += (original - reconstruction).double().square().sum().item()
        self.similarity += original.shape[1] * ssim(reconstruction[None], original[None]).item()

    def __str__(self) -> str:
        return (
            f"{self.frames} frames: PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.4f}, {self.tokens} tokens, "
            f"{self.bits / self.pixels:.3f} bits a pixel"
        )


def main(args: list[str] | None = None) -> Report:
    parser = Parser(prog="python -m vq.reconstruct", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a video or an image")
    parser.add_argument("target", type=Path, help=".mp4, .webm, .gif or .png")
    parser.add_argument("--tokenizer", required=True, help="exported folder, training checkpoint or hub id")
    parser.add_argument(
        "--height", type=PositiveInt | None, help="resize and crop to this size first; default: that of the file"
    )
    parser.add_argument("--width", type=PositiveInt | None)
    parser.add_argument(
        "--fps", type=PositiveFloat | None, help="resample in time first; default: the rate of the file"
    )
    parser.add_argument("--beside", action="store_true", help="show the original to the left of the reconstruction")
    parser.add_argument(
        "--frames", type=PositiveInt, default=16, help="frames at a time: more are faster and need more memory"
    )
    parser.add_argument("--tile", type=int, help="side in pixels of the tiles that large frames are cut into")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    given = parser.parse_args(args)
    report = reconstruct(**given.as_dict() | {"device": find_device(given.device)})
    print(report)
    return report


def reconstruct(
    source: Path,
    target: Path,
    tokenizer: str,
    height: int | None = None,
    width: int | None = None,
    fps: float | None = None,
    beside: bool = False,
    frames: int = 16,
    tile: int | None = None,
    device: str = "cpu",
) -> Report:
    """Writes the reconstruction of ``source`` to ``target``, in float32. See ``main`` for the arguments.

    A size that the strides do not divide is padded with its edge and cropped again, a length with its last frame.
    """
    if target.resolve() == source.resolve():
        raise ValueError(f"{target} would be replaced by its reconstruction: give it another name")
    if (height is None) != (width is None):
        raise ValueError(f"got height {height} and width {width}: give both, or neither to keep the file's size")
    check_convolutions(torch.device(device))
    model = pretrained.load(tokenizer, "tokenizer").to(device)
    if not model.codebook_size:
        raise ValueError(f"the tokenizer at {tokenizer} is continuous: it makes no tokens")
    info, stream, report = probe(source), model.stream(tile), Report()
    fps = fps or info.fps
    ft, fs = model.time_compression, model.space_compression

    def pieces(bar: tqdm) -> Iterator[Tensor]:
        for original in read_pieces(source, math.ceil(frames / ft) * ft, height, width, fps):  # 3 t h w
            t, h, w = original.shape[1:]
            late = -t % ft if report.frames else -(t - 1) % ft
            padded = F.pad(original[None], (0, -w % fs, 0, -h % fs, 0, late), mode="replicate")
            tokens = stream.encode(padded.to(device))
            reconstruction = stream.decode(tokens)[0, :, :t, :h, :w].float().cpu()
            report.add(original, reconstruction)
            report.tokens += tokens.numel()
            report.bits += tokens.numel() * math.log2(model.codebook_size)
            bar.update(t)
            bar.set_postfix(psnr=f"{report.psnr:.2f}")
            yield torch.cat([original, reconstruction], dim=3) if beside else reconstruction

    total = 1 if info.is_image else round(info.duration * fps)
    with tqdm(total=total, unit="frame", desc="reconstructing") as bar:
        write_pieces(target, pieces(bar), fps)
    return report


def read_pieces(source: Path, frames: int, height: int | None, width: int | None, fps: float) -> Iterator[Tensor]:
    """A video in pieces (3, t, h, w) in [-1, 1]: the first of 1 + ``frames`` frames, the later ones of ``frames``."""
    pictures = read_frames(source, height, width, fps)
    count = 1 + frames
    while piece := list(islice(pictures, count)):
        yield to_float(np.stack(piece))
        count = frames


if __name__ == "__main__":
    run(main)

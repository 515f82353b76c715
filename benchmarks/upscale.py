"""What an upscaler makes of small clips, beside bicubic interpolation and reconstructions of the real large ones.

    python benchmarks/upscale.py --model out/demo-64/upscaler/model --small DIR [--large DIR] [--clips 128]

First real clips of one object, shrunk, and the same as the small model's tokenizer reconstructs them, which is how all
that a generator makes looks: PSNR and SSIM against the real large clips. Then the cascade, from prompts to the small
model's samples to large ones, beside the same samples enlarged bicubically and, with --large, beside the samples of a
model that makes large clips at once. Of all of them the share whose shape, colour and motion the detector finds as the
caption says. Standard errors over clips; seconds are the processor's, a clip, of all threads together.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from data.shapes import Shapes
from data.video import Example
from evaluation.detector import detect, matches
from evaluation.intervals import mean_and_error
from evaluation.sheet import contact_sheet
from generator.pipeline import VideoGenerator
from generator.upscaling import enlarge, shrink
from vq.losses import psnr, ssim

COLUMNS, SIDES = ("shape", "colour", "motion", "all"), ("frames", "height", "width")


def main(args=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the upscaler")
    parser.add_argument("--small", required=True, help="the model that it is to enlarge the samples of")
    parser.add_argument("--large", help="a model that makes clips of the upscaler's size at once")
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8, help="of the upscaler; so for the next three")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--remask", type=float, default=0.0)
    parser.add_argument("--sheet", help="a picture of the first four clips of the cascade: small, bicubic, upscaled")
    given = parser.parse_args(args)
    how = {name: getattr(given, name) for name in ("steps", "guidance", "temperature", "remask")}
    upscaler, small = (VideoGenerator.from_pretrained(source) for source in (given.model, given.small))
    size = {axis: upscaler.clip[axis] for axis in ("frames", "height", "width", "fps")}
    examples = [Shapes("test", objects=[1], seed=1, **size)[i] for i in range(given.clips)]
    texts = [example.text for example in examples]
    real = torch.stack([example.clip for example in examples])
    shrunk = shrink(real, upscaler.generator.upscale)

    def bicubic(videos: Tensor) -> Tensor:
        return enlarge(videos, size["height"], size["width"])

    def upscaled(videos: Tensor) -> Tensor:
        return upscaler.upscale(videos, texts, height=size["height"], width=size["width"], **how)

    def reconstructed(videos: Tensor) -> Tensor:
        return upscaler.decode(upscaler.encode(videos))

    print(
        f"{given.clips} clips of {size['frames']}x{size['height']}x{size['width']}, {how}, torch {torch.__version__}\n"
    )
    print("| | PSNR | SSIM | shape | colour | motion | all | s a clip |\n|---|---|---|---|---|---|---|---|")
    likeness = []
    for name, videos in (("shrunk", shrunk), ("shrunk, reconstructed", small.decode(small.encode(shrunk)))):
        for method in (bicubic, upscaled):
            made, spent = timed(method, videos)
            show(f"{name}, {method.__name__}", made, spent, examples, real)
            likeness.append((psnr(made, real), ssim(made, real)))
    show("large, reconstructed", *timed(reconstructed, real), examples, real)
    show("large", real, 0.0, examples)

    samples, seconds = timed(small, texts)
    show("small samples", samples, seconds, examples)
    ways, rights = [timed(method, samples) for method in (bicubic, upscaled)], []
    for method, way in zip((bicubic, upscaled), ways, strict=True):
        rights.append(show(f"small samples, {method.__name__}", *way, examples))
    if given.large:
        large = VideoGenerator.from_pretrained(given.large)
        show("large samples", *timed(lambda texts: large(texts, **{k: size[k] for k in SIDES}), texts), examples)
    decibels, similarity = (above - below for below, above in zip(*likeness[2:], strict=True))
    print("\nupscaled less bicubic, clip by clip:")
    print(f"shrunk, reconstructed: PSNR {cell(decibels, 2)}, SSIM {cell(similarity, 4)}")
    print(f"small samples: all right, in per cent {cell(100 * (rights[1] - rights[0]), 1)}")
    if given.sheet:
        rows = torch.stack([videos[:4] for videos, _ in ways], dim=1).flatten(0, 1)
        contact_sheet(given.sheet, rows, [f"{text} ({way})" for text in texts[:4] for way in ("bicubic", "upscaled")])


def timed(make, given) -> tuple[Tensor, float]:
    """What ``make`` makes, and the processor's seconds a clip."""
    began = time.process_time()
    made = make(given)
    return made, (time.process_time() - began) / len(given)


def show(name: str, videos: Tensor, seconds: float, examples: list[Example], real: Tensor | None = None) -> Tensor:
    """Prints a row; returns which clips are right in all, (b,)."""
    found = [matches(detect(video, e.fps), e.attributes) for video, e in zip(videos, examples, strict=True)]
    right = {key: torch.tensor([float(each[key]) for each in found if key in each]) for key in COLUMNS}
    cells = ["", ""] if real is None else [cell(psnr(videos, real), 2), cell(ssim(videos, real), 3)]
    cells += [cell(100 * right[key], 0) for key in COLUMNS]
    print(f"| {name} | {' | '.join(cells)} | {seconds:.2f} |", flush=True)
    return right["all"]


def cell(values: Tensor, digits: int) -> str:
    score = mean_and_error(values)
    return f"{score['mean']:.{digits}f} ± {score['error']:.{digits}f}"


if __name__ == "__main__":
    main()

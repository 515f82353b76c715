"""How much of a clip a generator makes right when it is told the text and some latent frames of the real one.

    python benchmarks/known.py --model out/demo/model [--prompts 256] [--clips 128]

Shares of clips of one object whose shape, colour and motion the detector finds as the caption says, beside those of
reconstructions; and the seams of 16 loops beside the differences of their neighbouring frames.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from data.shapes import Shapes
from evaluation.detector import score
from generator import tasks
from generator.pipeline import VideoGenerator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", type=int, default=256, help="of text alone")
    parser.add_argument("--clips", type=int, default=128, help="that latent frames are known of")
    given = parser.parse_args()
    model = VideoGenerator.from_pretrained(given.model)
    size = {axis: model.clip[axis] for axis in ("frames", "height", "width", "fps")}
    data = Shapes("test", objects=[1], seed=1, **size)
    examples = [data[i] for i in range(max(given.prompts, given.clips))]
    real = torch.cat([model.encode(example.clip[None]) for example in examples[: given.clips]])
    nothing = tasks.text2video(tuple(real.shape[1:]), model.mask_id)
    print(f"trained for {', '.join(model.generator.trained_for)}\n\n| known | clips | shape | colour | motion | all |")
    print("|---|---|---|---|---|---|")
    for name, frames in {"text alone": [], "first": [0], "last": [-1], "both ends": [0, -1]}.items():
        canvas = nothing.repeat(len(real) if frames else given.prompts)
        canvas.known[:, frames] = True
        canvas.tokens[:, frames] = real[: len(canvas.tokens), frames] if frames else canvas.tokens[:, frames]
        count = len(canvas.tokens)
        texts = [example.text for example in examples[:count]]
        show(name, model.decode(model.fill(canvas, texts, [0] * count)), examples)
    show("reconstructions", model.decode(real), examples)
    loops = model([example.text for example in examples[:16]], task="loop")
    steps = (loops.roll(-1, dims=2) - loops).abs().mean((1, 3, 4))  # of each frame to the next, the last one the seam's
    median = steps.median(1).values
    print(f"\nloops: seam {steps[:, -1].mean():.4f}, median of neighbours {median.mean():.4f}, ", end="")
    print(f"within it {(steps[:, -1] <= median).float().mean():.0%}")


def show(name: str, videos: torch.Tensor, examples: list) -> None:
    right = score(videos, [example.attributes for example in examples[: len(videos)]])
    cells = " | ".join(f"{right[key]:.1%}" for key in ("shape", "colour", "motion", "all"))
    print(f"| {name} | {len(videos)} | {cells} |", flush=True)


if __name__ == "__main__":
    main()

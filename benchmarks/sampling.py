"""Quality against steps for each order, and what each knob of the sampler costs and brings, in one run.

    python benchmarks/sampling.py --model out/demo/model --prompts 256 [--orders halton ...] [--steps 4 8 ...] [--knobs]

Every setting draws the same prompts of shapes, which training has never seen, with the same seeds; the detector reads
them back. The tables are Markdown: shape, colour and motion all right in per cent, the standard error, seconds a clip.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from data.shapes import Shapes
from evaluation.detector import detect, matches
from generator import tasks
from generator.guidance import Guidance
from generator.orders import ORDERS, Threshold
from generator.pipeline import VideoGenerator

STEPS = (4, 8, 12, 16, 24, 32)
KNOBS = {  # against 16 steps in Halton order without revisions; what `sample.py` does comes first
    "the default: 12 revisions": {"revisions": 12},
    "none of the following": {},
    "lean": {"lean": True},
    "refresh 2": {"refresh": 2},
    "refresh 4": {"refresh": 4},
    "refresh 4, 12 revisions": {"refresh": 4, "revisions": 12},
    "no guidance": {"guidance": 1.0},
    "guidance from 0.5 on": {"guidance": Guidance(2.0, start=0.5)},
    "guidance until 0.5": {"guidance": Guidance(2.0, stop=0.5)},
    "guidance 4, power 2": {"guidance": Guidance(4.0, power=2.0)},
    "guidance 4": {"guidance": 4.0},
    "guidance 4, rescale 0.7": {"guidance": Guidance(4.0, rescale=0.7)},
    "top-k 20, temperature 1": {"top_k": 20, "temperature": 1.0},
    "top-p 0.9, temperature 1": {"top_p": 0.9, "temperature": 1.0},
    "temperature 1 to 0.3": {"temperature": (1.0, 0.3)},
    "remask 0.1": {"remask": 0.1},
    "remask 0.3": {"remask": 0.3},
    "threshold 0.5": {"order": Threshold(0.5)},
}


class Bench:
    """A model, prompts and what they ask for."""

    def __init__(self, model: VideoGenerator, prompts: int) -> None:
        size = {axis: model.clip[axis] for axis in ("frames", "height", "width", "fps")}
        self.model = model
        self.examples = [Shapes("test", objects=[1], seed=1, **size)[i] for i in range(prompts)]
        grid = model.tokenizer.latent_shape(*(size[axis] for axis in ("frames", "height", "width")))
        self.canvas = tasks.text2video(grid, model.generator.mask_id).repeat(prompts)

    def cell(self, **sampling) -> str:
        """Per cent right, standard error and seconds a clip of one setting; only the filling is timed."""
        prompts = len(self.examples)
        began = time.perf_counter()
        texts = [example.text for example in self.examples]
        tokens = self.model.fill(self.canvas, texts, list(range(prompts)), **sampling)
        seconds = (time.perf_counter() - began) / prompts
        videos = self.model.decode(tokens)
        found = [detect(video, self.model.clip["fps"]) for video in videos]
        right = [matches(f, example.attributes)["all"] for f, example in zip(found, self.examples, strict=True)]
        share = sum(right) / prompts
        error = math.sqrt(share * (1 - share) / prompts)
        return f"{100 * share:.0f} ± {100 * error:.0f}, {seconds:.2f} s"


def main(args=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--orders", nargs="*", default=list(ORDERS), choices=list(ORDERS))
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--knobs", nargs="*", metavar="NAME", help="the knobs too, or those named")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(args)

    bench = Bench(VideoGenerator.from_pretrained(options.model, options.device), options.prompts)
    print(f"{options.prompts} prompts, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    if options.orders:
        print(f"| order | {' | '.join(f'{steps} steps' for steps in options.steps)} |")
        print("|---" * (1 + len(options.steps)) + "|")
    for name in options.orders:
        print(f"| {name}", end="", flush=True)
        for steps in options.steps:
            print(f" | {bench.cell(order=ORDERS[name](), steps=steps, revisions=0)}", end="", flush=True)
        print(" |")
    if options.knobs is not None:
        print("\n| knob | right, seconds a clip |\n|---|---|")
        for name in options.knobs or KNOBS:
            print(f"| {name} | {bench.cell(**{'revisions': 0} | KNOBS[name])} |", flush=True)


if __name__ == "__main__":
    main()

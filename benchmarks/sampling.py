"""Quality against steps for each order, and what each knob of the sampler costs and brings, in one run.

    python benchmarks/sampling.py --model DIR [--prompts 256] [--orders halton ...] [--steps 4 8 ...] [--knobs]
    python benchmarks/sampling.py --model models/emoji --videos FOLDER ...

Every setting draws the same prompts of shapes, which training has never seen, with the same seeds; the detector reads
them back. The tables are Markdown: shape, colour and motion all right in per cent, the standard error, seconds a clip,
on a CPU those of all its threads together. Clips of a folder no detector can read: of a model that has learnt a folder
by heart it is asked whether the nearest of all its clips has the caption (``evaluation.diversity``).
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))
from data.folder import Folder
from data.shapes import Shapes
from evaluation.detector import detect, matches
from evaluation.diversity import nearest, thumbnails
from generator import tasks
from generator.guidance import Guidance
from generator.orders import ORDERS, Threshold
from generator.pipeline import VideoGenerator

STEPS = (4, 8, 12, 16, 24, 32)
MOMENTS = 2  # of each clip of a folder
PLAIN = {"steps": 16, "remask": 0.0, "revisions": 0}
KNOBS = {  # on top of 16 steps in Halton order without second thoughts; what `sample.py` does comes first
    "the default: 28 steps, remask 0.3": {"steps": 28, "remask": 0.3},
    "none of the following": {},
    "28 steps": {"steps": 28},
    "12 revisions": {"revisions": 12},
    "all cells asked": {"lean": False},
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
    """A model, prompts, and who says of videos (n, 3, t, h, w) whether they are what was asked for."""

    def __init__(self, model: VideoGenerator, texts: list[str], judge: Callable[[Tensor], Sequence[bool]]) -> None:
        self.model, self.texts, self.judge = model, texts, judge
        # on a CPU the processor's own time, which says the same however busy the machine is with other things
        self.clock = time.process_time if model.device.type == "cpu" else time.perf_counter
        grid = model.tokenizer.latent_shape(*(model.clip[axis] for axis in ("frames", "height", "width")))
        self.canvas = tasks.text2video(grid, model.generator.mask_id).repeat(len(texts))

    def run(self, **sampling) -> tuple[Tensor, float]:
        """Of each prompt whether it came out right, (n,), and the seconds a clip of the filling alone."""
        began = self.clock()
        tokens = self.model.fill(self.canvas, self.texts, list(range(len(self.texts))), **sampling)
        seconds = (self.clock() - began) / len(self.texts)
        return torch.tensor(self.judge(self.model.decode(tokens))).double(), seconds


def of_shapes(model: VideoGenerator, prompts: int) -> Bench:
    examples = [Shapes("test", objects=[1], seed=1, **model.clip)[i] for i in range(prompts)]

    def judge(videos: Tensor) -> list[bool]:
        found = [detect(video, model.clip["fps"]) for video in videos]
        return [matches(seen, example.attributes)["all"] for seen, example in zip(found, examples, strict=True)]

    return Bench(model, [example.text for example in examples], judge)


def of_folder(model: VideoGenerator, prompts: int, folder: str) -> Bench:
    """Captions from all over the folder."""
    clips = Folder(folder, images=False, **model.clip)
    small, captions = [], []
    for i in tqdm(range(MOMENTS * len(clips)), desc="reading clips", unit="clip"):
        if not (example := clips[i]).skipped:
            small.append(thumbnails(example.clip[None]))
            captions.append(example.text)
    known, texts = torch.cat(small), sorted(set(captions))
    texts = [texts[i * len(texts) // prompts] for i in range(prompts)]

    def judge(videos: Tensor) -> list[bool]:
        _, which = nearest(thumbnails(videos), known)
        return [captions[i] == text for i, text in zip(which, texts, strict=True)]

    return Bench(model, texts, judge)


def show(right: Tensor, seconds: float | None = None) -> str:
    """Per cent right and the standard error over the prompts: right (n,), or (runs, n) with all runs' mean."""
    prompts = right.view(-1, right.shape[-1]).mean(0)
    error = prompts.std() / len(prompts) ** 0.5
    return f"{100 * prompts.mean():.0f} ± {100 * error:.0f}" + ("" if seconds is None else f", {seconds:.2f} s")


def main(args=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--videos", help="a folder of captioned clips that the model was trained on; default: shapes")
    parser.add_argument("--orders", nargs="*", default=list(ORDERS), choices=list(ORDERS))
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--knobs", nargs="*", metavar="NAME", help="the knobs too, or those named")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(args)

    model = VideoGenerator.from_pretrained(options.model, options.device)
    bench = of_folder(model, options.prompts, options.videos) if options.videos else of_shapes(model, options.prompts)
    print(f"{options.prompts} prompts, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    if options.orders:
        print(f"| order | {' | '.join(f'{steps} steps' for steps in options.steps)} | mean |")
        print("|---" * (2 + len(options.steps)) + "|")
    rights = []  # orders of steps of (n,)
    for name in options.orders:
        print(f"| {name}", end="", flush=True)
        rights.append([])
        for steps in options.steps:
            right, seconds = bench.run(**PLAIN | {"order": ORDERS[name](), "steps": steps})
            rights[-1].append(right)
            print(f" | {show(right, seconds)}", end="", flush=True)
        print(f" | {show(torch.stack(rights[-1]))} |", flush=True)
    if options.orders:
        means = [torch.stack(column) for column in zip(*rights, strict=True)]
        print(f"| mean | {' | '.join(show(mean) for mean in means)} | {show(torch.cat(means))} |")
    if options.knobs is not None:
        print("\n| knob | right, seconds a clip |\n|---|---|")
        for name in options.knobs or KNOBS:
            try:
                cell = show(*bench.run(**PLAIN | KNOBS[name]))
            except ValueError as error:
                if not bench.model.generator.backbone.most_guidance:
                    raise
                cell = f"refused: {error}"  # a model of one pass takes no rescale
            print(f"| {name} | {cell} |", flush=True)


if __name__ == "__main__":
    main()

"""Edits of a colour: how much of the new prompt comes, and how much of the clip stays, over strengths and choices.

    python benchmarks/edits.py --model models/showcase [--clips 24 --strengths 0.3 0.5 0.8]

The prompt of a real clip gets another colour. Read back by the detector: the share of clips that have the new colour
(gain), and still the shape and the motion that clip and prompt agree on (kept); beside them the reconstructions.
"""

import argparse
import copy
import sys
from itertools import count
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from data.shapes import COLOURS, Shapes
from evaluation.detector import score
from generator.jobs import FORGET
from generator.pipeline import VideoGenerator


def main(args=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.3, 0.5, 0.8])
    options = parser.parse_args(args)

    model = VideoGenerator.from_pretrained(options.model)
    shapes, colours = Shapes("test", objects=[1], seed=1, **model.clip), list(COLOURS)
    clips, texts, wanted = [], [], []
    for example in (shapes[i] for i in count()):
        old = example.attributes["things"][0]["colour"]
        if old not in example.text:
            continue
        new = colours[(colours.index(old) + 3) % len(colours)]
        attributes = copy.deepcopy(example.attributes)
        attributes["things"][0]["colour"] = new
        clips, texts, wanted = [*clips, example.clip], [*texts, example.text.replace(old, new)], [*wanted, attributes]
        if len(clips) == options.clips:
            break

    def show(name: str, videos: torch.Tensor) -> None:
        right = score(videos, wanted, model.clip["fps"])
        print(f"{name:16} new colour {right['colour']:.2f}   shape {right['shape']:.2f}   motion {right['motion']:.2f}")

    show("reconstruction", model.decode(model.encode(torch.stack(clips))))
    for strength in options.strengths:
        for forget in FORGET:
            edited = [
                model(text, task="edit", inputs=[clip], strength=strength, forget=forget)
                for text, clip in zip(texts, clips, strict=True)
            ]
            show(f"{forget} {strength:g}", torch.cat(edited))


if __name__ == "__main__":
    main()

"""Does a video wash out when it is extended again and again? Tokens reused as integers against pixels encoded anew.

    python benchmarks/drift.py --model models/showcase [--clips 16 --extensions 10 --steps 16 --revisions 12]

Real clips are extended window by window, each told the last latent frames of the one before. One arm keeps them as
integers, as ``--task extend`` does; the other decodes them and encodes the pixels again, as one has to whose tool takes
a video file. All else is the same, seeds too. Printed are the brightness (mean) and contrast (standard deviation) of
the frames of every extension, on a scale from -1 to 1, and their slopes an extension with standard errors over clips.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))
from data.shapes import Shapes
from generator import tasks
from generator.pipeline import VideoGenerator


def extended(
    model: VideoGenerator, tokens: Tensor, texts: list[str], extensions: int, anew: bool, **sampling
) -> Tensor:
    """Tokens (b, t, h, w) -> the same and ``extensions`` windows more; ``anew``: by way of pixels.

    Windows are those of ``tasks.windows``: pieces of the middle, a latent frame shorter than a clip, half overlapping.
    """
    size, ft = max(2, tokens.shape[1] - 1), model.tokenizer.time_compression
    overlap = size // 2
    for turn in tqdm(range(extensions), desc="encoded anew" if anew else "integers"):
        if anew:
            frames = model.decode(tokens[:, -4 * size :])[:, :, -(1 + ft * overlap) :]
            tokens = torch.cat([tokens[:, :-overlap], model.encode_middle(frames)], dim=1)
        empty = replace(tasks.text2video((size, *tokens.shape[2:]), model.mask_id), middle=True)
        canvas = empty.repeat(len(texts)).filled(0, tokens[:, -overlap:])
        seeds = [1000 * turn + i for i in range(len(texts))]
        tokens = torch.cat([tokens, model.fill(canvas, texts, seeds, **sampling)[:, overlap:]], dim=1)
    return tokens


def slope(values: Tensor) -> tuple[float, float]:
    """Values (b, n) -> mean slope of a straight line through the n of each, and its standard error."""
    x = torch.arange(values.shape[1]) - (values.shape[1] - 1) / 2
    slopes = (values * x).sum(1) / x.square().sum()
    return slopes.mean().item(), slopes.std().item() / len(slopes) ** 0.5


def main(args=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--extensions", type=int, default=10)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--revisions", type=int, default=12)
    options = parser.parse_args(args)

    model = VideoGenerator.from_pretrained(options.model)
    shapes = Shapes("test", objects=[1], seed=1, **model.clip)
    examples = [shapes[i] for i in range(options.clips)]
    start, texts = model.encode(torch.stack([e.clip for e in examples])), [e.text for e in examples]
    for anew in (False, True):
        sampling = {"steps": options.steps, "revisions": options.revisions}
        tokens = extended(model, start, texts, options.extensions, anew, **sampling)
        video = model.decode(tokens)  # b 3 t h w
        begun = model.clip["frames"]
        new = (video.shape[2] - begun) // options.extensions
        parts = [video[:, :, :begun], *video[:, :, begun:].split(new, dim=2)]
        brightness = torch.stack([part.mean((1, 2, 3, 4)) for part in parts], dim=1)
        contrast = torch.stack([part.std((1, 3, 4)).mean(1) for part in parts], dim=1)
        print("encoded anew" if anew else "integers")
        for name, values in (("brightness", brightness), ("contrast", contrast)):
            rise, error = slope(values)
            told = " ".join(f"{value:.3f}" for value in values.mean(0).tolist())
            print(f"  {name:10} {told}   slope {rise:+.5f} +- {error:.5f} an extension")


if __name__ == "__main__":
    main()

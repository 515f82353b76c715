"""Does a video wash out when it is extended again and again? Tokens reused as integers against pixels encoded anew.

    python benchmarks/drift.py --model models/showcase [--clips 16] [--extensions 10] [--lpips FILE]

Real clips are extended window by window, in the model's own (``VideoGenerator.window``), each told the last latent
frames of the one before. One arm keeps them as integers, as ``--task extend`` does; the other decodes them and encodes
the pixels again, as one has to whose tool takes a video file. All else is the same, seeds too. Printed are the
brightness (mean) and contrast (standard deviation) of the frames of every extension, on a scale from -1 to 1, and their
slopes an extension with standard errors over clips; with ``--lpips``, weights of an AlexNet, also how far its features
are from those of the clip's last frame. Beside them stand the real clips, as long: in these, too, things leave the
picture.
"""

import argparse
import json
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
from vq.lpips import LPIPS


def extended(
    model: VideoGenerator, tokens: Tensor, texts: list[str], extensions: int, anew: bool, **sampling
) -> Tensor:
    """Tokens (b, t, h, w) -> the same and ``extensions`` windows more; ``anew``: by way of pixels.

    Windows are those of ``tasks.windows``: pieces of the middle, a latent frame shorter than a clip, half overlapping.
    """
    size, ft = window(model), model.tokenizer.time_compression
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


def window(model: VideoGenerator) -> int:
    """Latent frames of a model's windows, pieces of the middle."""
    return max(2, model.tokenizer.latent_shape(model.window, model.clip["height"], model.clip["width"])[0] - 1)


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
    parser.add_argument("--sampling", type=json.loads, default={}, help="settings of the sampler: '{\"steps\": 16}'")
    parser.add_argument("--lpips", help="weights of AlexNet, see vq.lpips")
    options = parser.parse_args(args)

    model = VideoGenerator.from_pretrained(options.model)
    size, count = window(model), options.extensions
    begun = max(model.clip["frames"], 1 + size // 2 * model.tokenizer.time_compression)
    new = (size - size // 2) * model.tokenizer.time_compression  # frames an extension
    shapes = Shapes("test", objects=[1], seed=1, **model.clip | {"frames": begun + count * new})
    examples = [shapes[i] for i in range(options.clips)]
    real, texts = torch.stack([e.clip for e in examples]), [e.text for e in examples]
    looks = options.lpips and LPIPS(options.lpips, "alex")
    report("real clips", real, begun, new, looks)
    start = model.encode(real[:, :, :begun])
    for anew in (False, True):
        tokens = extended(model, start, texts, count, anew, **options.sampling)
        report("encoded anew" if anew else "integers", model.decode(tokens), begun, new, looks)


@torch.no_grad()
def report(name: str, video: Tensor, begun: int, new: int, looks: LPIPS | None) -> None:
    """Prints what becomes of videos (b, 3, t, h, w): ``begun`` frames that were given, and ``new`` an extension."""
    parts = [video[:, :, :begun], *video[:, :, begun:].split(new, dim=2)]
    values = {
        "brightness": torch.stack([part.mean((1, 2, 3, 4)) for part in parts], dim=1),
        "contrast": torch.stack([part.std((1, 3, 4)).mean(1) for part in parts], dim=1),
    }
    if looks:
        last = video[:, :, begun - 1 : begun]
        values["LPIPS"] = torch.stack([looks(part, last.expand_as(part)) for part in parts], dim=1)
    print(name)
    for measure, rows in values.items():
        rise, error = slope(rows)
        told = " ".join(f"{value:.3f}" for value in rows.mean(0).tolist())
        print(f"  {measure:10} {told}   slope {rise:+.5f} +- {error:.5f} an extension", flush=True)


if __name__ == "__main__":
    main()

"""Our tokenizer beside magvit2-pytorch's VideoTokenizer: the same clips, size, compression, codebook and seconds.

    pip install magvit2-pytorch
    python benchmarks/magvit2.py [--seconds 180 --batch 16] [--videos FOLDER --test FOLDER --height 64]

Both compress 4x8x8 to 4,096 codes with 3 to 4 million parameters, and learn by pixels alone. The rival has its own
layers, quantizer (LFQ), loss and optimizer (Adam), at its trainer's rate of 1e-5 and at higher ones that suit short
runs better. Rounds of all contenders alternate, so that a machine that others share does not favour one of them.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from contenders import Magvit2, OurTokenizer, count, step

from data.folder import Folder
from data.shapes import Shapes
from vq.hardware import has_bf16
from vq.losses import psnr

ROUND = 5  # seconds between two contenders


def train(contenders: list, clips: Callable[[int], Tensor], batch: int, seconds: float, device: str) -> dict[str, int]:
    """Trains each for so many seconds; the rate falls linearly over the last 70%. Returns the clips seen by each."""
    seen, spent = {c.name: 0 for c in contenders}, {c.name: 0.0 for c in contenders}
    rates = {c.name: [group["lr"] for group in c.optimizer.param_groups] for c in contenders}
    bf16 = has_bf16(torch.device(device))
    while min(spent.values()) < seconds:
        for c in contenders:
            round_end = min(spent[c.name] + ROUND, seconds)
            while spent[c.name] < round_end:
                video = clips(seen[c.name]).to(device)  # drawn outside the clock: a data loader's work
                began = time.perf_counter()
                factor = min((seen[c.name] / batch + 1) / 50, 1.0, (1 - spent[c.name] / seconds) / 0.7)
                for group, rate in zip(c.optimizer.param_groups, rates[c.name], strict=True):
                    group["lr"] = rate * factor
                step(c, video, clip=10.0, bf16=bf16)
                if device == "cuda":
                    torch.cuda.synchronize()
                spent[c.name] += time.perf_counter() - began
                seen[c.name] += batch
        print({name: f"{clips} clips" for name, clips in seen.items()}, file=sys.stderr, flush=True)
    return seen


@torch.no_grad()
def decoding(contender, tokens: Tensor, seconds: float, device: str) -> float:
    """Clips decoded a second."""
    contender.decode(tokens)
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        contender.decode(tokens)
        if device == "cuda":
            torch.cuda.synchronize()
        done += len(tokens)
    return done / (time.perf_counter() - began)


def main(args=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180, help="of training, each")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--height", type=int, default=32, help="and width")
    parser.add_argument("--videos", help="a folder to train on; default: procedural shapes")
    parser.add_argument("--test", help="a folder to score on")
    parser.add_argument("--rates", type=float, nargs="*", default=[1e-5, 3e-4, 1e-3, 3e-3], help="of the rival")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test_clips", type=int, default=128)
    options = parser.parse_args(args)

    warnings.simplefilter("ignore")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = {"frames": options.frames, "height": options.height, "width": options.height, "fps": 8}
    if options.videos:
        data, test = Folder(options.videos, **size, images=False), Folder(options.test, **size, random=False)
    else:
        data, test = Shapes("train", **size), Shapes("test", **size)
    torch.manual_seed(options.seed)
    contenders = [OurTokenizer(), *(Magvit2(rate, options.height) for rate in options.rates)]
    for c in contenders:
        c.model.to(device).train()

    def clips(start: int) -> Tensor:
        return torch.stack([data[i].clip for i in range(start, start + options.batch)])

    seen = train(contenders, clips, options.batch, options.seconds, device)
    real = torch.stack([test[i].clip for i in range(options.test_clips)])
    shape = f"{options.frames}x{options.height}x{options.height}"
    print(f"{shape}, {options.seconds:.0f} s each, PSNR of {len(real)} test clips")
    print(f"{'':24} {'parameters':>10} {'PSNR dB':>14} {'trained clips/s':>16} {'decoded clips/s':>16}")
    for c in contenders:
        c.model.eval()
        with torch.no_grad():
            tokens = torch.cat([c.encode(part.to(device)) for part in real.split(16)])
            fake = torch.cat([c.decode(part).float().cpu() for part in tokens.split(16)])
        values = psnr(fake, real)
        score = f"{values.mean():.2f} +- {values.std() / len(values) ** 0.5:.2f}"
        parameters = count(c.model) / 1e6
        speed = decoding(c, tokens[:16], 5, device)
        print(f"{c.name:24} {parameters:9.1f}M {score:>14} {seen[c.name] / options.seconds:16.1f} {speed:16.1f}")


if __name__ == "__main__":
    main()

"""Every quantizer on one trunk, one data set and one number of steps: what it keeps, and how much of its codes it uses.

    python benchmarks/quantizers.py [--steps 300 --seeds 1] [--lpips lpips_alex.safetensors] [--only FSQ-1000 VQ-1024]

PSNR, SSIM and LPIPS are of 128 test clips (their standard error follows the PSNR), usage is the share of the codes that
occur in these clips, of those that could, perplexity how many are as good as in use.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from data.shapes import Shapes
from vq.hardware import has_bf16
from vq.losses import psnr, reconstruction_loss, ssim
from vq.lpips import LPIPS
from vq.optimizer import Muon
from vq.quantizers import FSQ, LFQ, VQ, Continuous, Quantizer, ResidualFSQ, ResidualVQ, SimVQ
from vq.tokenizer import Tokenizer

QUANTIZERS = {
    "FSQ-1000": lambda: FSQ((8, 5, 5, 5)),
    "VQ-1024": lambda: VQ(1024),
    "SimVQ-1024": lambda: SimVQ(1024),
    "LFQ-1024": lambda: LFQ(10, groups=1),
    "FSQ-4096": lambda: FSQ((8, 8, 8, 8)),
    "VQ-4096": lambda: VQ(4096),
    "FSQ-64000": lambda: FSQ((8, 8, 8, 5, 5, 5)),
    "BSQ-65536": lambda: LFQ(16, groups=2, spherical=True),
    "ResidualVQ-256^2": lambda: ResidualVQ(256, 2),
    "ResidualFSQ-1000^2": lambda: ResidualFSQ((8, 5, 5, 5), 2),
    "FSQ-1000^2": lambda: FSQ((8, 5, 5, 5) * 2),
    "FSQ-1000^4": lambda: FSQ((8, 5, 5, 5) * 4),
    "Continuous-16": lambda: Continuous(16),
}


def train(quantizer: Quantizer, steps: int, batch: int, data: Shapes, seed: int, device: str) -> Tokenizer:
    torch.manual_seed(seed)
    model = Tokenizer(quantizer, channels=[64, 128], patch_size=4, encoder_kernel=1).to(device).train()
    rate = 3e-3
    optimizer = Muon(model.named_parameters(), rate, weight_decay=1e-4, adamw=("stem", "coder.out"))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / 50, 1.0, (steps - step) / (0.7 * steps))
        first = (seed * steps + step) * batch
        video = torch.stack([data[first + i].clip for i in range(batch)]).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=has_bf16(torch.device(device))):
            result = model(video)
        loss = reconstruction_loss(result.video, video)[0] + result.quantized.loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def score(model: Tokenizer, real: torch.Tensor, lpips: LPIPS | None) -> dict[str, float]:
    results = [model(part) for part in real.split(16)]
    fake = torch.cat([result.video for result in results]).clamp(-1, 1)
    values = psnr(fake, real)
    scores = {"PSNR": values.mean(), "+-": values.std() / len(values) ** 0.5, "SSIM": ssim(fake, real).mean()}
    if lpips:
        pairs = zip(fake.split(8), real.split(8), strict=True)
        scores["LPIPS"] = torch.cat([lpips(a, b) for a, b in pairs]).mean()
    if model.codebook_size:
        tokens = torch.cat([result.quantized.tokens for result in results])
        counts = tokens.unique(return_counts=True)[1]
        scores["usage"] = torch.tensor(len(counts) / min(model.codebook_size, tokens.numel()))
        scores["perplexity"] = torch.special.entr(counts / counts.sum()).sum().exp()
    return {name: value.item() for name, value in scores.items()}


def main(args=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--lpips", help="safetensors file with LPIPS of AlexNet")
    parser.add_argument("--only", nargs="*", default=list(QUANTIZERS), help=", ".join(QUANTIZERS))
    options = parser.parse_args(args)

    warnings.simplefilter("ignore")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = {"frames": 9, "height": 32, "width": 32, "objects": [1]}
    data, test = Shapes("train", **size), Shapes("test", **size)
    real = torch.stack([test[i].clip for i in range(128)]).to(device)
    lpips = LPIPS(options.lpips, net="alex").to(device) if options.lpips else None
    columns = ("PSNR", "+-", "SSIM", *(["LPIPS"] if lpips else []), "usage", "perplexity", "ms a step")
    print("| quantizer | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for name in options.only:
        for seed in range(options.seeds):
            began = time.perf_counter()
            model = train(QUANTIZERS[name](), options.steps, options.batch, data, seed, device)
            scores = {"ms a step": 1000 * (time.perf_counter() - began) / options.steps} | score(model, real, lpips)
            cells = [f"{scores[column]:.3g}" if column in scores else "" for column in columns]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

"""How much a tokenizer loses: PSNR, SSIM, LPIPS, rFVD and rKVD of a set of clips, with what the numbers are worth.

The result carries its protocol: two results compare only where that is the same.
"""

import math
from collections import Counter
from dataclasses import asdict

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from evaluation.clips import eight_bits, read_reference, spoilt
from evaluation.extractor import Extractor
from evaluation.frechet import frechet_distance
from evaluation.intervals import mean_and_error
from evaluation.kernel import kernel_distance
from evaluation.protocol import Protocol, code_version, fingerprint
from vq.hardware import check_convolutions
from vq.losses import psnr, ssim
from vq.lpips import LPIPS
from vq.pretrained import fingerprint as weights_of
from vq.tokenizer import Tokenizer

# What is compared with the real clips, and what its distance is called: "fvd" or "kvd" in place of {}.
DISTANCES = {
    "reconstructed": "r{}",
    "further real": "{} of further real clips",
    "frames shuffled": "{} of the same clips, shuffled",
    "first frame": "{} of their first frames",
}


@torch.no_grad()
def evaluate(
    tokenizer: Tokenizer,
    dataset: Dataset,
    clips: int,
    lpips: LPIPS | None = None,
    i3d: Extractor | None = None,
    batch_size: int = 8,
    device: str = "cpu",
) -> dict:
    """Scores of the first ``clips`` clips of a data set: {"protocol": {...}, "scores": {name: {"mean", "error"}}}.

    ``error`` is the standard error over clips. rFVD and rKVD stand beside a floor, the distance to as many further
    clips of the data set, and beside ceilings, which show what they can see at all: the same clips with their frames
    shuffled, and their first frame alone. A Frechet distance of fewer clips than features is left out; "refused" says
    so.
    """
    check_convolutions(torch.device(device))
    for network in (tokenizer, lpips):
        if network is not None:
            network.to(device).eval()
    each: dict[str, list[Tensor]] = {"psnr": [], "ssim": []} | ({"lpips": []} if lpips else {})
    seen: dict[str, list[Tensor]] = {name: [] for name in ("real", *DISTANCES)}
    reference, further = read_reference(dataset, clips, floor=i3d is not None)
    used: Counter[int] = Counter()

    with tqdm(total=clips, unit="clip", desc="reconstructing") as bar:
        for start in range(0, clips, batch_size):
            rows = slice(start, min(start + batch_size, clips))
            real = reference.video(rows)
            tokens = tokenizer.encode(real.to(device))
            used.update(tokens.flatten().tolist())
            fake, shown = eight_bits(tokenizer.decode(tokens)), real.to(device)
            each["psnr"].append(psnr(fake, shown))
            each["ssim"].append(ssim(fake, shown))
            if lpips:
                each["lpips"] += [lpips(a[None], b[None]) for a, b in zip(fake, shown, strict=True)]
            if i3d:
                others = {"further real": further.video(rows)} if further else {}
                sets = {"real": real, "reconstructed": fake} | others | dict(spoilt(real, rows))
                for name in seen.keys() & sets.keys():
                    seen[name].append(i3d(sets[name].to(device)))
            bar.update(len(real))

    scores = {name: mean_and_error(torch.cat(values)) for name, values in each.items()}
    refused = []
    if i3d:
        if not further:
            refused.append(f"further real clips: the data set has fewer than {2 * clips} different clips, so no floor")
        features = {name: torch.cat(parts) for name, parts in seen.items() if parts}
        others = {DISTANCES[name]: x for name, x in features.items() if name != "real"}
        try:
            fvd = {name.format("fvd"): frechet_distance(features["real"], x) for name, x in others.items()}
            scores |= {name: {"mean": distance} for name, distance in fvd.items()}
        except ValueError as error:
            refused.append(f"rfvd: {error}")
        for name, x in others.items():
            mean, error = kernel_distance(features["real"], x)
            scores[name.format("kvd")] = {"mean": mean, "error": error}
    size = {axis: getattr(dataset, axis) for axis in ("frames", "height", "width")}
    positions = math.prod(tokenizer.latent_shape(**size))
    scores["bits a pixel"] = {"mean": positions * math.log2(tokenizer.codebook_size) / math.prod(size.values())}
    scores["share of tokens unlike all others"] = {"mean": len(used) / (clips * positions)}
    shares = torch.tensor(list(used.values()), dtype=torch.float64) / (clips * positions)
    scores["perplexity of the tokens"] = {"mean": shares.log().neg().mul(shares).sum().exp().item()}
    protocol = Protocol(
        clips,
        min(clips, len(dataset)),
        **size,
        fps=dataset.fps,
        reference=fingerprint(reference.hashes()),
        code=code_version(),
        features=({"i3d": i3d.identity} if i3d else {}) | ({"lpips": weights_of(lpips)} if lpips else {}),
    )
    return {"protocol": asdict(protocol), "scores": scores, "refused": refused}

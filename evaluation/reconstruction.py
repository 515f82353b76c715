"""How much a tokenizer loses: PSNR, SSIM, LPIPS, rFVD and rKVD of a set of clips, with what the numbers are worth.

The result carries its protocol: two results compare only where that is the same.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from evaluation.clips import Clips, eight_bits, read_reference
from evaluation.features import I3D, WINDOW
from evaluation.frechet import frechet_distance
from evaluation.intervals import mean_and_error
from evaluation.kernel import kernel_distance
from evaluation.protocol import Protocol, code_version, fingerprint
from vq.losses import psnr, ssim
from vq.lpips import LPIPS
from vq.pretrained import fingerprint as weights_of
from vq.tokenizer import Tokenizer


@torch.no_grad()
def evaluate(
    tokenizer: Tokenizer,
    dataset: Dataset,
    clips: int,
    lpips: LPIPS | None = None,
    i3d: I3D | None = None,
    batch_size: int = 8,
    device: str = "cpu",
) -> dict:
    """Scores of the first ``clips`` clips of a data set: {"protocol": {...}, "scores": {name: {"mean", "error"}}}.

    ``error`` is the standard error over clips. rFVD and rKVD stand beside a floor, the distance to as many further
    clips of the data set, and beside ceilings, which show what they can see at all: the same clips with their frames
    shuffled, and their first frame alone. A Frechet distance of fewer clips than features is left out; "refused" says
    so.
    """
    for network in (tokenizer, lpips, i3d):
        if network is not None:
            network.to(device).eval()
    each: dict[str, list[Tensor]] = {"psnr": [], "ssim": []} | ({"lpips": []} if lpips else {})
    seen: dict[str, list[Tensor]] = {name: [] for name in ("real", "rfvd", "shuffled", "still", "further") if i3d}
    reference, further = read_reference(dataset, clips, floor=i3d is not None)
    used, rng = set(), torch.Generator().manual_seed(0)

    for real in batches(reference, batch_size, "reconstructing"):
        real = real.to(device)
        tokens = tokenizer.encode(real)
        fake = eight_bits(tokenizer.decode(tokens))
        used.update(tokens.flatten().tolist())
        each["psnr"].append(psnr(fake, real))
        each["ssim"].append(ssim(fake, real))
        if lpips:
            each["lpips"] += [lpips(a[None], b[None]) for a, b in zip(fake, real, strict=True)]
        if i3d:
            order = torch.randperm(min(WINDOW, real.shape[2]), generator=rng)
            seen["real"].append(i3d(real[:, :, :WINDOW]))
            seen["rfvd"].append(i3d(fake[:, :, :WINDOW]))
            seen["shuffled"].append(i3d(real[:, :, order]))
            seen["still"].append(i3d(real[:, :, :1].expand(-1, -1, len(order), -1, -1)))
    if further:
        for real in batches(further, batch_size, "measuring the floor"):
            seen["further"].append(i3d(real.to(device)[:, :, :WINDOW]))

    scores = {name: mean_and_error(torch.cat(values)) for name, values in each.items()}
    refused = []
    if i3d:
        if not further:
            refused.append(f"further real clips: the data set has fewer than {2 * clips} different clips, so no floor")
            del seen["further"]
        real, *others = (torch.cat(features) for features in seen.values())
        names = ("r{}", "{} of the same clips, shuffled", "{} of their first frames", "{} of further real clips")
        names = names[: len(others)]
        try:
            fvd = {name.format("fvd"): frechet_distance(real, x) for name, x in zip(names, others, strict=True)}
            scores |= {name: {"mean": distance} for name, distance in fvd.items()}
        except ValueError as error:
            refused.append(f"rfvd: {error}")
        for name, x in zip(names, others, strict=True):
            mean, error = kernel_distance(real, x)
            scores[name.format("kvd")] = {"mean": mean, "error": error}
    size = {axis: getattr(dataset, axis) for axis in ("frames", "height", "width")}
    positions = math.prod(tokenizer.latent_shape(**size))
    scores["bits a pixel"] = {"mean": positions * math.log2(tokenizer.codebook_size) / math.prod(size.values())}
    scores["share of tokens unlike all others"] = {"mean": len(used) / (clips * positions)}
    protocol = Protocol(
        clips,
        **size,
        fps=dataset.fps,
        reference=fingerprint(reference.hashes()),
        code=code_version(),
        features=({"i3d": i3d.identity} if i3d else {}) | ({"lpips": weights_of(lpips)} if lpips else {}),
    )
    return {"protocol": asdict(protocol), "scores": scores, "refused": refused}


def batches(clips: Clips, batch_size: int, what: str) -> Iterator[Tensor]:
    """Videos (b, 3, t, h, w) in [-1, 1], with a progress bar."""
    with tqdm(total=len(clips), unit="clip", desc=what) as bar:
        for start in range(0, len(clips), batch_size):
            video = clips.video(slice(start, start + batch_size))
            yield video
            bar.update(len(video))

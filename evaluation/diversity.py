"""How much clips differ: from each other, and from what the training has shown."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from evaluation.intervals import jackknife

SIDE = 16  # pixels of the thumbnails that are compared: details and shifts by a pixel are no other video


def thumbnails(video: Tensor) -> Tensor:
    """Videos (b, 3, t, h, w) in [-1, 1] -> (b, d): all frames at 16x16, as shares of full range."""
    b = len(video)
    small = F.adaptive_avg_pool2d(rearrange(video, "b c t h w -> (b c t) 1 h w"), SIDE)
    small = rearrange(small, "(b n) 1 h w -> b (n h w)", b=b)
    return small / (2 * small.shape[1] ** 0.5)


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Thumbnails (n, d) and (m, d) -> root mean square differences (n, m)."""
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")  # 0 stays exactly 0


def diversity(seen: Tensor, texts: list[str]) -> dict[str, dict[str, float]]:
    """Thumbnails (n, d) and their prompts -> mean distance of pairs with "the same prompt" and "different prompts".

    What has no pair is left out.
    """
    apart = distances(seen, seen)
    number = {text: i for i, text in enumerate(texts)}
    prompt = apart.new_tensor([number[text] for text in texts])
    same = (prompt[:, None] == prompt).double().fill_diagonal_(0)
    kinds = {"the same prompt": same, "different prompts": (prompt[:, None] != prompt).double()}
    return {name: _mean(apart, pairs) for name, pairs in kinds.items() if pairs.any()}


def nearest(seen: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Thumbnails (n, d) and (m, d) -> (n,) and int64 (n,): how far the nearest of the others is, and which it is."""
    return tuple(distances(seen, train).min(1))


def _mean(apart: Tensor, pairs: Tensor) -> dict[str, float]:
    """The mean of the chosen pairs (n, n), and its error by leaving out one sample at a time."""
    total, count = (apart * pairs).sum(), pairs.sum()
    left = count - 2 * pairs.sum(1)
    cell = {"mean": (total / count).item()}
    if (left > 0).all():
        cell["error"] = jackknife((total - 2 * (apart * pairs).sum(1)) / left)
    return cell

"""The Frechet distance of two sets of features, each seen as a Gaussian (FID, arXiv 1706.08500; FVD, 1812.01717)."""

import torch
from torch import Tensor

from evaluation.intervals import jackknife

BLOCKS = 10  # of samples, left out in turn for the error of an extrapolated distance


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Features (n, d) and (m, d) -> squared distance of their Gaussians, in float64.

    It is biased upwards for small sets: compare sets of one size only, and beside a floor of real against real. Raises
    ``ValueError`` where a set has no more samples than features: its covariance is singular and the number meaningless.
    """
    for features in (a, b):
        n, d = features.shape
        if n <= d:
            raise ValueError(f"a Frechet distance of {d} features needs more than {d} samples a side, got {n}")
    (mean_a, cov_a), (mean_b, cov_b) = ((x.double().mean(0), x.double().T.cov()) for x in (a, b))
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    # the trace of the root of cov_a cov_b, whose eigenvalues are those of the symmetric root cov_b root
    between = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return ((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * between).clamp_min(0).item()


def frechet_at_infinity(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Features (n, d) and (n, d) -> the distance of infinitely many samples and its standard error.

    A Frechet distance exceeds the true one by about c/n, so that n samples exceed it by half of what n/2 do: the line
    through the distances of the whole and of its halves over 1/n is followed to 0 (FID-infinity, arXiv 1911.07023,
    there with random subsets). The error is that of a jackknife of ten blocks. Raises ``ValueError`` where a half would
    hold fewer than two samples a feature: so small, the excess is no straight line.
    """
    n, d = a.shape
    if len(b) != n or n < 4 * d:
        raise ValueError(
            f"a Frechet distance of {d} features at infinity needs {4 * d} samples a side, got {min(n, len(b))}"
        )
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(0))  # data sets are sorted by class
    a, b, index = a[shuffled], b[shuffled], torch.arange(n)

    def extrapolate(kept: Tensor) -> float:
        """Sample i belongs to the same half whichever samples are left out."""
        halves = [kept & (index % 2 == half) for half in (0, 1)]
        return 2 * frechet_distance(a[kept], b[kept]) - sum(frechet_distance(a[h], b[h]) for h in halves) / 2

    left = torch.tensor([extrapolate(index * BLOCKS // n != block) for block in range(BLOCKS)], dtype=torch.float64)
    return extrapolate(torch.ones(n, dtype=torch.bool)), jackknife(left)

"""The Frechet distance of two sets of features, each seen as a Gaussian (FID, arXiv 1706.08500; FVD, 1812.01717)."""

import torch
from torch import Tensor


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

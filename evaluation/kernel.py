"""The kernel distance of two sets of features: an unbiased squared maximum mean discrepancy (KID, arXiv 1801.01401).

It needs no covariance, so that fewer samples than features will do, where a Frechet distance means nothing.
"""

import torch
from torch import Tensor

from evaluation.intervals import jackknife

COLUMNS = 1024  # of the kernel matrix that are in memory at a time


def kernel_distance(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Features (n, d) and (n, d) -> squared distance and its standard error, in float64.

    The kernel is the cubic polynomial (x y / d + 1)^3. The mean over all pairs i != j of

        k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)

    is unbiased (Gretton et al. 2012, equation 4): sets of one distribution are 0 apart on average, and single distances
    may be negative. Sample i of one side may depend on sample i of the other, as a reconstruction does on its original:
    the two are never compared. The error is that of the jackknife, which leaves out one i at a time; it is too large
    rather than too small where the sets are alike. Raises ``ValueError`` for sets of different size or below three.
    """
    if real.shape != fake.shape or len(real) < 3:
        raise ValueError(
            f"a kernel distance needs two sets of one size, of at least 3 samples: got {len(real)} and {len(fake)}"
        )
    x, y = real.double(), fake.double()
    n = len(x)
    terms = torch.cat([_terms(x, y, slice(start, start + COLUMNS)) for start in range(0, n, COLUMNS)])  # (n,)
    total = terms.sum()
    left = (total - 2 * terms) / ((n - 1) * (n - 2))  # (n,) the distance without each sample
    return (total / (n * (n - 1))).item(), jackknife(left)


def _terms(x: Tensor, y: Tensor, columns: slice) -> Tensor:
    """What each pair (x_i, y_i) of the columns contributes: the sum over all j != i."""
    k = cubic(x, x[columns]) + cubic(y, y[columns]) - cubic(x, y[columns]) - cubic(y, x[columns])  # (n, columns)
    return k.sum(0) - k.diagonal(-columns.start)


def cubic(a: Tensor, b: Tensor) -> Tensor:
    """Features (n, d) and (m, d) -> kernel (n, m)."""
    return (a @ b.T / a.shape[1] + 1) ** 3

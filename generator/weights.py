"""What a hidden token weighs in the loss, by the mask ratio of its sample.

With mask ratio f(u) at the point u of the way (``generator.schedules``), a bound of -log p of a clip is the expectation
over u of  |f'(u)| / f(u) * (the sum of the hidden tokens' cross-entropies): MD4, arXiv 2406.04329, and MDLM, arXiv
2406.07524. The expectation is the same for every schedule. Few hidden tokens, which are easy to guess, then weigh as
much as many, and samples may come out better without: MaskGIT weighs all alike.
"""

import torch
from torch import Tensor

from generator.schedules import Schedule


class Weight:
    """Base of the loss weights."""

    def __call__(self, slope: Tensor, ratio: Tensor) -> Tensor:
        """The weight of a hidden token, of the schedule's slope |f'(u)| and the share that is hidden, of any shape."""
        raise NotImplementedError("a loss weight has to define __call__(slope, ratio) -> weight")


class ELBO(Weight):
    """The bound itself: |f'(u)| / ratio."""

    def __call__(self, slope: Tensor, ratio: Tensor) -> Tensor:
        return slope / ratio


class Clamped(Weight):
    """The bound's weight, at most ``limit``, as min-SNR clamps that of continuous diffusion (arXiv 2303.09556).

    Args:
        limit: 5 there, and in ReDDiT's masked diffusion (arXiv 2505.19656).
    """

    def __init__(self, limit: float = 5.0) -> None:
        self.limit = limit

    def __call__(self, slope: Tensor, ratio: Tensor) -> Tensor:
        return (slope / ratio).clamp_max(self.limit)


def slope(schedule: Schedule, u: Tensor) -> Tensor:
    """|f'(u)| of a mask schedule, finite: arccos is vertical at u = 1."""
    with torch.enable_grad():
        u = u.detach().clamp(1e-3, 1 - 1e-3).requires_grad_()
        (gradient,) = torch.autograd.grad(schedule(u).sum(), u)
    return gradient.abs()

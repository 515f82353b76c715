"""Mask schedules: what share of the tokens is masked at a point of the way, u in [0, 1], from all (0) to none (1).

Training draws u uniformly; sampling walks it in equal steps. Cosine: MaskGIT (arXiv 2202.04200). Arccos: Halton-MaskGIT
(arXiv 2503.17076), which masks as much on average, 2 / pi, but less often nearly all, and in sampling commits more
tokens in early steps.
"""

import math

import torch
from torch import Tensor


class Schedule:
    """Base of the mask schedules: a decreasing function with f(0) = 1 and f(1) = 0."""

    def __call__(self, u: Tensor) -> Tensor:
        raise NotImplementedError("a schedule has to define __call__(u) -> mask ratio")


class Cosine(Schedule):
    def __call__(self, u: Tensor) -> Tensor:
        return torch.cos(u * math.pi / 2)


class Arccos(Schedule):
    def __call__(self, u: Tensor) -> Tensor:
        return torch.arccos(u) * 2 / math.pi


class Linear(Schedule):
    def __call__(self, u: Tensor) -> Tensor:
        return 1 - u


class Exponential(Schedule):
    """eMIGM (arXiv 2503.07197): stays high longest, so that most is committed in the last steps."""

    def __init__(self, rate: float = 5.0) -> None:
        if not 0 < abs(rate) < math.inf:
            raise ValueError(f"got the rate {rate}, expected a number other than 0, at which the schedule is linear")
        self.rate = rate

    def __call__(self, u: Tensor) -> Tensor:
        return torch.expm1(-self.rate * (1 - u)) / math.expm1(-self.rate)

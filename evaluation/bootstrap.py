"""The hierarchical bootstrap of docs/hypothesis.md: what differences between two arms are worth.

An arm is trained with several seeds and each of its models sampled with several; every sample gets the same prompts.
Training seeds are drawn with replacement, for each arm by itself; within them sampling seeds; and prompts, once for
all seeds and arms, because they are the same in all of them.

A few training seeds drawn out of themselves vary too little, by k / (k - 1) and by what Student's t has beyond the
normal distribution: their draws are spread about their mean by as much (docs/hypothesis.md, amendment 5).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# the 97.5% quantile of Student's t by its degrees of freedom; beyond, the last one errs on the safe side
STUDENT = {2: 4.303, 4: 2.776, 6: 2.447, 8: 2.306, 10: 2.228, 12: 2.179, 14: 2.145, 16: 2.120, 18: 2.101}


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


def resample(arms: Sequence[Tensor], count: int = 10_000, seed: int = 0) -> list[Tensor]:
    """Hits of each arm (c, k, s, n) -> the shares (c, count) in so many resamples.

    Args:
        arms: c conditions, such as budgets, of k training seeds, s sampling seeds and the same n prompts. What has no
            seeds, such as reconstructions, has k = s = 1. Conditions of an arm share the draws.
    """
    n = arms[0].shape[-1]
    if any(hits.shape[-1] != n for hits in arms):
        raise ValueError(f"got {[hits.shape[-1] for hits in arms]} prompts: the arms have to share them")
    rng = torch.Generator().manual_seed(seed)
    # how often each resample has each prompt
    drawn = torch.randint(n, (count, n), generator=rng)
    weights = torch.zeros(count, n).scatter_add_(1, drawn, torch.ones(count, n)) / n
    shares = []
    for hits in arms:
        k, s = hits.shape[1:3]
        runs = hits.float() @ weights.T  # c k s count
        trained = torch.randint(k, (count, k, 1), generator=rng).expand(-1, -1, s)
        sampled = torch.randint(s, (count, k, s), generator=rng)
        means = runs[:, trained, sampled, torch.arange(count)[:, None, None]].mean((2, 3))
        middle = runs.mean((1, 2))
        shares.append(middle + widening(k) * (means - middle))
    return shares


def widening(k: int) -> float:
    """By how much draws of k training seeds are spread, for differences of two arms of k each; one has no spread."""
    if k == 1:
        return 1.0
    return (k / (k - 1)) ** 0.5 * STUDENT[min(2 * (k - 1), max(STUDENT))] / 1.96


def interval(value: float, draws: Tensor) -> Interval:
    """An estimate and what resamples (count,) make of it: percentiles 2.5 and 97.5."""
    low, high = draws.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(value, low, high)

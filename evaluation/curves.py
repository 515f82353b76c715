"""Quality along a cost: where a curve that never falls reaches a level, and how steeply errors fall."""

from collections.abc import Sequence

import torch
from torch import Tensor


def isotonic(values: Tensor) -> Tensor:
    """The nearest curves that never fall, by squares: values (..., p) in the order of cost -> (..., p).

    By the min-max formula: the highest, over all beginnings, of the lowest mean of what follows.
    """
    p = values.shape[-1]
    sums = torch.cat([torch.zeros_like(values[..., :1]), values.cumsum(-1)], dim=-1)
    means = torch.full((*values.shape[:-1], p, p), torch.nan, dtype=values.dtype)  # from i to j
    for i in range(p):
        for j in range(i, p):
            means[..., i, j] = (sums[..., j + 1] - sums[..., i]) / (j - i + 1)
    # of the means from i on that end at x or behind, the lowest; of those that begin at x or before, the highest
    columns = [
        torch.stack([means[..., i, x:].min(-1).values for i in range(x + 1)], dim=-1).max(-1).values for x in range(p)
    ]
    return torch.stack(columns, dim=-1)


def costs_to_reach(
    qualities: Sequence[Tensor], costs: Sequence[Sequence[float]], share: float = 0.95
) -> tuple[Tensor, ...]:
    """What each arm pays for ``share`` of the best quality of the weaker one: the first point that reaches it.

    Args:
        qualities: of each arm (r, p) in r resamples at its p points. costs: of its points.

    Returns: (r,) of each arm.
    """
    curves, sorted_costs = [], []
    for quality, cost in zip(qualities, costs, strict=True):
        cost = torch.tensor(cost, dtype=torch.float64)
        order = cost.argsort(stable=True)
        curves.append(isotonic(quality.double()[:, order]))
        sorted_costs.append(cost[order])
    level = share * torch.stack([curve[:, -1] for curve in curves]).amin(0)  # r
    reached = [(curve >= level[:, None] - 1e-9).int().argmax(1) for curve in curves]
    return tuple(cost[first] for cost, first in zip(sorted_costs, reached, strict=True))


def power_law(costs: Sequence[float], errors: Tensor) -> tuple[Tensor, Tensor]:
    """log errors = a - b log costs by least squares: errors (..., c), all above 0 -> a and b, (...) each."""
    x = torch.tensor(costs, dtype=torch.float64).log()
    y = errors.double().log()
    b = -((x - x.mean()) * (y - y.mean(-1, keepdim=True))).sum(-1) / (x - x.mean()).square().sum()
    return y.mean(-1) + b * x.mean(), b

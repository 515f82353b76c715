"""What a score is worth: standard errors and intervals."""

import math

from torch import Tensor

NORMAL = 1.959964  # standard deviations to either side that hold 95% of a normal distribution


def mean_and_error(values: Tensor) -> dict[str, float]:
    """Values (n,), one a clip -> their mean and its standard error."""
    values = values.double().cpu()
    return {"mean": values.mean().item(), "error": (values.std() / len(values) ** 0.5).item()}


def jackknife(left: Tensor) -> float:
    """The score (n,) without each sample or block in turn -> the standard error of the score of all."""
    n = len(left)
    return ((left - left.mean()).square().sum() * (n - 1) / n).sqrt().item()


def wilson(hits: int, n: int) -> dict[str, float]:
    """A share and its 95% interval, which holds for few samples and near 0 and 1, too (Wilson 1927)."""
    share, z = hits / n, NORMAL
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return {"mean": share, "low": max(0.0, middle - half), "high": min(1.0, middle + half), "n": n}


def margin(cell: dict) -> float:
    """Half of a 95% interval of a cell; nan where nobody knows."""
    if "low" in cell:
        return (cell["high"] - cell["low"]) / 2
    return 1.96 * cell.get("error", math.nan)

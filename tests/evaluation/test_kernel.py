"""The kernel distance: unbiased, its error is right, and its kernel is that of others."""

import pytest
import torch
from torchmetrics.image.kid import poly_kernel

from evaluation.kernel import cubic, kernel_distance


def draws(count: int, n: int, d: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(count):
        real, fake = (torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(2))
        found.append(kernel_distance(real, fake + shift))
    return torch.tensor(found)


def test_its_mean_is_zero_where_both_are_of_one_kind_with_fewer_samples_than_features():
    values, errors = draws(3000, n=12, d=30).unbind(1)
    assert abs(values.mean()) < 3 * values.std() / len(values) ** 0.5
    assert (values < 0).float().mean() > 0.3  # unbiased values lie on both sides
    assert errors.mean() > values.std()  # rather too large


def test_it_does_not_depend_on_the_number_of_samples():
    few, many = (draws(count, n, d=4, shift=0.5)[:, 0] for count, n in ((2000, 8), (200, 80)))
    spread = (few.var() / len(few) + many.var() / len(many)).sqrt()
    assert abs(few.mean() - many.mean()) < 3 * spread
    assert few.mean() > 10 * spread


def test_its_error_is_the_spread_over_draws():
    values, errors = draws(400, n=60, d=8, shift=0.5).unbind(1)
    assert errors.mean() == pytest.approx(values.std().item(), rel=0.15)


def test_known_values(monkeypatch):
    real, fake = (torch.randn(9, 5, generator=torch.Generator().manual_seed(s)).double() for s in (0, 1))
    assert torch.allclose(cubic(real, fake), poly_kernel(real, fake))
    k = {name: poly_kernel(a, b) for name, a, b in (("xx", real, real), ("yy", fake, fake), ("xy", real, fake))}
    pairs = [(i, j) for i in range(9) for j in range(9) if i != j]
    expected = sum(k["xx"][i, j] + k["yy"][i, j] - k["xy"][i, j] - k["xy"][j, i] for i, j in pairs) / 72
    value, error = kernel_distance(real, fake)
    assert value == pytest.approx(expected.item())
    monkeypatch.setattr("evaluation.kernel.COLUMNS", 4)
    assert kernel_distance(real, fake) == pytest.approx((value, error))
    assert kernel_distance(real, real) == (0, 0)


def test_sets_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="at least 3 samples: got 5 and 4"):
        kernel_distance(torch.randn(5, 2), torch.randn(4, 2))

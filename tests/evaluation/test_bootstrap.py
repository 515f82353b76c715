"""Intervals of differences hold what they say, and curves and slopes are the known ones."""

import pytest
import torch

from evaluation.bootstrap import interval, resample, widening
from evaluation.curves import costs_to_reach, isotonic, power_law


def hits(share: float, runs: torch.Tensor, prompts: torch.Tensor, rng) -> torch.Tensor:
    """(1, k, s, n) of an arm: a share that depends on the run (k,) and on the prompt (n,)."""
    chance = (share + runs[:, None, None] + prompts).clamp(0, 1).expand(-1, 2, -1)
    return (torch.rand(chance.shape, generator=rng) < chance)[None]


def differences(count: int, gap: float, k: int, interaction: float = 0.0, spread: float = 0.04):
    for seed in range(count):
        rng = torch.Generator().manual_seed(seed)
        prompts = 0.25 * torch.randn(128, generator=rng)
        own = interaction * torch.randn(128, generator=rng)
        arms = [
            hits(0.5 + gap * sign, spread * torch.randn(k, generator=rng), prompts + sign * own, rng)
            for sign in (0.5, -0.5)
        ]
        a, b = resample(arms, 500, seed)
        yield interval((arms[0].float().mean() - arms[1].float().mean()).item(), (a - b)[0])


@pytest.mark.parametrize("interaction", [0.0, 0.3], ids=["alike", "prompts suit one arm"])
def test_the_interval_of_equal_arms_holds_zero_as_often_as_it_says(interaction):
    held = [i.low <= 0 <= i.high for i in differences(200, 0.0, k=8, interaction=interaction)]
    assert 0.88 <= sum(held) / len(held) <= 1


@pytest.mark.parametrize("spread", [0.04, 0.1])
def test_three_training_seeds_are_enough_for_that(spread):
    held = [i.low <= 0 <= i.high for i in differences(200, 0.0, k=3, spread=spread)]
    assert sum(held) / len(held) >= 0.92


def test_a_true_difference_is_found():
    found = list(differences(20, 0.3, k=4))
    assert all(i.low > 0 for i in found)
    assert sum(i.value for i in found) / len(found) == pytest.approx(0.3, abs=0.06)  # shares are cut at 0 and 1


def test_the_very_same_hits_have_no_difference_but_by_their_seeds():
    one = torch.rand(3, 1, 1, 64) < 0.5
    a, b = resample([one, one], 200)
    assert a.equal(b)  # one training seed, one sampling seed, and the same prompts
    assert a.shape == (3, 200) and a.mean(1).tolist() == pytest.approx(one.float().mean((1, 2, 3)).tolist(), abs=0.02)


def test_training_seeds_widen_the_interval():
    runs = torch.tensor([0.0, 1.0, 1.0])[None, :, None, None].expand(1, 3, 2, 50)
    (shares,) = resample([runs], 2000)
    drawn = 2 / 3 + widening(3) * (torch.arange(4) / 3 - 2 / 3)
    assert sorted(set(shares.mul(1e4).round().int().flatten().tolist())) == drawn.mul(1e4).round().int().tolist()
    assert widening(1) == 1 and widening(3) == pytest.approx(1.735, abs=0.01) and widening(50) < 1.1


def test_prompts_have_to_be_shared():
    with pytest.raises(ValueError, match="share"):
        resample([torch.ones(1, 1, 1, 3), torch.ones(1, 1, 1, 4)])


def test_isotonic_pools_what_falls():
    assert isotonic(torch.tensor([0.1, 0.4, 0.2, 0.6])).tolist() == pytest.approx([0.1, 0.3, 0.3, 0.6])
    assert isotonic(torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])).tolist() == [[2, 2, 2], [1, 2, 3]]


def test_the_cost_is_that_of_the_first_point_that_reaches_the_weaker_arms_best():
    fast, slow = torch.tensor([[0.5, 0.8, 0.8]]), torch.tensor([[0.1, 0.4, 0.7]])
    tokens, latents = costs_to_reach([fast, slow], [[4, 8, 16], [4, 8, 16]])
    assert (tokens.item(), latents.item()) == (8, 16)
    unsorted = costs_to_reach([fast.flip(1), slow], [[16, 8, 4], [4, 8, 16]])
    assert unsorted[0].item() == 8


def test_a_power_law_is_read_back():
    costs = [1, 2, 4, 8]
    a, b = power_law(costs, torch.tensor([[0.5 * c**-0.3 for c in costs], [0.2 * c**-0.1 for c in costs]]))
    assert b.tolist() == pytest.approx([0.3, 0.1]) and a.exp().tolist() == pytest.approx([0.5, 0.2])

from itertools import pairwise

import pytest
import torch

from generator import tasks
from generator.samplers import ORDERS, halton_ranks, sample, third
from generator.schedules import Arccos, Cosine, Linear

GRID, K = (3, 4, 5), 20


def oracle(truth):
    """Predicts the true tokens with certainty, and checks that only masked cells are asked for."""

    def predict(tokens, where):
        assert torch.equal(where, tokens == K)
        return [lambda before: torch.nn.functional.one_hot(truth[where], K) * 1000.0]

    return predict


def noisy(tokens, where):
    """Logits that depend on a cell's own surroundings only, so that samples of a batch cannot influence each other."""
    torch.manual_seed(0)
    table = torch.randn(K + 1, K)
    around = torch.roll(tokens, 1, dims=3)
    return [lambda before: table[around[where]]]


def empty(b):
    return tasks.text2video(GRID, K).repeat(b)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("steps", [1, 7, 60, 100])
def test_an_oracle_is_a_fixed_point_and_no_mask_is_left(order, steps):
    truth = torch.randint(K, (2, *GRID))
    assert torch.equal(sample(oracle(truth), empty(2), [0, 1], ORDERS[order](), steps, revisions=3), truth)


@pytest.mark.parametrize("order", ORDERS)
def test_every_position_is_committed_exactly_once(order):
    seen = []

    def predict(tokens, where):
        seen.append(tokens.clone())
        return noisy(tokens, where)

    seen.append(sample(predict, empty(2), [0, 1], ORDERS[order](), steps=8))
    assert len(seen) == 9
    for before, after in pairwise(seen):
        committed = before != K
        assert torch.equal(before[committed], after[committed])  # never changed again
        assert ((after != K) & (before == K)).flatten(1).sum(1).min() > 0  # always some progress
    assert (seen[-1] != K).all()


@pytest.mark.parametrize("order", ORDERS)
def test_known_tokens_come_back_untouched(order):
    clip = torch.randint(K, (1, *GRID))
    region = torch.zeros(GRID[1:], dtype=torch.bool)
    region[1:3, 1:4] = True
    canvas = tasks.inpaint(clip, region, K)
    filled = sample(noisy, canvas.repeat(3), [0, 1, 2], ORDERS[order](), steps=5, revisions=4)
    assert torch.equal(filled[:, ~region.expand(GRID)], clip.expand(3, *GRID)[:, ~region.expand(GRID)])
    assert (filled < K).all()


@pytest.mark.parametrize("order", ORDERS)
def test_the_seed_belongs_to_the_sample(order):
    def run(seeds):
        return sample(noisy, empty(len(seeds)), seeds, ORDERS[order](), steps=6, revisions=3)

    alone, together = run([7]), run([3, 7, 5])
    assert torch.equal(alone[0], together[1])
    assert not torch.equal(together[0], together[1])
    assert torch.equal(together, run([3, 7, 5]))


def test_samples_of_one_batch_may_know_different_amounts():
    truth = torch.randint(K, (2, *GRID))
    known = torch.zeros_like(truth, dtype=torch.bool)
    known[0, :2] = True
    known[1, 0, 0, 0] = True
    canvas = tasks.Canvas(truth, known, K)
    assert torch.equal(sample(oracle(truth), canvas, [0, 1], ORDERS["halton"](), steps=4, revisions=2), truth)


@pytest.mark.parametrize("known", [0, 7, 59])
def test_revisions_make_every_cell_anew_told_all_the_others(known):
    truth, asked = torch.randint(K, (2, *GRID)), []
    canvas = tasks.Canvas(truth, (torch.arange(60) < known).view(GRID).expand(2, *GRID), K)

    def predict(tokens, where):
        asked.append(where)
        return oracle(truth)(tokens, where)

    sample(predict, canvas, [0, 1], ORDERS["halton"](), steps=1)
    assert len(asked) == 1
    sample(predict, canvas, [0, 1], ORDERS["halton"](), steps=1, revisions=6)
    visits = torch.stack(asked[2:]).sum(0)
    assert (visits[~canvas.known] == 2).all() and (visits[canvas.known] == 0).all()


@pytest.mark.parametrize("grid", [(3, 4, 4), (7, 2, 2), (2, 3, 3), (1, 4, 5), (1, 1, 1)])
def test_three_turns_cover_the_grid_once_and_leave_neighbours_to_be_told(grid):
    turns = torch.stack([third(grid, turn) for turn in range(3)])
    assert (turns.sum(0) == 1).all() and torch.equal(turns[0], third(grid, 3))
    for turn in turns:
        pairs = turn[1:] & turn[:-1] if grid[0] > 1 else turn[:, :, 1:] & turn[:, :, :-1]
        assert not pairs.any()


def test_revisions_mend_what_early_steps_got_wrong():
    """Frames that must be equal, and all of them drawn at once: most cells change over time until revised."""

    def predict(tokens, where):
        counts = torch.nn.functional.one_hot(tokens.clamp_max(K - 1), K).float() * (tokens < K)[..., None]
        return [lambda before: (2 * counts.sum(1, keepdim=True).expand(*tokens.shape, K))[where]]

    def agreeing(revisions):
        tokens = sample(predict, empty(20), range(20), ORDERS["halton"](), steps=1, revisions=revisions)
        return (tokens == tokens.mode(1, keepdim=True).values).float().mean()

    assert agreeing(10) > agreeing(0) + 0.3


def test_a_canvas_without_unknowns_needs_no_network():
    clip = torch.randint(K, (1, *GRID))
    canvas = tasks.Canvas(clip, torch.ones_like(clip, dtype=torch.bool), K)
    assert torch.equal(sample(None, canvas, [0], ORDERS["halton"](), steps=4, revisions=2), clip)


def test_temperature_zero_is_greedy_and_one_follows_the_distribution():
    def predict(tokens, where):
        return [lambda before: torch.tensor([0.7, 0.3]).log().expand(int(where.sum()), 2)]

    canvas = tasks.text2video((1, 50, 40), 2)
    assert (sample(predict, canvas, [0], ORDERS["random"](), steps=2, temperature=0) == 0).all()
    share = sample(predict, canvas, [0], ORDERS["random"](), steps=2).float().mean().item()
    assert share == pytest.approx(0.3, abs=0.04)  # four standard deviations


@pytest.mark.parametrize("grid", [(1, 4, 4), (3, 4, 4), (5, 8, 8), (2, 3, 7)])
def test_halton_is_a_permutation_that_spreads_out(grid):
    ranks = halton_ranks(grid)
    assert sorted(ranks.tolist()) == list(range(len(ranks)))
    first = (ranks.view(grid) < len(ranks) // 4).float()
    halves = first[:, : grid[1] // 2].mean(), first[:, grid[1] - grid[1] // 2 :].mean()
    assert abs(halves[0] - halves[1]) < 0.35  # the first quarter is in both halves of the picture


@pytest.mark.parametrize("schedule", [Cosine(), Arccos(), Linear()])
def test_schedules_fall_from_one_to_zero(schedule):
    values = schedule(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert values[0] == pytest.approx(1) and values[-1] == pytest.approx(0, abs=1e-12)
    assert (values.diff() < 0).all()


def test_wrong_seeds_and_clips_are_refused():
    with pytest.raises(ValueError, match="got 1 seeds for 2 samples"):
        sample(noisy, empty(2), [0], ORDERS["halton"]())
    with pytest.raises(ValueError, match="cannot be the beginning"):
        tasks.extend(torch.zeros(1, *GRID, dtype=torch.long), GRID, K)

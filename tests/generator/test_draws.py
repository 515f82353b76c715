"""Numbers that are functions of seed, turn and cell: as random as they have to be, and of nothing else."""

import pytest
import torch

from generator.draws import GOLDEN, Draws, mix

N = 100_000


def test_the_hash_is_splitmix64():
    """Against the outputs that Vigna's splitmix64.c has for the seed 1234567."""
    known = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821)
    state = torch.tensor([1234567]) + torch.arange(1, 6) * GOLDEN
    assert [number % 2**64 for number in mix(state).tolist()] == list(known)


@pytest.mark.parametrize(
    ("kind", "mean", "deviation"), [("uniform", 0.5, 12**-0.5), ("normal", 0, 1), ("gumbel", 0.5772, 1.2825)]
)
def test_moments(kind, mean, deviation):
    drawn = getattr(Draws(range(3)), kind)(N)
    assert drawn.shape == (3, N) and drawn.dtype == torch.float32 and drawn.isfinite().all()
    assert (drawn.mean(1) - mean).abs().max() < 4.5 * deviation / N**0.5
    assert (drawn.std(1) / deviation - 1).abs().max() < 0.02


def test_uniform_draws_are_uniform_and_never_an_edge():
    drawn = Draws([0]).uniform(N)[0]
    counts = (drawn * 100).long().bincount(minlength=100)
    assert (
        len(counts) == 100 and ((counts - N / 100).square() / (N / 100)).sum() < 160
    )  # chi-square, 99 degrees, p 1e-4
    assert drawn.min() > 0 and drawn.max() < 1


def test_seeds_turns_steps_and_neighbours_do_not_know_each_other():
    first, second = Draws([0, 1, 2, 4, 2**40, -1, 2**64 - 2]), Draws([0])
    rows = [*first.uniform(N), *first.uniform(N), *(row for step in range(4) for row in first.at(step).uniform(N))]
    second.uniform(N), second.uniform(N)
    rows += [*second.uniform(N), rows[0].roll(1), rows[0].roll(2), rows[0].roll(64)]
    off = torch.corrcoef(torch.stack(rows)) - torch.eye(len(rows))
    assert off.abs().max() < 5.5 / N**0.5


def test_nothing_but_seed_and_turn_matters():
    alone, together = Draws([7]), Draws([3, 7, -5])
    assert alone.uniform(4, 5)[0].equal(together.uniform(20)[1].view(4, 5))  # a cell is its number
    assert alone.normal(6)[0].equal(together.normal(9)[1, :6])
    together.uniform(1)  # what others do besides does not move a step
    assert alone.at(3).gumbel(8)[0].equal(together.at(3).gumbel(8)[1])
    assert not alone.at(3).gumbel(8).equal(alone.at(4).gumbel(8))
    assert Draws([2**64 - 1]).uniform(3).equal(Draws([-1]).uniform(3))


def test_turns_at_once_are_turns_one_after_the_other_and_one_may_be_silent():
    one, many = Draws([3, 7]), Draws([3, 7])
    assert not one.silence(5).any() and one.silence(5).shape == (2, 5)
    many.gumbel(5), many.gumbel(5)
    assert many.uniforms(2, 4, 6).equal(torch.stack([one.uniform(4, 6), one.uniform(4, 6)]))
    assert many.uniform(3).equal(one.uniform(3))


@pytest.mark.parametrize("ahead", [1, 100, 2**18])
def test_numbers_made_ahead_are_those_of_a_step_by_itself(ahead, monkeypatch):
    """However many are made in one go, whatever each step draws of them, and in whatever order the steps come."""
    monkeypatch.setattr(Draws, "AHEAD", ahead)

    def drawn(draws, step):
        now = draws.at(step)
        numbers = [now.gumbel(5)] if step % 3 else [now.skip()]
        numbers += [now.silence(5), *now.uniforms(1 + step % 2, 5), now.normal(5, 4), now.uniform(2, 2)]
        return [number for number in numbers if number is not None]

    many = Draws([3, 7, -5], steps=9)
    for step in (0, 1, 2, 3, 4, 6, 5, 7, 8, 2):
        alone = drawn(Draws([3, 7, -5]), step)
        assert all(map(torch.equal, drawn(many, step), alone))

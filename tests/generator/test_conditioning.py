"""What is known of a training clip: each conditioning is what it says, and the mixture keeps its weights."""

import pytest
import torch

from generator.conditioning import CONDITIONINGS, checked, draw_known

GRID = (5, 4, 6)


def draws(name, grid=GRID, count=200):
    rng = torch.Generator().manual_seed(0)
    return [CONDITIONINGS[name](grid, rng) for _ in range(count)]


def frames_of(known):
    """The known frames, each of which is known whole or not at all."""
    flat = known.flatten(1)
    assert torch.equal(flat.any(1), flat.all(1))
    return tuple(flat.all(1).nonzero().flatten().tolist())


def test_each_is_a_pure_function_of_the_grid_and_the_generator():
    for name, conditioning in CONDITIONINGS.items():
        one, two = (conditioning(GRID, torch.Generator().manual_seed(3)) for _ in range(2))
        assert one.shape == GRID and one.dtype == torch.bool and torch.equal(one, two), name


def test_frames_at_the_beginning_the_end_both_and_anywhere():
    assert not torch.stack(draws("text")).any()
    assert {frames_of(k) for k in draws("first")} == {(0,)}
    assert {frames_of(k) for k in draws("prefix")} == {(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)}
    assert {frames_of(k) for k in draws("past")} == {(0, 1, 2, 3)}
    assert {frames_of(k) for k in draws("suffix")} == {(4,), (3, 4), (2, 3, 4), (1, 2, 3, 4)}
    ends = {frames_of(k) for k in draws("ends")}
    assert ends == {(0, 4), (0, 1, 4), (0, 3, 4), (0, 1, 2, 4), (0, 1, 3, 4), (0, 2, 3, 4)}
    anywhere = {frames_of(k) for k in draws("frames", count=500)}
    assert len(anywhere) == 2**5 - 2  # all sets of frames but none and all


def test_a_region_is_a_box_or_all_but_one():
    kinds = set()
    for known in draws("region"):
        for inside, kind in ((known, "outpaint"), (~known, "inpaint")):
            index = inside.nonzero()
            if not len(index):
                continue
            if len(index) == (index.amax(0) - index.amin(0) + 1).prod() > 0:
                kinds.add((kind, bool(inside.flatten(1).any(1).all())))
                break
        else:
            pytest.fail("neither the known cells nor the others are a box")
    assert kinds == {(kind, lasting) for kind in ("inpaint", "outpaint") for lasting in (True, False)}


@pytest.mark.parametrize("grid", [(1, 4, 4), (2, 4, 4), (3, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("name", CONDITIONINGS)
def test_something_is_left_to_predict_on_any_grid(name, grid):
    known = draw_known({name: 1}, 64, grid, torch.Generator().manual_seed(0))
    assert known.shape == (64, *grid) and not known.flatten(1).all(1).any()


def test_the_mixture_gives_each_its_share():
    mixture = {"text": 5, "first": 2, "suffix": 3, "region": 0}
    known = draw_known(mixture, 4000, GRID, torch.Generator().manual_seed(0))
    none = ~known.flatten(1).any(1)
    first, last = (known[:, i].flatten(1).all(1) for i in (0, -1))
    for share, expected in ((none, 0.5), (first, 0.2), (last, 0.3)):
        assert share.float().mean() == pytest.approx(expected, abs=0.03)
    assert torch.equal(none | first | last, torch.ones(4000, dtype=torch.bool))  # no region among them


def test_wrong_mixtures_are_one_sentence():
    with pytest.raises(ValueError, match="got sufix, expected some of text, first, ends, prefix, past, suffix"):
        checked({"text": 0.5, "sufix": 0.5})
    for mixture in ({}, {"text": 0.0}, {"text": 2.0, "first": -1.0}):
        with pytest.raises(ValueError, match="expected none below 0 and some above it"):
            checked(mixture)

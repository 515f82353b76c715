"""The games: pure, lawful, and readable from their pixels."""

import builtins

import numpy as np
import pytest
import torch

from data.module import Batch, collate
from data.worlds import ACTIONS, PLAYERS, Level, MiniGrid, World, draw_level, find_player, render, step, walk

SMALL = {"frames": 13, "height": 24, "width": 24}
NAMES = tuple(ACTIONS)


def numbers(*names: str) -> list[int]:
    return [NAMES.index(name) for name in names]


def test_a_clip_is_a_function_of_seed_split_and_index():
    first, again = World(seed=3, **SMALL)[5], World(seed=3, **SMALL)[5]
    assert torch.equal(first.clip, again.clip) and torch.equal(first.actions, again.actions)
    others = [World(seed=4, **SMALL)[5], World("test", seed=3, **SMALL)[5], World(seed=3, **SMALL)[6]]
    assert all(not torch.equal(first.clip, other.clip) for other in others)
    longer = World(seed=3, frames=13, height=32, width=48)[5]
    assert longer.clip.shape == (3, 13, 32, 48) and longer.actions.shape == (13,)


def test_the_law():
    level = Level(5, 6, walls=frozenset({(0, 2)}), roof=(2, 2, 4, 4), start=(0, 0), player="red")
    assert walk(level, numbers("noop", "right", "right", "down", "right")) == [(0, 0), (0, 1), (0, 1), (1, 1), (1, 2)]
    for action in ("left", "up", "noop"):
        assert step(level, (0, 0), NAMES.index(action)) == (0, 0)
    assert step(level, (4, 5), NAMES.index("right")) == step(level, (4, 5), NAMES.index("down")) == (4, 5)
    assert step(level, (2, 1), NAMES.index("right")) == (2, 2)  # a roof is no wall


def test_levels_can_be_played():
    for index in range(200):
        level = draw_level(np.random.default_rng(index), 6, 7)
        top, left, bottom, right = level.roof
        assert level.start not in level.walls and not level.covered(level.start)
        for row in range(top - 1, bottom + 1):  # the way around the roof is free
            for column in range(left - 1, right + 1):
                assert 0 <= row < 6 and 0 <= column < 7 and (row, column) not in level.walls


def test_the_first_frame_has_no_action_and_all_others_occur():
    actions = torch.stack([World(**SMALL)[i].actions for i in range(100)])
    assert not actions[:, 0].any() and actions.dtype == torch.long
    assert set(actions.flatten().tolist()) == set(range(len(ACTIONS)))


@pytest.mark.parametrize("cell, side", [(4, 24), (3, 18), (8, 64)])
def test_the_reader_finds_the_player_in_every_frame_and_nobody_under_the_roof(cell, side):
    world = World("test", frames=13, height=side, width=side, cell=cell)
    hidden = 0
    for index in range(60):
        example = world[index]
        due = [(-1, -1) if under else tuple(place) for place, under in zip(*told(example), strict=True)]
        clip = example.clip + 0.25 * torch.randn(example.clip.shape, generator=torch.Generator().manual_seed(index))
        for read in (find_player(example.clip, cell), find_player(clip, cell)):
            assert [tuple(place) for place in read.tolist()] == due
        hidden += due.count((-1, -1))
    assert hidden > 20


def told(example):
    return example.attributes["places"], example.attributes["hidden"]


def test_the_reader_does_not_choose_between_two_players():
    level = Level(5, 5, frozenset(), roof=(1, 1, 3, 3), start=(4, 0), player="cyan")
    clip = render(level, [(4, 0), (4, 0)], cell=4)
    clip[:, 1] = clip[:, 1].maximum(render(level, [(4, 4)], cell=4)[:, 0])
    assert find_player(clip, 4).tolist() == [[4, 0], [-1, -1]]


def test_batches_carry_actions_and_clips_without_any_stay_as_they_are():
    batch = collate([World(**SMALL)[i] for i in range(3)])
    assert batch.actions.shape == (3, 13) and torch.equal(batch.to("cpu").actions, batch.actions)
    assert {text.split()[1] for text in collate([World(**SMALL)[i] for i in range(40)]).text} == set(PLAYERS)
    assert Batch(None, [], torch.ones(1), []).actions is None


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"height": 30}, "pictures of 30x32 pixels, expected multiples of the cells of 4, and at least 5 cells a side"),
        ({"width": 16}, "at least 5 cells a side"),
        ({"split": "heldout"}, "got the split 'heldout', expected one of train, test"),
        ({"frames": 0}, "expected positive numbers"),
    ],
)
def test_what_does_not_fit_is_one_sentence(wrong, said):
    with pytest.raises(ValueError, match=said):
        World(**wrong)


def test_games_of_minigrid():
    pytest.importorskip("minigrid")
    games = MiniGrid(frames=9, height=32, width=32)
    first, again = games[3], MiniGrid(frames=9, height=32, width=32)[3]
    assert torch.equal(first.clip, again.clip) and torch.equal(first.actions, again.actions)
    assert first.clip.shape == (3, 9, 32, 32) and -1 <= first.clip.min() < first.clip.max() <= 1
    assert first.actions[0] == 0 and not torch.equal(first.actions, games[4].actions)
    still = [torch.equal(a, b) for e in (games[i] for i in range(20)) for a, b in pairs(e.clip) if a is not b]
    moved = [action for i in range(20) for action in games[i].actions[1:].tolist()]
    assert all(same for same, action in zip(still, moved, strict=True) if action == 0)  # noop does nothing
    assert not any(same for same, action in zip(still, moved, strict=True) if action in (1, 2))  # turning is seen
    with pytest.raises(ValueError, match="minigrid has no 'Nowhere-v0'"):
        MiniGrid("Nowhere-v0")


def pairs(clip):
    return list(zip(clip.unbind(1), clip.unbind(1)[1:], strict=False))


def test_without_minigrid_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **named):
        if name == "gymnasium":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install -e '.\[worlds\]'"):
        MiniGrid()

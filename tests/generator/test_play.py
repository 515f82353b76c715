"""Playing: a step at a time, from integers, with a memory of constant size; and the program."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from benchmarks.world import followed, shown, under_the_roof
from data.video import read_clip
from data.worlds import ACTIONS, World, find_player, render, walk
from data.writing import write_clip
from generator import play
from generator.actions import Actions
from generator.backbone import VideoTransformer
from generator.masked import MaskedGenerator
from generator.pipeline import VideoGenerator
from generator.play import Game
from generator.text import ByteText

CLIP = {"frames": 13, "height": 16, "width": 24, "fps": 8.0}
ACTS = ["right", "right", "up", "noop", "left", "left", "down", "down", "up", "up", "noop", "right"]


@pytest.fixture
def model(tokenizer):
    """A game's model with random weights: 4x8x8, a memory of two latent frames."""
    torch.manual_seed(0)
    backbone, text = VideoTransformer(dim=32, depth=2, heads=2, text_dim=16), ByteText(dim=16, depth=1)
    generator = MaskedGenerator(backbone, text, 125, actions=Actions(tuple(ACTIONS), frames=4, dim=32))
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    generator.actions.table.weight.data[0] = 0
    generator.actions.join.weight.data *= 100  # few cells of an untrained model show little
    return VideoGenerator(tokenizer, generator, CLIP)


@pytest.fixture
def still():
    return torch.rand(3, 1, 16, 24, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_a_frame_an_action_and_two_sittings_are_as_one(model, still):
    whole, parts = Game(model, still, seed=3), Game(model, still, seed=3)
    frames = whole.step(ACTS)
    assert frames.shape == (3, 12, 16, 24) and torch.equal(whole.opening, parts.opening)
    assert torch.equal(frames, torch.cat([parts.step(ACTS[:8]), parts.step(ACTS[8:])], dim=1))
    assert torch.equal(whole.past, parts.past)


def test_what_was_does_not_depend_on_what_is_done_later(model, still):
    other = [*ACTS[:8], "up", "up", "up", "up"]
    first, second = (Game(model, still, temperature=0.0).step(actions) for actions in (ACTS, other))
    assert torch.equal(first[:, :8], second[:, :8]) and not torch.equal(first[:, 8:], second[:, 8:])


def test_integers_are_not_encoded_again_and_memory_does_not_grow(model, still, monkeypatch):
    game, pasts = Game(model, still), []
    monkeypatch.setattr(type(model.tokenizer), "quantize", None)  # nothing is encoded from here on
    for _ in range(6):
        before = game.past
        game.step(["left"] * 4)
        assert torch.equal(game.past[:, :-1], before[:, 1:])
        pasts.append((game.past.shape, game.done.shape, sum(x.numel() for x in game.stream.decoder.pasts.values())))
    assert len(set(pasts)) == 1 and pasts[0][:2] == ((1, 2, 2, 3), (8,))


def test_the_start_is_what_is_remembered_of_it(model, still):
    clip = torch.rand(3, 20, 16, 24, generator=torch.Generator().manual_seed(4)) * 2 - 1
    game = Game(model, clip)
    assert game.opening.shape == (3, 9, 16, 24)
    assert torch.equal(game.past, model.encode(clip[None, :, -9:])[:, 1:])
    short = Game(model, clip[:, :3], done=["noop", "left", "up"])
    assert short.opening.shape == (3, 3, 16, 24) and short.done.tolist() == [0, 0, 0, 0, 0, 0, 1, 3]
    assert torch.equal(Game(model, still).past, model.encode(still[None].expand(-1, -1, 9, -1, -1))[:, 1:])
    assert Game(model, seed=5).opening.shape == (3, 1, 16, 24)


def test_what_cannot_be_played_is_one_sentence(model, still, tokenizer, generator):
    with pytest.raises(ValueError, match="unknown action 'jump': expected some of noop, left, right, up, down"):
        Game(model, still).step(["jump"] * 4)
    with pytest.raises(
        ValueError, match="got 6 actions, and a step has 4 frames: give a multiple of 4, such as 8 with"
    ):
        Game(model, still).step(["left"] * 6)
    with pytest.raises(ValueError, match="got 2 actions that led to 1 frames"):
        Game(model, still, done=["noop", "left"])
    with pytest.raises(ValueError, match="height 20 does not fit 8x compression: use 16 or 24"):
        Game(model, torch.zeros(3, 1, 20, 24))
    with pytest.raises(ValueError, match="trained without actions"):
        Game(VideoGenerator(tokenizer, generator, CLIP), still)
    with pytest.raises(ValueError, match="clips of 5 frames, too short"):
        Game(VideoGenerator(tokenizer, model.generator, CLIP | {"frames": 5}), still)


def test_the_program(model, still, tmp_path):
    write_clip(tmp_path / "still.png", still, 8)
    folder = str(model.save_pretrained(tmp_path / "model"))
    args = ["--model", folder, "--input", str(tmp_path / "still.png"), "--seed", "3", "--actions"]
    path = play.main([*args, " ".join(ACTS), "--out", str(tmp_path / "long.mp4")])
    video, fps = read_clip(path)
    assert video.shape == (3, 13, 16, 24) and fps == 8
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["settings"]["actions"] == " ".join(ACTS) and record["size"]["frames"] == 13
    sharp, begun = (
        read_clip(play.main([*args, " ".join(acts), "--out", str(tmp_path / name)]))[0]
        for acts, name in ((ACTS, "long.png"), (ACTS[:8], "short.png"))
    )
    assert torch.equal(begun, sharp[:, :, :, : 9 * 24])
    made = path.stat().st_mtime_ns
    play.main([*args, " ".join(ACTS), "--out", str(path)])  # the same again is not made twice
    assert path.stat().st_mtime_ns == made
    with pytest.raises(ValueError, match="tells of another video"):
        play.main([*args, "left left left left", "--out", str(path)])
    with pytest.raises(ValueError, match="unknown action 'jump'"):
        play.main([*args, "jump", "--out", str(tmp_path / "no.mp4")])
    assert not (tmp_path / "no.mp4").exists()
    again = play.main(
        ["--model", folder, "--input", str(path), "--actions", "left up up up", "--out", str(tmp_path / "b.gif")]
    )
    assert read_clip(again)[0].shape == (3, 9 + 4, 16, 24)


def test_the_measure_knows_the_real_game_from_another():
    world, right, others = World("test", frames=33, height=24, width=24), [], []
    for index in range(30):
        example, level = world[index], world.level(index)
        seen = [tuple(place) for place in find_player(example.clip, 4).tolist()]
        assert seen == shown(level, [tuple(place) for place in example.attributes["places"]])
        right += followed(level, seen, example.actions.tolist(), moves=True)
        others += followed(level, seen, world[index + 1].actions.tolist(), moves=True)
    assert all(right) and len(right) > 300 and sum(others) / len(others) < 0.3


@pytest.mark.parametrize("back", [False, True])
def test_walks_under_the_roof_go_in_and_come_out(back):
    for index in range(50):
        rng = np.random.default_rng(index)
        level, actions = under_the_roof(World("test", height=24, width=24).level(index), rng, wait=3, back=back)
        places = walk(level, actions)
        hidden = [level.covered(place) for place in places]
        assert not hidden[0] and not hidden[-1] and sum(hidden) >= 4 and (places[-1] == places[0]) == back
        assert sum(a != b for a, b in pairwise(hidden)) == 2  # in once, out once
        assert find_player(render(level, places, 4), 4).tolist() == [list(place) for place in shown(level, places)]

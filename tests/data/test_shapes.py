"""The procedural clips: pure, scale-free, truthful in words, and honest about what training never sees."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data.shapes import (
    ADVERBS,
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    REACH,
    SHAPES,
    SIZES,
    WEIGHTS,
    Motion,
    Scene,
    Shapes,
    Thing,
    caption,
    draw_scene,
    held_out,
    offset,
    render,
    stated,
)
from data.synonyms import in_plain_words


def scenes(count: int, objects: int = 1) -> list[Scene]:
    return [draw_scene(np.random.default_rng((7, objects, k)), objects) for k in range(count)]


def looks(split: str, count: int, objects=(1, 2, 3)) -> list[list[Thing]]:
    dataset = Shapes(split, frames=1, height=8, width=8, objects=objects)
    things = [dataset[k].attributes["things"] for k in range(count)]
    return [[Thing(t["shape"], t["colour"], t["size"], Motion("still")) for t in scene] for scene in things]


def test_a_clip_is_a_function_of_seed_split_and_index():
    first, again = Shapes(seed=3)[5], Shapes(seed=3)[5]
    assert torch.equal(first.clip, again.clip) and first.text == again.text and first.attributes == again.attributes
    others = [Shapes(seed=4)[5], Shapes("test", seed=3)[5], Shapes(seed=3)[6]]
    assert all(not torch.equal(first.clip, other.clip) for other in others)


def test_an_index_beyond_the_length_is_another_draw():
    dataset = Shapes(frames=1, length=2)
    assert len(dataset) == 2
    assert not torch.equal(dataset[2].clip, dataset[0].clip)


@pytest.mark.parametrize("size", [(1, 32, 32), (9, 32, 32), (5, 24, 40), (17, 64, 48)])
def test_clips_have_the_asked_size_and_range(size):
    for index in range(20):
        clip = Shapes("train", *size)[index].clip
        assert clip.shape == (3, *size) and clip.dtype == torch.float32
        assert clip.min() >= -1 and clip.max() <= 1


@pytest.mark.parametrize("objects", [1, 2, 3])
def test_the_same_scene_at_another_size_or_rate_is_the_same_scene(objects):
    for scene in scenes(30, objects):
        small, large = render(scene, 9, 32, 32, 8.0), render(scene, 9, 128, 128, 8.0)
        assert (small - F.avg_pool3d(large, (1, 4, 4))).abs().mean() < 0.01
        assert torch.allclose(small, render(scene, 25, 32, 32, 24.0)[:, ::3], atol=1e-4)
    small, large = Shapes(height=32, width=32, frames=3)[9], Shapes(height=64, width=64, frames=5)[9]
    assert small.attributes == large.attributes and small.text == large.text


def test_things_start_whole_and_apart():
    """Drawn one by one, the things of a scene share no pixel at the start, and no edge of the frame cuts them off."""
    for objects in (1, 2, 3):
        for scene in scenes(50, objects):
            alone = [render(replace(scene, things=(thing,)), 1, 64, 64, 8.0) for thing in scene.things]
            empty = render(replace(scene, things=()), 1, 64, 64, 8.0)
            covers = torch.stack([((clip - empty).abs() > 0.2).any(0)[0] for clip in alone])  # (n, h, w)
            assert covers.sum(0).max() == 1
            for thing in scene.things:
                (dx,), (dy,) = offset(thing.motion, np.zeros(1))
                assert max(abs(thing.x + dx), abs(thing.y + dy)) + REACH * SIZES[thing.size] < 0.5 + 1e-6


def test_every_motion_and_direction_is_seen_often():
    things = [thing for objects in (1, 2, 3) for scene in scenes(400, objects) for thing in scene.things]
    kinds = [thing.motion.kind for thing in things]
    assert all(kinds.count(kind) > 0.04 * len(things) for kind in WEIGHTS)
    assert kinds.count("passes behind") > 40
    directions = [thing.motion.direction for thing in things]
    assert all(directions.count(direction) > 0.02 * len(things) for direction in DIRECTIONS)


def test_each_shape_and_colour_is_held_out_at_most_once():
    pairs = [Thing(shape, colour, "small", Motion("still")) for shape in SHAPES for colour in COLOURS]
    held = [thing for thing in pairs if held_out(thing)]
    assert len(held) == len({t.shape for t in held}) == len({t.colour for t in held}) == len(SHAPES)
    assert not held_out(Thing("circle", "red", "small", Motion("still")))  # the README's example is well trained


def test_held_out_pairs_are_where_they_belong():
    for split in ("train", "test"):
        assert not any(held_out(thing) for scene in looks(split, 300) for thing in scene)
    assert all(held_out(scene[0]) for scene in looks("heldout", 100))


@pytest.mark.parametrize("objects", [1, 2, 3])
def test_captions_tell_the_truth(objects):
    """Every caption names shape, colour and motion; what it adds is right too."""
    verbs = {
        "still": "still|not move|not moving",
        "bounces": "bounc",
        "circles": "circles around|circling around|in a circle",
        "spins": "spin",
    }
    verbs |= {"grows": "grow", "moves": "mov", "passes behind": "behind"}
    for index, scene in enumerate(scenes(200, objects)):
        text = caption(scene, np.random.default_rng(index))
        words = set(text.replace(",", "").replace("-sized", "").split())
        for thing in scene.things:
            assert f"{thing.colour} {thing.shape}" in text
            assert any(verb in text for verb in verbs[thing.motion.kind].split("|"))
            assert set((thing.motion.direction or "").split()) - {"upper", "lower"} <= words
        assert words & set(SIZES) in (set(), {thing.size for thing in scene.things})
        assert words & set(BACKGROUNDS) <= {scene.background}
        assert words & set(ADVERBS.values()) <= {ADVERBS.get(thing.motion.speed) for thing in scene.things}
        sides = {side for thing in scene.things for side in (thing.motion.direction or "").split()}
        assert words & {"left", "right"} == sides & {"left", "right"}


def test_captions_include_the_readmes():
    scene = Scene((Thing("circle", "red", "small", Motion("moves", "right", "slow")),), "black")
    texts = [caption(scene, np.random.default_rng(k)) for k in range(200)]
    assert texts.count("a red circle moves right") > 10
    assert len(set(texts)) > 20


def test_stated_leaves_open_what_the_caption_leaves_open():
    scene = Scene((Thing("circle", "red", "small", Motion("moves", "right", "slow")),), "black")
    attributes = scene.attributes()
    assert stated("on black, a small red circle slowly moves right", attributes) == attributes
    bare = stated("a red circle moves right", attributes)
    assert bare["background"] is None and bare["things"][0]["size"] is None and bare["things"][0]["speed"] is None
    assert bare["things"][0]["motion"] == "moves"


def test_a_photograph_shows_and_names_no_motion():
    for index in range(30):
        example = Shapes(frames=1)[index]
        assert not {"moves", "moving", "spins", "bounces", "grows", "still"} & set(example.text.split())
        assert all(thing["motion"] is None for thing in example.attributes["things"])


def test_attributes_are_plain_json():
    attributes = Shapes(frames=1)[0].attributes
    assert json.loads(json.dumps(attributes)) == attributes


@pytest.mark.parametrize("wrong", [{"split": "val"}, {"frames": 0}, {"fps": 0}, {"objects": [4]}, {"objects": []}])
def test_wrong_arguments_are_refused_in_words(wrong):
    with pytest.raises(ValueError, match=r"got .*expected"):
        Shapes(**wrong)


def test_other_words_for_the_same_scenes():
    plain, many = (Shapes(objects=[1, 2], height=16, width=16, synonyms=synonyms) for synonyms in (False, True))
    pairs = [(plain[i], many[i]) for i in range(200)]
    assert all(torch.equal(a.clip, b.clip) and a.attributes == b.attributes for a, b in pairs[:8])
    assert 0.4 < sum(a.text != b.text for a, b in pairs) / 200 < 1
    words = {word for _, example in pairs for word in example.text.split()}
    assert {"upwards", "ball", "violet", "rotates", "big"} <= words and {"up", "circle", "purple", "spins"} <= words
    for a, b in pairs:
        assert in_plain_words(b.text) == a.text or "still" in a.text  # which is said in three ways from the first
        assert stated(b.text, a.attributes) == stated(a.text, a.attributes)
    assert many[7].text == Shapes(objects=[1, 2], height=16, width=16, synonyms=True)[7].text

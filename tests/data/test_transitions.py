"""Transitions: clips that become others, and what is told of them."""

import pickle

import pytest
import torch

from data.crops import Crops
from data.module import First, VideoData, groups
from data.shapes import COLOURS, SHAPES, Shapes
from data.tails import Tails
from data.transitions import Transitions, dissolve, then
from data.worlds import World
from vq import encode, pretrained

SIZE = {"frames": 17, "height": 16, "width": 24, "fps": 8}


def shapes(**given):
    return Shapes("train", objects=[1], **SIZE | given)


def changed(data, count=200):
    return [i for i in range(count) if ", then " in data[i].text]


def test_a_dissolve_goes_evenly_from_one_to_the_other_and_a_cut_at_once():
    one, other = torch.zeros(3, 9, 2, 2), torch.ones(3, 9, 2, 2)
    assert dissolve(one, other, 3, 4)[0, :, 0, 0].tolist() == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert dissolve(one, other, 3, 1)[0, :, 0, 0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert then("a", "b") == "a, then b" and then("", "b") == "b" and then("", "") == ""


def test_a_share_of_the_clips_become_others_that_there_are():
    data, plain = Transitions(shapes(length=60), share=0.5, frames=(4, 8)), shapes(length=60)
    assert 60 < len(changed(data)) < 140
    for i in range(60):
        example, first = data[i], plain[i]
        if i not in changed(data, 60):
            assert torch.equal(example.clip, first.clip) and example.attributes == first.attributes
            continue
        assert example.text.startswith(f"{first.text}, then ") and example.attributes is None
        assert torch.equal(example.clip[:, 0], first.clip[:, 0])
        told = [other for other in (plain[j] for j in range(60)) if example.text == then(first.text, other.text)]
        assert any(torch.equal(example.clip[:, -1], other.clip[:, -1]) for other in told)
        ends = [first, *told]
        blended = [not any(torch.equal(example.clip[:, t], end.clip[:, t]) for end in ends) for t in range(17)]
        assert sum(blended) <= 7


def test_all_is_drawn_by_seed_and_index():
    data = Transitions(shapes(), share=0.5)
    assert changed(data, 40) == changed(pickle.loads(pickle.dumps(data)), 40)
    assert changed(data, 40) != changed(Transitions(shapes(), share=0.5, seed=1), 40)
    assert not changed(Transitions(shapes(), share=0.0), 40)
    assert all(torch.equal(data[i].clip, Transitions(shapes(), share=0.5)[i].clip) for i in range(8))


def test_clips_of_other_shapes_and_too_short_ones_stay_apart():
    buckets = shapes(buckets=[[17, 16, 24], [9, 24, 16], [1, 16, 16], [5, 16, 16]])
    data = Transitions(buckets, share=1.0, frames=(8, 16))
    assert groups(data)[:8] == groups(buckets)[:8] and len(data) == len(buckets) and data.fps == 8
    for i in range(8):
        assert data[i].clip.shape[1:] == buckets.shape_of(i)
        assert (", then " in data[i].text) == (i % 4 < 2)
    assert not changed(Transitions(shapes(length=1), share=1.0), 3)  # there is no other


def test_told_otherwise_the_scene_is_the_same_in_another_colour():
    data, plain = Transitions(shapes(), share=1.0, frames=(4, 8), retold=True), shapes()
    for i in range(40):
        first, last = data[i].text.split(", then ")
        colours = [next(colour for colour in COLOURS if f"{colour} " in text) for text in (first, last)]
        assert colours[0] != colours[1] and colours[0] == plain[i].attributes["things"][0]["colour"]
        again = plain.retold(i)
        assert again.text == last and torch.equal(data[i].clip[:, -1], again.clip[:, -1])
        kept = again.attributes["things"][0] | {"colour": colours[0]}
        assert [kept] == plain[i].attributes["things"]
        background = plain[i].clip[:, 0] == again.clip[:, 0]
        assert background.all(0).float().mean() > 0.5
    held = Shapes("heldout", objects=[1], **SIZE)
    assert held.retold(0).attributes != held[0].attributes


def test_training_is_never_told_of_a_pair_that_is_held_out():
    for i in range(300):
        thing = shapes(frames=5).retold(i).attributes["things"][0]
        assert (list(COLOURS).index(thing["colour"]) - SHAPES.index(thing["shape"])) % len(COLOURS) != 3


def test_one_in_another_and_both_around():
    inner = Transitions(shapes(), share=0.5, frames=(2, 3), retold=True)
    data = Tails(Transitions(inner, share=0.5), share=0.5)
    counts = [data[i].text.count(", then ") for i in range(60)]
    assert {0, 1, 2} <= set(counts) and any(data[i].tail for i in range(20))
    assert [one["retold"] for one in data.transitions] == [True, False]
    windows = Crops(data, 9, 16, 16)
    assert windows[0].clip.shape == (3, 9, 16, 16) and VideoData(windows, shapes()).clip["width"] == 24


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Transitions(shapes(), share=2), "share 2"),
        (lambda: Transitions(shapes(), frames=(0, 3)), "0 to 3 frames"),
        (lambda: Transitions(shapes(), frames=(5, 3)), "5 to 3 frames"),
        (lambda: Transitions(Tails(shapes())), "put those around"),
        (lambda: Transitions(World("train", frames=5)), "put those around"),
        (lambda: Transitions(First(shapes(), 4), retold=True), "First tells no clip otherwise"),
        (lambda: Transitions(Transitions(shapes(), share=0.2)), "same seed, 0"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_cache_says_that_there_are_some(tokenizer, tmp_path):
    saved = pretrained.save(tmp_path / "model", SIZE, tokenizer=tokenizer)
    data = VideoData(Transitions(shapes(), share=0.5), shapes(), num_workers=0)
    cache = encode.encode(str(saved), data, tmp_path / "cache", clips=6)
    assert cache.transitions == data.train.transitions and cache[3].text == data.train[3].text
    with pytest.raises(ValueError, match="give the clips"):
        Transitions(cache)
    data.train = Transitions(shapes(), share=0.5, seed=1)
    with pytest.raises(ValueError, match=r"token cache of another .*transitions"):
        encode.encode(str(saved), data, tmp_path / "cache", clips=6)
    plain = encode.encode(str(saved), VideoData(shapes(), shapes(), num_workers=0), tmp_path / "plain", clips=3)
    assert plain.transitions == []

"""The detector: right about real clips, at every size, and not to be fooled."""

import numpy as np
import pytest
import torch

from data.shapes import Motion, Scene, Shapes, Thing, render
from evaluation.detector import degrade, detect, main, matches, score

SMALL, LARGE = (9, 32, 32), (17, 64, 64)


def batch(size, count: int = 150, objects: int = 1) -> tuple[torch.Tensor, list[dict]]:
    dataset = Shapes("test", *size, objects=[objects], seed=1)
    examples = [dataset[index] for index in range(count)]
    return torch.stack([example.clip for example in examples]), [example.attributes for example in examples]


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_real_clips_are_read_right(size):
    right = score(*batch(size))
    assert right.keys() == {"shape", "colour", "size", "background", "motion", "speed", "all"}
    assert all(share >= 0.98 for share in right.values()), right


@pytest.mark.parametrize("size", [(17, 128, 128), (17, 48, 80), (9, 64, 32), (33, 32, 32)])
def test_other_sizes_are_read_right(size):
    right = score(*batch(size, 30))
    assert all(share >= 0.95 for share in right.values()), right


@pytest.mark.parametrize("objects", [2, 3])
def test_several_things_are_told_apart(objects):
    right = score(*batch(SMALL, 100, objects))
    assert all(share >= 0.97 for share in right.values()), right


def test_blur_and_noise_are_borne():
    videos, attributes = batch(SMALL, 100)
    worse = torch.stack([degrade(clip, seed=index) for index, clip in enumerate(videos)])
    right = score(worse, attributes)
    assert all(share >= 0.95 for share in right.values()), right


def test_the_frame_rate_is_part_of_speed():
    scene = Scene((Thing("circle", "red", "small", Motion("moves", "right", "slow"), x=-0.3),), "black")
    clip = render(scene, 9, 32, 32, 8.0)
    assert detect(clip, fps=8.0)["things"][0]["speed"] == "slow"
    assert detect(clip, fps=24.0)["things"][0]["speed"] == "fast"


def test_shuffled_attributes_score_low():
    videos, attributes = batch(SMALL, 100)
    right = score(videos, attributes[1:] + attributes[:1])
    assert right["all"] < 0.05
    assert right["shape"] < 0.4 and right["colour"] < 0.3 and right["motion"] < 0.3


def test_a_frozen_frame_does_not_move():
    videos, _ = batch(SMALL, 50)
    frozen = videos[:, :, :1].expand_as(videos)
    assert {detect(clip)["things"][0]["motion"] for clip in frozen} == {"still"}


def test_shuffled_frames_lose_the_motion():
    videos, attributes = batch(LARGE, 60)
    moving = [k for k, wanted in enumerate(attributes) if wanted["things"][0]["motion"] == "moves"]
    order = torch.from_numpy(np.random.default_rng(0).permutation(videos.shape[2]))
    right = score(videos[moving][:, :, order], [attributes[k] for k in moving])
    assert right["motion"] < 0.3


def test_a_photograph_has_a_shape_and_no_motion():
    videos, attributes = batch((1, 32, 32), 50)
    thing = detect(videos[0])["things"][0]
    assert thing["motion"] is None and thing["direction"] is None
    right = score(videos, attributes)
    assert "motion" not in right and right["all"] >= 0.98


def test_nothing_and_noise_match_nothing():
    wanted = Shapes("test", *SMALL, objects=[1])[0].attributes
    empty = render(Scene((), "black"), *SMALL, 8.0)
    assert detect(empty) == {"background": "black", "things": []}
    assert not matches(detect(empty), wanted)["all"]
    noise = torch.rand(3, *SMALL, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert not matches(detect(noise), wanted)["all"]


def test_one_thing_too_many_is_the_wrong_colours():
    dataset = Shapes("test", *SMALL, objects=[2])
    example = dataset[0]
    only = example.attributes | {"things": example.attributes["things"][:1]}
    assert matches(detect(example.clip), example.attributes)["all"]
    assert not matches(detect(example.clip), only)["colour"]


def test_the_command_prints_a_table(capsys):
    main(["--clips", "4", "--frames", "9", "--height", "32", "--width", "32"])
    printed = capsys.readouterr().out
    assert "real clips" in printed and "blurred" in printed and "motion" in printed

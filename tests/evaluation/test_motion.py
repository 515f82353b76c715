"""Motion, flicker and diversity of clips that are known."""

import pytest
import torch

from data.shapes import DIRECTIONS, Motion, Scene, Shapes, Thing, render
from evaluation.diversity import distances, diversity, nearest, thumbnails
from evaluation.motion import apart, directions, flicker, magnitude, velocity


def moving(direction: str, size=(9, 32, 32)) -> torch.Tensor:
    x, y = DIRECTIONS[direction]
    thing = Thing("square", "yellow", "medium", Motion("moves", direction, "fast"), x=-0.2 * x, y=-0.2 * y)
    return render(Scene((thing,), "navy"), *size, 8.0)[None]


@pytest.mark.parametrize("size", [(9, 32, 32), (9, 64, 96), (5, 16, 24)])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_velocities_are_those_of_what_moves(direction, size):
    speed = velocity(moving(direction, size), torch.tensor([8.0]))
    assert speed.shape == (1, size[0] - 1, 2)
    step = torch.tensor(DIRECTIONS[direction]).float()
    assert torch.allclose(speed.mean((0, 1)), 0.35 * step / step.norm(), atol=0.1)


def test_directions_are_shares():
    everywhere = torch.cat([velocity(moving(name), torch.tensor([8.0])) for name in DIRECTIONS])
    assert directions(everywhere).tolist() == pytest.approx([1 / 8] * 8 + [0])
    assert directions(velocity(moving("down"), torch.tensor([8.0])))[2] == 1  # clockwise from the right
    assert directions(torch.zeros(2, 3, 2)).tolist() == [0] * 8 + [1]


def test_what_stands_still_neither_moves_nor_flickers_and_shuffled_frames_do_more():
    video = torch.stack([Shapes("test", 9, 32, 32)[i].clip for i in range(20)])
    still = video[:, :, :1].expand_as(video)
    assert magnitude(still).eq(0).all() and flicker(still).eq(0).all()
    assert velocity(still, torch.full((20,), 8.0)).eq(0).all()
    shuffled = video[:, :, torch.randperm(9, generator=torch.Generator().manual_seed(0))]
    assert magnitude(shuffled).mean() > 1.5 * magnitude(video).mean()
    assert flicker(shuffled).mean() > 1.5 * flicker(video).mean()


def test_what_brightens_evenly_moves_and_does_not_flicker():
    ramp = torch.linspace(-1, 1, 9).view(1, 1, 9, 1, 1).expand(2, 3, 9, 4, 4)
    assert torch.allclose(magnitude(ramp), torch.tensor(1 / 8)) and flicker(ramp).max() < 1e-6


def test_distributions_are_as_far_apart_as_they_are_shifted():
    values = torch.rand(50)
    assert apart(values, values.flip(0) + 0.25) == pytest.approx(0.25, abs=1e-5)


def test_distances_are_shares_of_the_full_range():
    black, white = (torch.full((1, 3, 5, 32, 48), value) for value in (-1.0, 1.0))
    assert distances(thumbnails(black), thumbnails(white)).item() == pytest.approx(1)
    assert distances(thumbnails(black), thumbnails(black)).item() == 0


def test_pairs_of_one_prompt_and_of_different_prompts():
    seen = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
    found = diversity(seen, ["a", "a", "b", "b"])
    assert found["the same prompt"]["mean"] == pytest.approx((1 + 2) / 2)
    assert found["different prompts"]["mean"] == pytest.approx((10 + 12 + 9 + 11) / 4)
    assert "the same prompt" not in diversity(seen, list("abcd"))
    apart, which = nearest(seen, torch.tensor([[9.0], [0.5]]))
    assert apart.tolist() == pytest.approx([0.5, 0.5, 1, 3]) and which.tolist() == [1, 1, 0, 0]

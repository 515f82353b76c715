"""The adversary: who learns what from whom, and when."""

import copy

import pytest
import torch

from vq.discriminator import Adversary, PatchDiscriminator


@pytest.fixture
def game():
    torch.manual_seed(0)
    adversary = Adversary(start=0, channels=8, largest=1e4)
    last = torch.nn.Parameter(torch.randn(3))
    video = torch.rand(2, 3, 5, 32, 32) * 2 - 1
    return adversary, video, last, video.flip(4) * last.view(1, 3, 1, 1, 1)


@pytest.mark.parametrize(("frames", "shape"), [(1, (2, 1, 5, 4, 6)), (3, (2, 1, 1, 4, 6))])
def test_patches(frames, shape):
    critic = PatchDiscriminator(8, frames)
    assert critic(torch.rand(2, 3, 5, 32, 48)).shape == shape
    assert critic(torch.rand(2, 3, 1, 32, 48)).shape[2] == 1  # images, too


def test_each_side_learns_from_its_own_term(game):
    adversary, video, last, fake = game
    loss = (fake - video).square().mean()
    unopposed = copy.deepcopy(adversary)
    unopposed.weight = 0.0
    term, logs = adversary(video, fake, loss, last)
    term.backward(retain_graph=True)
    ours, theirs = last.grad.clone(), [p.grad.clone() for p in adversary.parameters()]
    assert all(grad.abs().sum() > 0 for grad in theirs) and ours.abs().sum() > 0
    # the discriminators' gradient is that of their game alone, the tokenizer's that of fooling them alone
    unopposed(video, fake, loss, last)[0].backward(retain_graph=True)
    for grad, parameter in zip(theirs, unopposed.parameters(), strict=True):
        assert torch.allclose(grad, parameter.grad)
    fooling = -sum(critic(fake).float().mean() for critic in adversary.discriminators)
    assert torch.allclose(
        ours, adversary.weight * logs["balance"] * torch.autograd.grad(fooling, last, retain_graph=True)[0], rtol=1e-4
    )
    wanted = torch.autograd.grad(loss, last, retain_graph=True)[0].norm()
    assert torch.allclose(ours.norm(), adversary.weight * wanted, rtol=1e-3)  # what the adaptive weight is for


def test_it_learns_to_tell_and_the_clamp_holds(game):
    adversary, video, last, fake = game
    adversary.largest = 0.01
    optimizer = torch.optim.Adam(adversary.parameters(), 1e-3)
    for _ in range(30):
        term, logs = adversary(video, fake, (fake - video).square().mean(), last)
        optimizer.zero_grad()
        term.backward(retain_graph=True)
        optimizer.step()
    assert logs["frames_original"] > logs["frames_reconstruction"] + 0.5
    assert logs["clips_original"] > logs["clips_reconstruction"] + 0.5
    assert logs["balance"] <= 0.01
    with pytest.raises(ValueError, match="nothing to look at"):
        Adversary(start=0, images=False, videos=False)

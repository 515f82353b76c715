"""The closed form against what torch counts while a step runs."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from generator.backbone import VideoTransformer
from generator.diffusion import DiffusionGenerator, flow_loss
from generator.flops import generator_flops, step_flops, text_flops
from generator.masked import MaskedGenerator, masked_loss
from generator.text import ByteText

GRID = (3, 4, 4)


def parts():
    return VideoTransformer(dim=64, depth=2, heads=2, text_dim=32), ByteText(dim=32, depth=2, heads=2)


def loss_of(model, b=3):
    texts = ["a red circle moves right", "a", "b"]
    tokens = torch.randint(125, (b, *GRID))
    mask = torch.rand(b, *GRID) < 0.6
    with sdpa_kernel(SDPBackend.MATH):
        text = model.read(texts)
        if isinstance(model, MaskedGenerator):
            return masked_loss(model, tokens, mask, text)[0], int(mask.sum())
        latents = torch.randn(b, 3, *GRID)
        return flow_loss(model, latents, ~mask, torch.rand(b), torch.randn_like(latents), text)[0], 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: MaskedGenerator(*parts(), codebook_size=125),
        lambda: MaskedGenerator(*parts(), codebook_size=125, digits=[[5], [5, 5]], patch_size=2),
        lambda: DiffusionGenerator(*parts(), channels=3),
    ],
    ids=["masked", "digits and patches", "twin"],
)
def test_the_closed_form_is_what_torch_counts(make):
    model = make().train()
    with FlopCounterMode(display=False) as counter:
        _, asked = loss_of(model)
    forward = counter.get_total_flops()
    words = model.text(["a red circle moves right", "a", "b"]).tokens.shape[1]
    expected = text_flops(model.text, 3, words) + generator_flops(model, 3, GRID, words, asked)
    assert forward == expected
    with FlopCounterMode(display=False) as counter:
        loss, asked = loss_of(model)
        loss.backward()
    assert counter.get_total_flops() == pytest.approx(step_flops(model, 3, GRID, words, asked), rel=0.03)

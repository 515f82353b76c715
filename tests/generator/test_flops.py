"""The closed forms of parameters and operations against counting, and the tables in the docs against both."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from generator.backbone import VideoTransformer
from generator.diffusion import DiffusionGenerator, flow_loss
from generator.flops import forward_flops, parameters, read_flops, step_flops
from generator.masked import DigitEmbedding, MaskedGenerator, masked_loss
from generator.masked_latents import MaskedLatentsGenerator, masked_latents_loss
from generator.text import ByteText
from generator.uniform import UniformGenerator, uniform_loss

ROOT = Path(__file__).parents[2]
SIZES = sorted((ROOT / "configs/generator/sizes").glob("*.yaml"))
DIGITS = ((8, 8, 8), (5, 5, 5))
GRID = (3, 4, 4)


@pytest.fixture(autouse=True)
def look_ups_count_as_nothing(monkeypatch):
    monkeypatch.setattr(DigitEmbedding, "LOOK_UP", 0)


def build(path: Path) -> MaskedGenerator:
    args = yaml.safe_load(path.read_text())["model"]["init_args"]
    with torch.device("meta"):
        backbone = VideoTransformer(**args["backbone"]["init_args"])
        return MaskedGenerator(backbone, ByteText(**args["text"]["init_args"]), 64_000, DIGITS)


def count(model) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("size", SIZES, ids=lambda p: p.stem)
def test_sizes_are_what_they_say(size):
    model = build(size)
    given = yaml.safe_load(size.read_text())["model"]["init_args"]["backbone"]["init_args"]
    hidden = model.backbone.blocks[0].mlp.down.in_features
    assert parameters(**given, hidden=hidden) == count(model.backbone)
    assert float(size.read_text().split()[1]) == pytest.approx(count(model) / 1e6, rel=0.03)


@pytest.mark.parametrize("patch_size, conditions, most_guidance", [(1, False, None), (2, True, None), (1, True, 4.0)])
def test_operations_are_those_of_the_counter(patch_size, conditions, most_guidance):
    torch.manual_seed(0)
    backbone = VideoTransformer(
        dim=64, depth=3, heads=4, text_dim=48, conditions=conditions, most_guidance=most_guidance
    )
    model = MaskedGenerator(backbone, ByteText(dim=48, depth=1), 64_000, DIGITS, patch_size).eval()
    tokens, where = torch.full((1, 3, 4, 6), model.mask_id), torch.rand(1, 3, 4, 6) < 0.4
    text = model.text(["a red circle moves right"])
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as reading:
            memory = backbone.read(text.tokens, text.mask)
        with FlopCounterMode(display=False) as counted:
            answers = model(tokens, where, memory, fps=torch.tensor([8.0]))
            digits = torch.zeros(int(where.sum()), 2, dtype=torch.long)
            for logits in answers:
                logits(digits)
    words = text.mask.shape[1]
    assert forward_flops(model, (3, 4, 6), words, int(where.sum())) == counted.get_total_flops()
    assert read_flops(backbone, words) == reading.get_total_flops()


def test_the_table_in_the_docs():
    text = (ROOT / "docs/architecture.md").read_text()
    for size in SIZES:
        (row,) = re.findall(rf"^\| {size.stem} \|(.*)\|$", text, flags=re.MULTILINE)
        model = build(size)
        args = yaml.safe_load(size.read_text())["model"]["init_args"]
        shape = args["backbone"]["init_args"]
        said = [float(cell.split()[0]) for cell in row.split("|")]
        flops = [forward_flops(model, (5, side, side), 16) / (5 * side**2) / 1e6 for side in (8, 16, 32)]
        expected = [shape["dim"], shape["depth"], shape["heads"], shape["text_dim"], count(model.backbone) / 1e6]
        assert said == pytest.approx([*expected, count(model) / 1e6, *flops], rel=0.01), size.stem


def parts(**more):
    return VideoTransformer(dim=64, depth=2, heads=2, text_dim=32, **more), ByteText(dim=32, depth=2, heads=2)


def loss_of(model, b=3):
    texts = ["a red circle moves right", "a", "b"]
    tokens = torch.randint(125, (b, *GRID))
    mask = torch.rand(b, *GRID) < 0.6
    with sdpa_kernel(SDPBackend.MATH):
        text = model.read(texts)
        if isinstance(model, MaskedGenerator):
            untold = None
            if model.backbone.most_guidance:
                text = replace(text, guidance=torch.full((b,), 2.0))
                with torch.no_grad():
                    untold = model.read(texts, torch.ones(b, dtype=torch.bool))
            return masked_loss(model, tokens, mask, text, untold=untold)[0], int(mask.sum())
        if isinstance(model, UniformGenerator):
            return uniform_loss(model, tokens, tokens, ~mask, torch.rand(b), text)[0], int(mask.sum())
        latents = torch.randn(b, 3, *GRID)
        if isinstance(model, MaskedLatentsGenerator):
            times = torch.rand(4, int(mask.sum()))
            loss, _ = masked_latents_loss(model, latents, mask, times, torch.randn(*times.shape, 3), text)
            return loss, times.numel()
        return flow_loss(model, latents, ~mask, torch.rand(b), torch.randn_like(latents), text)[0], 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: MaskedGenerator(*parts(), codebook_size=125),
        lambda: MaskedGenerator(*parts(), codebook_size=125, digits=[[5], [5, 5]], patch_size=2),
        lambda: MaskedGenerator(*parts(most_guidance=4.0), codebook_size=125),
        lambda: DiffusionGenerator(*parts(), channels=3),
        lambda: UniformGenerator(*parts(), codebook_size=125, digits=[[5], [5, 5]], patch_size=2),
        lambda: MaskedLatentsGenerator(*parts(), channels=3, blocks=2),
    ],
    ids=["masked", "digits and patches", "guided in one pass", "twin", "noisy tokens", "masked latents"],
)
def test_the_closed_form_is_what_torch_counts(make):
    model = make().train()
    with FlopCounterMode(display=False) as counter:
        _, asked = loss_of(model)
    forward = counter.get_total_flops()
    words = model.text(["a red circle moves right", "a", "b"]).tokens.shape[1]
    share = 2 / 4 if model.backbone.most_guidance else 1 / 3  # in one pass: forward with and without text, and backward
    assert forward == step_flops(model, 3, GRID, words, asked) * share
    with FlopCounterMode(display=False) as counter:
        loss, asked = loss_of(model)
        loss.backward()
    # nobody asks for the gradient of what first layers see, and a head as narrow as this has a wide one
    assert counter.get_total_flops() == pytest.approx(step_flops(model, 3, GRID, words, asked), rel=0.05)

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from conftest import CLIP

from generator import filling, tasks
from generator.backbone import TextMemory, VideoTransformer
from generator.diffusion import DiffusionGenerator
from generator.filling import Piece
from generator.guidance import Guidance, guide, unguided
from generator.masked import MaskedGenerator, masked_loss
from generator.masked_latents import MaskedLatentsGenerator
from generator.orders import Threshold
from generator.pipeline import VideoGenerator
from generator.schedules import Exponential
from generator.text import ByteText
from generator.uniform import UniformGenerator

TEXTS, SEEDS = ["a red circle", "a blue square moves"], [0, 5]


@pytest.fixture
def model(tokenizer, generator):
    return VideoGenerator(tokenizer, generator, CLIP)


@pytest.fixture
def calls(model, monkeypatch):
    """The batch size of each call of the network."""
    sizes, forward = [], model.generator.forward
    monkeypatch.setattr(
        model.generator, "forward", lambda tokens, *args: sizes.append(len(tokens)) or forward(tokens, *args)
    )
    return sizes


def canvas(model):
    return tasks.text2video((3, 2, 3), model.generator.mask_id).repeat(2)


def fill(model, guidance, **options):
    return model.fill(canvas(model), TEXTS, SEEDS, steps=4, guidance=guidance, **{"revisions": 2} | options)


def test_the_curve_climbs_inside_the_interval_and_is_one_outside():
    for scale in (0.0, 1.0, 2.3, 7.0):
        assert {Guidance(scale).at(u / 10) for u in range(11)} == {scale}  # bit for bit
    late = Guidance(3.0, start=0.5)
    assert [late.at(u) for u in (0.0, 0.49, 0.5, 1.0)] == [1, 1, 3, 3]
    assert [Guidance(3.0, stop=0.5).at(u) for u in (0.0, 0.5, 0.51, 1.0)] == [3, 3, 1, 1]
    curve = [Guidance(3.0, power=2.0).at(u / 10) for u in range(11)]
    assert curve == sorted(curve) and curve[0] == 1 and curve[-1] == 3
    assert Guidance(3.0, power=3.0).at(0.5) < Guidance(3.0, power=1.0).at(0.5) == pytest.approx(2)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"start": 0.6, "stop": 0.4}, "guidance from 0.6 to 0.4: expected shares"),
        ({"stop": 1.5}, "guidance from 0 to 1.5: expected shares"),
        ({"rescale": 2.0}, "guidance rescale is 2, expected a share"),
        ({"scale": math.nan}, "guidance of scale nan .* expected finite numbers"),
    ],
)
def test_wrong_numbers_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Guidance(**wrong)


def test_rescaling_brings_the_spread_back():
    conditional, unconditional = torch.randn(2, 50, 30)
    guided = guide(conditional, unconditional, 5.0)
    torch.testing.assert_close(guide(conditional, unconditional, 5.0, 1.0).std(1), conditional.std(1))
    half = guide(conditional, unconditional, 5.0, 0.5)
    torch.testing.assert_close(half.std(1), (guided.std(1) + conditional.std(1)) / 2)
    assert torch.equal(half.argsort(1), guided.argsort(1))  # softer, with the same favourites


def test_guidance_1_is_none_and_skips_the_pass_without_the_text(model, calls):
    none = fill(model, 1.0)
    assert calls == [2] * 6
    calls.clear()
    assert torch.equal(fill(model, Guidance(5.0, start=1.0, stop=1.0), revisions=0), fill(model, 1.0, revisions=0))
    assert calls == [2] * 8
    calls.clear()
    strong = fill(model, 3.0)
    assert calls == [2] * 12 and not torch.equal(strong, none)


def test_outside_its_interval_guidance_costs_nothing(model, calls):
    fill(model, Guidance(3.0, start=0.5), revisions=2)  # two steps and the revisions
    assert calls == [2] * (4 + 2 + 2 * 2)
    calls.clear()
    fill(model, Guidance(3.0, stop=0.5), revisions=2)  # the steps at 0, 1/4 and 1/2
    assert calls == [2] * (4 + 2 + 3)
    calls.clear()
    fill(model, Guidance(3.0, power=1.0), revisions=0)  # the curve begins at 1
    assert calls == [2] * (4 + 3)


def test_one_batch_of_both_passes_equals_two(model, calls):
    grid = canvas(model)
    known = torch.rand(grid.tokens.shape) < 0.4
    tokens = torch.where(known, torch.randint(125, grid.tokens.shape), grid.mask_id)
    digits = []
    for as_one_batch in (False, True):
        piece = Piece(grid, TEXTS, torch.tensor([8.0]), as_one_batch=as_one_batch)
        predict = filling.predictor(model.generator, piece, Guidance(3.0, start=0.5, rescale=0.5))
        with torch.no_grad():
            digits.append([predict(tokens, ~known, u)[0](torch.empty(int((~known).sum()), 0)) for u in (0.0, 1.0)])
    assert calls == [2, 2, 2, 2, 4]
    torch.testing.assert_close(digits[0], digits[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("at_once", [False, True])
def test_compiled_it_draws_the_same(model, monkeypatch, at_once):
    """To spare Inductor's minutes, what is compiled is traced and then run as it is."""
    compile_, scale = torch.compile, Guidance(3.0, start=0.3)
    monkeypatch.setattr(filling.Piece, "at_once", at_once)
    monkeypatch.setattr(torch, "compile", lambda call, mode: compile_(call, backend="eager"))
    plain = fill(model, scale)
    compiled = VideoGenerator(model.tokenizer, deepcopy(model.generator), model.trained_at).compile()
    assert torch.equal(fill(compiled, scale), plain)
    copied = deepcopy(compiled.generator)  # has weights of its own, and nothing that looks into the original's
    for parameter in compiled.generator.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(fill(VideoGenerator(model.tokenizer, copied, model.trained_at), scale), plain)


def test_a_device_that_takes_both_passes_at_once_draws_the_same(model, monkeypatch):
    apart = fill(model, 3.0)
    monkeypatch.setattr(filling.Piece, "at_once", True)
    assert torch.equal(fill(model, 3.0), apart)


@pytest.mark.parametrize("kind", [UniformGenerator, MaskedLatentsGenerator, DiffusionGenerator])
def test_so_does_every_other_kind_of_generator(kind, tokenizer, monkeypatch):
    """In as many calls of the transformer: where seconds are compared, none makes two where another makes one."""
    torch.manual_seed(0)
    parts = VideoTransformer(dim=32, depth=2, heads=2, text_dim=16), ByteText(dim=16, depth=1)
    generator = kind(*parts, 125 if kind is UniformGenerator else tokenizer.quantizer.dim)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model, calls = VideoGenerator(tokenizer, generator, CLIP), []
    generator.backbone.register_forward_hook(lambda *_: calls.append(1))
    known = torch.rand(canvas(model).tokens.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    given = replace(canvas(model), tokens=torch.zeros_like(canvas(model).tokens), known=known)
    piece = filling.Piece(given, ["a red circle", ""], torch.tensor([8.0]))
    how = (
        filling.Settings(steps=3, guidance=3.0, revisions=0)
        if kind is MaskedLatentsGenerator
        else filling.Settings(3, 3.0)
    )
    made = {}
    for at_once in (False, True):
        monkeypatch.setattr(filling.Piece, "at_once", at_once)
        with torch.no_grad():
            tokens = filling.fill(generator, model.code, piece, [0, 1], how.checked(generator))
            made[at_once] = model.code.lookup(tokens), len(calls)
        calls.clear()
    assert made[False][1] == 2 * made[True][1] == 6
    torch.testing.assert_close(made[False][0], made[True][0], rtol=1e-3, atol=1e-3)


def test_an_empty_text_is_none(model, calls):
    """Guided by nothing it is not guided, and where all are empty no second pass is made."""
    free = model.fill(canvas(model), ["", ""], [0, 1], steps=4, revisions=0, guidance=3.0)
    assert calls == [2] * 4
    assert torch.equal(free, model.fill(canvas(model), ["", ""], [0, 1], steps=4, revisions=0, guidance=1.0))
    mixed = model.fill(canvas(model), ["", "a red circle"], [0, 1], steps=4, revisions=0, guidance=3.0)
    assert torch.equal(mixed[0], free[0])


@pytest.fixture
def in_one_pass(tokenizer):
    """A tiny model with random weights that is told a scale of guidance up to 4."""
    torch.manual_seed(0)
    backbone = VideoTransformer(dim=32, depth=2, heads=2, text_dim=16, most_guidance=4.0)
    generator = MaskedGenerator(backbone, ByteText(dim=16, depth=1), 125)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return VideoGenerator(tokenizer, generator, CLIP)


def test_what_is_unguided_gives_the_conditional_logits_back():
    conditional, unconditional, scale = torch.randn(20, 9), torch.randn(20, 9), 1 + 3 * torch.rand(20, 1)
    guided = guide(conditional, unconditional, scale)
    torch.testing.assert_close(unguided(guided, unconditional, scale), conditional)


def test_guidance_in_one_pass_heeds_the_scale_and_makes_no_second_pass(in_one_pass, monkeypatch):
    scales, forward = [], in_one_pass.generator.forward
    monkeypatch.setattr(
        in_one_pass.generator,
        "forward",
        lambda tokens, where, text, *args: scales.append(text.guidance.tolist()) or forward(tokens, where, text, *args),
    )
    strong = fill(in_one_pass, 3.0)
    assert scales == [[3.0, 3.0]] * 6 and not torch.equal(strong, fill(in_one_pass, 1.0))
    scales.clear()
    fill(in_one_pass, Guidance(3.0, start=0.5))
    assert scales == [[1.0, 1.0]] * 2 + [[3.0, 3.0]] * 4


def test_refresh_keeps_nothing_of_another_scale(in_one_pass):
    assert fill(in_one_pass, 3.0, refresh=2).shape == (2, 3, 2, 3)
    with pytest.raises(ValueError, match="one scale throughout"):
        fill(in_one_pass, Guidance(3.0, start=0.5), refresh=2)


@pytest.mark.parametrize("guidance", [5.0, 0.5, Guidance(2.0, rescale=0.5)])
def test_guidance_that_one_pass_was_not_trained_for_is_refused(in_one_pass, guidance):
    with pytest.raises(ValueError, match="with scales from 1 to 4, and takes no rescale"):
        fill(in_one_pass, guidance)


@pytest.mark.parametrize("scale", [1.0, 2.0, 4.0])
def test_the_loss_of_one_pass_is_least_at_what_two_passes_would_say(scale):
    """Told the text a token is 0 in 80 of 100 clips, told nothing in half of them."""
    told, untold = torch.tensor([0.8, 0.2]).log(), torch.tensor([0.5, 0.5]).log()
    tokens = torch.tensor([0] * 80 + [1] * 20).view(100, 1, 1, 1)
    memory = TextMemory([], torch.ones(100, 1, dtype=torch.bool), guidance=torch.full((100,), scale))

    class Model:
        mask_id, digits = 2, (2,)

        def __call__(self, shown, where, text, *args, **kwargs):
            return [lambda before: (answer if text is memory else untold).expand(100, 2)]

    def slope(at):
        nonlocal answer
        answer = at.clone().requires_grad_()
        loss, _ = masked_loss(Model(), tokens, torch.ones(tokens.shape, dtype=torch.bool), memory, untold=TEXTS)
        return torch.autograd.grad(loss, answer)[0].abs().max()

    answer = None
    assert slope(guide(told, untold, scale)) < 1e-6
    assert slope(guide(told, untold, scale + 0.5)) > 1e-3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"steps": 0}, "steps is 0, expected 1 or more"),
        ({"revisions": -2}, "revisions is -2, expected 0 or more"),
        ({"refresh": 0}, "refresh is 0, expected 1 or more"),
        ({"top_k": 0}, "top_k is 0, expected 1 or more"),
        ({"top_p": -1.0}, "top_p is -1.0, expected 0 to 1"),
        ({"remask": 2.0}, "remask is 2.0, expected 0 to 1"),
        ({"temperature": math.nan}, "temperature is nan, expected one or two finite numbers"),
        ({"temperature": (1.0, 0.5, 0.2)}, "expected one or two finite numbers"),
        ({"refresh": 2, "lean": False}, "leave lean as it is"),
        ({"fps": 0.0}, "got 0.0 frames a second"),
        ({"batch_size": 0}, "got 2 samples, 0 at a time"),
    ],
)
def test_settings_out_of_range_are_one_sentence(model, wrong, words):
    with pytest.raises(ValueError, match=words):
        model.fill(canvas(model), TEXTS, SEEDS, **{"guidance": 2.0} | wrong)


def test_each_sample_has_its_text_and_its_seed(model):
    with pytest.raises(ValueError, match="got 1 texts and 2 seeds for 2 samples"):
        model.fill(canvas(model), ["a"], SEEDS)
    with pytest.raises(ValueError, match="got 0 samples a prompt"):
        model("a", num=0)
    for wrong in (lambda: Threshold(math.nan), lambda: Exponential(0.0)):
        with pytest.raises(ValueError, match="expected"):
            wrong()

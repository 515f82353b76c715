"""The upscaler: what a draft is, what the model makes of it, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import CLIP

from data.shapes import Shapes
from generator import tasks
from generator.backbone import VideoTransformer
from generator.card import model_card
from generator.filling import Piece, predictor
from generator.guidance import Guidance
from generator.jobs import enlarged
from generator.masked import MaskedGenerator, masked_loss
from generator.pipeline import VideoGenerator
from generator.text import ByteText
from generator.upscaling import Drafts, enlarge, shrink
from vq.config import build
from vq.losses import psnr

K, GRID = 125, (3, 2, 3)


@pytest.fixture
def model(tokenizer, upscaler):
    return VideoGenerator(tokenizer, upscaler, CLIP)


def small(frames=9, seed=0, height=8, width=12):
    return torch.rand(3, frames, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def numbers(seed, b=2, grid=GRID):
    return torch.randint(K, (b, *grid), generator=torch.Generator().manual_seed(seed))


def untrained(**options) -> MaskedGenerator:
    torch.manual_seed(0)
    parts = VideoTransformer(dim=32, depth=2, heads=2, text_dim=16), ByteText(dim=16, depth=1)
    return MaskedGenerator(*parts, K, **options)


# ------------------------------------------------------------------------------------------------------------- drafts


def clips():
    return torch.stack([Shapes("test", frames=9, height=32, width=48, objects=[1])[i].clip for i in range(4)])


def test_shrunk_and_enlarged_a_clip_is_itself_but_blurred():
    video = clips()
    less = shrink(video, 2)
    again = enlarge(less, 32, 48)
    assert less.shape == (4, 3, 9, 16, 24) and again.shape == video.shape
    assert psnr(again, video).min() > 20 and not torch.equal(again, video)
    flat = torch.full((1, 3, 2, 8, 8), 0.3)
    torch.testing.assert_close(enlarge(flat, 24, 24), torch.full((1, 3, 2, 24, 24), 0.3))
    edge = torch.ones(1, 3, 1, 8, 8)
    edge[..., 4:] = -1
    assert enlarge(edge, 16, 16).abs().max() <= 1  # bicubic kernels overshoot


def test_drafts_are_tokens_of_the_enlarged_small_clip_and_some_are_spoilt(tokenizer):
    video = clips()

    def drawn(seed=0, **options):
        return Drafts(**options)(video, tokenizer, torch.Generator().manual_seed(seed))

    plain = tokenizer.encode(enlarge(shrink(video, 2), 32, 48))
    assert torch.equal(drawn(spoilt=0), plain)
    spoilt = (drawn(spoilt=0.5) != plain).flatten(1).any(1)
    assert spoilt.any() and not spoilt.all()  # those of some clips
    assert torch.equal(drawn(spoilt=1), drawn(spoilt=1)) and not torch.equal(drawn(spoilt=1), drawn(1, spoilt=1))
    seen = enlarge(tokenizer.decode(tokenizer.encode(shrink(video, 2))), 32, 48)
    assert torch.equal(drawn(spoilt=1, corruption=0), tokenizer.encode(seen))
    assert not torch.equal(drawn(spoilt=1, corruption=0.5), tokenizer.encode(seen))


# -------------------------------------------------------------------------------------------------------------- model


def test_what_is_told_matters_where_it_is_told(upscaler):
    tokens, draft, where = numbers(0), numbers(1), torch.zeros(2, *GRID, dtype=torch.bool)
    where[:, 1, 0, 0] = True
    text, shown = upscaler.read(["a", "b"]), tokens.masked_fill(where, K)

    def cells(draft):
        return upscaler.cells(shown, where, text, draft=draft)

    here, elsewhere = draft.clone(), draft.clone()
    here[:, 1, 0, 0], elsewhere[:, 2, 1, 2] = (here[:, 1, 0, 0] + 1) % K, (elsewhere[:, 2, 1, 2] + 1) % K
    change = [(cells(other) - cells(draft)).abs().mean() for other in (here, elsewhere)]
    assert change[0] > change[1] > 1e-4
    with pytest.raises(AssertionError, match="told a draft"):
        upscaler.cells(shown, where, text)


def test_a_model_that_is_no_upscaler_is_what_it_was(generator):
    old = {"class_path": generator.config["class_path"], "init_args": dict(generator.config["init_args"])}
    del old["init_args"]["upscale"]  # as models were stored before there were upscalers
    again = build(old)
    again.load_state_dict(generator.state_dict())
    tokens = numbers(0)
    where = torch.ones_like(tokens, dtype=torch.bool)
    made = [m.eval().cells(tokens, where, m.read(["a", "b"])) for m in (generator, again)]
    assert torch.equal(*made) and again.upscale == 1
    plain, telling = untrained().state_dict(), untrained(upscale=2).state_dict()
    assert telling.keys() - plain.keys() == {"draft_embeddings.0.tables.0.weight"}
    assert all(torch.equal(value, telling[name]) for name, value in plain.items())  # the same draws


def test_the_right_draft_is_worth_more_than_a_wrong_one():
    """Tokens that nothing but the draft tells: learnt with it, and nothing to be guessed with that of another clip."""
    model, losses = untrained(upscale=2), []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(60):
        tokens = numbers(step, b=8) % 10
        draft, everywhere = (tokens * 3 + 1) % 10, torch.ones_like(tokens, dtype=torch.bool)
        text = model.read([""] * 8)
        loss, _ = masked_loss(model, tokens, everywhere, text, draft=draft)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    wrong, _ = masked_loss(model, tokens, everywhere, text, draft=draft.roll(1, 0))
    assert losses[0] == pytest.approx(math.log(K), abs=1e-3) and losses[-1] < 0.5 < math.log(10) < wrong


# ----------------------------------------------------------------------------------------------------------- sampling


def test_known_tokens_stay_and_no_mask_is_left(model):
    known = torch.rand(2, *GRID, generator=torch.Generator().manual_seed(3)) < 0.5
    canvas = replace(tasks.upscale(numbers(1), K), tokens=numbers(0), known=known)
    for refresh in (1, 2):
        made = model.fill(canvas, ["a", "b"], [0, 1], steps=4, revisions=3, refresh=refresh)
        assert torch.equal(made[known], canvas.tokens[known]) and made.max() < K
    assert not torch.equal(made, model.fill(replace(canvas, draft=numbers(2)), ["a", "b"], [0, 1], steps=4))


def test_both_passes_of_guidance_are_told_the_draft(model):
    tokens, draft = torch.full((2, *GRID), K), numbers(1)
    where, none = torch.ones_like(tokens, dtype=torch.bool), torch.empty(36, 0, dtype=torch.long)

    def logits(texts, scale, as_one_batch):
        canvas = replace(tasks.text2video(GRID, K).repeat(2), draft=draft)
        piece = Piece(canvas, texts, torch.tensor([8.0]), as_one_batch=as_one_batch)
        predict = predictor(model.generator, piece, Guidance(scale))
        return predict(tokens, where, 0.0)[0](none)

    apart, together = (logits(["a red circle", ""], 3.0, as_one_batch) for as_one_batch in (False, True))
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-4)
    unguided = logits(["a red circle", ""], 1.0, False)
    assert (apart[:18] - unguided[:18]).abs().max() > 1e-2  # guided by the text
    torch.testing.assert_close(apart[18:], unguided[18:], rtol=1e-4, atol=1e-4)  # no text: the draft alone


def test_a_long_clip_is_enlarged_in_windows_each_with_its_own_piece_of_the_draft(model):
    clip, told, cells = small(25), [], model.generator.cells
    model.generator.cells = lambda *args: told.append(args[-1]) or cells(*args)
    video = model("a", task="upscale", inputs=[clip], steps=2, revisions=0, guidance=1.0)
    assert video.shape == (1, 3, 25, 16, 24)
    draft = model.encode(enlarge(clip[None], 16, 24))
    spans = tasks.windows(7, 3)
    assert len(spans) > 2 and len(told) >= len(spans)
    for start, stop in spans:
        assert any(torch.equal(piece, draft[:, start:stop]) for piece in told)
    assert model.job("upscale", [], [clip]).needs == ("draft", "prefix", "middle")
    assert model.untrained(model.job("upscale", [], [small(9)])) == []


def test_the_card_of_an_upscaler_says_how_to_enlarge(model):
    card = model_card(model, "x", "x/y", "mit", None, None, [], "")
    assert "| trained for | upscale |" in card and "upscaler.upscale(videos" in card and "num=4" not in card
    assert "python sample.py --model x/y --task upscale --input small.mp4" in card


def test_the_cascade_enlarges_one_video_after_the_other(model, tokenizer, generator):
    first = VideoGenerator(tokenizer, generator, CLIP)
    videos = first(["a", "b"], height=8, width=16, steps=2)
    large = model.upscale(videos, ["a", "b"], seed=5, steps=2, temperature=1.0)
    assert large.shape == (2, 3, 9, 16, 32)
    alone = model("b", task="upscale", inputs=[videos[1]], seed=6, steps=2, temperature=1.0)
    assert torch.equal(large[1:], alone) and not torch.equal(
        large[1:], model.upscale(videos[1:], "b", seed=7, steps=2, temperature=1.0)
    )


# -------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({}, (9, 32, 64)),
        ({"height": 48}, (9, 48, 96)),
        ({"width": 48}, (9, 24, 48)),
        ({"frames": 5, "height": 64, "width": 128}, (5, 64, 128)),
        ({"height": 40, "width": 72}, (9, 40, 72)),  # to the next token
    ],
)
def test_sizes(asked, size):
    asked = {"frames": None, "height": None, "width": None} | asked
    assert enlarged((11, 16, 32), 2, **asked, ft=4, fs=16) == size


@pytest.mark.parametrize(
    ("task", "given", "words"),
    [
        (
            "upscale",
            {"height": 16, "width": 16},
            "cannot make 16x16 of an --input of 8x12: use 16x24, or another larger",
        ),
        ("upscale", {"height": 8, "width": 4}, "cannot make 8x4 of an --input of 8x12"),
        ("upscale", {"height": 0}, "cannot make 0x0"),
        ("upscale", {"height": 20}, "height 20 does not fit 8x compression: use 16 or 24"),
        ("upscale", {"frames": 13}, "upscale makes 9 frames of an --input of 9, not 13: use 9 or fewer"),
        ("upscale", {"frames": 8}, "8 frames do not fit 4x compression in time: use 5 or 9"),
        ("upscale", {"inputs": []}, "upscale needs one --input, got 0"),
        (
            "text2video",
            {"inputs": []},
            "enlarges clips and does nothing else: use --task upscale --input, not text2video",
        ),
    ],
)
def test_what_an_upscaler_does_not_do_is_said_in_one_line(model, task, given, words):
    with pytest.raises(ValueError, match=words) as caught:
        model.job(task, ["a"], **{"inputs": [small()]} | given)
    assert "\n" not in str(caught.value)


def test_other_models_do_not_enlarge(tokenizer, generator):
    with pytest.raises(ValueError, match="this model does not enlarge clips: use one trained with configs/gener"):
        VideoGenerator(tokenizer, generator, CLIP)("a", task="upscale", inputs=[small()])

import pytest
import torch
from conftest import CLIP

from generator import tasks
from generator.backbone import VideoTransformer
from generator.caching import Pass
from generator.masked import MaskedGenerator
from generator.orders import Confidence, Halton, Random
from generator.pipeline import VideoGenerator
from generator.text import ByteText

FPS = torch.tensor([4.0])
TEXTS, GRID, K = ["a red circle", "a blue square moves"], (3, 4, 6), 125


@pytest.fixture(params=[(1, None), (2, None), (1, 8.0)], ids=["cells", "patches", "seconds"])
def model(request):
    """With one cell a position of the transformer, with four, and with rotary positions in seconds."""
    torch.manual_seed(0)
    patch_size, rotary_fps = request.param
    parts = VideoTransformer(dim=32, depth=2, heads=2, text_dim=16, rotary_fps=rotary_fps), ByteText(dim=16, depth=1)
    model = MaskedGenerator(*parts, K, patch_size=patch_size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def logits(predictions, where):
    return predictions[0](torch.empty(int(where.sum()), 0, dtype=torch.long))


def half_known():
    torch.manual_seed(1)
    tokens = torch.randint(K, (2, *GRID))
    return tokens.masked_fill(torch.rand(2, *GRID) < 0.5, K)


@torch.no_grad()
def test_what_has_not_changed_is_as_if_computed(model):
    """Exact where it can be: the same tokens again, asked for some of the cells."""
    tokens = half_known()
    text = model.read(TEXTS)
    masked = tokens == K
    cached = Pass(model, text, refresh=9, fps=FPS)
    torch.testing.assert_close(
        logits(cached(tokens, masked), masked), logits(model(tokens, masked, text, fps=FPS), masked)
    )
    some = masked & (torch.arange(GRID[2]) < 2)
    torch.testing.assert_close(
        logits(cached(tokens, some), some), logits(model(tokens, some, text, fps=FPS), some), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_a_change_is_seen_and_a_full_call_forgets_the_old(model):
    tokens = half_known()
    text, masked = model.read(TEXTS), tokens == K
    cached = Pass(model, text, refresh=2, fps=FPS)
    cached(tokens, masked)
    changed = tokens.clone()
    changed[:, 0] = torch.randint(K, changed[:, 0].shape)
    some = masked & (torch.arange(3) == 2)[:, None, None]
    exact, stale = logits(model(changed, some, text, fps=FPS), some), logits(model(tokens, some, text, fps=FPS), some)
    partly = logits(cached(changed, some), some)
    assert 0 < (partly - exact).abs().mean() < 0.5 * (stale - exact).abs().mean()
    torch.testing.assert_close(logits(cached(changed, some), some), exact)  # the third call computes all


@torch.no_grad()
def test_a_partial_step_computes_few_positions_and_those_of_other_samples_do_not_matter(model, monkeypatch):
    seen, blocks = [], model.backbone.blocks
    forward = blocks[0].forward
    monkeypatch.setattr(blocks[0], "forward", lambda x, *args: seen.append(x.shape[1]) or forward(x, *args))
    tokens, p = half_known(), model.patch_size
    text = model.read(TEXTS)
    where = torch.zeros_like(tokens, dtype=torch.bool)
    where[0, 0, 0, 0] = where[1, 0, 0, 0] = where[1, 2, 3, 5] = True
    tokens[where] = K
    together = Pass(model, text, refresh=9, fps=FPS)
    together(tokens, tokens == K)
    both = logits(together(tokens, where), where)
    assert seen == [72 // p**2, 2]
    alone = Pass(model, text[:1], refresh=9, fps=FPS)
    alone(tokens[:1], tokens[:1] == K)
    torch.testing.assert_close(logits(alone(tokens[:1], where[:1]), where[:1]), both[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", [Halton(), Random()])
def test_refresh_in_the_pipeline(tokenizer, model, order):
    pipeline = VideoGenerator(tokenizer, model, CLIP)
    canvas = tasks.text2video(GRID, K).repeat(2)

    def fill(texts=TEXTS, seeds=(0, 5), rows=slice(None), **options):
        return pipeline.fill(canvas[rows], texts, list(seeds), steps=8, order=order, revisions=3, **options)

    assert torch.equal(fill(refresh=1), fill())
    exact, cached = fill(lean=True), fill(refresh=3)
    assert (cached < K).all() and (cached == exact).float().mean() > 0.1  # chance: 1 in 125
    assert torch.equal(fill(TEXTS[1:], (5,), slice(1), refresh=3)[0], cached[1])


def test_orders_that_must_see_all_cells_are_refused(tokenizer, generator):
    pipeline = VideoGenerator(tokenizer, generator, CLIP)
    canvas = tasks.text2video(GRID, K)
    with pytest.raises(ValueError, match="refresh is 2, and Confidence has to see all cells"):
        pipeline.fill(canvas, ["a"], [0], order=Confidence(), refresh=2)


def test_only_refresh_changes_the_shapes_of_the_transformer(tokenizer, generator):
    """Which is why it may be compiled into CUDA graphs with all else."""
    pipeline, shapes = VideoGenerator(tokenizer, generator, CLIP), set()
    generator.backbone.blocks[0].register_forward_pre_hook(lambda block, given: shapes.add(tuple(given[0].shape)))
    canvas = tasks.text2video(GRID, K).repeat(2)
    for options in ({"lean": True}, {"order": Confidence(), "remask": 0.3}, {"guidance": 1.0, "steps": 3}):
        pipeline.fill(canvas, TEXTS, [0, 5], **{"steps": 6, "revisions": 3} | options)
    assert shapes == {(2, 72, 32)}
    pipeline.fill(canvas, TEXTS, [0, 5], steps=6, revisions=3, refresh=3)
    assert len(shapes) > 2


def test_a_compiled_model_refuses_refresh(tokenizer, generator, monkeypatch):
    monkeypatch.setattr("generator.pipeline.check_compiler", lambda device: None)
    monkeypatch.setattr(torch, "compile", lambda call, mode: call)
    pipeline = VideoGenerator(tokenizer, generator, CLIP).compile()
    with pytest.raises(ValueError, match="refresh is 3, and a compiled model computes all positions"):
        pipeline.fill(tasks.text2video(GRID, K), ["a"], [0], refresh=3)

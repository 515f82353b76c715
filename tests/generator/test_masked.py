import pytest
import torch

from generator.backbone import VideoTransformer, attend, rate_and_size, rotary, rotate
from generator.guidance import guide
from generator.masked import DigitEmbedding, Head, MaskedGenerator, at, masked_loss
from generator.puzzles import random_masks
from generator.text import ByteText
from vq.config import build
from vq.quantizers import to_digits


def tokens_and_mask(b=2, grid=(2, 3, 4), codebook_size=125):
    torch.manual_seed(1)
    tokens = torch.randint(codebook_size, (b, *grid))
    return tokens, torch.rand(b, *grid) < 0.5


def first_digit(model, tokens, where, text):
    """Its logits, which depend on no other digit."""
    return model(tokens, where, text)[0](torch.empty(int(where.sum()), 0, dtype=torch.long))


def test_the_mask_lies_outside_the_codebook(generator):
    assert generator.mask_id == generator.codebook_size == 125
    assert generator.embeddings[0].sizes == (125,) and generator.heads[0].logits.out_features == 125


def test_masked_positions_are_hidden(generator):
    tokens, mask = tokens_and_mask()
    other = torch.where(mask, (tokens + 7) % 125, tokens)
    text = generator.read(["a", "b"])
    loss_inputs = [t.masked_fill(mask, generator.mask_id) for t in (tokens, other)]
    first, second = (first_digit(generator, t, mask, text) for t in loss_inputs)
    assert torch.equal(first, second)
    known = torch.where(mask, tokens, (tokens + 7) % 125).masked_fill(mask, generator.mask_id)
    assert (first_digit(generator, known, mask, text) - first).abs().max() > 1e-3  # what is known does matter


def test_positions_differ_where_nothing_is_known(generator):
    tokens = torch.full((1, 3, 4, 4), generator.mask_id)
    logits = first_digit(generator, tokens, torch.ones_like(tokens, dtype=torch.bool), generator.read(["a"]))
    assert len(logits.mul(1000).round().unique(dim=0)) == 3 * 4 * 4  # rotary positions alone: 1


def test_a_piece_of_the_middle_is_told_apart_from_a_beginning(generator):
    tokens, where = tokens_and_mask()
    text = generator.read(["a red circle", "a blue square"])
    beginning, middle = (
        generator.cells(tokens.masked_fill(where, generator.mask_id), where, text, middle) for middle in (False, True)
    )
    assert not torch.allclose(beginning, middle)


def test_logits_only_where_asked_and_in_order(generator):
    tokens, mask = tokens_and_mask()
    text = generator.read(["a", "b"])
    masked = tokens.masked_fill(mask, generator.mask_id)
    everywhere = first_digit(generator, masked, torch.ones_like(mask), text).view(*tokens.shape, -1)
    asked = first_digit(generator, masked, mask, text)
    assert asked.shape == (mask.sum(), 125)
    torch.testing.assert_close(asked, everywhere[mask])


def test_text_null_text_and_guidance_change_the_logits(generator):
    tokens, mask = tokens_and_mask()
    masked = tokens.masked_fill(mask, generator.mask_id)
    text, other = generator.read(["a red circle", "b"]), generator.read(["a blue square", "b"])
    null = generator.read(["a red circle", "b"], drop=torch.tensor([True, True]))
    same_null = generator.read(["a blue square", "c"], drop=torch.tensor([True, True]))
    conditional, unconditional = (first_digit(generator, masked, mask, t) for t in (text, null))
    assert (first_digit(generator, masked, mask, other) - conditional).abs().max() > 1e-3
    assert (unconditional - conditional).abs().max() > 1e-3
    torch.testing.assert_close(first_digit(generator, masked, mask, same_null), unconditional)
    torch.testing.assert_close(guide(conditional, unconditional, 1.0), conditional)
    assert (guide(conditional, unconditional, 3.0) - conditional).abs().max() > 1e-3


def test_texts_may_be_encoded_beforehand(generator):
    texts = ["a red circle", "a blue square that moves"]
    drop = torch.tensor([False, True])
    told, encoded = (generator.read(given, drop) for given in (texts, generator.text(texts)))
    assert torch.equal(told.mask, encoded.mask)
    for (k, v), (k_too, v_too) in zip(told.keys_and_values, encoded.keys_and_values, strict=True):
        assert torch.equal(k, k_too) and torch.equal(v, v_too)


def test_a_caption_does_not_leak_into_its_neighbours(generator):
    tokens, mask = tokens_and_mask()
    masked = tokens.masked_fill(mask, generator.mask_id)
    first = first_digit(generator, masked, mask, generator.read(["a red circle", "b"]))
    longer = generator.read(["a red circle", "a much longer caption than it was"])
    second = first_digit(generator, masked, mask, longer)
    own = int(mask[0].sum())
    torch.testing.assert_close(first[:own], second[:own], rtol=1e-4, atol=1e-4)


def test_digits_multiply_and_sum_up():
    torch.manual_seed(0)
    parts = (VideoTransformer(dim=32, depth=1, heads=2, text_dim=16), ByteText(dim=16, depth=1))
    model = MaskedGenerator(*parts, codebook_size=64_000, digits=[[8, 8, 8], [5, 5, 5]])
    tokens, mask = tokens_and_mask(codebook_size=64_000)
    digits = to_digits(tokens[mask], model.digits)
    predictions = model(tokens.masked_fill(mask, model.mask_id), mask, model.read(["a", "b"]))
    assert [tuple(p(digits).shape) for p in predictions] == [(mask.sum(), 512), (mask.sum(), 125)]
    loss, logs = masked_loss(model, tokens, mask, model.read(["a", "b"]))
    assert logs["accuracy"] < 0.1  # ties are no hits
    assert loss.item() == pytest.approx(torch.tensor(64_000.0).log().item(), abs=1e-3)  # the first guess is uniform
    assert build(model.config).digits == (512, 125)
    with pytest.raises(ValueError, match="do not multiply"):
        MaskedGenerator(*parts, codebook_size=1000, digits=[[8, 8, 8], [5, 5, 5]])


def test_a_digit_is_told_those_before_it_and_no_other():
    torch.manual_seed(0)
    parts = (VideoTransformer(dim=32, depth=1, heads=2, text_dim=16), ByteText(dim=16, depth=1))
    model = MaskedGenerator(*parts, codebook_size=60, digits=[[3], [2, 2], [5]])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    tokens, mask = tokens_and_mask(codebook_size=60)
    digits = to_digits(tokens[mask], model.digits)
    predictions = model(tokens.masked_fill(mask, model.mask_id), mask, model.read(["a", "b"]))
    for i in range(3):
        other = digits.clone()
        other[:, i] = (other[:, i] + 1) % model.digits[i]
        changed = [not torch.equal(p(digits), p(other)) for p in predictions]
        assert changed == [j > i for j in range(3)]


def test_values_share_what_is_learnt_of_their_parts():
    torch.manual_seed(0)
    head, cells = Head(8, (3, 4, 2)), torch.randn(5, 8)
    levels = to_digits(torch.arange(24), (3, 4, 2))
    head(cells)[:, 7].sum().backward()  # 7 is the levels 1, 2 and 0
    for table in head.shared_logits:
        touched = table.grad.abs().sum(-1) > 0
        alike = [
            all(size == 1 or i == j for size, i, j in zip(touched.shape, index, (0, 2, 1), strict=True))
            for index in torch.cartesian_prod(*map(torch.arange, touched.shape)).tolist()
        ]
        assert touched.flatten().tolist() == alike
    for table in head.shared_logits:
        torch.nn.init.normal_(table)
    hidden = torch.cat([cells + head.down(torch.nn.functional.silu(head.up(head.norm(cells)))), torch.ones(5, 1)], 1)
    for value, (a, b, c) in enumerate(levels.tolist()):
        at = (c, b, a)
        rows = [t[tuple(min(i, size - 1) for i, size in zip(at, t.shape, strict=False))] for t in head.shared_logits]
        torch.testing.assert_close(head(cells)[:, value], hidden @ sum(rows))
    assert len(head.shared_logits) == 6 and not Head(8, (24,)).shared_logits and len(Head(8, (6, 4)).shared_logits) == 2


def test_cells_of_a_patch_are_masked_and_asked_for_by_themselves():
    torch.manual_seed(0)
    parts = (VideoTransformer(dim=32, depth=1, heads=2, text_dim=16), ByteText(dim=16, depth=1))
    model = MaskedGenerator(*parts, codebook_size=125, patch_size=2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    tokens, mask = tokens_and_mask(grid=(2, 4, 6))
    text = model.read(["a", "b"])
    masked = tokens.masked_fill(mask, model.mask_id)
    everywhere = first_digit(model, masked, torch.ones_like(mask), text).view(*tokens.shape, -1)
    torch.testing.assert_close(first_digit(model, masked, mask, text), everywhere[mask])
    other = torch.where(mask, (tokens + 7) % 125, tokens).masked_fill(mask, model.mask_id)
    assert torch.equal(first_digit(model, other, mask, text), first_digit(model, masked, mask, text))
    assert build(model.config).patch_size == 2
    with pytest.raises(ValueError, match="3x4 tokens does not split into patches of 2x2"):
        model(tokens[:, :, :3, :4], mask[:, :, :3, :4], text)


def test_the_loss_is_the_cross_entropy_of_hidden_tokens_only(generator):
    tokens, mask = tokens_and_mask()
    text = generator.read(["a", "b"])
    loss, _ = masked_loss(generator, tokens, mask, text)
    everywhere = first_digit(generator, tokens.masked_fill(mask, 125), torch.ones_like(mask), text).log_softmax(-1)
    expected = -everywhere.gather(1, tokens.flatten()[:, None])[mask.flatten()].mean()
    torch.testing.assert_close(loss, expected)


def test_gradients_reach_every_parameter(generator):
    tokens, mask = tokens_and_mask()
    text = generator.read(["a", "b"], drop=torch.tensor([True, False]))
    masked_loss(generator, tokens, mask, text)[0].backward()
    missing = [n for n, p in generator.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing


def test_random_masks_hide_the_share_asked_and_at_least_one():
    ratios = torch.tensor([0.0, 0.25, 1.0])
    mask = random_masks((3, 2, 4, 4), ratios, torch.Generator().manual_seed(0))
    assert mask.flatten(1).sum(1).tolist() == [1, 8, 32]


def conditioned(**options) -> MaskedGenerator:
    torch.manual_seed(0)
    backbone = VideoTransformer(dim=32, depth=2, heads=2, text_dim=16, **options)
    model = MaskedGenerator(backbone, ByteText(dim=16, depth=1), 125, trained_for=["text", "suffix"])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize(
    "options", [{"conditions": True}, {"rotary_fps": 8.0}, {"conditions": True, "rotary_fps": 8.0}]
)
def test_frames_a_second_are_told_on_request(options):
    model = conditioned(**options)
    tokens, mask = tokens_and_mask(grid=(4, 3, 4))
    masked, text = tokens.masked_fill(mask, model.mask_id), model.read(["a", "b"])

    def cells(fps, rows=slice(None)):
        return model.cells(masked[rows], mask[rows], text[rows], fps=torch.tensor(fps))

    own = int(mask[0].sum())
    assert not torch.allclose(cells([8.0, 8.0]), cells([24.0, 24.0]))
    torch.testing.assert_close(cells([8.0, 24.0])[:own], cells([8.0, 8.0])[:own])  # each sample has its own
    torch.testing.assert_close(cells([24.0]), cells([24.0, 24.0]))
    with pytest.raises(ValueError, match="told frames a second, and got none"):
        model.cells(masked, mask, text)
    masked_loss(model, tokens, mask, model.read(["a", "b"], torch.tensor([True, False])), fps=torch.ones(2))[
        0
    ].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert build(model.config).trained_for == ("text", "suffix") and build(model.config).config == model.config


def test_an_image_has_no_rate():
    model = conditioned(conditions=True)
    tokens, mask = tokens_and_mask(grid=(1, 3, 4))
    one, other = (model.cells(tokens, mask, model.read(["a", "b"]), fps=torch.tensor([f])) for f in (1.0, 24.0))
    assert torch.equal(one, other)


def test_seconds_are_frames_at_the_rate_itself_and_options_that_are_off_change_nothing(generator):
    tokens, mask = tokens_and_mask()
    masked = tokens.masked_fill(mask, 125)
    plain = conditioned()
    same = conditioned(rotary_fps=8.0)
    assert plain.state_dict().keys() == same.state_dict().keys() == generator.state_dict().keys()
    text = plain.read(["a", "b"])
    torch.testing.assert_close(
        plain.cells(masked, mask, text), same.cells(masked, mask, text, fps=torch.tensor([8.0, 8.0]))
    )
    assert torch.equal(plain.cells(masked, mask, text), plain.cells(masked, mask, text, fps=torch.tensor([3.0])))


def test_the_shape_of_the_grid_is_told():
    model = conditioned(conditions=True)
    told = [rate_and_size(grid, torch.tensor([8.0])) for grid in ((3, 4, 6), (3, 6, 4), (3, 4, 4), (5, 4, 6))]
    assert len({tuple(t.flatten().tolist()) for t in told}) == 4
    assert model.backbone.conditions.in_features == told[0].shape[1]


def test_rotary_positions_are_relative():
    rotation = rotary((3, 4, 5), 32, "cpu")
    q, k = torch.randn(1, 1, 1, 32).expand(1, 1, 60, 32), torch.randn(1, 1, 1, 32).expand(1, 1, 60, 32)
    scores = (rotate(q, rotation) @ rotate(k, rotation).mT)[0, 0].view(3, 4, 5, 3, 4, 5)
    torch.testing.assert_close(scores[0, 0, 0, 1, 2, 3], scores[1, 1, 1, 2, 3, 4], rtol=1e-4, atol=1e-4)
    assert (scores[0, 0, 0, 1, 0, 0] - scores[0, 0, 0, 0, 1, 0]).abs() > 1e-3


def test_the_plain_formula_of_attention_equals_the_fused_kernel():
    q, k, v = (torch.randn(2, 2, n, 16) for n in (7, 5, 5))
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)[:, None, None]
    plain = attend(q, k, v, mask)
    with torch.no_grad():
        torch.testing.assert_close(plain, attend(q, k, v, mask))


@pytest.mark.parametrize("grid", [(3, 4, 4), (2, 4, 6), (1, 6, 4)])
def test_a_batch_of_a_bucket_loses_what_its_clips_lose(grid):
    """Of whatever size: the loss is that of each clip alone, by its hidden cells; captions of other lengths beside it
    change nothing."""
    torch.manual_seed(0)
    backbone = VideoTransformer(dim=32, depth=2, heads=2, text_dim=16)
    model = MaskedGenerator(backbone, ByteText(dim=16, depth=1), 125, patch_size=2).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    (tokens, mask), texts = tokens_and_mask(3, grid), ["a", "a red circle moves right", ""]
    with torch.no_grad():
        together = masked_loss(model, tokens, mask, model.read(texts))[0]
        rows = [slice(i, i + 1) for i in range(3)]
        alone = torch.stack([masked_loss(model, tokens[r], mask[r], model.read(texts[r]))[0] for r in rows])
    hidden = mask.flatten(1).sum(1)
    torch.testing.assert_close(together, (alone * hidden).sum() / hidden.sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_products_with_ones_and_zeros_look_up(precision, monkeypatch):
    """Under autocast, too, the sums are those of looking up, and the gradients: nothing is rounded."""
    torch.manual_seed(0)
    table, digit = DigitEmbedding((8, 5, 5), 16), torch.randint(200, (2, 3, 4, 4))
    found = []
    for rows in (0, 128):
        monkeypatch.setattr(DigitEmbedding, "LOOK_UP", rows)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
            vectors = table(digit)
        vectors.square().sum().backward()
        found.append([vectors, *(part.weight.grad for part in table.tables)])
        table.zero_grad()
    assert all(a.dtype == torch.float32 for a in found[1])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(*found, strict=True))


def test_what_is_at_a_mask():
    _, mask = tokens_and_mask()
    values = torch.randn(*mask.shape, 5, requires_grad=True)
    picked, usual = at(values, mask), values[mask]
    assert torch.equal(picked, usual) and len(at(values, mask & False)) == 0
    gradients = [torch.autograd.grad(chosen.square().sum(), values)[0] for chosen in (picked, usual)]
    assert torch.equal(*gradients)


def test_under_autocast_the_stream_is_bfloat16_and_what_the_heads_are_told_is_not(generator):
    """Half the bytes between the blocks, which is what a GPU waits for, and samples that are close."""
    seen, (tokens, mask) = [], tokens_and_mask()
    generator.backbone.blocks[-1].register_forward_hook(lambda block, given, made: seen.append(made))
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    text = generator.read(["a", "b"])
    with torch.no_grad():
        plain = generator.cells(tokens.masked_fill(mask, generator.mask_id), mask, text)
        with torch.autocast("cpu", torch.bfloat16):
            half = generator.cells(tokens.masked_fill(mask, generator.mask_id), mask, text)
    assert [made.dtype for made in seen] == [torch.float32, torch.bfloat16] and half.dtype == torch.float32
    assert 0 < (half - plain).norm() < 0.02 * plain.norm()

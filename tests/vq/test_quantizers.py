"""Properties that every quantizer has, and what single ones are there for."""

import copy
import functools
import math

import pytest
import torch
import yaml
from einops import rearrange
from jsonargparse import ArgumentParser

from vq.config import build
from vq.quantizers import (
    FSQ,
    LFQ,
    VQ,
    Continuous,
    Quantizer,
    ResidualFSQ,
    ResidualVQ,
    SimVQ,
    Standardize,
    from_digits,
    to_digits,
)
from vq.tokenizer import Tokenizer

DISCRETE = [
    FSQ(),
    FSQ(levels=(8, 8, 8, 5, 5, 5)),
    VQ(codebook_size=64, dim=6),
    ResidualVQ(codebook_size=16, num_quantizers=3, dim=6),
    ResidualFSQ(levels=(5, 5, 5), num_quantizers=2),
    SimVQ(codebook_size=64, dim=6),
    LFQ(bits=10, groups=1),
    LFQ(bits=18, groups=2),
    LFQ(bits=16, groups=2, spherical=True),
]


def name(quantizer: Quantizer) -> str:
    return f"{type(quantizer).__name__}-{quantizer.codebook_size}"


def grid(quantizer: Quantizer, b: int = 2, t: int = 3, h: int = 4, w: int = 5, seed: int = 0) -> torch.Tensor:
    """Latents as an untamed encoder gives them: N(3, 5^2)."""
    generator = torch.Generator().manual_seed(seed)
    return 3 + 5 * torch.randn(b, quantizer.dim, t, h, w, generator=generator)


@functools.cache
def _trained(prototype: Quantizer, steps: int) -> Quantizer:
    torch.manual_seed(0)
    quantizer = build(prototype.config).train()
    for step in range(steps):
        quantizer(grid(quantizer, seed=step))
    return quantizer.eval()


def trained(prototype: Quantizer, steps: int = 5) -> Quantizer:
    """A copy after a few steps, in eval mode."""
    return copy.deepcopy(_trained(prototype, steps))


@pytest.mark.parametrize("prototype", [*DISCRETE, Continuous(6)], ids=name)
def test_a_tokenizer_takes_every_quantizer_as_it_is(prototype):
    quantizer = build(prototype.config)
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    tokenizer = Tokenizer(quantizer, channels=[8, 8], patch_size=4)
    for key, value in tokenizer.quantizer.state_dict().items():
        assert torch.equal(value, before[key]), key
    result = tokenizer(torch.rand(2, 3, 5, 16, 16) * 2 - 1)
    (result.video.square().mean() + result.quantized.loss).backward()
    assert tokenizer.encoder.out[2].weight.grad.abs().sum() > 0


def evenness(digit: torch.Tensor, size: int) -> float:
    """Perplexity of a digit over its number of values: 1 when all are used alike."""
    share = torch.bincount(digit.flatten(), minlength=size) / digit.numel()
    return (-torch.special.xlogy(share, share).sum()).exp().item() / size


@pytest.fixture(params=DISCRETE, ids=name)
def quantizer(request) -> Quantizer:
    return trained(request.param)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("t", [1, 3], ids=["image", "video"])
def test_shapes_types_and_range(quantizer, training, t):
    latents = grid(quantizer, t=t)
    quantized = quantizer.train(training)(latents)
    assert quantized.latents.shape == latents.shape and quantized.latents.dtype == torch.float32
    assert quantized.tokens.shape == (2, t, 4, 5) and quantized.tokens.dtype == torch.int64
    assert quantized.tokens.min() >= 0 and quantized.tokens.max() < quantizer.codebook_size
    assert quantized.loss.shape == () and quantized.loss.isfinite()


def test_lookup_repeats_the_latents_bit_for_bit(quantizer):
    quantized = quantizer(grid(quantizer))
    assert torch.equal(quantizer.lookup(quantized.tokens), quantized.latents)
    # ... and whatever else stands in the batch
    assert torch.equal(quantizer.lookup(quantized.tokens[1:, :, :2]), quantized.latents[1:, :, :, :2])


@pytest.mark.parametrize("prototype", [q for q in DISCRETE if not isinstance(q, VQ | ResidualVQ)], ids=name)
def test_training_latents_are_codes_too(prototype):
    """Not so where the forward pass itself moves the codebook."""
    quantizer = trained(prototype).train()
    quantized = quantizer(grid(quantizer))
    torch.testing.assert_close(quantizer.lookup(quantized.tokens), quantized.latents)


def test_the_gradient_reaches_every_latent(quantizer):
    latents = grid(quantizer).requires_grad_()
    quantized = quantizer.train()(latents)
    (quantized.latents.square().sum() + quantized.loss).backward()
    assert latents.grad.isfinite().all() and (latents.grad != 0).float().mean() > 0.99


def test_digits_name_every_token_once(quantizer):
    sizes = tuple(math.prod(parts) for parts in quantizer.digits)
    assert math.prod(sizes) == quantizer.codebook_size
    tokens = torch.randint(quantizer.codebook_size, (1000,))
    columns = to_digits(tokens, sizes)
    place, total = 1, torch.zeros_like(tokens)
    for i, size in enumerate(sizes):
        assert columns[:, i].min() >= 0 and columns[:, i].max() < size
        total, place = total + columns[:, i] * place, place * size
    assert torch.equal(total, tokens) and torch.equal(from_digits(columns, sizes), tokens)


def test_the_nearest_code_of_a_code_is_itself(quantizer):
    tokens = quantizer(grid(quantizer)).tokens
    codes = quantizer.lookup(tokens)
    again = quantizer.nearest(codes + 1e-3 * torch.randn_like(codes))
    if isinstance(quantizer, ResidualVQ):  # greedy: another code comes out at times, and lies hardly farther
        assert (quantizer.lookup(again) - codes).square().mean() < 0.05 * codes.square().mean()
    else:
        assert torch.equal(again, tokens)


def test_the_nearest_code_is_the_nearest_of_all(quantizer):
    if quantizer.codebook_size > 2000 or isinstance(quantizer, ResidualVQ):
        pytest.skip("too many to try, or greedy")
    vectors = torch.randn(1, quantizer.dim, 1, 1, 50)
    table = quantizer.lookup(torch.arange(quantizer.codebook_size)[:, None, None, None]).flatten(1)
    distances = (vectors.flatten(2)[0].T[:, None] - table).square().sum(-1)
    assert torch.equal(quantizer.nearest(vectors).flatten(), distances.argmin(1))


def test_tokens_outside_the_codebook_are_refused(quantizer):
    for stranger in (-1, quantizer.codebook_size):
        tokens = torch.zeros(1, 1, 2, 2, dtype=torch.long)
        tokens[..., 0] = stranger
        with pytest.raises(ValueError, match="tokens must lie in"):
            quantizer.lookup(tokens)


def test_latents_of_a_wrong_shape_are_refused(quantizer):
    for shape in [(1, quantizer.dim + 1, 1, 2, 2), (1, quantizer.dim, 2, 2)]:
        with pytest.raises(ValueError, match="latents must be"):
            quantizer(torch.zeros(shape))


def test_a_stored_quantizer_gives_the_same_tokens(quantizer):
    restored = build(yaml.safe_load(yaml.safe_dump(quantizer.config))).eval()
    assert type(restored) is type(quantizer) and restored.config == quantizer.config
    restored.load_state_dict(quantizer.state_dict())
    before, after = quantizer(grid(quantizer)), restored(grid(quantizer))
    assert torch.equal(before.tokens, after.tokens) and torch.equal(before.latents, after.latents)


@pytest.mark.parametrize("steps", [0, 5], ids=["fresh", "trained"])
@pytest.mark.parametrize("prototype", [*DISCRETE, Continuous()], ids=name)
def test_eval_changes_nothing(prototype, steps):
    quantizer = trained(prototype, steps)
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    quantizer(grid(quantizer, seed=99))
    assert all(torch.equal(before[key], value) for key, value in quantizer.state_dict().items())


def test_autocast_does_not_reach_the_rounding(quantizer):
    latents = grid(quantizer).bfloat16()
    plain = quantizer(latents)
    with torch.autocast("cpu", torch.bfloat16):
        cast = quantizer(latents)
        looked_up = quantizer.lookup(cast.tokens)
        quantizer.train()(latents)
    assert torch.equal(plain.tokens, cast.tokens) and torch.equal(plain.latents, cast.latents)
    assert torch.equal(looked_up, plain.latents)


def test_a_recipe_names_a_quantizer_by_class_path():
    parser = ArgumentParser()
    parser.add_argument("--quantizer", type=Quantizer)
    levels = {"class_path": "vq.quantizers.FSQ", "init_args": {"levels": [5, 5, 3]}}
    quantizer = parser.instantiate(parser.parse_object({"quantizer": levels})).quantizer
    assert quantizer.codebook_size == 75 and quantizer.config == levels


@pytest.mark.parametrize(
    "quantizer, digits",
    [
        (FSQ((8, 5, 5, 5)), ((8, 5, 5, 5),)),
        (FSQ((8, 8, 8, 5, 5, 5)), ((8, 8, 8), (5, 5, 5))),
        (FSQ((8,) * 6), ((8, 8, 8), (8, 8, 8))),
        (FSQ((8, 5, 5, 5) * 4), ((8, 5, 5, 5),) * 4),
        (LFQ(bits=18, groups=2), ((512,), (512,))),
        (LFQ(bits=18, groups=3), ((64,), (64, 64))),
        (ResidualVQ(codebook_size=256, num_quantizers=2), ((256,), (256,))),
        (VQ(codebook_size=8192), ((8192,),)),
        (Continuous(), ()),
    ],
    ids=lambda value: name(value) if isinstance(value, Quantizer) else str(value),
)
def test_large_codes_split_into_few_small_digits(quantizer, digits):
    assert quantizer.digits == digits


def test_standardize_in_training_as_in_eval():
    standardize = Standardize(4)
    for step in range(30):
        vectors = 3 + 5 * torch.randn(2, 50, 4) * (1 + step / 30)  # an encoder whose scale grows
        in_training = standardize.train()(vectors)
    torch.testing.assert_close(standardize.eval()(vectors), in_training)
    torch.testing.assert_close(in_training.std(dim=(0, 1)), torch.ones(4), rtol=0.5, atol=0)


def test_standardize_rewards_no_change_of_scale_or_offset():
    vectors = (3 + 5 * torch.randn(2, 50, 4)).requires_grad_()
    (Standardize(4)(vectors) * torch.randn(2, 50, 4)).sum().backward()
    torch.testing.assert_close(vectors.grad.sum(dim=(0, 1)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close((vectors.grad * vectors.detach()).sum(dim=(0, 1)), torch.zeros(4), atol=1e-3, rtol=0)


def test_fsq_uses_its_codes_evenly_because_it_standardizes():
    quantizer = FSQ((8, 5, 5, 5))
    for step in range(5):
        quantizer(grid(quantizer, h=32, w=32, seed=step))
    latents = grid(quantizer, b=5, h=64, w=64)
    tokens = quantizer.eval()(latents).tokens
    assert tokens.unique().numel() > 0.98 * 1000
    assert all(evenness(to_digits(tokens, (8, 5, 5, 5))[..., i], size) > 0.92 for i, size in enumerate((8, 5, 5, 5)))

    quantizer.standardize = torch.nn.Identity()
    raw = to_digits(quantizer(latents).tokens, (8, 5, 5, 5))
    assert all(evenness(raw[..., i], size) < 0.7 for i, size in enumerate((8, 5, 5, 5)))


@pytest.mark.parametrize("levels", [5, 8])
def test_fsq_loses_least_with_its_scale(levels):
    def error(scale: float) -> float:
        """Squared error of a Gaussian rounded at this scale, under the best decoder: the mean of each level."""
        quantizer = FSQ((levels,)).eval()
        quantizer.scale = scale
        latents = torch.randn(1, 1, 1, 200, 200, generator=torch.Generator().manual_seed(0))
        level, values = quantizer(latents).tokens.flatten(), latents.flatten()
        means = torch.zeros(levels).index_add(0, level, values) / torch.bincount(level, minlength=levels)
        return (values - means[level]).square().mean().item()

    assert error(0.8) < 1.03 * min(error(scale) for scale in (0.6, 0.7, 0.9, 1.0))
    assert error(0.8) < 0.9 * min(error(0.5), error(1.0))


def test_fsq_counts_exactly_up_to_its_limit():
    quantizer = FSQ((8,) * 20).eval()  # 2^60 codes; float32 sums are exact to 2^24
    tokens = torch.randint(quantizer.codebook_size, (1, 1, 40, 50), generator=torch.Generator().manual_seed(0))
    codes = quantizer.lookup(tokens)
    levels = quantizer._levels(rearrange(codes, "b d t h w -> b (t h w) d"))
    assert torch.equal(levels, to_digits(tokens.flatten(1), (8,) * 20))
    with pytest.raises(ValueError, match="do not fit an int64 token"):
        FSQ((8,) * 21)
    with pytest.raises(ValueError, match="levels of at least 2"):
        FSQ((8, 1))


def test_fsq_names_codes_as_the_library_does():
    quantizer = FSQ((8, 5, 3)).eval()
    codes = quantizer.lookup(torch.arange(120).reshape(1, 1, 1, -1))
    torch.testing.assert_close(codes[0, :, 0, 0].T, quantizer.core.indices_to_codes(torch.arange(120)))


def test_fsq_codes_span_minus_one_to_one():
    quantizer = FSQ((8, 5, 2))
    codes = quantizer.lookup(torch.arange(80).reshape(1, 1, 8, 10))
    assert torch.equal(codes.amin(dim=(0, 2, 3, 4)), -torch.ones(3))
    assert torch.equal(codes.amax(dim=(0, 2, 3, 4)), torch.ones(3))


@pytest.mark.parametrize("kind", [VQ, ResidualVQ])
def test_dead_codes_are_revived(kind):
    torch.manual_seed(0)
    quantizer = kind(codebook_size=32, dim=4, decay=0.8)
    latents = [grid(quantizer, h=8, w=8, seed=step) for step in range(4)]
    for step in range(4):
        quantizer(latents[step])
    codebook = (quantizer.core if kind is VQ else quantizer.core.layers[0])._codebook
    codebook.embed[:, 8:] = codebook.embed[:, :1]  # three quarters fall onto one code, and never win again
    codebook.embed_avg[:, 8:] = 0

    def used() -> int:
        return torch.cat([quantizer.eval()(x).tokens.flatten() % 32 for x in latents]).unique().numel()

    assert used() <= 8
    for step in range(30):
        quantizer.train()(latents[step % 4])
    assert used() >= 31


def test_few_vectors_do_not_replace_a_codebook():
    """The library's absolute threshold would: 40 vectors a step, 128 codes."""
    torch.manual_seed(0)
    quantizer = VQ(codebook_size=128, dim=4)
    for step in range(20):
        quantizer(grid(quantizer, b=1, t=2, seed=step))
    before = quantizer.core.codebook.clone()
    quantizer(grid(quantizer, b=1, t=2, seed=20))
    moved = (quantizer.core.codebook - before).norm(dim=-1) > 0.2
    assert moved.float().mean() < 0.1


def test_kmeans_runs_once():
    quantizer = trained(VQ(codebook_size=16, dim=4))
    restored = build(quantizer.config)
    restored.load_state_dict(quantizer.state_dict())
    restored.train()(grid(restored, seed=5))
    assert (restored.core.codebook - quantizer.core.codebook).norm(dim=-1).median() < 0.1


def test_the_gradient_through_residuals_arrives_once():
    quantizer = ResidualVQ(codebook_size=16, num_quantizers=3, dim=4, commitment=0.0)
    vectors = torch.randn(1, 60, 4, requires_grad=True)
    weight = torch.randn(1, 60, 4)
    codes, _, _ = quantizer._quantize(vectors)
    (codes * weight).sum().backward()
    assert torch.equal(vectors.grad, weight)


def test_lfq_groups_bits_that_are_too_many():
    with pytest.raises(ValueError, match="groups"):
        LFQ(bits=18, groups=1)
    with pytest.raises(ValueError, match="groups"):
        LFQ(bits=18, groups=4)


def test_continuous_standardizes_and_has_no_tokens():
    quantizer = trained(Continuous(dim=4))
    quantized = quantizer(grid(quantizer, h=32, w=32))
    assert quantized.tokens is None and quantized.loss == 0 and quantizer.codebook_size == 0
    torch.testing.assert_close(quantized.latents.std(dim=(0, 2, 3, 4)), torch.ones(4), rtol=0.1, atol=0)
    latents = grid(quantizer, t=1).requires_grad_()
    quantizer(latents).latents.square().sum().backward()
    assert latents.grad.abs().min() > 0
    with pytest.raises(ValueError, match="no tokens"):
        quantizer.lookup(torch.zeros(1, 1, 2, 2, dtype=torch.long))

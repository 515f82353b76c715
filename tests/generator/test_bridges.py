"""Noisy tokens and masked latents: their processes against closed forms, their canvases, and what all four share."""

import math

import pytest
import torch
from conftest import CLIP
from test_diffusion import HEADS, gaussian

from generator import tasks
from generator.backbone import VideoTransformer
from generator.bridges import MaskedLatentsTraining
from generator.diffusion import DiffusionGenerator, Euler, Numbers, logit_normal
from generator.draws import Draws
from generator.filling import Piece, denoiser, knobs
from generator.guidance import Guidance
from generator.masked import MaskedGenerator
from generator.masked_latents import HEAD_STEPS, MaskedLatentsGenerator, drawing, masked_latents_loss
from generator.orders import Confidence, Halton
from generator.pipeline import VideoGenerator
from generator.puzzles import random_masks
from generator.samplers import sample
from generator.schedules import Cosine
from generator.text import ByteText
from generator.uniform import UniformGenerator, add_noise, denoise, uniform_loss
from vq.optimizer import Muon
from vq.quantizers import from_digits, to_digits

GRID, SIZES, K = (3, 2, 3), (5, 25), 125
DIGITS = ((5,), (5, 5))
STEPS = [1, 4, 7]


def parts(depth: int = 2):
    return VideoTransformer(dim=32, depth=depth, heads=2, text_dim=16), ByteText(dim=16, depth=1)


@pytest.fixture
def uniform() -> UniformGenerator:
    """A tiny generator over 125 tokens with random weights everywhere, so that nothing is accidentally zero."""
    torch.manual_seed(0)
    return scrambled(UniformGenerator(*parts(), K, DIGITS))


@pytest.fixture
def masked_latents() -> MaskedLatentsGenerator:
    torch.manual_seed(0)
    return scrambled(MaskedLatentsGenerator(*parts(), channels=3))


def scrambled(model):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def few(model: VideoGenerator, revisions: int = 1) -> dict[str, int]:
    """Revisions, of those that make them."""
    return {"revisions": revisions} if "revisions" in knobs(model.generator) else {}


@pytest.fixture(params=["uniform", "masked_latents"])
def model(request, tokenizer) -> VideoGenerator:
    return VideoGenerator(tokenizer, request.getfixturevalue(request.param), CLIP)


def empty(b: int, grid=GRID, mask_id: int = K) -> tasks.Canvas:
    return tasks.text2video(grid, mask_id).repeat(b)


def inpainting(mask_id: int) -> tasks.Canvas:
    """Two samples of which two cells of every frame are unknown."""
    region = torch.zeros(GRID[1:], dtype=torch.bool)
    region[1, 1:] = True
    return tasks.inpaint(torch.randint(K, (1, *GRID)), region, mask_id).repeat(2)


# noisy tokens ---------------------------------------------------------------------------------------------------------


def test_noise_replaces_digits_by_the_level_and_leaves_known_cells_alone():
    rng = torch.Generator().manual_seed(0)
    tokens = torch.full((3, 10, 20, 20), from_digits(torch.tensor([3, 7]), SIZES).item())
    known = torch.rand(tokens.shape, generator=rng) < 0.2
    noisy = add_noise(tokens, known, torch.tensor([0.0, 0.4, 1.0]), SIZES, rng)
    assert torch.equal(noisy[0], tokens[0]) and torch.equal(noisy[known], tokens[known])
    for row, level in ((1, 0.4), (2, 1.0)):
        digits = to_digits(noisy[row][~known[row]], SIZES)
        own = digits == torch.tensor([3, 7])
        for i, size in enumerate(SIZES):
            assert own[:, i].float().mean().item() == pytest.approx(1 - level * (1 - 1 / size), abs=0.03)
            others = digits[~own[:, i], i].bincount(minlength=size)
            assert (others > 0).sum() == size - 1  # any but its own
        both = math.prod(1 - level * (1 - 1 / size) for size in SIZES)  # each for itself
        assert own.all(1).float().mean().item() == pytest.approx(both, abs=0.03)


def told(truth, canvas):
    """Predicts the true digits with certainty."""
    right = to_digits(truth[~canvas.known], SIZES)
    return lambda tokens, level, progress: [
        lambda before, i=i: torch.nn.functional.one_hot(right[:, i], SIZES[i]) * 1000.0 for i in range(2)
    ]


@pytest.mark.parametrize("steps", STEPS)
def test_an_oracle_is_a_fixed_point_of_denoising(steps):
    canvas = inpainting(K)
    truth = torch.where(canvas.known, canvas.tokens, torch.randint(K, (2, *GRID)))
    assert torch.equal(denoise(told(truth, canvas), canvas, [0, 1], SIZES, steps), truth)


def test_known_tokens_are_clean_at_every_step_and_no_mask_is_seen():
    canvas, seen = inpainting(K), []

    def predict(tokens, level, progress):
        assert torch.equal(tokens[canvas.known], canvas.tokens[canvas.known])
        assert tokens.min() >= 0 and tokens.max() < K
        seen.append((level, progress))
        return [lambda before, size=size: torch.zeros(int((~canvas.known).sum()), size) for size in SIZES]

    made = denoise(predict, canvas, [0, 1], SIZES, 4)
    assert torch.equal(made[canvas.known], canvas.tokens[canvas.known]) and not torch.equal(made[0], made[1])
    assert seen == [(pytest.approx(math.cos(u * math.pi / 2)), u) for u in (0, 0.25, 0.5, 0.75)]


@pytest.mark.parametrize("steps", [3, 12])
def test_a_known_posterior_keeps_the_marginals(steps):
    """Of 6,000 cells of one digit with a known distribution; half-way it is mixed with noise by the level. However few
    the steps: with the exact prediction a step makes no error."""
    data, seen = torch.tensor([0.6, 0.3, 0.08, 0.02]), []

    def predict(tokens, level, progress):
        likelihood = (1 - level) * torch.eye(4) + level / 4  # of the noisy digit, given the clean one
        seen.append((level, tokens.flatten()))
        return [lambda before: (data * likelihood[tokens.flatten()]).log()]

    made = denoise(predict, empty(1, (6, 25, 40), 4), [0], (4,), steps)
    seen.append((0.0, made.flatten()))
    for level, digits in (seen[0], seen[steps // 2 + 1], seen[-1]):
        expected = (1 - level) * data + level / 4
        torch.testing.assert_close(digits.bincount(minlength=4) / 6000, expected, atol=0.025, rtol=0)


def test_the_first_guess_of_tokens_is_uniform_and_all_unknown_cells_are_asked():
    model, tokens = UniformGenerator(*parts(), K, DIGITS), torch.randint(K, (2, *GRID))
    known = torch.rand(2, *GRID) < 0.4
    answers = model(tokens, known, torch.tensor([0.3, 0.9]), model.read(["a", "b"]))
    assert [tuple(a(to_digits(tokens[~known], SIZES)).shape) for a in answers] == [
        (int((~known).sum()), s) for s in SIZES
    ]
    loss, _ = uniform_loss(model, tokens, tokens, known, torch.tensor([0.3, 0.9]), model.read(["a", "b"]))
    torch.testing.assert_close(loss, torch.tensor(float(K)).log())


# masked latents -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", STEPS)
def test_an_oracle_is_a_fixed_point_of_drawing_and_known_latents_stay(steps):
    """The velocity that leads to a known vector, whatever the noise; each cell is asked for once."""
    truth, asked = torch.randn(2, 3, *GRID), []
    numbers, region = (
        Numbers(3, torch.device("cpu")),
        random_masks((2, *GRID), torch.tensor([0.5, 1.0]), torch.default_generator),
    )
    canvas = tasks.Canvas(numbers.nearest(truth), ~region, -1)

    def predict(tokens, where, progress):
        assert not (where & (tokens != -1)).any()
        asked.append(where)
        cells = truth.movedim(1, -1)[where]
        return lambda x, time: (x - cells) / time

    made = sample(predict, canvas, [0, 1], Halton(), steps, lean=True, draw=drawing(numbers, Euler()))
    torch.testing.assert_close(numbers.lookup(made), truth, rtol=1e-4, atol=1e-4)
    assert torch.equal(made[canvas.known], canvas.tokens[canvas.known])
    assert torch.equal(torch.stack(asked).sum(0), region.long())


def test_the_head_reaches_the_distribution():
    numbers, places = Numbers(1, torch.device("cpu")), torch.arange(4000)
    draw = drawing(numbers, Euler(), 200)
    drawn, confidence = draw(gaussian(2.0, 0.5), places, 4000, Draws([0]), 1.0)
    x = numbers.vectors[drawn]
    assert x.shape == (4000, 1) and not confidence.any()
    assert x.mean().item() == pytest.approx(2, abs=0.04) and x.std().item() == pytest.approx(0.5, abs=0.03)


def test_the_loss_is_that_of_the_velocity_on_hidden_cells(masked_latents):
    """An oracle in the head's place has no loss; any other value has its square. Hidden latents are not seen."""
    latents, where = torch.randn(2, 3, *GRID), torch.rand(2, *GRID) < 0.6
    m = int(where.sum())
    time, noise = torch.rand(4, m), torch.randn(4, m, 3)
    clean = masked_latents.normalise(latents).movedim(1, -1)[where]

    class Oracle(torch.nn.Module):
        def forward(self, x, at, condition):
            line = (1 - time[..., None]) * clean + time[..., None] * noise
            torch.testing.assert_close(x, line.flatten(0, 1))
            assert torch.equal(at, time.flatten()) and torch.equal(condition[:m], condition[m : 2 * m])
            return (noise - clean).flatten(0, 1) + 0.5

    text, head, masked_latents.head = masked_latents.read(["a", "b"]), masked_latents.head, Oracle()
    loss, logs = masked_latents_loss(masked_latents, latents, where, time, noise, text)
    torch.testing.assert_close(loss, torch.tensor(0.25))
    torch.testing.assert_close(logs["clean"], 0.25 * time.square().mean())
    masked_latents.head = head
    seen = [masked_latents(x, ~where, where, text) for x in (latents, latents + 9 * where[:, None])]
    assert torch.equal(*seen) and seen[0].shape == (m, 32)
    assert not torch.equal(seen[0], masked_latents(latents + 1, ~where, where, text))


def test_the_times_of_a_cell_are_shifted_in_training_and_sampling(masked_latents, tokenizer, monkeypatch):
    """Towards noise, by as much: t becomes 3 t / (1 + 2 t)."""
    seen = {}
    for shift in (1.0, 3.0):
        masked_latents.shift = shift
        asked = []
        hook = masked_latents.head.register_forward_pre_hook(lambda _, given, to=asked: to.append(given[1][0].item()))
        VideoGenerator(tokenizer, masked_latents, CLIP)("a", steps=1, guidance=1.0, revisions=0)
        hook.remove()
        training = MaskedLatentsTraining.__new__(MaskedLatentsTraining)
        torch.nn.Module.__init__(training)
        training.generator, training.times = masked_latents, 4
        seen[shift] = torch.tensor(asked), training.draw_times(5, torch.Generator().manual_seed(0))
    for plain, moved in zip(seen[1.0], seen[3.0], strict=True):
        torch.testing.assert_close(moved, 3 * plain / (1 + 2 * plain))
    assert seen[3.0][1].shape == (4, 5) and len(seen[3.0][0]) == HEAD_STEPS
    with pytest.raises(ValueError, match="shift is 0"):
        MaskedLatentsGenerator(*parts(), channels=3, shift=0)


def test_the_first_guess_of_latents_is_no_velocity():
    model, where = MaskedLatentsGenerator(*parts(), channels=3), torch.ones(1, *GRID, dtype=torch.bool)
    condition = model(torch.randn(1, 3, *GRID), ~where, where, model.read(["a"]))
    assert not model.head(torch.randn(18, 3), torch.rand(18), condition).any()


def test_orders_that_ask_for_likelihoods_are_refused(masked_latents, tokenizer):
    model = VideoGenerator(tokenizer, masked_latents, CLIP)
    with pytest.raises(ValueError, match="Confidence asks how likely tokens are, and a generator of latents does not"):
        model("a", order=Confidence())
    with pytest.raises(ValueError, match="guidance is rescaled on logits"):
        model("a", guidance=Guidance(2.0, rescale=0.5))


# both -----------------------------------------------------------------------------------------------------------------


def test_all_four_differ_by_their_first_and_last_layers_alone(uniform, masked_latents):
    def shared(model):
        edges = (*HEADS, "head")
        return {k: v.shape for k, v in model.state_dict().items() if k.split(".")[0] not in edges}

    others = MaskedGenerator(*parts(), K, DIGITS), DiffusionGenerator(*parts(), channels=3)
    assert shared(uniform) == shared(masked_latents) == shared(others[0]) == shared(others[1])
    assert {k.split(".")[0] for k in shared(uniform)} == {"backbone", "text", "null_text"}
    named = [{k: v.shape for k, v in model.state_dict().items()} for model in (uniform, others[0])]
    assert named[0].pop("known") == named[1].pop("mask") and named[0] == named[1]  # no more and no less


def test_gradients_reach_every_parameter(uniform, masked_latents):
    hidden, level = torch.rand(2, *GRID) < 0.6, torch.tensor([0.3, 0.9])
    tokens, latents = torch.randint(K, (2, *GRID)), torch.randn(2, 3, *GRID)
    drop, m = torch.tensor([True, False]), int(hidden.sum())
    noisy = add_noise(tokens, ~hidden, level, SIZES, torch.default_generator)
    uniform_loss(uniform, tokens, noisy, ~hidden, level, uniform.read(["a", "b"], drop))[0].backward()
    drawn = torch.rand(4, m), torch.randn(4, m, 3)
    masked_latents_loss(masked_latents, latents, hidden, *drawn, masked_latents.read(["a", "b"], drop))[0].backward()
    for model in (uniform, masked_latents):
        missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert not missing


def test_known_cells_come_back_untouched(model):
    canvas = inpainting(model.mask_id)
    filled = model.fill(canvas, ["a", "b"], [0, 1], steps=3, **few(model))
    assert torch.equal(filled[canvas.known], canvas.tokens[canvas.known])
    new = filled[~canvas.known]
    assert new.min() >= 0 and new.max() < K and len(new.unique()) > 1


def test_the_seed_belongs_to_the_sample(model):
    def run(seeds, batch_size=16):
        canvas = empty(len(seeds), mask_id=model.mask_id)
        return model.fill(canvas, ["a"] * len(seeds), seeds, steps=3, **few(model), batch_size=batch_size)

    alone, together = run([7]), run([3, 7, 5])
    assert torch.equal(alone[0], together[1])
    assert not torch.equal(together[0], together[1])
    assert torch.equal(together, run([3, 7, 5], batch_size=2))


def test_guidance_of_one_is_none(model):
    """It is half the passes, and the limit of others."""
    passes = []
    model.generator.backbone.register_forward_pre_hook(lambda *_: passes.append(1))
    if model.generator.of_latents:
        model.code = Numbers(3, model.device)  # vectors as they are drawn

    def run(guidance):
        passes.clear()
        tokens = model.fill(empty(1, mask_id=model.mask_id), ["a"], [0], steps=3, guidance=guidance, **few(model, 0))
        return model.code.lookup(tokens), len(passes)

    (plain, once), (nearly, twice) = run(1), run(1 + 1e-6)
    assert (once, twice) == (3, 6)
    torch.testing.assert_close(nearly, plain, rtol=1e-3, atol=1e-3)
    assert not model.generator.of_latents or not torch.allclose(run(3)[0], plain, atol=1e-2)


def test_guidance_of_three_leads_away_from_the_null_text(uniform, tokenizer):
    canvas, tokens = empty(1), torch.randint(K, (1, *GRID))
    drop, level = torch.tensor([True]), torch.tensor([0.5])
    told, untold = (uniform(tokens, canvas.known, level, uniform.read(["a"], d))[0](None) for d in (None, drop))
    predict = denoiser(uniform, Piece(canvas, ["a"], torch.tensor([8.0])), Guidance(3))
    torch.testing.assert_close(predict(tokens, 0.5, 0.0)[0](None), untold + 3 * (told - untold))
    assert (told - untold).abs().max() > 1e-3


def test_text_level_known_cells_and_middle_matter(uniform, masked_latents):
    tokens, latents, known = torch.randint(K, (2, *GRID)), torch.randn(2, 3, *GRID), torch.zeros(2, *GRID).bool()
    some, level, where = known.clone(), torch.tensor([0.3, 0.9]), known.clone()
    some[:, 0], where[:, 1:] = True, True

    def noisy(known=known, level=level, prompt="a red circle", middle=False):
        text = uniform.read([prompt, "b"])
        return uniform.transform(uniform.embed(tokens) + known[..., None] * uniform.known, level, text, middle, None)

    def masked(known=known, prompt="a red circle", middle=False):
        return masked_latents(latents, known, where, masked_latents.read([prompt, "b"]), middle)

    for first, others in (
        (noisy(), [noisy(known=some), noisy(level=level / 2), noisy(prompt="c"), noisy(middle=True)]),
        (masked(), [masked(known=some), masked(prompt="c"), masked(middle=True)]),
    ):
        assert all((other - first).abs().max() > 1e-4 for other in others)


def test_a_folder_reloads_to_the_same_videos(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = VideoGenerator.from_pretrained(tmp_path)
    assert type(again.generator) is type(model.generator)
    how = {"seed": 3, "steps": 2, **few(model)}
    assert torch.equal(again("a", **how), model("a", **how))


def test_editing_tasks_work_but_for_likelihoods(model):
    clip = torch.rand(3, 9, 16, 24) * 2 - 1
    longer = model("a", task="extend", inputs=[clip], frames=13, steps=2, **few(model))
    assert longer.shape == (1, 3, 13, 16, 24)
    edited = model("a", task="edit", inputs=[clip], strength=0.5, steps=2, **few(model))  # forgets random cells
    assert edited.shape == (1, 3, 9, 16, 24)
    with pytest.raises(ValueError, match="does not say how likely a token is: forget random ones"):
        model("a", task="edit", inputs=[clip], forget="unlikely")


def test_they_learn_four_clips_by_their_captions():
    torch.manual_seed(0)
    texts, nothing = ["a", "b", "c", "d"], torch.zeros(8, 2, 2, 2, dtype=torch.bool)
    clips, vectors = torch.randint(K, (4, 2, 2, 2)), torch.randn(4, 3, 2, 2, 2)
    rng = torch.Generator().manual_seed(0)
    noisy, masked = UniformGenerator(*parts(1), K, DIGITS), MaskedLatentsGenerator(*parts(1), channels=3, blocks=2)

    def loss_of_tokens():
        level = Cosine()(torch.rand(8, generator=rng))
        shown = add_noise(clips.repeat(2, 1, 1, 1), nothing, level, SIZES, rng)
        return uniform_loss(noisy, clips.repeat(2, 1, 1, 1), shown, nothing, level, noisy.read(texts * 2))[0]

    def loss_of_latents():
        where = random_masks((8, 2, 2, 2), Cosine()(torch.rand(8, generator=rng)), rng)
        m = int(where.sum())
        drawn = logit_normal(torch.rand(4, m, generator=rng)), torch.randn(4, m, 3, generator=rng)
        return masked_latents_loss(masked, vectors.repeat(2, 1, 1, 1, 1), where, *drawn, masked.read(texts * 2))[0]

    for model, loss_of in ((noisy, loss_of_tokens), (masked, loss_of_latents)):
        optimizer, losses = Muon(model.named_parameters(), 1e-2, adamw=("embeddings", "input", "output", "logits")), []
        for _ in range(70):
            loss = loss_of()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert sum(losses[-10:]) < 0.25 * sum(losses[:10])
    memory = noisy.read(texts)
    made = denoise(
        lambda tokens, level, _: noisy(tokens, nothing[:4], torch.full((4,), level), memory),
        empty(4, (2, 2, 2)),
        range(4),
        SIZES,
        16,
    )
    assert (made == clips).float().mean() > 0.9
    memory, numbers = masked.read(texts), Numbers(3, torch.device("cpu"))

    def predict(tokens, where, progress):
        known = tokens != -1
        condition = masked(numbers.lookup(tokens.masked_fill(~known, 0)), known, where, memory)
        return lambda x, time: masked.head(x, torch.full((len(x),), time), condition)

    made = sample(predict, empty(4, (2, 2, 2), -1), range(4), Halton(), 4, lean=True, draw=drawing(numbers, Euler()))
    distances = (numbers.lookup(made)[:, None] - vectors[None]).square().flatten(2).mean(2)  # between all pairs
    assert distances.argmin(1).tolist() == [0, 1, 2, 3] and distances.diagonal().max() < 0.3

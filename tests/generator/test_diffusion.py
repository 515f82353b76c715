"""The continuous twin: its process against closed forms, its canvases, and what it shares with the masked generator."""

from itertools import pairwise

import pytest
import torch
from conftest import CLIP

from generator import tasks
from generator.backbone import VideoTransformer
from generator.diffusion import (
    SDE,
    SOLVERS,
    DiffusionGenerator,
    Euler,
    Heun,
    flow_loss,
    integrate,
    logit_normal,
    shifted,
)
from generator.filling import Piece, velocity
from generator.guidance import Guidance
from generator.masked import MaskedGenerator
from generator.orders import Halton
from generator.pipeline import VideoGenerator
from generator.text import ByteText
from vq import pretrained
from vq.config import build
from vq.quantizers import FSQ, Continuous
from vq.tokenizer import Tokenizer

GRID = (3, 2, 3)
HEADS = ("embeddings", "mask", "join", "split", "heads", "previous", "input", "known", "output", "mean", "std")


def parts():
    return VideoTransformer(dim=32, depth=2, heads=2, text_dim=16), ByteText(dim=16, depth=1)


@pytest.fixture
def twin() -> DiffusionGenerator:
    """A tiny generator of 3 channels with random weights everywhere, so that nothing is accidentally zero."""
    torch.manual_seed(0)
    model = DiffusionGenerator(*parts(), channels=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.measure([2 + 3 * torch.randn(64, 3, 1, 1, 1)])
    return model.eval()


@pytest.fixture
def continuous() -> Tokenizer:
    """A tiny tokenizer, 4x8x8, that does not round."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(Continuous(3), channels=[8, 16, 16])
    for _ in range(3):
        tokenizer(torch.rand(2, 3, 9, 16, 24) * 2 - 1)
    return tokenizer.eval()


def noise_and_data(b=2):
    torch.manual_seed(1)
    return torch.randn(b, 3, *GRID), torch.randn(b, 3, *GRID)


def nothing_known(b=2):
    return torch.zeros(b, *GRID, dtype=torch.bool)


# the process ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [Euler(), Heun()], ids=["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 4, 5])
def test_the_velocity_of_a_known_line_brings_noise_to_data(solver, steps):
    """One Euler step is enough, and more steps or a shift change nothing."""
    _, data = noise_and_data()
    noise = integrate(lambda x, t: 0 * x, data, nothing_known(), [3, 4], solver, steps)  # stands still: the draw itself
    for shift in (1.0, 3.0):
        end = integrate(lambda x, t: noise - data, data, nothing_known(), [3, 4], solver, steps, shift)
        torch.testing.assert_close(end, data, rtol=1e-5, atol=1e-5)


def test_the_loss_is_that_of_the_velocity_on_unknown_positions(twin):
    """An oracle in the network's place, that knows noise and data, has no loss; any other value has its square."""
    noise, latents = noise_and_data()
    known = torch.rand(2, *GRID) < 0.4
    time = torch.tensor([0.3, 0.9])
    clean, seen = twin.normalise(latents), []

    class Oracle:
        normalise = twin.normalise

        def __call__(self, x, known, time, text, middle, fps):
            seen.append(x)
            return noise - clean + torch.where(known, 7.0, 0.5)[:, None]

    loss, logs = flow_loss(Oracle(), latents, known, time, noise, None)
    torch.testing.assert_close(loss, torch.tensor(0.25))
    line = (1 - time).view(2, 1, 1, 1, 1) * clean + time.view(2, 1, 1, 1, 1) * noise
    torch.testing.assert_close(seen[0], torch.where(known[:, None], clean, line))
    expected = 0.25 * torch.where(known, 0, time.view(2, 1, 1, 1).square())[~known].mean()
    torch.testing.assert_close(logs["clean"], expected)


def test_the_contrastive_loss_pushes_away_from_the_next_sample(twin):
    """Standing on its own velocity a sample is as far from the next one's as the two lie apart."""
    noise, latents = noise_and_data()
    known, time = nothing_known(), torch.tensor([0.3, 0.9])
    ways = noise - twin.normalise(latents)

    class Oracle:
        normalise = twin.normalise

        def __call__(self, *_):
            return ways

    plain, _ = flow_loss(Oracle(), latents, known, time, noise, None)
    loss, _ = flow_loss(Oracle(), latents, known, time, noise, None, contrastive=0.05)
    assert plain == 0
    torch.testing.assert_close(loss, -0.05 * (ways[0] - ways[1]).square().mean())


def gaussian(mean, std):
    """The exact velocity of a path from N(mean, std^2) to noise."""

    def velocity(x, t):
        variance = (1 - t) ** 2 * std**2 + t**2
        away = (x - (1 - t) * mean) / variance
        return t * away - (mean + (1 - t) * std**2 * away)  # E[noise | x] - E[data | x]

    return velocity


def test_heun_is_of_second_order_and_euler_of_first():
    """On a Gaussian the exact solution is known: x keeps its distance from the mean in standard deviations."""
    noise, _ = noise_and_data()
    noise = integrate(lambda x, t: 0 * x, noise, nothing_known(), [0, 1], Euler(), 1).double()

    def error(solver, count):
        x = noise
        for t, s in pairwise(torch.linspace(1, 0, count + 1, dtype=torch.float64).tolist()):
            x = solver.step(gaussian(2.0, 0.5), x, t, s, None)
        return (x - (2 + 0.5 * noise)).abs().max()

    for solver, order in ((Euler(), 1), (Heun(), 2)):
        ratio = error(solver, 40) / error(solver, 80)
        assert 0.8 * 2**order < ratio < 1.25 * 2**order, ratio


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_reach_the_distribution(name):
    """Of 4,000 draws of N(2, 0.5^2), and for the stochastic solver half-way too."""
    latents = torch.zeros(1, 4000, 1, 1, 1)
    known = torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    x = integrate(gaussian(2.0, 0.5), latents, known, [0], SOLVERS[name](), 200)
    assert x.mean().item() == pytest.approx(2, abs=0.04) and x.std().item() == pytest.approx(0.5, abs=0.03)


def test_the_stochastic_solver_keeps_the_marginals_and_adds_noise():
    rng = torch.Generator().manual_seed(0)
    x = start = torch.randn(20_000, generator=rng)
    for t, s in pairwise(torch.linspace(1, 0.5, 101).tolist()):
        x = SDE().step(gaussian(2.0, 0.5), x, t, s, lambda: torch.randn(20_000, generator=rng))
    std = (0.5**2 * 0.5**2 + 0.5**2) ** 0.5
    assert x.mean().item() == pytest.approx(1, abs=0.02) and x.std().item() == pytest.approx(std, abs=0.015)
    assert torch.corrcoef(torch.stack([x, start]))[0, 1] < 0.9  # a deterministic way has 1


def test_grids_of_times_and_training_times():
    assert Euler().times(4) == [1, 0.75, 0.5, 0.25, 0]
    for solver, calls in ((Euler(), 4), (Heun(), 3), (SDE(), 4)):
        seen = []
        integrate(lambda x, t, seen=seen: seen.append(t) or x, *nothing(), [0], solver, 4, 3.0)
        assert len(seen) == calls and seen[0] == 1 and min(seen) > 0
    assert shifted(torch.tensor([0.0, 0.5, 1.0]), 3.0).tolist() == [0, 0.75, 1]
    times = logit_normal((torch.arange(1000) + 0.5) / 1000)
    assert times.median().item() == pytest.approx(0.5, abs=1e-3)
    assert times.logit().std().item() == pytest.approx(1, abs=0.01)
    assert logit_normal(torch.tensor([0.0, 1.0])).isfinite().all()


def nothing():
    return torch.zeros(1, 3, *GRID), nothing_known(1)


# the network ----------------------------------------------------------------------------------------------------------


def test_the_twin_is_the_masked_generator_but_for_its_first_and_last_layer(twin):
    masked = MaskedGenerator(*parts(), codebook_size=125)

    def shared(model):
        return {k: v.shape for k, v in model.state_dict().items() if k.split(".")[0] not in HEADS}

    assert shared(twin) == shared(masked)
    assert {k.split(".")[0] for k in shared(twin)} == {"backbone", "text", "null_text"}
    assert type(twin.backbone) is type(masked.backbone) and twin.backbone.config == masked.backbone.config


def test_gradients_reach_every_parameter(twin):
    noise, latents = noise_and_data()
    known = torch.rand(2, *GRID) < 0.4
    text = twin.read(["a", "b"], drop=torch.tensor([True, False]))
    flow_loss(twin, latents, known, torch.tensor([0.3, 0.9]), noise, text)[0].backward()
    missing = [n for n, p in twin.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing


def test_the_first_guess_is_no_velocity():
    _, latents = noise_and_data()
    model = DiffusionGenerator(*parts(), channels=3)
    out = model(latents, nothing_known(), torch.tensor([0.3, 0.9]), model.read(["a", "b"]))
    assert out.shape == latents.shape and not out.any()


def test_text_time_known_positions_and_middle_matter(twin):
    _, latents = noise_and_data()
    known, time, text = nothing_known(), torch.tensor([0.3, 0.9]), twin.read(["a", "b"])
    first = twin(latents, known, time, text)
    some = known.clone()
    some[:, 0] = True
    others = [
        twin(latents, some, time, text),
        twin(latents, known, time / 2, text),
        twin(latents, known, time, twin.read(["c", "d"])),
        twin(latents, known, time, text, middle=True),
    ]
    for other in others:
        assert (other - first).abs().max() > 1e-3


def test_channels_are_measured_and_stored(twin):
    cells = torch.tensor([1.0, 5.0, 3.0]).view(1, 3, 1, 1, 1) + torch.randn(500, 3, 1, 1, 1) * 4
    twin.measure([cells[:100], cells[100:]])
    normal = twin.normalise(cells)
    torch.testing.assert_close(normal.mean((0, 2, 3, 4)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std((0, 2, 3, 4), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(twin.denormalise(normal), cells)
    again = build(twin.config)
    again.load_state_dict(twin.state_dict())
    assert torch.equal(again.normalise(cells), normal)
    with pytest.raises(ValueError, match="shift is 0"):
        DiffusionGenerator(*parts(), channels=3, shift=0)


def test_it_learns_four_clips_by_their_captions():
    torch.manual_seed(0)
    model = DiffusionGenerator(*parts(), channels=3)
    clips, texts = torch.randn(4, 3, 2, 2, 2).repeat(4, 1, 1, 1, 1), ["a", "b", "c", "d"] * 4
    known = torch.zeros(16, 2, 2, 2, dtype=torch.bool)
    optimizer, losses = torch.optim.AdamW(model.parameters(), 4e-3), []
    for _ in range(200):
        time = logit_normal(torch.rand(16))
        loss, _ = flow_loss(model, clips, known, time, torch.randn_like(clips), model.read(texts))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.25 * sum(losses[:20])
    memory = model.read(texts[:4])
    for make in SOLVERS.values():
        made = integrate(
            lambda x, t: model(x, known[:4], torch.full((4,), t), memory), clips[:4], known[:4], range(4), make(), 16
        )
        distances = (made[:, None] - clips[None, :4]).square().flatten(2).mean(2)  # between all pairs
        assert distances.argmin(1).tolist() == [0, 1, 2, 3] and distances.diagonal().max() < 0.1


# the pipeline ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOLVERS)
def test_known_positions_come_back_untouched(name, twin, tokenizer):
    model = VideoGenerator(tokenizer, twin, CLIP)
    clip = torch.randint(125, (1, *GRID))
    region = torch.zeros(GRID[1:], dtype=torch.bool)
    region[1, 1:] = True
    canvas = tasks.inpaint(clip, region, twin.mask_id).repeat(2)
    filled = model.fill(canvas, ["a", "b"], [0, 1], steps=4, solver=SOLVERS[name]())
    assert torch.equal(filled[canvas.known], canvas.tokens[canvas.known])
    new = filled[~canvas.known]
    assert new.min() >= 0 and new.max() < 125 and len(new.unique()) > 1
    whole = model.fill(tasks.inpaint(clip, region & False, -1), ["a"], [0], solver=SOLVERS[name]())
    assert torch.equal(whole, clip)


def test_known_positions_of_the_network_stay_clean():
    """At every call of the velocity, Heun's second one included."""
    _, latents = noise_and_data(1)
    known = torch.rand(1, *GRID) < 0.5
    for make in SOLVERS.values():

        def velocity(x, t):
            assert torch.equal(x[known[:, None].expand_as(x)], latents[known[:, None].expand_as(x)])
            return x + t

        integrate(velocity, latents, known, [0], make(), 6)


@pytest.mark.parametrize(("knob", "value"), [("temperature", 1.0), ("order", Halton()), ("revisions", 3)])
def test_what_the_twin_does_not_go_by_is_refused(twin, tokenizer, knob, value):
    canvas = tasks.text2video(GRID, twin.mask_id)
    with pytest.raises(ValueError, match=f"{knob}: nothing that a DiffusionGenerator goes by"):
        VideoGenerator(tokenizer, twin, CLIP).fill(canvas, ["a"], [0], **{knob: value})


def test_guidance_of_one_is_none_and_three_is_not(twin):
    canvas = tasks.text2video(GRID, twin.mask_id)
    piece, x = Piece(canvas, ["a"], torch.tensor([8.0])), torch.randn(1, 3, *GRID)
    told = twin(x, canvas.known, torch.tensor([0.5]), twin.read(["a"]))
    one, nearly, three = (velocity(twin, piece, Guidance(scale))(x, 0.5) for scale in (1, 1 + 1e-6, 3))
    assert torch.equal(one, told)
    torch.testing.assert_close(nearly, told, rtol=1e-4, atol=1e-4)
    assert (three - told).abs().max() > 1e-3


@pytest.mark.parametrize("name", SOLVERS)
def test_the_seed_belongs_to_the_sample(name, twin, tokenizer):
    model = VideoGenerator(tokenizer, twin, CLIP)

    def run(seeds, batch_size=16):
        canvas = tasks.text2video(GRID, twin.mask_id).repeat(len(seeds))
        solver = SOLVERS[name]()
        return model.fill(canvas, ["a"] * len(seeds), seeds, solver=solver, steps=6, batch_size=batch_size)

    alone, together = run([7]), run([3, 7, 5])
    assert torch.equal(alone[0], together[1])
    assert not torch.equal(together[0], together[1])
    assert torch.equal(together, run([3, 7, 5], batch_size=2))


def test_latents_of_a_continuous_tokenizer(twin, continuous):
    model = VideoGenerator(continuous, twin, CLIP)
    videos = model(["a", "b"], num=2, steps=3)
    assert videos.shape == (4, 3, 9, 16, 24) and not torch.equal(videos[0], videos[1])
    torch.testing.assert_close(model("a", seed=1, steps=3)[0], videos[1], rtol=1e-3, atol=1e-3)
    video = torch.rand(1, 3, 9, 16, 24) * 2 - 1
    tokens = model.encode(video)
    torch.testing.assert_close(model.decode(tokens), continuous(video).video.clamp(-1, 1))
    canvas = tasks.extend(tokens[:, :2], GRID, twin.mask_id)
    filled = model.fill(canvas, ["a"], [0], steps=3)
    assert torch.equal(model.code.lookup(filled)[:, :, :2], continuous.latents(video)[:, :, :2])


def test_a_folder_reloads_to_the_same_videos(twin, tokenizer, tmp_path):
    model = VideoGenerator(tokenizer, twin, CLIP)
    model.save_pretrained(tmp_path)
    again = VideoGenerator.from_pretrained(tmp_path)
    assert torch.equal(again("a", seed=3, steps=4), model("a", seed=3, steps=4))
    assert pretrained.fingerprint(again.generator) == pretrained.fingerprint(twin)


def test_a_tokenizer_of_other_channels_is_refused(twin):
    with pytest.raises(ValueError, match="speaks 3 channels of latents and the tokenizer has 4"):
        VideoGenerator(Tokenizer(FSQ([5, 5, 5, 5]), channels=[8, 16, 16]), twin, CLIP)

"""Every recipe, trained for two steps as a user would, and what a run promises: to resume, skip and refuse."""

import math
import shutil
import tarfile
import warnings
from pathlib import Path

import pytest
import torch
import yaml

import train
from data.commands import in_words
from data.module import collate
from data.shapes import Shapes
from data.tokens import TokenCache
from data.worlds import World
from data.writing import write_clip
from generator import bridges, training
from generator.backbone import VideoTransformer
from generator.diffusion import logit_normal, shifted
from generator.frozen import Span
from generator.masked import MaskedGenerator
from generator.pipeline import VideoGenerator
from generator.schedules import Linear
from generator.text import ByteText
from generator.upscaling import enlarge, shrink
from vq import encode, pretrained
from vq.callbacks import EMA
from vq.config import build
from vq.quantizers import FSQ
from vq.tokenizer import Tokenizer
from vq.training import TokenizerTraining

ROOT = Path(__file__).parents[1]
RECIPES = sorted(
    p.relative_to(ROOT) for stage in ("vq", "generator") for p in (ROOT / "configs" / stage).glob("*.yaml")
)
warnings.filterwarnings("ignore", module="lightning")

SMALL = [
    "--trainer.accelerator",
    "cpu",
    "--trainer.enable_progress_bar",
    "false",
    "--trainer.enable_model_summary",
    "false",
]
TINY_VQ = ["--model.tokenizer.channels", "[8,8,8]", "--model.tokenizer.patch_size", "2"]
TINY_GENERATOR = [
    *("--model.backbone.dim", "32", "--model.backbone.depth", "1", "--model.backbone.heads", "2"),
    *("--model.backbone.text_dim", "16", "--model.text", "generator.text.ByteText", "--model.text.dim", "16"),
]


def fit(config, out, *args):
    command = ["fit", "-c", str(config), "--trainer.default_root_dir", str(out), *SMALL, "--data.num_workers", "0"]
    return train.main([*command, "--data.batch_size", "2", "--data.val_clips", "2", *args])


def two(steps=2):
    return ["--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(steps)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder of captioned clips, as a user would have."""
    folder = tmp_path_factory.mktemp("videos")
    shapes = Shapes("train", frames=25, height=64, width=64, objects=[1])
    lines = []
    for i in range(4):
        write_clip(folder / f"{i}.mp4", shapes[i].clip, 12)
        lines.append(f'{{"file_name": "{i}.mp4", "text": "{shapes[i].text}"}}\n')
    (folder / "metadata.jsonl").write_text("".join(lines))
    return folder


def data_flags(recipe: Path, videos: Path) -> list[str]:
    """A recipe for a folder of the user's own is given one."""
    data = yaml.safe_load((ROOT / recipe).read_text())["data"]
    if "shards" in str(data):
        with tarfile.open(videos / "0.tar", "w") as tar:
            for file in sorted(videos.glob("*.mp4")):
                tar.add(file, file.name)
    if any(name in str(data) for name in ("folder.yaml", "data.folder", "shards")):
        flags = ["--data.val.path", str(videos)]
        if "TokenCache" not in str(data):
            flags += ["--data.train.dataset.path" if "Crops" in str(data) else "--data.train.path", str(videos)]
        return flags
    return []


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("vq")
    fit(ROOT / "configs/vq/demo.yaml", out, *TINY_VQ, *two())
    return out / "model"


@pytest.fixture(scope="module")
def on_tokens(tokenizer, tmp_path_factory) -> list[str]:
    """Flags of a tiny generator on that tokenizer and on a cache of its tokens."""
    folder = tmp_path_factory.mktemp("tokens")
    data = ["--data", str(ROOT / "configs/data/demo.yaml"), "--data.num_workers", "0", "--clips", "12"]
    encode.main(["--tokenizer", str(tokenizer), *data, "--out", str(folder)])
    return ["--model.tokenizer", str(tokenizer), "--data.train.folder", str(folder), *TINY_GENERATOR]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_every_recipe_trains_validates_and_exports(recipe, tokenizer, on_tokens, videos, lpips_weights, tmp_path):
    flags = data_flags(recipe, videos)
    if recipe.match("vq/shapes.yaml"):  # it and the next are made for GPUs
        flags += TINY_VQ
    if recipe.match("vq/large.yaml"):
        flags += [*TINY_VQ, "--model.perceptual.net", "alex", "--model.perceptual.weights", lpips_weights]
        flags += ["--model.compile", "false"]
    if recipe.match("vq/emoji-looks.yaml"):
        flags += ["--model.perceptual.net", "alex", "--model.perceptual.weights", lpips_weights]
        flags += ["--model.tokenizer", str(ROOT / "models/emoji"), "--model.encoder", str(ROOT / "models/emoji")]
    if recipe.match("vq/demo-64.yaml") or recipe.match("vq/showcase.yaml"):
        flags += ["--model.tokenizer", str(tokenizer)]
    if any(recipe.match(name) for name in ("generator/showcase-*.yaml", "vq/showcase-[ft]*.yaml")):
        flags += ["--model.start", str(ROOT / "models/showcase")]
    if recipe.match("vq/showcase-transitions.yaml"):  # the decoder alone
        flags += ["--model.encoder", str(ROOT / "models/showcase")]
    upscaler, cached = recipe.match("generator/*upscale.yaml"), ("*demo", "showcase*", "emoji")
    if not upscaler and any(recipe.match(f"generator/{name}.yaml") for name in cached):
        flags += on_tokens
    elif "generator" in str(recipe):
        flags += ["--model.tokenizer", str(tokenizer), *TINY_GENERATOR]
    cli = fit(ROOT / recipe, tmp_path, *flags, *two())
    assert cli.trainer.global_step == 2
    assert torch.isfinite(cli.trainer.callback_metrics["val/loss"])
    assert (tmp_path / "model" / "config.yaml").is_file() and (tmp_path / "checkpoints" / "last.ckpt").is_file()
    assert any(tmp_path.rglob("events.out.tfevents*"))
    if "generator" in str(recipe):
        model = VideoGenerator.from_pretrained(tmp_path / "model")
        if upscaler:
            assert model.upscale(torch.zeros(1, 3, 5, 16, 16), steps=2).shape == (1, 3, 5, 32, 32)
        else:
            assert model("a red circle", frames=5, height=32, width=32, steps=2).shape == (1, 3, 5, 32, 32)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_every_recipe_says_what_it_is_and_builds_at_its_own_size(recipe):
    head = [line for line in (ROOT / recipe).read_text().splitlines() if line.startswith("#")]
    said = "\n".join(head)
    assert "python train.py fit -c " + str(recipe) in said, "the command stands at a recipe's top"
    for word in ("hardware", "time", "score"):
        assert word in said.lower(), f"a recipe states its {word}"


GAME = ["--model.adversary", "vq.discriminator.Adversary", "--model.adversary.channels", "4"]


MIXTURE = ["-c", str(ROOT / "configs/generator/overlays/tasks.yaml")]
OPTIONS = [
    *("--model.frame_ratios", "0.3", "--model.corruption", "0.2", "--model.weight", "generator.weights.Clamped"),
    *("--model.label_smoothing", "0.1", "--model.backbone.conditions", "true", "--model.backbone.rotary_fps", "8"),
]


@pytest.mark.parametrize("stage", ["vq", "generator", "generator with everything", "diffusion", "adversary"])
def test_a_killed_run_goes_on_bit_for_bit(stage, on_tokens, tmp_path):
    flags = on_tokens if stage.startswith(("generator", "diffusion")) else TINY_VQ
    if stage.endswith("everything"):
        flags = [*MIXTURE, *flags, *OPTIONS]
    if stage == "adversary":
        flags = [*flags, *GAME, "--model.adversary.start", "2"]
    flags = [*flags, "--checkpoint.every_n_train_steps", "3", "--data.num_workers", "1"]
    recipes = {"generator": "generator/demo", "diffusion": "generator/diffusion-demo"}
    config = ROOT / f"configs/{recipes.get(stage.split()[0], 'vq/demo')}.yaml"
    whole = fit(config, tmp_path / "whole", *flags, *two(6)).model.state_dict()
    # killed at step 3: the folder is as it then was, and the schedule is that of the whole run
    fit(config, tmp_path / "cut", *flags, *two(6), "--trainer.callbacks+=tests_stop.StopAt")
    assert torch.load(tmp_path / "cut/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    resumed = fit(config, tmp_path / "cut", *flags, *two(6), "--ckpt_path", "last")
    assert str(resumed.trainer.ckpt_path).endswith("last.ckpt") and resumed.trainer.global_step == 6
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole[name]), name


@pytest.mark.parametrize("size", sorted((ROOT / "configs/vq/sizes").glob("*.yaml")), ids=lambda p: p.stem)
def test_sizes_are_what_they_say(size, tmp_path):
    args = yaml.safe_load(size.read_text())["model"]["init_args"]["tokenizer"]["init_args"]
    with torch.device("meta"):
        count = sum(p.numel() for p in Tokenizer(FSQ([8, 8, 8, 5, 5, 5]), **args).parameters()) / 1e6
    assert float(size.read_text().split()[1]) == pytest.approx(count, rel=0.1)
    if count < 1:
        model = fit(ROOT / "configs/vq/shapes.yaml", tmp_path, "-c", str(size), *two(1)).model
        assert model.tokenizer.config["init_args"]["channels"] == args["channels"]


@pytest.mark.parametrize("overlay", sorted((ROOT / "configs/vq/compression").glob("*.yaml")), ids=lambda p: p.stem)
def test_compressions_are_what_they_say(overlay, tmp_path):
    ft, fs, _ = (int(n) for n in overlay.stem.split("x"))
    flags = [*TINY_VQ, "--data.train.height", "32", "--data.train.width", "32"]
    model = fit(ROOT / "configs/vq/shapes.yaml", tmp_path, "-c", str(overlay), *flags, *two(1)).model.tokenizer
    assert model.latent_shape(17, 32, 32) == (1 + 16 // ft, 32 // fs, 32 // fs)
    bits = math.log2(model.codebook_size) / (ft * fs * fs)
    assert float(overlay.read_text().split(": ")[1].split()[0]) == pytest.approx(bits, rel=0.1)


def test_many_sizes_in_one_run_resume_in_the_middle_of_an_epoch(tokenizer, tmp_path, monkeypatch):
    seen = []
    forward = MaskedGenerator.forward

    def remember(self, tokens, *args, **named):
        if self.training:
            seen.append((tuple(tokens.shape), tokens.remainder(1009).sum().item()))
        return forward(self, tokens, *args, **named)

    monkeypatch.setattr(MaskedGenerator, "forward", remember)
    buckets = ["--data.train.buckets", "[[5,32,32],[1,32,32],[9,48,32]]", "--data.train.length", "40"]
    flags = ["--data", str(ROOT / "configs/data/shapes-sizes.yaml"), "--data.val.buckets", "[[9,32,32],[5,48,32]]"]
    flags += [*buckets, "--data.num_workers", "0", "--data.val_clips", "4", "--data.token_budget", "100"]
    flags += ["--model.tokenizer", str(tokenizer), *TINY_GENERATOR, "--checkpoint.every_n_train_steps", "3"]
    config = ROOT / "configs/generator/shapes.yaml"
    whole = fit(config, tmp_path / "whole", *flags, *two(6)).model.state_dict()
    once = seen.copy()
    assert len({shape[1:] for shape, _ in once}) > 1
    made = [VideoGenerator.from_pretrained(tmp_path / "whole" / name) for name in ("model", "checkpoints/last.ckpt")]
    assert [(model.clip["frames"], model.window) for model in made] == [(5, 9)] * 2  # the first bucket's, the longest's
    assert all(b * t * h * w <= 100 for (b, t, h, w), _ in once)
    fit(config, tmp_path / "cut", *flags, *two(6), "--trainer.callbacks+=tests_stop.StopAt")
    resumed = fit(config, tmp_path / "cut", *flags, *two(6), "--ckpt_path", "last").model.state_dict()
    assert seen[len(once) :] == once  # the very same batches with the very same masks
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())
    with pytest.raises(ValueError, match="height 20 does not fit 8x compression"):
        fit(config, tmp_path, *flags, *two(1), "--data.train.buckets", "[[9,32,32],[9,20,32]]")


def test_a_model_says_what_it_was_trained_for(on_tokens, tmp_path):
    config = ROOT / "configs/generator/demo.yaml"
    fit(config, tmp_path / "text", *on_tokens, *two(1))
    assert VideoGenerator.from_pretrained(tmp_path / "text/model").generator.trained_for == ("text",)
    fit(config, tmp_path / "tasks", *MIXTURE, *on_tokens, *OPTIONS, *two(2))
    model = VideoGenerator.from_pretrained(tmp_path / "tasks/model")
    names = ("text", "first", "ends", "prefix", "suffix", "region", "frames", "middle")
    assert model.generator.trained_for == names
    assert model("a red circle", steps=2, revisions=1).shape == (1, 3, 9, 32, 32)
    with pytest.raises(ValueError, match="got sufix, expected some of"):
        fit(config, tmp_path, *on_tokens, *two(1), "--model.mixture", "{text: 1, sufix: 1}")


def test_the_showcase_on_one_gpu(tokenizer, tmp_path):
    """The command in the head of the recipe, at toy size."""
    config, data = ROOT / "configs/generator/shapes.yaml", ROOT / "configs/data/showcase-final.yaml"
    assert f"{MIXTURE[1].removeprefix(f'{ROOT}/')} --data configs/data/showcase-final.yaml" in config.read_text()
    flags = ["--data", str(data), "--data.batch_size", "2", "--data.val_clips", "2", "--data.num_workers", "0"]
    small = ["--data.train.dataset.buckets", "[[9,32,32],[5,32,48]]", "--data.train.share", "1"]
    small += ["--data.val.frames", "9", "--data.val.height", "32", "--data.val.width", "32"]
    flags += [*small, "--model.tokenizer", str(tokenizer), *TINY_GENERATOR]
    cli = fit(config, tmp_path, *MIXTURE, *flags, *two())
    assert cli.trainer.global_step == 2 and torch.isfinite(cli.trainer.callback_metrics["val/loss"])


def test_all_steps_on_pieces_of_the_middle_train(on_tokens, tmp_path, monkeypatch):
    seen = []
    forward = MaskedGenerator.forward
    monkeypatch.setattr(
        MaskedGenerator,
        "forward",
        lambda self, tokens, where, text, middle=False, *told, **named: (
            seen.append((middle, tokens.shape[1])) or forward(self, tokens, where, text, middle, *told, **named)
        ),
    )
    shares = ["--model.middle_share", "1", "--model.image_share", "0"]
    flags = [*shares, "--trainer.limit_val_batches", "0", "--trainer.num_sanity_val_steps", "0"]
    fit(ROOT / "configs/generator/demo.yaml", tmp_path, *on_tokens, *flags, "--trainer.max_steps", "2")
    assert seen == [(True, 2)] * 2  # of the three latent frames


def test_pieces_of_long_clips_are_of_all_lengths_and_from_anywhere(tokenizer, tmp_path, monkeypatch):
    """And a model of clips that become others says so. All tails are where they were, or gone."""
    seen, made = [], training.GeneratorTraining
    piece, tails = made._piece, made._tails

    def remember(self, grid, rng, axis):
        part, span = piece(self, grid, rng, axis)
        assert torch.equal(part, grid[(slice(None),) * axis + (slice(span.first, span.last),)])
        seen.append(span)
        return part, span

    def check(self, batch, span):
        found, whole = tails(self, batch, span), tails(self, batch, Span.whole(span.length))
        assert found is None if whole is None else torch.equal(found, whole[:, span.first : span.last])
        return found

    monkeypatch.setattr(made, "_piece", remember)
    monkeypatch.setattr(made, "_tails", check)
    data = tmp_path / "data.yaml"
    clips = {
        "class_path": "data.shapes.Shapes",
        "init_args": {"buckets": [[9, 16, 16], [5, 16, 16], [17, 16, 16], [13, 16, 16]]},
    }
    for kind, given in (("transitions.Transitions", {"frames": [2, 4]}), ("tails.Tails", {"share": 1.0})):
        clips = {"class_path": f"data.{kind}", "init_args": {"dataset": clips} | given}
    val = {"class_path": "data.shapes.Shapes", "init_args": {"split": "test", "frames": 9, "height": 16, "width": 16}}
    loader = {"batch_size": 1, "val_clips": 1, "num_workers": 0}
    data.write_text(yaml.safe_dump({"train": clips, "val": val} | loader))
    shares = ["--model.middle_share", "1", "--model.image_share", "0", "--trainer.num_sanity_val_steps", "0"]
    flags = ["--data", str(data), "--model.tokenizer", str(tokenizer), *TINY_GENERATOR, *shares]
    fit(ROOT / "configs/generator/shapes.yaml", tmp_path, *flags, *two(60))
    spans = {length: {(span.first, span.last) for span in seen if span.length == length} for length in (2, 3, 4, 5)}
    assert spans[2] == {(1, 2)} and spans[3] == {(1, 3)} and spans[4] == {(1, 4), (1, 3), (2, 4)}
    assert spans[5] <= {(1, 5), (1, 4), (2, 5), (1, 3), (2, 4), (3, 5)} and len(spans[5]) > 3
    model = VideoGenerator.from_pretrained(tmp_path / "model")
    assert model.generator.trained_for == ("text", "middle", "transitions") and model.window == 13


def upscaling(tokenizer, *args) -> list[str]:
    return ["--model.tokenizer", str(tokenizer), *TINY_GENERATOR, *args]


def test_a_training_step_of_an_upscaler_is_told_the_drafts_of_its_clips(tokenizer, tmp_path, monkeypatch):
    seen, loss = [], training.masked_loss

    def remember(generator, tokens, *args, **named):
        seen.append((tokens, args[-1] if len(args) > 3 else named["draft"]))
        return loss(generator, tokens, *args, **named)

    monkeypatch.setattr(training, "masked_loss", remember)
    config, plain = ROOT / "configs/generator/upscale.yaml", ["--model.drafts.spoilt", "0"]
    shares = ["--model.middle_share", "1", "--model.image_share", "0", "--trainer.num_sanity_val_steps", "0"]
    fit(config, tmp_path, *upscaling(tokenizer, *plain), *shares, "--trainer.precision", "32-true", *two(1))
    shapes, frozen = Shapes("test", frames=9, height=64, width=64, objects=[1]), pretrained.load(tokenizer, "tokenizer")
    (piece, told), (whole, draft) = seen  # a training step on the middle of two clips, and the validation
    assert piece.shape == told.shape == (2, 2, 8, 8)
    clips = torch.stack([shapes[0].clip, shapes[1].clip])
    assert torch.equal(whole, frozen.encode(clips))
    assert torch.equal(draft, frozen.encode(enlarge(shrink(clips, 2), 64, 64))) and not torch.equal(draft, whole)


def test_an_upscaler_wants_clips_that_can_be_shrunk(tokenizer, on_tokens, tmp_path):
    config = ROOT / "configs/generator/upscale.yaml"
    odd = [f"--data.{part}.height=40" for part in ("train", "val")]
    with pytest.raises(ValueError, match="height 40 shrunk by a factor of 2 does not fit 8x compression: use 32 or 48"):
        fit(config, tmp_path, *upscaling(tokenizer, *odd), *two(1))
    with pytest.raises(ValueError, match="a token cache has none: give the data set that it was encoded from"):
        cached = ["--data", str(ROOT / "configs/data/demo-tokens.yaml")]
        fit(config, tmp_path, *cached, *on_tokens, *two(1))
    with pytest.raises(ValueError, match="shrunk by a factor of 1: expected 2 or more"):
        fit(config, tmp_path, *upscaling(tokenizer), *two(1), "--model.drafts.factor", "1")


def test_a_size_of_the_generator_lies_on_top_of_a_recipe(tokenizer, tmp_path):
    size = ["-c", str(ROOT / "configs/generator/sizes/xs.yaml"), "--model.tokenizer", str(tokenizer)]
    small = {"frames": 5, "height": 32, "width": 32}
    data = [f"--data.{part}.{axis}={n}" for part in ("train", "val") for axis, n in small.items()]
    cli = fit(ROOT / "configs/generator/shapes.yaml", tmp_path, *size, *data, *two(1))
    backbone, text = cli.model.generator.backbone, cli.model.generator.text
    assert (backbone.dim, len(backbone.blocks), text.dim, len(text.layers)) == (128, 5, 128, 1)


@pytest.mark.parametrize("able, precision", [(True, "bf16-mixed"), (False, "32-true")])
def test_a_cpu_without_bfloat16_trains_in_float32(able, precision, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "has_bf16", lambda device: able)
    cli = fit(ROOT / "configs/vq/demo.yaml", tmp_path, *TINY_VQ, *two(1))
    assert cli.trainer.precision == precision


def test_a_trained_tokenizer_is_trained_further(tmp_path):
    config = ROOT / "configs/vq/demo.yaml"
    first = fit(config, tmp_path / "first", *TINY_VQ, *two(2)).model.tokenizer
    further = fit(
        config, tmp_path / "second", "--model.tokenizer", str(tmp_path / "first/model"), *two(1)
    ).model.tokenizer
    assert further.config == first.config
    distance = sum((a - b).abs().sum() for a, b in zip(further.parameters(), first.parameters(), strict=True))
    fresh = sum((a - b).abs().sum() for a, b in zip(build(first.config).parameters(), first.parameters(), strict=True))
    assert 0 < distance < fresh / 10


@pytest.mark.slow
def test_compiled_training_learns_the_same(tmp_path, monkeypatch):
    """By the gradient of the first step: Adam's steps are of one size even where it is nothing but rounding."""
    gradients = []

    def keep(model, optimizer):
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))

    monkeypatch.setattr(TokenizerTraining, "on_before_optimizer_step", keep)
    flags = [*TINY_VQ, *two(1), "--trainer.precision", "32-true"]
    for flag in ("false", "true"):
        fit(ROOT / "configs/vq/demo.yaml", tmp_path / flag, *flags, "--model.compile", flag)
    plain, compiled = gradients
    assert plain.norm() > 0 and (compiled - plain).norm() < 1e-5 * plain.norm()


def test_the_adversary_changes_nothing_before_it_begins(tmp_path):
    config = ROOT / "configs/vq/demo.yaml"

    def run(start):
        return fit(config, tmp_path / start, *TINY_VQ, *GAME, "--model.adversary.start", start, *two(2))

    never, late, early = run("100"), run("2"), run("1")
    for name, value in never.model.state_dict().items():
        assert torch.equal(value, late.model.state_dict()[name]), name
    for name, value in never.model.adversary.named_parameters():
        assert not torch.equal(value, early.model.adversary.get_parameter(name)), name
    weights = [run.model.tokenizer.decoder.out[-1].weight for run in (never, early)]
    assert not torch.equal(*weights) and early.trainer.callback_metrics["train/balance"] > 0


def test_lpips_joins_the_loss_and_stays_out_of_checkpoints(lpips_weights, tmp_path):
    perceptual = ["--model.perceptual", "vq.lpips.LPIPS", "--model.perceptual.net", "alex"]
    flags = [*TINY_VQ, *perceptual, "--model.perceptual.weights", lpips_weights]
    cli = fit(ROOT / "configs/vq/demo.yaml", tmp_path, *flags, *two(2))
    assert cli.trainer.callback_metrics["train/lpips"] > 0 and cli.trainer.callback_metrics["val/lpips"] > 0
    state = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in state} == {"tokenizer"}


def test_a_generator_that_is_guided_in_one_pass_trains_exports_and_samples(on_tokens, tmp_path):
    overlay = ["-c", str(ROOT / "configs/generator/overlays/one-pass.yaml")]
    cli = fit(ROOT / "configs/generator/demo.yaml", tmp_path, *on_tokens, *overlay, *two(6))
    assert cli.model.generator.backbone.guidance.bias.abs().sum() > 0  # it began at zero, behind others that did
    model = VideoGenerator.from_pretrained(tmp_path / "model")
    assert model("a red circle", frames=5, height=32, width=32, steps=2, guidance=3.0).shape == (1, 3, 5, 32, 32)


def test_scales_of_guidance_are_drawn_with_the_texts_and_are_one_without(on_tokens, tmp_path, monkeypatch):
    seen, loss = [], training.masked_loss
    monkeypatch.setattr(
        training, "masked_loss", lambda *args, **named: seen.append((args, named)) or loss(*args, **named)
    )
    flags = [*on_tokens, "--model.backbone.most_guidance", "4", "--model.text_dropout", "0.5"]
    fit(ROOT / "configs/generator/demo.yaml", tmp_path, *flags, *two(4), "--data.batch_size", "8")
    steps = [(args[3], named["untold"]) for args, named in seen if "untold" in named]  # validation is not guided
    told, untold = zip(*steps, strict=True)
    scales = torch.cat([memory.guidance for memory in told])
    without = torch.cat([memory.mask.sum(1) == 1 for memory in told])
    assert without.any() and not without.all()
    assert (scales[without] == 1).all() and (scales[~without] > 1).all() and scales.max() <= 4
    assert all((memory.mask.sum(1) == 1).all() and memory.guidance is None for memory in untold)


@pytest.mark.parametrize("kind", ["diffusion", "uniform", "masked-latents"])
def test_only_masked_tokens_are_guided_in_one_pass(kind, on_tokens, tmp_path):
    with pytest.raises(ValueError, match="only masked tokens learn to be guided in one pass"):
        flags = [*on_tokens, "--model.backbone.most_guidance", "4"]
        fit(ROOT / f"configs/generator/{kind}-demo.yaml", tmp_path, *flags, *two())


def test_one_pass_wants_the_null_text(on_tokens, tmp_path):
    with pytest.raises(ValueError, match="learnt from the null text"):
        flags = [*on_tokens, "--model.backbone.most_guidance", "4", "--model.text_dropout", "0"]
        fit(ROOT / "configs/generator/demo.yaml", tmp_path, *flags, *two())


def test_the_average_leaves_what_is_frozen_alone(tokenizer, on_tokens, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    callbacks = [
        {"class_path": "vq.callbacks.EMA", "init_args": {"decay": 0.885}},
        {"class_path": "vq.callbacks.Export"},
    ]
    overlay.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    cli = fit(ROOT / "configs/generator/demo.yaml", tmp_path, *on_tokens, "-c", str(overlay), *two(6))
    before, after = (pretrained.load(model, "tokenizer") for model in (tokenizer, tmp_path / "model"))
    assert pretrained.fingerprint(before) == pretrained.fingerprint(after)
    assert torch.equal(cli.model.tokenizer.quantizer.highest, before.quantizer.highest)


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_the_average_spans_a_tenth_of_the_run_so_far(decay):
    """And at most what its decay spans, whatever is resumed: of step n (1 + n) / (10 + n) of the old one is kept."""
    weights, ema = torch.nn.Linear(3, 1), EMA(decay)
    expected, average = None, torch.optim.swa_utils.AveragedModel(weights, multi_avg_fn=ema.mix)
    for step in range(40):
        with torch.no_grad():
            weights.weight.copy_(torch.full((1, 3), float(step)))
        ema.step = 0
        if step == 20:  # another process goes on
            ema, ema_before = EMA(decay), average
            average = torch.optim.swa_utils.AveragedModel(weights, multi_avg_fn=ema.mix)
            average.load_state_dict(ema_before.state_dict())
        assert ema.should_update(step_idx=step)
        average.update_parameters(weights)
        kept = min(decay, (1 + step) / (10 + step))
        expected = float(step) if expected is None else kept * expected + (1 - kept) * step
        torch.testing.assert_close(average.module.weight[0, 0].item(), expected, rtol=1e-5, atol=1e-5)
    assert not ema.should_update(epoch_idx=0)
    if decay == 0.999:
        assert 3 < 39 - expected < 5  # the mean age, a tenth of the 40 steps


def test_a_decay_of_one_would_never_learn():
    with pytest.raises(ValueError, match=r"decay of the average is 1, expected 0 to less than 1"):
        EMA(1)


def test_a_decoder_trained_further_leaves_all_tokens_as_they_are(tokenizer, on_tokens, tmp_path):
    further = ["--model.tokenizer", str(tokenizer), "--model.encoder", str(tokenizer)]
    fit(ROOT / "configs/vq/demo-64.yaml", tmp_path, *further, *two(3))
    before, after = (pretrained.load(model, "tokenizer") for model in (tokenizer, tmp_path / "model"))
    same = {name: torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items()}
    assert all(equal for name, equal in same.items() if not name.startswith("decoder."))
    assert not any(equal for name, equal in same.items() if name.startswith("decoder.") and name.endswith("weight"))
    assert pretrained.code_of(before) == pretrained.code_of(after)
    on_tokens = [str(tmp_path / "model") if flag == str(tokenizer) else flag for flag in on_tokens]
    fit(ROOT / "configs/generator/demo.yaml", tmp_path / "generator", *on_tokens, *two())  # the cache is still its own


def test_another_quantizer_begins_with_what_was_learnt(tokenizer, tmp_path):
    quantizer = ["--model.tokenizer.quantizer", "vq.quantizers.FSQ", "--model.tokenizer.quantizer.levels", "[8,5,5]"]
    flags = [*TINY_VQ, *quantizer, "--model.start", str(tokenizer), "--model.learning_rate", "1e-9"]
    fit(ROOT / "configs/vq/demo.yaml", tmp_path, *flags, *two())
    before, after = (pretrained.load(model, "tokenizer").state_dict() for model in (tokenizer, tmp_path / "model"))
    new = {name for name in after if name not in before or after[name].shape != before[name].shape}
    assert {name.split(".")[0] for name in new} == {"encoder", "quantizer", "decoder"} and len(new) < 8
    for name in set(after) - new:
        if not name.startswith("quantizer."):
            torch.testing.assert_close(after[name], before[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_start_does_not_silently_replace_what_a_trained_tokenizer_has_learnt(tokenizer, tmp_path):
    both = ["--model.tokenizer", str(tokenizer), "--model.start", str(tokenizer)]
    with pytest.raises(ValueError, match=r"give --model\.start null"):
        fit(ROOT / "configs/vq/demo-64.yaml", tmp_path, *both, *two())


def test_a_larger_decoder_is_trained_on_the_tokens_of_another_tokenizer(tokenizer, tmp_path):
    larger = ["--model.tokenizer.decoder_channels", "[8,16,16]", "--model.tokenizer.decoder_blocks", "2"]
    fit(ROOT / "configs/vq/demo.yaml", tmp_path, *TINY_VQ, *larger, "--model.encoder", str(tokenizer), *two())
    before, after = (pretrained.load(model, "tokenizer") for model in (tokenizer, tmp_path / "model"))
    assert pretrained.code_of(before) == pretrained.code_of(after)
    size = [sum(p.numel() for p in model.decoder.parameters()) for model in (before, after)]
    assert size[1] > 2 * size[0]
    with pytest.raises(ValueError, match=r"the encoder of .* has another shape"):
        fit(ROOT / "configs/vq/demo.yaml", tmp_path / "no", "--model.encoder", str(tokenizer), *two())


def test_a_generator_trained_further_with_more_layers_begins_where_the_other_ended(on_tokens, tmp_path):
    fit(ROOT / "configs/generator/demo.yaml", tmp_path / "first", *on_tokens, *two())
    first = str(tmp_path / "first/model")
    deeper = ["--model.backbone.depth", "2", "--model.text.depth", "3", "--model.learning_rate", "1e-9"]
    flags = [*on_tokens, *deeper, "--model.start", first]
    fit(ROOT / "configs/generator/demo.yaml", tmp_path, *flags, *two(1))
    before, after = (pretrained.load(model, "generator") for model in (first, tmp_path / "model"))
    assert len(after.text.layers) == 3 and len(after.backbone.blocks) == 2
    texts = ["a red circle moves right", "hello"]
    words = [model.text(texts).tokens for model in (before, after)]
    torch.testing.assert_close(*words, rtol=1e-3, atol=1e-4)
    tokens = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4)
    read = [model.read(texts) for model in (before, after)]
    where = tokens % 3 == 0
    said = [
        model.cells(tokens.masked_fill(where, model.mask_id), where, text)
        for model, text in zip((before, after), read, strict=True)
    ]
    torch.testing.assert_close(*said, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("order", [1, -1])
def test_pictures_are_of_the_weights_that_are_exported(order, on_tokens, tmp_path, monkeypatch):
    overlay, shown = tmp_path / "overlay.yaml", []
    pictures = {"class_path": "generator.callbacks.SamplePictures", "init_args": {"prompts": ["a circle"], "steps": 1}}
    callbacks = [{"class_path": "vq.callbacks.EMA", "init_args": {"decay": 0.9}}, pictures][::order]
    overlay.write_text(yaml.safe_dump({"trainer": {"callbacks": [*callbacks, {"class_path": "vq.callbacks.Export"}]}}))

    def called(self, *args, **named):
        shown.append(pretrained.fingerprint(self.generator))
        return torch.zeros(1, 3, 9, 16, 16)

    monkeypatch.setattr(VideoGenerator, "__call__", called)
    fit(ROOT / "configs/generator/demo.yaml", tmp_path, *on_tokens, "-c", str(overlay), *two(3))
    assert shown == [pretrained.fingerprint(pretrained.load(tmp_path / "model", "generator"))]


@pytest.mark.slow
def test_a_compiled_tokenizer_meets_its_adversary(tmp_path):
    flags = [*TINY_VQ, *GAME, "--model.adversary.start", "1", "--model.compile", "true"]
    cli = fit(ROOT / "configs/vq/demo.yaml", tmp_path, *flags, *two(3))
    assert cli.trainer.callback_metrics["train/balance"] > 0


def test_a_broken_file_is_skipped_and_listed_at_the_end(videos, tmp_path, recwarn):
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    (folder / "3.mp4").write_bytes((folder / "3.mp4").read_bytes()[:300])
    flags = ["--data.train.path", str(folder), "--data.val.path", str(videos)]
    fit(ROOT / "configs/vq/folder.yaml", tmp_path / "out", *flags, *TINY_VQ, *two(4))
    said = [str(w.message) for w in recwarn]
    assert sum("1 files were skipped" in line and "3.mp4" in line for line in said) == 1
    assert sum("3.mp4" in line and "were skipped" not in line for line in said) <= 2  # training and validation set


@pytest.mark.parametrize("recipe", ["demo", "diffusion-demo"])
def test_a_checkpoint_reloads_to_the_same_model(recipe, on_tokens, tmp_path):
    fit(ROOT / f"configs/generator/{recipe}.yaml", tmp_path, *on_tokens, *two())
    exported = VideoGenerator.from_pretrained(tmp_path / "model")
    checkpoint = VideoGenerator.from_pretrained(tmp_path / "checkpoints" / "last.ckpt")
    assert exported.clip == checkpoint.clip == {"frames": 9, "height": 32, "width": 32, "fps": 8}
    how = {"seed": 3, "steps": 4}
    assert torch.equal(exported("a red circle", **how), checkpoint("a red circle", **how))


def test_what_is_masked_or_known_is_the_same_in_both_arms_of_a_seed(tokenizer, on_tokens, monkeypatch):
    """Tokens and masked latents are hidden alike; of the twin and of noisy tokens the same cells are known."""
    seen, cache = {}, TokenCache(on_tokens[3])
    batch = collate([cache[i] for i in range(12)])

    def cells_of(module, kind, loss, place):
        """Of the first step, where the loss's argument says."""
        model = kind(str(tokenizer), VideoTransformer(32, 1, 2, 16), ByteText(16))
        monkeypatch.setattr(module, loss, lambda *given, **options: (seen.update({loss: given[place]}), {}))
        monkeypatch.setattr(model, "_report", lambda *_: None)
        model.training_step(batch, 0)
        return seen[loss]

    hidden = cells_of(training, training.GeneratorTraining, "masked_loss", 2)
    assert torch.equal(hidden, cells_of(bridges, bridges.MaskedLatentsTraining, "masked_latents_loss", 2))
    known = cells_of(training, training.DiffusionTraining, "flow_loss", 2)
    assert torch.equal(known, cells_of(bridges, bridges.UniformTraining, "uniform_loss", 3))
    assert hidden.any() and known.any() and not (known.all() or hidden.all())


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_twins_times_are_drawn_as_asked_and_then_shifted(tokenizer, on_tokens, monkeypatch, shift):
    """Linear: all alike, so that of a batch every eighth holds one; none: as logit-normal has them."""
    cache, drawn = TokenCache(on_tokens[3]), {}
    batch = collate([cache[i] for i in range(8)])
    monkeypatch.setattr(training, "flow_loss", lambda *given: (drawn.update(time=given[3]), {}))
    for times, as_u in ((Linear(), lambda u: 1 - u), (None, logit_normal)):
        model = training.DiffusionTraining(
            str(tokenizer), VideoTransformer(32, 1, 2, 16), ByteText(16), shift=shift, times=times
        )
        monkeypatch.setattr(model, "_report", lambda *_: None)
        model.training_step(batch, 0)
        rng = model._rng(0)
        torch.rand(1, generator=rng), torch.rand(8, generator=rng)  # which part of the clips, which captions
        u = (torch.rand((), generator=rng) + torch.arange(8) / 8) % 1
        torch.testing.assert_close(drawn["time"], shifted(as_u(u), shift))


def test_the_twin_measures_the_channels_of_its_data(tokenizer, on_tokens, tmp_path):
    """On a cache and on videos: the first clips, whatever the seed."""
    config = ROOT / "configs/generator/diffusion-demo.yaml"
    cached = fit(config, tmp_path / "a", *on_tokens, *two(1), "--seed_everything", "3").model
    videos = ["--data", str(ROOT / "configs/data/demo.yaml"), "--model.measured_clips", "12"]
    tiny = ["--model.tokenizer", str(tokenizer), *TINY_GENERATOR]
    rendered = fit(config, tmp_path / "b", *videos, *tiny, *two(1)).model
    cache = TokenCache(on_tokens[3])
    cells = cached.tokenizer.quantizer.lookup(torch.stack([cache[i].tokens for i in range(len(cache))])).movedim(1, -1)
    for generator in (cached.generator, rendered.generator):
        torch.testing.assert_close(generator.mean, cells.flatten(0, 3).mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(generator.std, cells.flatten(0, 3).std(0, correction=0).clamp(min=1e-4))
    loss = cached.trainer.callback_metrics["val/loss"]
    assert 1.5 < loss < 2.5  # of no velocity at all


def test_the_twin_of_a_continuous_tokenizer(tmp_path):
    quantizer = ["--model.tokenizer.quantizer", "vq.quantizers.Continuous", "--model.tokenizer.quantizer.dim", "4"]
    no_usage = tmp_path / "overlay.yaml"
    no_usage.write_text(yaml.safe_dump({"trainer": {"callbacks": [{"class_path": "vq.callbacks.Export"}]}}))
    fit(ROOT / "configs/vq/demo.yaml", tmp_path / "vq", "-c", str(no_usage), *TINY_VQ, *quantizer, *two())
    videos = ["--data", str(ROOT / "configs/data/demo.yaml"), "--model.measured_clips", "4"]
    tiny = ["--model.tokenizer", str(tmp_path / "vq/model"), *TINY_GENERATOR]
    fit(ROOT / "configs/generator/diffusion-demo.yaml", tmp_path, *videos, *tiny, *two())
    model = VideoGenerator.from_pretrained(tmp_path / "model")
    assert model("a red circle", num=2, steps=2).shape == (2, 3, 9, 32, 32)


def test_another_tokenizer_is_refused(on_tokens, tmp_path):
    config = ROOT / "configs/generator/demo.yaml"
    fit(config, tmp_path / "run", *on_tokens, *two())
    fit(ROOT / "configs/vq/demo.yaml", tmp_path / "vq", *TINY_VQ, *two(3))
    other = ["--model.tokenizer", str(tmp_path / "vq" / "model")]
    with pytest.raises(ValueError, match=r"tokens in .* are another tokenizer's"):
        fit(config, tmp_path / "new", *on_tokens, *other, *two(4))
    videos = ["--data", str(ROOT / "configs/data/demo.yaml")]
    with pytest.raises(ValueError, match="checkpoint was trained with another tokenizer"):
        fit(config, tmp_path / "run", *videos, *other, *TINY_GENERATOR, *two(4), "--ckpt_path", "last")


def one_line(capsys) -> str:
    """What was said of a wrong argument, between the program's name and the hint."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.endswith("; --help lists what there is")]
    return line.partition(": ")[2].rpartition(";")[0]


def test_wrong_flags_are_one_sentence(on_tokens, videos, tmp_path, capsys):
    demo = ROOT / "configs/vq/demo.yaml"
    with pytest.raises(ValueError, match="10 frames do not fit 4x compression in time: use 9 or 13"):
        fit(demo, tmp_path, *TINY_VQ, *two(), "--data.train.frames", "10")
    with pytest.raises(SystemExit):
        fit(demo, tmp_path, *two(), "--model.tokenizer.chanels", "[8]")
    assert one_line(capsys) == "Option 'chanels' is not accepted"
    with pytest.raises(SystemExit):
        fit(demo, tmp_path, *two(), "--trainer.max_stepz", "8")
    assert one_line(capsys) == "unrecognized arguments: --trainer.max_stepz 8"
    with pytest.raises(SystemExit):
        fit("nowhere.yaml", tmp_path)
    assert one_line(capsys).startswith("File does not exist: ")
    with pytest.raises(ValueError, match="expected a power of two") as wrong:
        fit(demo, tmp_path, *two(), "--model.tokenizer.patch_size", "3")
    assert in_words(wrong.value).startswith("space_compression / patch_size is 2.66667, expected a power")
    with pytest.raises(ValueError, match="no such folder"):
        fit(ROOT / "configs/vq/folder.yaml", tmp_path, *TINY_VQ, *two(), "--data.train.path", "nowhere")
    with pytest.raises(ValueError, match="no model at 'nowhere'"):
        fit(ROOT / "configs/generator/demo.yaml", tmp_path, *on_tokens, *two(), "--model.tokenizer", "nowhere")
    with pytest.raises(ValueError, match=r"holds no cache\.json"):
        fit(ROOT / "configs/generator/demo.yaml", tmp_path, *on_tokens, *two(), "--data.train.folder", "nowhere")


def test_a_game_is_learnt_with_its_own_actions(tokenizer, tmp_path):
    """The twin, too; the recipe itself is trained above."""
    tiny = ["--model.tokenizer", str(tokenizer), *TINY_GENERATOR, "--model.measured_clips", "4"]
    game = ["--data", str(ROOT / "configs/data/world.yaml")]
    config = ROOT / "configs/generator/diffusion-demo.yaml"
    with pytest.raises(
        ValueError, match="is told the actions noop, jump and the clips have noop, left, right, up, down"
    ):
        fit(config, tmp_path / "a", *game, *tiny, *two(1), "--model.actions", "[noop, jump]")
    twin = fit(config, tmp_path / "b", *game, *tiny, *two(2), "--model.actions", str(list(World.actions))).model
    assert twin.generator.actions.names == World.actions
    assert not twin.generator.actions.table.weight[0].any()  # noop adds nothing, trained or not


def test_the_generator_needs_its_own_tokenizers_codebook(tokenizer, generator):
    with pytest.raises(ValueError, match="codebook of 125 tokens and the tokenizer has 1000000000000"):
        VideoGenerator(pretrained.load(tokenizer, "tokenizer"), generator, {})

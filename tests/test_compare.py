"""The whole comparison at toy size, and that nothing is done twice."""

import importlib
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CLIP
from jsonargparse import ArgumentError, ArgumentParser
from safetensors.torch import load_file

import compare
import train
from data.shapes import Shapes
from evaluation import arms
from evaluation.claims import Found
from generator.diffusion import SOLVERS
from generator.pipeline import VideoGenerator
from generator.training import DiffusionTraining, GeneratorTraining
from vq import pretrained

ROOT = Path(__file__).parents[1]
SMALL = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
TOY = {
    "tokenizer": {
        "recipe": str(ROOT / "configs/vq/demo.yaml"),
        "changes": {
            "trainer": SMALL | {"max_steps": 2, "val_check_interval": 2},
            "model": {"init_args": {"tokenizer": {"init_args": {"channels": [8, 8, 8], "patch_size": 2}}}},
            "data": {"batch_size": 2, "val_clips": 2, "num_workers": 0},
        },
    },
    "videos": str(ROOT / "configs/data/demo.yaml"),
    "clips": 12,
    "both": {
        "trainer": SMALL,
        "checkpoint": {"every_n_train_steps": 1},
        "model": {
            "init_args": {
                "warmup_steps": 2,
                "backbone": {"init_args": {"dim": 32, "depth": 1, "heads": 2, "text_dim": 16}},
                "text": {"init_args": {"dim": 16, "heads": 2}},
            }
        },
        "data": {"batch_size": 2},
    },
    "tokens": {
        "recipe": str(ROOT / "configs/generator/demo.yaml"),
        "headline": {"steps": 2},
        "curve": [{"steps": 1}, {"steps": 2, "revisions": 1}],
    },
    "latents": {
        "recipe": str(ROOT / "configs/generator/diffusion-demo.yaml"),
        "headline": {"steps": 2},
        "curve": [{"steps": 1}, {"steps": 3, "solver": "heun"}],
    },
    "c0": 2e8,
    "multiples": [1, 2, 4],
    "training_seeds": [0],
    "sampling_seeds": [0],
    "prompts": 3,
    "shown": 2,
}


BRIDGES = {
    "noisy_tokens": {"recipe": str(ROOT / "configs/generator/uniform-demo.yaml"), "headline": {"steps": 2}},
    "masked_latents": {"recipe": str(ROOT / "configs/generator/masked-latents-demo.yaml"), "headline": {"steps": 2}},
}
FOLDERS = ("tokens", "noisy-tokens", "masked-latents", "latents")


EVALUATIONS = [4, 8, 12, 16, 24, 32, 50, 100]  # of docs/hypothesis.md
EQUAL = [4, 8, 12, 16, 22, 30, 50, 98]  # since amendment 22: what is made, steps that commit nothing left out


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs/compare").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipes_say_what_they_are_and_keep_the_protocol(recipe, monkeypatch):
    monkeypatch.chdir(ROOT)
    said = recipe.read_text().partition("tokenizer:")[0].lower()
    assert f"python compare.py -c configs/compare/{recipe.name}" in said
    assert all(word in said for word in ("hardware", "time", "score"))
    _, config = compare.parse(["-c", str(recipe), "--out", "out/compare"])
    tokens = [2 * (sampling.steps + sampling.revisions) for sampling in config.tokens.curve]
    latents = [
        2 * (len(SOLVERS[s.solver]().times(s.steps)) - 1) * SOLVERS[s.solver].calls - 2 * (s.solver == "heun")
        for s in config.latents.curve
    ]
    if recipe.stem == "shapes":
        assert [2 * busy(sampling.steps) for sampling in config.tokens.curve] == latents == EQUAL
    else:
        wanted = EVALUATIONS if len(tokens) > 1 else [50]  # without a curve H3 is not measured
        assert tokens == wanted
        assert all(spent - 4 < got <= spent for got, spent in zip(latents, wanted, strict=True))
    assert config.tokens.headline in config.tokens.curve and config.latents.headline in config.latents.curve
    changes = compare.merged(config.both, config.tokens.changes)["model"]["init_args"]
    assert all(Path(arm.recipe).exists() for arm in (config.tokens, config.latents, config.tokenizer))
    if "backbone" in changes:
        assert changes["backbone"]["init_args"]["text_dim"] == changes["text"]["init_args"]["dim"]
    if config.trials:  # five of each, at the default among others
        most = 3 if recipe.stem == "shapes" else 5
        assert len(config.trials.guidance) == most and config.tokens.headline.guidance in config.trials.guidance
        assert config.trials.prompt_seed != config.prompt_seed
        assert config.trials.training_seed not in config.training_seeds


def busy(steps, cells=3 * 6 * 6):
    """Steps of the cosine schedule in which a cell is committed."""
    left = [round(cells * math.cos(math.pi / 2 * step / steps)) for step in range(steps + 1)]
    return sum(before > after for before, after in pairwise(left))


@pytest.mark.parametrize("recipe", ["tiny", "small", "shapes"])
def test_the_bridges_lie_on_top_of_either_recipe(recipe, monkeypatch):
    monkeypatch.chdir(ROOT)
    overlay = Path("configs/compare/overlays/bridges.yaml")
    said = overlay.read_text().partition("bridges:")[0].lower()
    assert "python compare.py -c configs/compare/small.yaml -c " + str(overlay) in said
    assert all(word in said for word in ("hardware", "time", "score"))
    flags = ["-c", f"configs/compare/{recipe}.yaml", "--out", "out/compare"]
    plain, config = compare.parse(flags)[1], compare.parse([*flags, "-c", str(overlay)])[1]
    assert plain.between() == {} and replace(config, bridges=None) == plain
    for arm in config.between().values():
        assert Path(arm.recipe).is_file()
        assert 2 * (arm.headline.steps + arm.headline.revisions) == 50  # as tokens, and one more than Heun's


@pytest.mark.parametrize("recipe", ["small", "attribution"])
def test_what_the_trials_chose_is_a_recipe(recipe, monkeypatch):
    monkeypatch.chdir(ROOT)
    overlay = f"configs/compare/overlays/{recipe}-tuned.yaml"
    flags = ["-c", f"configs/compare/{recipe}.yaml", "--out", "out/compare"]
    plain, tuned = compare.parse(flags)[1], compare.parse([*flags, "-c", overlay])[1]
    assert tuned.tuned() and not plain.tuned()
    for before, after in zip(plain.ends().values(), tuned.ends().values(), strict=True):
        assert after.headline in after.curve and {s.guidance for s in after.curve} == {4.0}
        assert [(s.steps, s.revisions, s.solver) for s in after.curve] == [
            (s.steps, s.revisions, s.solver) for s in before.curve
        ]
    for after in tuned.arms().values():
        assert after.changes["model"]["init_args"]["learning_rate"] in plain.trials.learning_rate


def test_the_command_in_the_readme():
    lines = (ROOT / "README.md").read_text().splitlines()
    (command,) = [line for line in lines if line.startswith(".venv/bin/python compare.py")]
    given, config = compare.parse(command.split()[2:])
    assert config.prompts == 64 and given.out == Path("out/compare")


def args(folder: Path) -> list[str]:
    (folder / "toy.yaml").write_text(yaml.safe_dump(TOY))
    return ["-c", str(folder / "toy.yaml"), "--out", str(folder / "out"), "--device", "cpu"]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A folder with a finished comparison in out/."""
    folder = tmp_path_factory.mktemp("compare")
    compare.main(args(folder))
    return folder


class Page(HTMLParser):
    """Counts tags, and sees that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.seen, self.sources = [], [], []

    def handle_starttag(self, tag, attributes) -> None:
        self.seen.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes) -> None:
        self.seen.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def test_a_whole_comparison(done):
    out = done / "out"
    for name in ("tokens", "latents"):
        budget = json.loads((out / name / "seed0/budget.json").read_text())
        assert budget["steps"] == {str(m): round(m * TOY["c0"] / budget["step_flops"]) for m in (1, 2, 4)}
        assert all((out / name / f"seed0/x{m}/config.yaml").is_file() for m in (1, 2, 4))
    page = Page()
    page.feed((out / "report.html").read_text())
    assert not page.open and page.seen.count("svg") >= 4
    assert page.seen.count("img") == 2 * 7  # prompts; real, and three budgets of two arms
    assert all(source.startswith("data:image/gif;base64,") for source in page.sources)  # self-contained
    text = (out / "report.md").read_text()
    assert "NUMBERS ONLY" not in text and "SUPPORTED" not in text and "NOT MEASURED" in text
    assert all((out / link).is_file() for link in re.findall(r"\]\((pictures/[^)]+)\)", text))
    verdicts = json.loads((out / "results.json").read_text())["verdicts"]
    assert [verdict["word"] for verdict in verdicts].count(
        "not measured"
    ) == 5  # H3 wants eight samplers an arm, H4 all six budgets
    assert Found.load(out / "found.json").tokens.scaling.shape == (3, 1, 1, 3)


def test_nothing_is_done_twice(done, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("this was done before")

    monkeypatch.setattr(train, "main", refuse)
    monkeypatch.setattr(arms, "draw", refuse)
    before = (done / "out/report.html").read_text()
    assert compare.main(args(done)).read_text() == before
    with pytest.raises(ValueError, match="a run of other changes: give the recipes"):
        compare.main([*args(done), "--c0", "3e8"])


def test_runs_on_other_tokens_are_not_taken_for_these(tmp_path, monkeypatch):
    """A tokenizer that was deleted and trained anew does not meet generators of the old one."""
    monkeypatch.setattr(train, "main", lambda command: None)
    run = str(ROOT / "configs/generator/demo.yaml"), {}, tmp_path / "run", tmp_path / "run/x1"
    compare.fit(*run, of={"tokens": {"tokenizer": "one"}})
    compare.fit(*run, of={"tokens": {"tokenizer": "one"}})
    with pytest.raises(ValueError, match="holds a run of other tokens: give the recipes"):
        compare.fit(*run, of={"tokens": {"tokenizer": "another"}})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--training_seeds", "[0,0,0]"], r"training_seeds are \[0, 0, 0\]: the same one twice"),
        (["--sampling_seeds", "[1,1]"], "sampling_seeds are"),
        (["--c0", "-1"], "c0 is -1.0, expected more than 0"),
        (["--tokens.headline.steps", "0"], "steps is 0, expected 1 or more"),
        (["--device", "cudaa"], "--device cudaa cannot be used here"),
        (["--tokens.recipe", "none.yaml"], "no recipe at none.yaml"),
        (["--videos", "none.yaml"], "no recipe at none.yaml"),
        (["--latents_tokenizer.recipe", "none.yaml"], "no recipe at none.yaml"),
        (["--videos", str(ROOT / "configs/data/world.yaml")], "which a detector can read, got World"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(flags, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        compare.parse([*args(tmp_path), *flags])


def test_a_killed_run_goes_on_as_if_nothing_had_been(done, tmp_path, monkeypatch):
    shutil.copytree(done / "out", tmp_path / "out", ignore=shutil.ignore_patterns("latents"))

    def killed(folder, *rest, **parts):
        if str(folder).endswith("x4"):
            raise RuntimeError("killed")
        return save(folder, *rest, **parts)

    save = pretrained.save
    monkeypatch.setattr(pretrained, "save", killed)
    with pytest.raises(RuntimeError, match="killed"):
        compare.main(args(tmp_path))
    monkeypatch.undo()
    begun, fit = [], train.main
    monkeypatch.setattr(train, "main", lambda command: begun.append(fit(command)))
    compare.main(args(tmp_path))
    (cli,) = begun
    assert str(cli.trainer.ckpt_path).endswith("last.ckpt")
    for multiple in (1, 4):
        weights = [load_file(f / f"out/latents/seed0/x{multiple}/generator.safetensors") for f in (done, tmp_path)]
        assert all(value.equal(weights[1][name]) for name, value in weights[0].items())


def test_a_run_that_is_terminated_is_not_taken_for_a_finished_one(done, tmp_path):
    """Lightning alone would end without a word and with status 0."""
    shutil.copytree(done / "out/tokens", tmp_path / "out/tokens", ignore=shutil.ignore_patterns("seed*"))
    shutil.copytree(done / "out/tokenizer", tmp_path / "out/tokenizer")
    flags = [*args(tmp_path), "--only", "tokens/seed0", "--c0", "1e15"]
    process = subprocess.Popen([sys.executable, "compare.py", *flags], cwd=ROOT)
    for _ in range(600):
        if (tmp_path / "out/tokens/seed0/checkpoints/last.ckpt").exists():
            break
        time.sleep(0.1)
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not (tmp_path / "out/tokens/seed0/x1").exists()


def test_bridges_join_what_is_there(done, tmp_path, monkeypatch):
    """Nothing of the two arms is done again, and H5 gets its numbers."""
    shutil.copytree(done / "out", tmp_path / "out")
    (tmp_path / "bridges.yaml").write_text(yaml.safe_dump({"bridges": BRIDGES}))
    begun, fit = [], train.main
    monkeypatch.setattr(train, "main", lambda command: begun.append(fit(command)))
    compare.main([*args(tmp_path), "-c", str(tmp_path / "bridges.yaml")])
    assert [type(cli.model).__name__ for cli in begun] == ["UniformTraining", "MaskedLatentsTraining"]
    budgets = [json.loads((tmp_path / f"out/{name}/seed0/budget.json").read_text()) for name in FOLDERS]
    assert all(b["steps"]["4"] == round(4 * TOY["c0"] / b["step_flops"]) for b in budgets)
    assert budgets[1]["parameters"] == budgets[0]["parameters"]  # a mark is a mark
    results = json.loads((tmp_path / "out/results.json").read_text())
    (verdict,) = [v for v in results["verdicts"] if v["claim"].startswith("H5")]
    assert verdict["word"] == "numbers only" and "effect of the code" in verdict["because"]
    assert results["attribution"]["code"]["low"] <= results["attribution"]["code"]["value"]
    text = (tmp_path / "out/report.md").read_text()
    assert "Is it the code, or the corruption?" in text and "| noisy tokens |" in text and "masked-latents-4x-1" in text


def test_latents_with_a_tokenizer_of_their_own(done, tmp_path):
    """Matchings 2 and 3: tokens are found again, the twin is trained on latents without codes."""
    shutil.copytree(done / "out", tmp_path / "out", ignore=shutil.ignore_patterns("latents"))
    own = {"class_path": "vq.quantizers.Continuous", "init_args": {"dim": 3}}
    tokenizer = compare.merged(
        TOY["tokenizer"], {"changes": {"model": {"init_args": {"tokenizer": {"init_args": {"quantizer": own}}}}}}
    )
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"latents_tokenizer": tokenizer}))
    flags = [*args(tmp_path), "-c", str(tmp_path / "own.yaml")]
    with pytest.raises(ValueError, match="first run the same with --only data"):
        compare.main([*flags, "--only", "latents/seed0"])  # though the tokens are all there
    assert not (tmp_path / "out/latents-tokenizer").exists()
    compare.main([*flags, "--only", "data"])
    compare.main([*flags, "--only", "latents/seed0"])
    compare.main(flags)
    trained = VideoGenerator.from_pretrained(tmp_path / "out/latents/seed0/x4")
    assert trained.generator.channels == 3 and trained.tokenizer.codebook_size == 0
    text = (tmp_path / "out/report.md").read_text()
    assert "Matching 2 or 3" in text and "no codes, 3 channels" in text and "39.9 bits a token" in text
    assert "| reconstructions, tokens |" in text and "| reconstructions, latents |" in text
    assert "not snapped" not in text and "Matching 1" in (done / "out/report.md").read_text()
    with pytest.raises(ValueError, match="bridges are for one code"):
        compare.parse([*flags, "--bridges", json.dumps(BRIDGES)])
    with pytest.raises(ValueError, match="latents/seed0 holds a run of other tokens: give the recipes"):
        compare.main(args(tmp_path))


def test_exports_are_averages_at_a_rate_that_does_not_fall(done):
    out = done / "out/tokens/seed0"
    checkpoint = torch.load(out / "checkpoints/last.ckpt", weights_only=True)
    rates = {group["lr"] for group in checkpoint["optimizer_states"][0]["param_groups"]}
    assert rates == {1e-2}
    exported = load_file(out / "x4/generator.safetensors")
    for name, value in exported.items():
        assert value.equal(checkpoint["state_dict"][f"generator.{name}"])
    assert any(not v.equal(checkpoint["current_model_state"][f"generator.{n}"]) for n, v in exported.items())


def test_evaluations_are_counted_with_guidance_twice(tokenizer, generator, tmp_path):
    folder = VideoGenerator(tokenizer, generator, CLIP).save_pretrained(tmp_path / "model")
    examples = arms.fresh(Shapes("test", 9, 16, 24, objects=[1]), 3, seed=5)
    model = arms.Trained(folder, "cpu")
    once = model.score(examples, arms.Sampling(steps=3, revisions=2, guidance=1.0), 0)
    twice = model.score(examples, arms.Sampling(steps=3, revisions=2, guidance=2.0), 0, batch_size=2)
    assert (once.evaluations, twice.evaluations) == (5, 10)
    again = arms.Trained(folder, "cpu").score(examples, arms.Sampling(steps=3, revisions=2, guidance=2.0), 0)
    assert (again.clips == twice.clips).all() and again.hits["all"].equal(twice.hits["all"])


TRIALS = {
    "multiple": 1,
    "learning_rate": [5e-3, 1e-2],
    "guidance": [1.5, 2.0],
    "temperature": [0.5, 1.0],
    "shift": [1.0, 2.0],
    "prompts": 2,
}


def test_trials_choose_the_settings_of_a_recipe(done, tmp_path, monkeypatch):
    """One trial alone trains and scores that run; all of them find it there; what they choose is a recipe."""
    shutil.copytree(done / "out/tokens", tmp_path / "out/tokens", ignore=shutil.ignore_patterns("seed*"))
    shutil.copytree(done / "out/tokenizer", tmp_path / "out/tokenizer")
    (tmp_path / "trials.yaml").write_text(yaml.safe_dump({"trials": TRIALS}))
    flags = [*args(tmp_path), "-c", str(tmp_path / "trials.yaml"), "--tune"]
    begun, fit = [], train.main
    monkeypatch.setattr(train, "main", lambda command: begun.append(fit(command)))
    compare.main([*flags, "--only", "data"])
    compare.main([*flags, "--only", "trials/latents/shift-2"])
    assert [cli.model.generator.shift for cli in begun] == [2.0]
    best = {"learning_rate-0.005": 0, "learning_rate-0.01": 1, "shift-1": 1, "shift-2": 0}

    def score(model, examples, sampling, seed, *rest):
        assert (len(examples), seed) == (2, 100) and examples[0].text != arms.fresh(Shapes("test", 9, 32, 32), 1, 20)[
            0
        ].text
        right = best[model.folder.parent.name] + (sampling.guidance == 1.5) + (sampling.temperature == 1)
        return arms.Score({"all": torch.arange(4) < right}, 1, None)

    monkeypatch.setattr(arms.Trained, "score", score)
    file = compare.main(flags)
    assert len(begun) == 6 and file == tmp_path / "out/tuned.yaml"
    assert {cli.model.learning_rate for cli in begun} == {5e-3, 1e-2} and {cli.model.seed for cli in begun} == {100}
    _, config = compare.parse([*args(tmp_path), "-c", str(file)])
    assert config.tokens.tuned and config.latents.tuned
    assert config.tokens.changes["model"]["init_args"] == {"learning_rate": 1e-2}
    assert config.latents.changes["model"]["init_args"] == {"learning_rate": 1e-2, "shift": 1.0}
    assert {(s.guidance, s.temperature) for s in [config.tokens.headline, *config.tokens.curve]} == {(1.5, 1.0)}
    assert {s.guidance for s in [config.latents.headline, *config.latents.curve]} == {1.5}
    assert [s.steps for s in config.tokens.curve] == [s["steps"] for s in TOY["tokens"]["curve"]]
    shares = json.loads((tmp_path / "out/trials.json").read_text())
    assert shares["latents"]["shift"] == {"1.0": 0.25, "2.0": 0.0}


def test_the_bridges_have_as_many_trials(done, tmp_path, monkeypatch):
    shutil.copytree(done / "out/tokens", tmp_path / "out/tokens", ignore=shutil.ignore_patterns("seed*"))
    shutil.copytree(done / "out/tokenizer", tmp_path / "out/tokenizer")
    (tmp_path / "trials.yaml").write_text(yaml.safe_dump({"trials": TRIALS, "bridges": BRIDGES}))
    flags = [*args(tmp_path), "-c", str(tmp_path / "trials.yaml"), "--tune"]
    begun, fit, tried = [], train.main, []
    monkeypatch.setattr(train, "main", lambda command: begun.append(fit(command)))
    compare.main([*flags, "--only", "trials/masked-latents/shift-2"])
    assert [cli.model.generator.shift for cli in begun] == [2.0]

    def score(model, examples, sampling, seed, *rest):
        tried.append((model.folder.parent.parent.name, model.folder.parent.name, sampling))
        return arms.Score({"all": torch.arange(4) < 2}, 1, None)

    monkeypatch.setattr(arms.Trained, "score", score)
    file = compare.main(flags)
    counts = {arm: len([1 for name, *_ in tried if name == arm]) for arm in FOLDERS}
    assert set(counts.values()) == {6}
    _, config = compare.parse([*args(tmp_path), "-c", str(file)])
    assert all(arm.tuned for arm in config.arms().values()) and len(config.arms()) == 4
    assert config.bridges.masked_latents.changes["model"]["init_args"] == {"learning_rate": 5e-3, "shift": 1.0}
    assert config.bridges.noisy_tokens.headline.temperature == 0.5


def test_several_processes_share_the_work(done, tmp_path, capfd):
    """What two make side by side is what one makes alone."""
    shutil.copytree(done / "out/tokens", tmp_path / "out/tokens", ignore=shutil.ignore_patterns("seed*"))
    shutil.copytree(done / "out/tokenizer", tmp_path / "out/tokenizer")
    page = compare.main([*args(tmp_path), "--processes", "2"])
    assert page.is_file() and "tokens/seed0: see" in capfd.readouterr().out
    results = [json.loads((folder / "out/results.json").read_text()) for folder in (done, tmp_path)]
    assert results[0]["scaling"] == results[1]["scaling"]
    assert "sampling and measuring latents/seed0" in (tmp_path / "out/latents/seed0/log.txt").read_text()
    with pytest.raises(ValueError, match=r"latents/seed0 failed \(see .*log.txt\): .* holds a run of other changes"):
        compare.main([*args(tmp_path), "--processes", "2", "--latents.changes", '{"trainer": {"max_epochs": 9}}'])


@pytest.fixture
def options(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("options")


def test_options_of_training_beside_the_recipe(options, done, tmp_path, capsys):
    shutil.copytree(done / "out", tmp_path / "out")
    before = (tmp_path / "out/tokens/seed0/x4/generator.safetensors").stat().st_mtime_ns
    options.main([*args(tmp_path), "--only", "label smoothing/seed0"])
    record = json.loads((tmp_path / "out/options/label-smoothing/seed0/run.json").read_text())
    assert record["changes"]["model"]["init_args"]["label_smoothing"] == 0.1
    trained = (tmp_path / "out/options/label-smoothing/seed0/x4/generator.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    options.main([*args(tmp_path), "--options", "label smoothing", "min-SNR"])
    *_, plain, first, second = capsys.readouterr().out.strip().splitlines()
    assert plain.startswith("| as it is | ") and first.startswith("| label smoothing | ")
    assert second.startswith("| min-SNR | ") and "points" in second and "points" not in plain
    assert (tmp_path / "out/tokens/seed0/x4/generator.safetensors").stat().st_mtime_ns == before  # found, not trained
    assert (tmp_path / "out/options/label-smoothing/seed0/x4/generator.safetensors").stat().st_mtime_ns == trained


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--options", "nonsense"], "tokens have no nonsense, expected some of as it is, arccos"),
        (["--only", "tokens/seed0"], "--only tokens/seed0: expected one of as it is/seed0"),
        ([], "has no token cache: first run compare"),
        (["--arm", "latents", "--options", "arccos"], "latents have no arccos, expected some of as it is, even times"),
    ],
)
def test_what_is_wrong_with_options_is_told(options, flags, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        options.main([*args(tmp_path), *flags])


@pytest.mark.parametrize("arm, recipe", [("tokens", "demo"), ("latents", "diffusion-demo")])
def test_every_option_is_one_of_the_training(options, arm, recipe):
    kind = {"tokens": GeneratorTraining, "latents": DiffusionTraining}[arm]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, "model")
    model = yaml.safe_load((ROOT / f"configs/generator/{recipe}.yaml").read_text())["model"]
    for name, changes in options.OPTIONS[arm].items():
        built = parser.parse_object({"model": compare.merged(model, {"init_args": changes})})
        assert bool(changes) == (name != options.PLAIN) and built.model.class_path.endswith(kind.__name__)
    with pytest.raises(ArgumentError):
        parser.parse_object({"model": compare.merged(model, {"init_args": {"smoothing": 0.1}})})


def test_options_of_the_twin_have_folders_of_their_own(options, done, tmp_path, capsys):
    """A text dropout of the one arm is not found for the other's."""
    shutil.copytree(done / "out", tmp_path / "out")
    options.main([*args(tmp_path), "--arm", "latents", "--options", "text dropout"])
    *_, plain, one = capsys.readouterr().out.strip().splitlines()
    assert plain.startswith("| as it is | ") and one.startswith("| text dropout | ")
    record = json.loads((tmp_path / "out/latents-options/text-dropout/seed0/run.json").read_text())
    assert record["recipe"] == yaml.safe_load((ROOT / "configs/generator/diffusion-demo.yaml").read_text())
    assert not (tmp_path / "out/options").exists()


def test_one_run_alone_is_what_the_whole_finds(done, tmp_path, monkeypatch):
    shutil.copytree(done / "out", tmp_path / "out", ignore=shutil.ignore_patterns("latents", "scores", "report*"))
    begun, fit = [], train.main
    monkeypatch.setattr(train, "main", lambda command: begun.append(fit(command)))
    compare.main([*args(tmp_path), "--only", "data"])
    compare.main([*args(tmp_path), "--only", "latents/seed0"])
    assert len(begun) == 1 and not (tmp_path / "out/report.html").exists()
    compare.main([*args(tmp_path), "--only", "tokens/seed0"])
    monkeypatch.setattr(arms, "draw", None)
    monkeypatch.setattr(compare, "seconds", lambda asked: [[1.0] * 5] * len(asked))
    compare.main(args(tmp_path))
    same = [json.loads((f / "out/results.json").read_text())["scaling"] for f in (done, tmp_path)]
    assert len(begun) == 1 and same[0] == same[1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--only", "tokens/seed7"], "--only tokens/seed7: expected one of data, tokens/seed0, latents/seed0"),
        (["--tune"], "--tune wants trials in the recipe"),
        (["--trials", json.dumps(TRIALS | {"shift": [1.0]})], "expected as many different values of each"),
        (["--trials", json.dumps(TRIALS | {"guidance": [1.0, 2.0]})], "half of the evaluations: leave it out"),
        (["--trials", json.dumps(TRIALS | {"prompt_seed": 20})], "trials have a seed of the comparison"),
        (["--only", "tokens/seed0"], "first run the same with --only data"),
        (["--processes", "0"], "--processes 0: expected 1 or more"),
        (["--processes", "2", "--only", "data"], "--processes 2: expected 1 or more, and 1 with --only"),
        (["--tokens.tuned", "true"], "some arms were tuned and latents not: run --tune with all of them, or none"),
    ],
)
def test_wrong_shares_of_the_work_are_told(flags, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        compare.main([*args(tmp_path), *flags])

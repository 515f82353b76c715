"""What `make demo` does, with a tiny model in the place of the shipped one; and whether that one is what it says."""

from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from conftest import CLIP

import demo
from data.shapes import Shapes
from evaluation.detector import score
from generator.editing import TASKS
from generator.pipeline import VideoGenerator

ROOT = Path(__file__).parents[1]


def test_the_demo_leaves_clips_a_picture_and_the_model(tokenizer, generator, tmp_path, monkeypatch, capsys):
    VideoGenerator(tokenizer, generator, CLIP).save_pretrained(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "SHOWCASE", tmp_path / "tiny")
    show = demo.show
    monkeypatch.setattr(demo, "show", lambda source, prompts, out, fresh: show(source, prompts[:2], out, fresh=2))
    demo.main([])
    assert {file.name for file in Path("out/demo").glob("*")} == {
        *("a-red-circle-moves-right.mp4", "a-green-triangle-spins-on-a-black-background.mp4"),
        *("samples.png", "fresh.png", "model"),
    }
    assert VideoGenerator.from_pretrained("out/demo/model").clip == CLIP
    assert "of 2 fresh prompts, shape came out right in" in capsys.readouterr().out


def test_the_stages_of_the_small_demo_find_each_other():
    recipes = {
        stage: yaml.safe_load((ROOT / f"configs/{folder}/demo.yaml").read_text())
        for stage, folder in (("tokenizer", "vq"), ("generator", "generator"))
    }
    for stage, recipe in recipes.items():
        assert recipe["trainer"]["default_root_dir"] == f"out/train-demo/{stage}"
    encoding = dict(pairwise(demo.STAGES["tokens"].split()))
    assert (
        recipes["generator"]["model"]["init_args"]["tokenizer"]
        == encoding["--tokenizer"]
        == "out/train-demo/tokenizer/model"
    )
    cache = yaml.safe_load((ROOT / "configs/data/demo-tokens.yaml").read_text())["train"]["init_args"]
    assert cache["folder"] == encoding["--out"]


@pytest.fixture(scope="module")
def showcase() -> VideoGenerator:
    return VideoGenerator.from_pretrained(ROOT / "models/showcase")


def test_the_showcase_is_small_and_says_what_it_is():
    files = {file.name: file.stat().st_size for file in (ROOT / "models/showcase").iterdir()}
    assert set(files) == {"config.yaml", "recipe.yaml", "README.md", "tokenizer.safetensors", "generator.safetensors"}
    assert sum(files.values()) < 40e6
    card = (ROOT / "models/showcase/README.md").read_text()
    for section in ("## Model", "## Training", "## Scores", "held-out.yaml"):
        assert section in card


def test_the_showcase_shows_what_is_asked_for(showcase):
    """A few prompts at few steps: whether it is the model that it says, not how good it is."""
    examples = [Shapes("test", objects=[1], seed=5, frames=17, height=64, width=64)[i] for i in range(8)]
    videos = showcase([example.text for example in examples], steps=8, revisions=3)
    right = score(videos, [example.attributes for example in examples])
    assert right["colour"] >= 7 / 8 and right["all"] >= 0.5


def test_the_showcase_was_trained_for_every_task(showcase):
    needs = {need for name, task in TASKS.items() if name != "upscale" for need in task.needs}
    assert needs <= set(showcase.generator.trained_for)

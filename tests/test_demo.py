"""What `make demo` does, with a tiny model in the place of the shipped one."""

from itertools import pairwise
from pathlib import Path

import yaml
from conftest import CLIP

import demo
from generator.pipeline import VideoGenerator

ROOT = Path(__file__).parents[1]


def test_the_demo_leaves_clips_a_picture_and_the_model(tokenizer, generator, tmp_path, monkeypatch, capsys):
    for name in ("showcase", "emoji"):
        VideoGenerator(tokenizer, generator, CLIP).save_pretrained(tmp_path / "models" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "MODELS", tmp_path / "models")
    monkeypatch.setattr(demo, "EMOJI", demo.EMOJI[:1])
    show = demo.show
    monkeypatch.setattr(demo, "show", lambda source, prompts, out, fresh: show(source, prompts[:2], out, fresh=2))
    demo.main([])
    assert {file.name for file in Path("out/demo").glob("*")} == {
        *("a-red-circle-moves-right.mp4", "a-green-triangle-spins-on-a-black-background.mp4"),
        *("grinning-face.mp4", "emoji.png", "samples.png", "fresh.png", "model"),
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

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CLIP
from safetensors import safe_open

from generator import export
from generator.backbone import VideoTransformer
from generator.diffusion import DiffusionGenerator
from generator.pipeline import VideoGenerator
from generator.text import ByteText
from vq import pretrained

RECIPE = {
    "trainer": {"max_steps": 10, "callbacks": [{"class_path": "x", "init_args": {"prompts": ["a dog runs"]}}]},
    "data": {"train": {"class_path": "data.shapes.Shapes", "init_args": {"seed": 3}}},
}
PROTOCOL = {"clips": 4, "frames": 9, "height": 16, "width": 24, "fps": 8.0, "reference": "abc", "code": "def"}
GENERATION = {
    "videos": "/home/somebody/emoji/test",
    "protocol": PROTOCOL,
    "scores": {
        "shape right": {"samples": {"mean": 0.75, "low": 0.5, "high": 0.9}, "real": {"mean": 1.0}},
        "fvd": {"samples": {"mean": 123.456, "error": 2.5}, "further real": {"mean": 50.0}},
    },
    "refused": ["kvd: too few clips"],
}
RECONSTRUCTION = {
    "videos": "x.yaml",
    "protocol": PROTOCOL | {"videos": 3},
    "scores": {"psnr": {"mean": 31.4159, "error": 0.123}},
}


@pytest.fixture
def checkpoint(tokenizer, generator, tmp_path) -> Path:
    """A run's folder: a checkpoint after 7 of 10 steps, and the configuration that Lightning keeps."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "lightning_logs/version_0").mkdir(parents=True)
    (run / "lightning_logs/version_0/config.yaml").write_text(yaml.safe_dump(RECIPE))
    parts = {"tokenizer": tokenizer, "generator": generator}
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    about = {"parts": {name: part.config for name, part in parts.items()}, "clip": CLIP, "global_step": 7}
    torch.save({"state_dict": state} | about, run / "checkpoints/last.ckpt")
    return run / "checkpoints/last.ckpt"


def head_of(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_better_decoder_takes_the_place_of_the_old_one(checkpoint, tokenizer, tmp_path):
    before = {name: value.clone() for name, value in tokenizer.decoder.state_dict().items()}
    torch.nn.init.normal_(tokenizer.decoder.out[-1].bias)
    pretrained.save(tmp_path / "better", CLIP, tokenizer=tokenizer)
    folder = export.main([str(checkpoint), str(tmp_path / "out"), "--tokenizer", str(tmp_path / "better")])
    after = VideoGenerator.from_pretrained(folder).tokenizer.decoder.state_dict()
    changed = [name for name, value in after.items() if not torch.equal(value, before[name])]
    assert [name.split(".")[-1] for name in changed] == ["bias"]

    torch.nn.init.normal_(next(tokenizer.encoder.parameters()))
    pretrained.save(tmp_path / "other", CLIP, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="makes other tokens than the model's"):
        export.main([str(checkpoint), str(tmp_path / "no"), "--tokenizer", str(tmp_path / "other")])
    assert not (tmp_path / "no").exists()


def test_the_folder_needs_nothing_else_and_makes_the_same_videos(checkpoint, tmp_path):
    folder = export.main([str(checkpoint), str(tmp_path / "out")])
    assert sorted(file.name for file in folder.iterdir()) == sorted(export.FILES)
    for part in ("tokenizer", "generator"):
        with safe_open(folder / f"{part}.safetensors", "pt") as file:
            assert list(file.keys())
    ask = {"prompt": "a dog runs", "seed": 3, "steps": 2}
    before = VideoGenerator.from_pretrained(checkpoint)(**ask)
    checkpoint.unlink()
    torch.testing.assert_close(VideoGenerator.from_pretrained(folder)(**ask), before, atol=0, rtol=0)


def test_the_card_has_the_head_that_hubs_read_and_says_what_the_model_is(checkpoint, tmp_path):
    card = (export.main([str(checkpoint), str(tmp_path / "out"), "--name", "Tiny"]) / "README.md").read_text()
    assert head_of(card) == {
        "license": "apache-2.0",
        "library_name": "tessera",
        "pipeline_tag": "text-to-video",
        "tags": ["tessera", "text-to-video", "video-tokenizer", "masked-generation"],
    }
    assert "# Tiny\n" in card and "9 frames of 16x24 at 8 frames a second" in card
    assert "| latent grid | 3x2x3, 4x8x8 compression |" in card and "125 codes" in card
    assert "| trained for | text2video, text2image, edit |" in card
    assert "7 of 10 steps" in card and "data.shapes.Shapes" in card and '"a dog runs"' in card
    assert str(tmp_path) not in card


def test_an_exported_folder_is_exported_again_with_its_recipe(checkpoint, tmp_path):
    first = export.main([str(checkpoint), str(tmp_path / "first")])
    again = export.main([str(first), str(first), "--license", "mit"])
    assert (again / "recipe.yaml").read_text() == yaml.safe_dump(RECIPE)
    assert head_of((again / "README.md").read_text())["license"] == "mit"
    VideoGenerator.from_pretrained(again)


def test_the_continuous_twin_has_a_card_too(tokenizer, tmp_path):
    backbone, text = VideoTransformer(dim=32, depth=1, heads=2, text_dim=16), ByteText(dim=16, depth=1)
    twin = DiffusionGenerator(backbone, text, tokenizer.quantizer.dim)
    model = VideoGenerator(tokenizer, twin, CLIP).save_pretrained(tmp_path / "model")
    card = (export.main([str(model), str(tmp_path / "out")]) / "README.md").read_text()
    assert "diffusion" in head_of(card)["tags"] and "`DiffusionGenerator`" in card


def test_without_a_recipe_the_card_says_so(tokenizer, generator, tmp_path):
    model = VideoGenerator(tokenizer, generator, CLIP).save_pretrained(tmp_path / "model")
    folder = export.main([str(model), str(tmp_path / "out")])
    assert "The recipe was not kept." in (folder / "README.md").read_text()
    assert not (folder / "recipe.yaml").exists()


def test_a_recipe_of_ones_own_brings_the_data_that_it_names(checkpoint, tmp_path):
    (tmp_path / "data.yaml").write_text("batch_size: 12345\n")
    (tmp_path / "mine.yaml").write_text("# Hardware: a laptop\ndata: data.yaml\n")
    folder = export.main([str(checkpoint), str(tmp_path / "out"), "--recipe", str(tmp_path / "mine.yaml")])
    assert "batch_size: 12345" in (folder / "README.md").read_text()
    assert (folder / "recipe.yaml").read_text().startswith("# Hardware: a laptop")


def test_scores_become_tables_and_notes_stand_as_they_are(checkpoint, tmp_path):
    for name, result in (("gen", GENERATION), ("rec", RECONSTRUCTION)):
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    (tmp_path / "notes.md").write_text("## Limits\n\nOne dog.\n")
    options = [
        "--scores",
        str(tmp_path / "gen.json"),
        str(tmp_path / "rec.json"),
        "--notes",
        str(tmp_path / "notes.md"),
    ]
    card = (export.main([str(checkpoint), str(tmp_path / "out"), *options]) / "README.md").read_text()
    assert "4 clips of emoji/test, 9 frames of 16x24 at 8 frames a second (reference abc, code def):" in card
    assert "|  | samples | real | further real |" in card
    assert "| shape right | 75% (50-90) | 1 |  |" in card
    assert "| fvd | 123.5 ± 2.5 |  | 50 |" in card
    assert "| psnr | 31.42 ± 0.12 |" in card and "4 clips of x.yaml, windows of 3 videos, 9 frames" in card
    assert "Not measured: kvd: too few clips." in card and "## Limits\n\nOne dog.\n" in card


@pytest.mark.parametrize(
    "option, content, words",
    [
        ("--scores", "{}", "holds no scores"),
        ("--scores", None, "cannot be read"),
        ("--recipe", "- a list", "is no recipe"),
        ("--notes", None, "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_written(checkpoint, tmp_path, option, content, words):
    if content is not None:
        (tmp_path / "given").write_text(content)
    with pytest.raises(ValueError, match=words):
        export.main([str(checkpoint), str(tmp_path / "out"), option, str(tmp_path / "given")])
    assert not (tmp_path / "out").exists()


class Hub:
    """A hub that keeps what it is told."""

    def __init__(self, failing: Exception | None = None) -> None:
        self.calls, self.failing = [], failing

    def create_repo(self, repo, **options):
        if self.failing:
            raise self.failing
        self.calls.append((repo, options))
        return f"https://hub.example/{repo}"

    def upload_folder(self, **options):
        self.calls.append(options)


def test_push_uploads_the_models_files(checkpoint, tmp_path, monkeypatch, capsys):
    hub = Hub()
    monkeypatch.setattr(export, "HfApi", lambda: hub)
    monkeypatch.setattr(export, "get_token", lambda: "secret")
    folder = export.main([str(checkpoint), str(tmp_path / "out"), "--push", "me/dogs"])
    created, uploaded = hub.calls
    assert created == ("me/dogs", {"exist_ok": True})
    assert uploaded["repo_id"] == "me/dogs" and uploaded["folder_path"] == folder
    assert set(uploaded["allow_patterns"]) == set(export.FILES)
    card = (folder / "README.md").read_text()
    assert "# dogs\n" in card and 'from_pretrained("me/dogs")' in card and "secret" not in card
    assert "https://hub.example/me/dogs" in capsys.readouterr().out


def test_who_is_not_logged_in_is_told_so_at_once(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "get_token", lambda: None)
    with pytest.raises(ValueError, match="not logged in to the hub: run 'hf auth login'"):
        export.main([str(checkpoint), str(tmp_path / "out"), "--push", "me/dogs"])
    assert not (tmp_path / "out").exists()


def test_a_failed_upload_is_one_line_and_leaves_the_folder(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "HfApi", lambda: Hub(ConnectionError("no route\nto the hub")))
    monkeypatch.setattr(export, "get_token", lambda: "secret")
    with pytest.raises(ValueError, match=r"could not upload to 'me/dogs' \(ConnectionError: no route\)") as caught:
        export.main([str(checkpoint), str(tmp_path / "out"), "--push", "me/dogs"])
    assert "\n" not in str(caught.value)
    VideoGenerator.from_pretrained(tmp_path / "out")


def test_complaints_are_one_line(tmp_path):
    command = [sys.executable, "-m", "generator.export", str(tmp_path / "missing.ckpt"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, cwd=Path(__file__).parents[2])
    assert done.returncode and done.stderr.startswith("error: no model at") and len(done.stderr.splitlines()) == 1

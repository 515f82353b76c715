"""What the README tells a user to type works, with a tiny model in the place of the trained one."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from conftest import CLIP
from test_train import SMALL, TINY_GENERATOR, TINY_VQ, two

import sample
import train
from data.video import read_clip
from data.writing import write_clip
from evaluation import __main__ as evaluation
from generator.pipeline import VideoGenerator
from vq import reconstruct

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for language, block in BLOCKS if not language for line in block.splitlines()]
SAMPLES = [c for c in COMMANDS if c.startswith(".venv/bin/python sample.py")]
TRAININGS = [c for c in COMMANDS if c.startswith(".venv/bin/python train.py")]


@pytest.fixture
def place(tokenizer, generator, upscaler, tmp_path, monkeypatch):
    """A working folder: configs, and models in the place of those that come with the repository."""
    (tmp_path / "configs").symlink_to(Path(__file__).parents[1] / "configs")
    for name in ("showcase", "emoji"):
        VideoGenerator(tokenizer, generator, CLIP).save_pretrained(tmp_path / "models" / name)
    VideoGenerator(tokenizer, upscaler, CLIP).save_pretrained(tmp_path / "models/showcase-upscaler")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_has_what_these_tests_look_for():
    assert len(SAMPLES) >= 3 and len(TRAININGS) >= 2


def test_sampling_commands_in_their_order(place):
    for command in [c for c in SAMPLES if "--model models/" in c]:
        for path in sample.main([*shlex.split(command)[2:], "--steps", "2"]):
            video, _ = read_clip(place / path)
            size = (32, 48) if "upscale" in command else (16, 24)
            assert video.shape == (3, 1 if "text2image" in command else 9, *size)


def test_training_commands_in_their_order(place):
    for part in ("train", "test"):
        (place / "videos" / part).mkdir(parents=True)
        for i in range(2):
            write_clip(place / "videos" / part / f"{i}.mp4", torch.rand(3, 20, 72, 80) * 2 - 1, 12)
            (place / "videos" / part / f"{i}.txt").write_text("noise")
    for command in TRAININGS:
        tiny = TINY_GENERATOR if "configs/generator" in command else TINY_VQ
        args = [*shlex.split(command)[2:], *SMALL, *tiny, *two(), "--data.batch_size", "2", "--data.num_workers", "0"]
        train.main(args)
    following = next(c for c in SAMPLES if "folder" in c)
    assert sample.main([*shlex.split(following)[2:], "--steps", "2"])[0].is_file()


def test_measuring_commands(place):
    write_clip(place / "clip.mp4", torch.rand(3, 20, 40, 56) * 2 - 1, 12)
    commands = [shlex.split(c)[2:] for c in COMMANDS if c.startswith(".venv/bin/python -m ")]
    assert [module for module, *_ in commands] == ["vq.reconstruct", *["evaluation"] * 4]
    reconstruct.main(commands[0][1:])
    assert read_clip(place / "both.mp4")[0].shape == (3, 20, 40, 112)
    for command in commands[1:]:
        few = {"reconstruction": ["--clips", "2"], "generation": ["--clips", "2", "--sampling.revisions", "0"]}
        evaluation.main([*command[1:], *few.get(command[1], [])])
    assert all((place / name).is_file() for name in ("metrics.json", "demo.json", "fewer.json"))


def test_the_python_example(place):
    (example,) = [block for language, block in BLOCKS if language == "python"]
    names: dict = {}
    exec(example, names)
    assert names["videos"].shape == (4, 3, 9, 16, 24)


def test_every_file_that_the_readme_names_exists_and_the_other_way_round():
    root = Path(__file__).parents[1]
    tree = next(block for language, block in BLOCKS if "train.py  " in block and not language)
    for folder in ("data", "vq", "generator", "evaluation"):
        for file in (root / folder).glob("*.py"):
            assert file.name == "__init__.py" or file.name in tree, (
                f"{folder}/{file.name} is missing in the README's tree"
            )
    for target in re.findall(r"^make ([\w-]+)", README, flags=re.MULTILINE):
        assert f"\n{target}:" in (root / "Makefile").read_text()
    for link in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        path, _, heading = link.partition("#")
        assert (root / path).exists(), link
        titles = re.findall(r"^#+ (.*)", (root / path).read_text(), flags=re.MULTILINE) if heading else []
        assert not heading or heading in [title.lower().replace(" ", "-") for title in titles], link

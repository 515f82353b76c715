"""Whether the models that come with the repository are what they say."""

from pathlib import Path

import pytest
import torch

from data.shapes import Shapes
from evaluation.detector import score
from generator.editing import TASKS
from generator.pipeline import VideoGenerator
from generator.upscaling import enlarge, shrink
from vq.losses import psnr

MODELS = Path(__file__).parents[1] / "models"
NAMES = ("showcase", "emoji")  # of all tasks


@pytest.fixture(scope="module", params=NAMES)
def model(request) -> VideoGenerator:
    return VideoGenerator.from_pretrained(MODELS / request.param)


@pytest.mark.parametrize("name", (*NAMES, "showcase-upscaler"))
def test_they_are_small_and_say_what_they_are(name):
    files = {file.name: file.stat().st_size for file in (MODELS / name).iterdir()}
    assert set(files) == {"config.yaml", "recipe.yaml", "README.md", "tokenizer.safetensors", "generator.safetensors"}
    assert sum(files.values()) < 40e6
    card = (MODELS / name / "README.md").read_text()
    for section in ("## Model", "## Training", "## Limits", "## Scores"):
        assert section in card


def test_they_were_trained_for_every_task(model):
    needs = {need for name, task in TASKS.items() if name != "upscale" for need in task.needs}
    assert needs <= set(model.generator.trained_for)


def test_the_showcase_shows_what_is_asked_for():
    """A few prompts at few steps: whether it is the model that it says, not how good it is."""
    showcase = VideoGenerator.from_pretrained(MODELS / "showcase")
    examples = [Shapes("test", objects=[1], seed=5, frames=17, height=64, width=64)[i] for i in range(8)]
    videos = showcase([example.text for example in examples], steps=8, revisions=3)
    right = score(videos, [example.attributes for example in examples])
    assert right["colour"] >= 7 / 8 and right["all"] >= 0.5


def test_a_large_frame_in_tiles_has_the_same_tokens_and_looks_no_worse():
    tokenizer = VideoGenerator.from_pretrained(MODELS / "showcase").tokenizer
    video = Shapes("test", objects=[3], frames=9, height=128, width=256)[0].clip[None]
    stream, tokens = tokenizer.stream(tile=64), tokenizer.encode(video)
    assert torch.equal(stream.encode(video), tokens)
    whole, tiled = tokenizer.decode(tokens), stream.decode(tokens)
    assert (tiled - whole).square().mean().sqrt() < 0.03  # of a range of 2: its attention sees a tile at a time
    assert psnr(tiled, video) > psnr(whole, video) - 0.2


def test_the_upscaler_draws_what_the_showcase_makes_with_sharper_edges():
    """Than bicubic interpolation does, and as much like the real large clip; how much, benchmarks/upscale.py tells."""
    upscaler, showcase = (VideoGenerator.from_pretrained(MODELS / name) for name in ("showcase-upscaler", "showcase"))
    examples = [Shapes("test", objects=[1], seed=6, frames=9, height=128, width=128)[i] for i in range(4)]
    real = torch.stack([example.clip for example in examples])
    small = showcase.decode(showcase.encode(shrink(real, 2)))
    ways = [enlarge(small, 128, 128), upscaler.upscale(small, [example.text for example in examples], steps=4)]
    edges = [way.diff(dim=-1).abs().flatten(1).topk(200).values.mean() for way in ways]
    assert edges[1] > 1.1 * edges[0] and psnr(ways[1], real).mean() > psnr(ways[0], real).mean() - 0.5

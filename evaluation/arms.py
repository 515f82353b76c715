"""What an arm of the comparison draws, what that is worth and what it costs; kept on disk and found again."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data.shapes import Shapes, stated
from data.video import Example, to_uint8
from evaluation.clips import eight_bits
from evaluation.detector import detect, matches
from evaluation.generation import others
from evaluation.protocol import code_version
from generator import tasks
from generator.diffusion import SOLVERS, Numbers
from generator.filling import Generator, Settings, knobs
from generator.orders import ORDERS
from generator.pipeline import VideoGenerator

TOLD = ("shape", "colour", "motion", "all")
NUMBERS = ("steps", "guidance", "temperature", "revisions", "remask")  # of a sampling
STRIDE = 1_000_003  # between the seeds of a prompt's samples
# what draws samples and reads them; a report that is worded anew finds them again
CODE = ("data", "generator", "vq", *(f"evaluation/{name}.py" for name in ("arms", "clips", "detector", "generation")))


@dataclass(frozen=True)
class Sampling:
    """How to sample; see ``generator.filling.Settings``.

    Args:
        steps, guidance: of all arms.
        temperature, remask: of tokens. revisions, order: of what is masked.
        solver: of latents. snap: whether they are brought to the nearest codes before they are decoded.
    """

    steps: int = 16
    guidance: float = 2.0
    temperature: float = 0.7
    revisions: int = 0
    remask: float = 0.0
    order: str = "halton"
    solver: str = "euler"
    snap: bool = True

    def __post_init__(self) -> None:
        for name, table in (("order", ORDERS), ("solver", SOLVERS)):
            if getattr(self, name) not in table:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(table)}")
        Settings(**{name: getattr(self, name) for name in NUMBERS})  # or says what not

    def settings(self, generator: Generator) -> dict:
        """Arguments of ``fill``, as far as they mean something to a generator."""
        plain = {name: getattr(self, name) for name in NUMBERS}
        every = plain | {"order": ORDERS[self.order](), "solver": SOLVERS[self.solver]()}
        return {name: value for name, value in every.items() if name in knobs(generator)}


@dataclass(frozen=True)
class Score:
    """Of n prompts: whether each came out right, ``hits`` (n,) bool an attribute; evaluations of the network a clip;
    and the first clips, uint8 (b, t, h, w, 3)."""

    hits: dict[str, Tensor]
    evaluations: float
    clips: np.ndarray


VERSION = code_version(code=CODE)  # what was imported, whatever becomes of the files


class Trained:
    """An exported model of an arm: drawn from when a score is not on disk yet, and only then loaded."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device

    @cached_property
    def model(self) -> VideoGenerator:
        return VideoGenerator.from_pretrained(self.folder, self.device)

    def open(self, snap: bool) -> VideoGenerator:
        """The model; of latents perhaps one whose samples are decoded as they are."""
        if snap or not self.model.generator.of_latents:
            return self.model
        free = VideoGenerator(self.model.tokenizer, self.model.generator, self.model.trained_at, self.device)
        free.code = Numbers(self.model.generator.channels, free.device)
        return free

    def score(
        self, examples: Sequence[Example], sampling: Sampling, seed: int, batch_size: int = 64, shown: int = 8
    ) -> Score:
        """Sample ``seed`` of each prompt: the same noise for a prompt of a number, whatever the model."""
        about = asdict(sampling) | {
            "code": VERSION,
            "shown": shown,
            "seed": seed,
            "prompts": [example.text for example in examples],
        }
        file = self._file("score", about)
        if not file.is_file():
            model, videos = self.open(sampling.snap), []
            with counting(model.generator.backbone) as passes:
                for start in range(0, len(examples), batch_size):
                    rows = range(start, min(start + batch_size, len(examples)))
                    texts = [examples[i].text for i in rows]
                    videos.append(draw(model, texts, [seed * STRIDE + i for i in rows], sampling))
            video = eight_bits(torch.cat(videos))
            np.save(file.with_suffix(".npy"), np.stack([to_uint8(clip) for clip in video[:shown]]))
            hits = {name: found.int().tolist() for name, found in right(video, examples, model.clip["fps"]).items()}
            keep(file, {"about": about, "evaluations": sum(passes) / len(examples), "hits": hits})
        found = json.loads(file.read_text())
        hits = {name: torch.tensor(row, dtype=torch.bool) for name, row in found["hits"].items()}
        return Score(hits, found["evaluations"], np.load(file.with_suffix(".npy")))

    def _file(self, kind: str, about: dict) -> Path:
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        (self.folder / "scores").mkdir(exist_ok=True)
        return self.folder / "scores" / f"{kind}-{name}.json"


def seconds(asked: Sequence[tuple[Trained, list[str], Sampling]], rounds: int = 5) -> list[list[float]]:
    """Seconds a clip, decoding included, of as many clips at once as there are texts: of each, so many rounds.

    All take turns: what else the machine does, or that it changes its speed, is then in the times of all of them.
    """
    files = []
    for trained, texts, sampling in asked:
        about = {"clips": len(texts), "device": trained.device, "threads": torch.get_num_threads(), "rounds": rounds}
        about |= {"card": torch.cuda.get_device_name(trained.device)} if trained.device.startswith("cuda") else {}
        about |= {"torch": torch.__version__, "code": VERSION}
        files.append(trained._file("seconds", asdict(sampling) | about))
    laps = {i: [] for i, file in enumerate(files) if not file.is_file()}
    for turn in range(rounds + bool(laps)):  # the first one warms up
        for i, taken in laps.items():
            trained, texts, sampling = asked[i]
            model, began = trained.open(sampling.snap), time.perf_counter()
            draw(model, texts, list(range(len(texts))), sampling)  # decoding ends on the CPU: nothing is pending
            if turn:
                taken.append((time.perf_counter() - began) / len(texts))
    for i, taken in laps.items():
        keep(files[i], {"seconds": taken})
    return [json.loads(file.read_text())["seconds"] for file in files]


def keep(file: Path, content: dict) -> None:
    """Writes JSON whole or not at all, though other processes write it, too."""
    part = file.with_suffix(f".{os.getpid()}.tmp")
    part.write_text(json.dumps(content))
    part.rename(file)


def draw(model: VideoGenerator, texts: list[str], seeds: list[int], sampling: Sampling) -> Tensor:
    """Videos (b, 3, t, h, w) in [-1, 1], all at once."""
    grid = model.tokenizer.latent_shape(*(model.clip[axis] for axis in ("frames", "height", "width")))
    canvas = tasks.text2video(grid, model.generator.mask_id).repeat(len(texts))
    return model.decode(model.fill(canvas, texts, seeds, batch_size=len(texts), **sampling.settings(model.generator)))


@contextmanager
def counting(backbone: nn.Module) -> Iterator[list[int]]:
    """Clips of every pass through a network: twice as many with guidance."""
    passes: list[int] = []
    hook = backbone.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    try:
        yield passes
    finally:
        hook.remove()


def fresh(like: Shapes, count: int, seed: int) -> list[Example]:
    """Prompts, with clips that show them, of another seed than all training and tuning.

    The scenes are new; the words need not be: half of the captions of one object stand among twenty thousand others.
    """
    if not isinstance(like, Shapes):
        raise ValueError(
            f"prompts are made of data.shapes.Shapes, which a detector can read, got {type(like).__name__}"
        )
    size = {axis: getattr(like, axis) for axis in ("frames", "height", "width", "fps", "objects")}
    shapes = Shapes("test", seed=seed, **size)
    return [shapes[i] for i in range(count)]


def right(video: Tensor, examples: Sequence[Example], fps: float, shuffled: bool = False) -> dict[str, Tensor]:
    """Videos (n, 3, t, h, w) and what they should show -> bool (n,) an attribute.

    ``shuffled``: they should show each other's captions, which is chance.
    """
    wanted = [stated(example.text, example.attributes) for example in examples]
    wanted = others(wanted) if shuffled else wanted
    found = [matches(detect(clip, fps), told) for clip, told in zip(video, wanted, strict=True)]
    return {name: torch.tensor([hit.get(name, True) for hit in found]) for name in TOLD}

"""The tests of H1 in docs/hypothesis.md: can one masked model of tokens do whatever the Sora report shows?

    python benchmarks/capabilities.py --model models/showcase --out out/capabilities [--clips 256] [--bf16]
        [--seed 4] [--tasks extend loop] [--sampling JSON] [--beside FOLDER]

Each task is run on clips of one object that training has never seen, and each is asked three things. (a) Known cells
come back bit for bit, in every call of the sampler. (b) The new part shows what the text says: the lower bound of the
share that is right lies above the upper bound of the share that would be by chance, told each other's captions. (c)
Seams: the mean difference of neighbouring pixels on either side of the border of old and new, over that of neighbours
within what one call has made, is within a factor of 1.25 of the same in real clips; shown as a multiple of that, with
what the tokenizer alone makes of real clips in brackets. What a call makes that is told nothing is old to the next.
Beside the share there is that of the real clips' same part. Ten extensions in a row are asked whether contrast and
saturation drift as slowly as in real clips.

Results are kept, a file a task, and found again; --beside is such a folder of another model, such as the twin: where
it passes a test that this one fails, the paired difference of the shares is shown. The last line is the verdict.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))
from drift import window
from tasks import fitting, middle, of_both, recolourable, recoloured, still, through

from data.commands import run
from data.shapes import Shapes
from data.video import Example
from evaluation.arms import keep, right
from evaluation.capabilities import Capability, judge_capabilities
from evaluation.protocol import code_version
from generator.pipeline import VideoGenerator
from generator.tasks import Canvas
from vq.pretrained import fingerprint

EXTENSIONS, DRIFTS = 10, "ten extensions"
MEASURES = (
    "evaluation/arms.py",
    "evaluation/detector.py",
    "evaluation/generation.py",
    *(f"benchmarks/{name}.py" for name in ("capabilities", "drift", "tasks")),
)


@dataclass(frozen=True)
class Part:
    """Frames of what is made, and what they should show; ``real``: a clip that does, None where there is none."""

    example: Example
    real: Tensor | None
    frames: slice = field(default_factory=lambda: slice(None))


@dataclass(frozen=True)
class Case:
    """A clip of a task.

    Attributes:
        prompt, inputs, job: what the model is asked for.
        like: a real clip (3, t, h, w) of the size that is asked for, whose neighbouring pixels seams are held against.
        parts: what has to be seen, all of it; none of a task that has no text to follow.
    """

    prompt: str | list[str]
    like: Tensor
    parts: list[Part]
    inputs: list[Tensor] = field(default_factory=list)
    job: dict = field(default_factory=dict)


def whole(example: Example, inputs: list[Tensor] | None = None, **job) -> Case:
    """All of what is made shows what the example does."""
    return Case(example.text, example.clip, [Part(example, example.clip)], inputs or [], job)


class Watched:
    """A model whose sampler is watched: what it was told is known, and whether it came back."""

    def __init__(self, model: VideoGenerator) -> None:
        self.model, self.fill, self.calls = model, model.fill, []
        model.fill = self.watch

    def watch(self, canvas: Canvas, *rest, **more) -> Tensor:
        tokens = self.fill(canvas, *rest, **more)
        self.calls.append((canvas, bool(tokens[canvas.known].equal(canvas.tokens[canvas.known]))))
        return tokens

    def __call__(self, case: Case, task: str, seed: int) -> tuple[Tensor, bool, Tensor | None]:
        """The video (3, t, h, w), whether all that was known came back, and which call that was told of some cells has
        made what, counted from 1, int64 (t, h, w) in pixels, 0 where none has; None if none was told of any."""
        self.calls.clear()
        video = self.model(case.prompt, task=task, inputs=case.inputs, seed=seed, **case.job)[0]
        told = [canvas for canvas, _ in self.calls if canvas.known.any()]
        turns = torch.zeros(video.shape[1:], dtype=torch.long)
        for turn, canvas in enumerate(told, start=1):
            turns[in_pixels(canvas, video.shape[1], self.model.tokenizer)] = turn
        return video, all(same for _, same in self.calls), turns if told else None


def in_pixels(canvas: Canvas, frames: int, tokenizer) -> Tensor:
    """What there is to make of a canvas of one row, bool (t, h, w) in the pixels of its whole video."""
    ft, fs = tokenizer.time_compression, tokenizer.space_compression
    new = (~canvas.known[0]).repeat_interleave(fs, 1).repeat_interleave(fs, 2).repeat_interleave(ft, 0)
    new = new if canvas.middle else new[ft - 1 :]  # the first latent frame stands for one
    before = 1 + (canvas.start - 1) * ft if canvas.start else 0
    return F.pad(new.float(), (0, 0, 0, 0, before, frames - before - len(new))).bool()


def rebuilt(model: VideoGenerator, clip: Tensor) -> Tensor:
    """What the tokenizer makes of a clip (3, t, h, w), of any length."""
    before = (1 - clip.shape[1]) % model.tokenizer.time_compression
    return through(model, [torch.cat([clip[:, :1]] * before + [clip], dim=1)])[0][:, before:]


def across(video: Tensor, turns: Tensor) -> tuple[float, float]:
    """How much neighbours differ across the borders of what was made at different turns in all, and how much they would
    if they differed as those do that one turn above 0 has made, along the same axes: a clip (3, t, h, w), (t, h, w)."""
    border = expected = 0.0
    for axis in range(3):
        if turns.shape[axis] > 1:
            steps, size = video.diff(dim=axis + 1).abs().mean(0), turns.shape[axis] - 1
            one, other = turns.narrow(axis, 0, size), turns.narrow(axis, 1, size)
            edge, within = one != other, (one == other) & (one > 0)
            if edge.any():
                border += steps[edge].sum().item()
                expected += edge.sum().item() * steps[within].mean().item()
    return border, expected


def cases(model: VideoGenerator, count: int, seed: int) -> dict[str, Callable[[], Iterator[Case]]]:
    """The tasks by name: functions that draw their cases."""
    t, h, w, fps = (model.clip[axis] for axis in ("frames", "height", "width", "fps"))
    ft, long = model.tokenizer.time_compression, 2 * t - 1
    wide = (h + h // 2 // 16 * 16, w + w // 2 // 16 * 16)  # whole cells to either side

    def drawn(frames: int = long, height: int = h, width: int = w) -> list[Example]:
        shapes = Shapes("test", frames, height, width, fps, objects=[1], seed=seed)
        return recolourable(shapes, count)

    def text2video() -> Iterator[Case]:
        return (whole(e) for e in drawn(t))

    def text2image() -> Iterator[Case]:
        for e in drawn(t):
            yield whole(replace(e, clip=e.clip[:, :1], attributes=still(e.attributes)))

    def image2video() -> Iterator[Case]:
        return (whole(e, [e.clip[:, :1]]) for e in drawn(t))

    def extend() -> Iterator[Case]:
        new = slice(t - 1, None)
        for e in drawn():
            yield Case(e.text, e.clip, [Part(e, e.clip[:, new], new)], [e.clip[:, :t]], {"frames": long})

    def extend_back() -> Iterator[Case]:
        new = slice(t)
        for e in drawn():
            yield Case(e.text, e.clip, [Part(e, e.clip[:, new], new)], [e.clip[:, -t:]], {"frames": long})

    def loop() -> Iterator[Case]:
        frames = max(t - 1, 3 * ft)
        return (whole(e, frames=frames) for e in drawn(frames))

    def interpolate() -> Iterator[Case]:
        return (whole(e, [e.clip[:, :1], e.clip[:, -1 - ft :]], frames=t) for e in drawn(t))

    def connect() -> Iterator[Case]:
        """What is between the two is right if its seams are: no clip is what it should show."""
        frames = t + t // 2 // ft * ft
        examples = drawn(frames)
        for a, b in zip(examples, examples[1:] + examples[:1], strict=True):
            yield Case(of_both(model, a.text, b.text), a.clip, [], [a.clip[:, :t], b.clip[:, -t:]], {"frames": frames})

    def inpaint() -> Iterator[Case]:
        mask = torch.zeros(1, h, w, dtype=torch.bool)
        mask[:, h // 4 : 3 * h // 4, w // 4 : 3 * w // 4] = True
        return (whole(e, [e.clip], mask=mask) for e in drawn(t))

    def outpaint() -> Iterator[Case]:
        """What is given is the middle of a larger clip, in which the thing may not be."""
        top, left = (wide[0] - h) // 2, (wide[1] - w) // 2
        for e in drawn(t, *wide):
            yield whole(e, [e.clip[..., top : top + h, left : left + w]], height=wide[0], width=wide[1])

    def edit() -> Iterator[Case]:
        for e in drawn(t):
            other = told_otherwise(e)
            yield Case(other.text, e.clip, [Part(other, None)], [e.clip], {"strength": 0.5})

    def story() -> Iterator[Case]:
        new = slice(middle(model, long, h, w) + ft, None)  # frames of which all belong to the second prompt
        for e in drawn():
            other = told_otherwise(e)
            yield Case([e.text, other.text], e.clip, [Part(other, None, new)], job={"frames": long})

    def of_size(*scale: float) -> Callable[[], Iterator[Case]]:
        size = fitting(model, [side * by for side, by in zip((t, h, w), scale, strict=True)])
        job = dict(zip(("frames", "height", "width"), size, strict=True))
        return lambda: (whole(e, **job) for e in drawn(*size))

    made = (text2video, text2image, image2video, extend, extend_back, loop, interpolate, connect, inpaint, outpaint)
    named = {task.__name__.replace("_", "-"): task for task in (*made, edit, story)}
    return named | {"another size": of_size(1, 1.25, 1.25), "another length": of_size(1.5, 1, 1)}


def told_otherwise(example: Example) -> Example:
    """The same with another colour, but for the clip."""
    text, attributes = recoloured(example)
    return replace(example, text=text, attributes=attributes)


def run_task(model: Watched, name: str, given: list[Case], fps: float) -> dict:
    """What came of each clip."""
    task = "text2video" if name.startswith("another") else name
    found = {key: [] for key in ("kept", "seam", "rebuilt seam", "real seam")}
    videos = []
    for seed, case in enumerate(tqdm(given, desc=name, leave=False)):
        video, kept, turns = model(case, task, seed)
        assert video.shape == case.like.shape, f"{tuple(video.shape)} was made and {tuple(case.like.shape)} expected"
        videos.append(video)
        if turns is None:
            continue
        found["kept"].append(kept)
        if name != "edit":  # whose border is wherever the model finds the clip unlikely
            found["seam"].append(across(video, turns))
            found["real seam"].append(across(case.like, turns))
            found["rebuilt seam"].append(across(rebuilt(model.model, case.like), turns))
    parts = list(zip(*(case.parts for case in given), strict=True))  # of the first part, of the second, ...

    def all_right(clips: list[list[Tensor]], shuffled: bool = False) -> list[bool]:
        rows = [
            right(torch.stack(shown), [one.example for one in part], fps, shuffled)["all"]
            for shown, part in zip(clips, parts, strict=True)
        ]
        return torch.stack(rows).all(0).tolist()

    if not parts:
        return found | {"right": [], "chance": [], "real": []}
    made = [[video[:, one.frames] for video, one in zip(videos, part, strict=True)] for part in parts]
    real = [[one.real for one in part] for part in parts]
    found |= {"right": all_right(made), "chance": all_right(made, shuffled=True)}
    return found | {"real": [] if real[0][0] is None else all_right(real)}


def run_drifts(model: VideoGenerator, count: int, seed: int) -> dict:
    """Slopes a second of contrast and saturation, of clips that are extended ten times and of real ones as long."""
    begun, fps = model.clip["frames"], model.clip["fps"]
    size = window(model)
    new = (size - size // 2) * model.tokenizer.time_compression
    shapes = Shapes("test", objects=[1], seed=seed, **model.clip | {"frames": begun + EXTENSIONS * new})
    found = {f"{arm} {name}": [] for arm in ("made", "real") for name in ("contrast", "saturation")}
    for i in tqdm(range(count), desc=DRIFTS, leave=False):
        real = shapes[i]
        job = {"task": "extend", "inputs": [real.clip[:, :begun]], "frames": real.clip.shape[1], "seed": i}
        for arm, video in (("made", model(real.text, **job)[0]), ("real", real.clip)):
            looks = {"contrast": video.std((0, 2, 3)), "saturation": (video.amax(0) - video.amin(0)).mean((1, 2))}
            for name, row in looks.items():
                seconds = torch.arange(len(row)) / fps
                seconds = seconds - seconds.mean()
                found[f"{arm} {name}"].append(((row * seconds).sum() / seconds.square().sum()).item())
    return found


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder for what each task came to")
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--seed", type=int, default=4, help="of the clips: a verdict wants one never looked at")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument(
        "--sampling",
        type=json.loads,
        default={},
        help='of all tasks, in place of what each has: \'{"steps": 16, "remask": 0, "revisions": 12}\'',
    )
    parser.add_argument("--tasks", nargs="+", help="some of them; all others are read from --out if they are there")
    parser.add_argument("--beside", type=Path, help="the --out of another model")
    options = parser.parse_args(args)

    model = VideoGenerator.from_pretrained(options.model)
    if options.beside and model.generator.of_latents:
        parser.error("--model is the one of tokens, and --beside holds what the twin has come to")
    model = model.bfloat16() if options.bf16 else model
    named = cases(model, options.clips, options.seed) | {DRIFTS: None}
    if unknown := sorted(set(options.tasks or []) - set(named)):
        parser.error(f"no task is called {unknown[0]!r}: expected some of {', '.join(map(repr, named))}")
    options.out.mkdir(parents=True, exist_ok=True)
    about = {
        "clips": options.clips,
        "seed": options.seed,
        "size": model.trained_at,
        "bf16": options.bf16,
        "trained for": sorted(model.generator.trained_for),
        "code": code_version(code=("data", "generator", "vq", *MEASURES)),
    }
    if options.sampling:
        about["sampling"], model.make = options.sampling, partial(model.make, **options.sampling)
    weights = {"model": fingerprint(model.tokenizer) + fingerprint(model.generator)}
    weights["latents"] = model.generator.of_latents
    watched, results = Watched(model), {}
    for name, draw in named.items():
        if not file_of(options.out, name).is_file() and name in (options.tasks or named):
            given = list(draw()) if draw else []
            found = (
                run_task(watched, name, given, model.clip["fps"])
                if draw
                else run_drifts(model, options.clips, options.seed)
            )
            keep(file_of(options.out, name), {"about": about | weights, "found": found})
        if found := read(file_of(options.out, name), about | weights):
            results[name] = Capability.of(name, found)
    others = {}
    if options.beside:
        twin = about | {"latents": True}
        there = {name: read(file_of(options.beside, name), twin) for name in results}
        others = {name: Capability.of(name, found) for name, found in there.items() if found}
        if not others:
            raise ValueError(f"--beside {options.beside} holds none of these tasks: expected the --out of another run")
    print("| task | clips | right | by chance | real clips | known cells | seams | passes |")
    print("|---|---|---|---|---|---|---|---|")
    for one in results.values():
        print(f"| {' | '.join(one.cells())} |")
    verdict = judge_capabilities(results, others, whole=set(results) == set(named))
    print(f"\n{verdict.claim}: {verdict.word.upper()}; {verdict.because}")


def file_of(folder: Path, task: str) -> Path:
    return folder / f"{task.replace(' ', '-')}.json"


def read(file: Path, about: dict) -> dict | None:
    """What was found, None where nothing was; ``ValueError`` where it is of something else."""
    if not file.is_file():
        return None
    there = json.loads(file.read_text())
    if other := [name for name in about if there["about"].get(name) != about[name]]:
        raise ValueError(f"{file} is of another {', '.join(other)}: delete it, or give another folder")
    return there["found"]


if __name__ == "__main__":
    run(main)

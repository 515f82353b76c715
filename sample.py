"""Sampling program: prompts (and, for some tasks, clips, stills or a mask) in, videos out.

    python sample.py --model models/showcase --prompt "a red circle moves right" --out clip.mp4

What is wrong with an argument is one line on standard error and exit status 2, before anything is written. A file that
exists is never overwritten: made with the same settings it is skipped, so a long list of prompts may be interrupted.
"""

import argparse
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from tqdm import tqdm

from data.commands import find_device
from data.records import fingerprint, is_made, read_record, write_with_record
from data.video import is_image, probe, read_clip
from generator import jobs
from generator.diffusion import SOLVERS, DiffusionGenerator, Euler, Solver
from generator.draws import versions
from generator.editing import TASKS
from generator.filling import RANGES, Settings, knobs
from generator.guidance import Guidance
from generator.jobs import Job
from generator.masked import MaskedGenerator
from generator.masked_latents import MaskedLatentsGenerator
from generator.orders import ORDERS, Order
from generator.pipeline import VideoGenerator
from generator.prompts import expand
from generator.uniform import UniformGenerator
from vq import pretrained

FILES = (".mp4", ".gif", ".webm", ".png")
# what a record says elsewhere, or what does not change a video; all other flags are its settings
NO_SETTINGS = {"prompt", "seed", "frames", "height", "width", "fps"}
NO_SETTINGS |= {"num", "out", "device", "batch_size", "source", "compile", "expand", "asked"}
KNOBS = ("temperature", "top_k", "top_p", "remask", "revisions", "refresh")  # flags that some generators ignore
UNTOLD = ("steps", "guidance", "temperature", "remask", "revisions")  # flags whose default is the task's


@dataclass(frozen=True)
class Kind:
    """What a generator makes, in words, and what ``--sampler`` may be."""

    makes: str
    samplers: dict[str, Callable[[], Order | Solver]]


KINDS = {
    MaskedGenerator: Kind("tokens", ORDERS),
    UniformGenerator: Kind("tokens out of noise", {"euler": Euler}),
    MaskedLatentsGenerator: Kind("latents behind masks", {name: it for name, it in ORDERS.items() if it.blind}),
    DiffusionGenerator: Kind("latents", SOLVERS),
}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; --help lists the flags\n")


def parser() -> Parser:
    """Flags of several words have underscores, as in all programs; dashes, which these once had, still do."""
    p = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    p.add_argument("--model", help="exported folder, hub id or training checkpoint")
    p.add_argument("--prompt", action="append", help="may be repeated: --num samples of each; @FILE: a prompt a line")
    p.add_argument("--expand", help="makes prompts longer: template, a language model, or http://HOST/v1#MODEL")
    p.add_argument("--out", required=True, type=Path, help=f"a file ({', '.join(FILES)}) or a folder: a file a sample")
    p.add_argument("--task", default="text2video", help="; ".join(f"{k}: {v.about}" for k, v in TASKS.items()))
    p.add_argument("--frames", type=int, help="default: as many as the model was trained at; so for the next three")
    p.add_argument("--height", type=int)
    p.add_argument("--width", type=int)
    p.add_argument("--fps", type=float)
    p.add_argument("--num", type=int, default=1, help="samples a prompt")
    p.add_argument("--seed", type=int, default=0, help="of the first sample; the next ones count up from it")
    p.add_argument("--steps", type=int, help="calls of the network; default: 28, but see docs/tasks.md")
    p.add_argument("--guidance", type=float, help="classifier-free, 1 is none; default: 2, but see docs/tasks.md")
    p.add_argument(
        "--guidance_interval",
        "--guidance-interval",
        type=float,
        nargs=2,
        default=[0.0, 1.0],
        metavar=("START", "STOP"),
        help="guide between these shares of the steps only; revisions come at 1",
    )
    p.add_argument("--sampler", help=f"tokens: {', '.join(ORDERS)}; latents: {', '.join(SOLVERS)}; default: the first")
    p.add_argument(
        "--temperature", type=float, nargs="+", help="one, or of the first and last step; default: 0.7, but see there"
    )
    p.add_argument("--top_k", "--top-k", type=int, help="draw from so many of the likeliest values only; default: all")
    p.add_argument("--top_p", "--top-p", type=float, default=1.0, help="... or from those that together are so likely")
    p.add_argument(
        "--remask", type=float, help="share of what is done that each step forgets; default: 0.3, but see there"
    )
    p.add_argument(
        "--revisions",
        type=int,
        help="further calls, each to make a third of the frames anew; default: 0, but see there",
    )
    p.add_argument("--input", action="append", help="a clip or a still; interpolate and connect take two")
    p.add_argument(
        "--mask",
        help="what to make anew: left,top,right,bottom in pixels of the output; or white in a picture or video",
    )
    p.add_argument("--strength", type=float, default=jobs.STRENGTH, help="edit: share of the tokens made anew")
    p.add_argument("--forget", help="edit: which tokens, unlikely or random ones; default: unlikely if tokens are made")
    p.add_argument(
        "--window",
        type=int,
        help="frames made at once of a long video, in windows that overlap by half; default of extend, loop, story and "
        "the like: the model's longest training clips, of others: all",
    )
    p.add_argument("--from", dest="source", type=Path, help="the .json beside a video: makes it again; flags override")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    p.add_argument("--batch_size", "--batch-size", type=int, default=16)
    p.add_argument("--refresh", type=int, default=1, help="every so many calls are exact, the others faster")
    p.add_argument("--bf16", action="store_true", help="the transformer in bfloat16: faster, other samples for a seed")
    p.add_argument("--compile", action="store_true", help="takes minutes first, is faster then: for many samples")
    return p


def main(args: list[str] | None = None) -> list[Path]:
    """Runs the command line; returns the files asked for. Raises ``ValueError`` in words for what cannot be done."""
    options = read_options(args)
    check(options)
    device = find_device(options.device)
    model = VideoGenerator.from_pretrained(options.model, device)
    usual = {name: getattr(Settings, name) for name in UNTOLD} | model.sampling(TASKS[options.task])
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, [value] if name == "temperature" else value)
    guidance = Guidance(options.guidance, *options.guidance_interval)
    if options.bf16:
        model.bfloat16()
    if options.compile:
        model.compile()
    # what is enlarged keeps its rate
    own = probe(options.input[0]).fps if options.task == "upscale" else model.clip["fps"]
    fps = options.fps or own or 8.0
    check_rate(fps, options.out)
    how, typed = sampling(options, model), options.prompt
    if options.expand:
        options.prompt = expand(typed, options.expand, options.seed, device)
    job = prepare(options, model, fps)
    options.window = windows(options, model)[1]
    records = describe(options, model, job, fps, dict(zip(options.prompt, typed, strict=True)))
    todo = {path: record for path, record in records.items() if not is_made(path, record)}
    for path in todo:  # what is wrong with a folder is said before anything is computed
        path.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(todo), unit="clip", disable=not sys.stderr.isatty()) as bar:
        for start in range(0, len(todo), options.batch_size):
            batch = dict(list(todo.items())[start : start + options.batch_size])
            tokens = model.make(
                job,
                [record["prompt"] if isinstance(record["prompt"], str) else "" for record in batch.values()],
                [record["seed"] for record in batch.values()],
                steps=options.steps,
                guidance=guidance,
                **how,
                batch_size=options.batch_size,
                fps=fps,
            )
            for (path, record), clip in zip(batch.items(), tokens, strict=True):
                write_with_record(path, model.pieces(clip, job.ring), record)
                bar.update()
    return list(records)


def read_options(args: list[str] | None) -> argparse.Namespace:
    """The command line, upon what ``--from`` tells; prompts out of their files."""
    p = parser()
    options = p.parse_args(args)
    asked = [name for name in KNOBS if getattr(options, name) != p.get_default(name)]
    prompts, inputs = options.prompt and read_prompts(options.prompt), options.input
    if options.source:
        record = read_record(options.source)
        if "model" not in record["settings"]:
            raise ValueError(f"{options.source} tells of a game, by python -m generator.play: give a sample's .json")
        heat = record["settings"].get("temperature", [0.7])  # before there were ramps, a number
        record["settings"]["temperature"] = heat if isinstance(heat, list) else [heat]
        p.set_defaults(seed=record["seed"], fps=record["fps"], **record["size"])
        p.set_defaults(**{name: value for name, value in record["settings"].items() if name != "input"})
        options = p.parse_args(args)
        told = record["settings"].get("task", options.task)
        if told in TASKS and told != options.task:  # what was as usual there is as usual here, and may be another
            usual = {name: getattr(Settings, name) for name in UNTOLD} | TASKS[told].sampling
            usual = {name: [value, [value]] for name, value in usual.items()}
            usual["guidance"].append(TASKS[told].guidance)
            p.set_defaults(**{name: None for name in UNTOLD if record["settings"].get(name) in usual[name]})
            options = p.parse_args(args)
        prompts = prompts or ([record["prompt"]] if isinstance(record["prompt"], str) else record["prompt"])
        inputs = inputs or record["settings"]["input"]
    options.prompt, options.input, options.asked = prompts or [], inputs or [], asked
    return options


def read_prompts(given: list[str]) -> list[str]:
    """Prompts as they are given; @FILE stands for the lines of a file."""
    prompts = []
    for prompt in given:
        lines = [prompt]
        if prompt.startswith("@"):
            try:
                lines = Path(prompt[1:]).read_text(encoding="utf-8-sig").split("\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{prompt[1:]} is not text in UTF-8: expected a prompt a line") from error
        prompts += [line.strip() for line in lines if line.strip() or not prompt]
    return prompts


def check(options: argparse.Namespace) -> None:
    """What can be refused without opening the model."""
    if not options.model:
        raise ValueError("--model is missing: give an exported folder, a hub id or a training checkpoint")
    inputs, prompts = len(options.input), len(options.prompt)
    jobs.check(options.task, inputs, prompts, options.mask is not None, options.strength, options.forget)
    if options.sampler and options.sampler not in (*ORDERS, *SOLVERS):
        raise ValueError(f"unknown sampler {options.sampler!r}: expected {', '.join((*ORDERS, *SOLVERS))}")
    for name, low in {"num": 1, "batch_size": 1, "guidance": 0}.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise ValueError(f"--{name} is {value}, expected at least {low}")
    if options.fps is not None:
        check_rate(options.fps, options.out)
    if options.guidance is not None and not math.isfinite(options.guidance):
        raise ValueError(f"--guidance {options.guidance:g}: expected a finite number")
    Guidance(stop=options.guidance_interval[1], start=options.guidance_interval[0])  # or says what is wrong
    if abs(options.seed) >= 2**62:
        raise ValueError(f"--seed {options.seed}: expected a number of 62 bits")
    told = {name: getattr(options, name) for name in (*RANGES, "temperature")}
    Settings(**{name: value for name, value in told.items() if value is not None})  # or says what is wrong
    if options.compile and options.refresh > 1:
        raise ValueError("--compile and --refresh do not go together: leave one of them out")
    if options.out.suffix not in FILES and not options.out.is_dir() and (options.out.suffix or options.out.exists()):
        ends = f"ends in {options.out.suffix}" if options.out.suffix else "is a file"
        raise ValueError(f"--out {ends}, expected {', '.join(FILES)} or a folder")
    samples = (1 if options.task == "story" else max(1, len(options.prompt))) * options.num
    if options.out.suffix in FILES and samples > 1:
        raise ValueError(f"{samples} samples do not fit one file: give --out a folder")


def check_rate(fps: float, out: Path) -> None:
    if not 0.01 <= fps <= (50 if out.suffix == ".gif" else 1000):
        raise ValueError(f"--fps is {fps:g}, expected at least 0.01 and at most 1000, of a .gif 50")


def sampling(options: argparse.Namespace, model: VideoGenerator) -> dict:
    """What only some kinds of generators are told. ``ValueError`` for what belongs to others."""
    kind = next(kind for made, kind in KINDS.items() if isinstance(model.generator, made))
    options.sampler = options.sampler or next(iter(kind.samplers))
    if options.sampler not in kind.samplers:
        names = ", ".join(kind.samplers)
        raise ValueError(f"{options.model} generates {kind.makes}: --sampler {options.sampler} is none of {names}")
    meant = knobs(model.generator)
    for name in options.asked:
        if name not in meant:
            raise ValueError(f"{options.model} generates {kind.makes}: --{name} means nothing to it, leave it out")
    sampler, told = kind.samplers[options.sampler](), {name: getattr(options, name) for name in KNOBS if name in meant}
    if "temperature" in told:
        told["temperature"] = (options.temperature[0], options.temperature[-1])
    name = "order" if isinstance(sampler, Order) else "solver"
    return told | ({name: sampler} if name in meant else {})


def windows(options: argparse.Namespace, model: VideoGenerator) -> tuple[int | None, int | None]:
    """Frames that are made at once, None: all; and what a record says of them: nothing where a task that is made in
    windows has windows as long as a clip, which was the only length once."""

    def windowed(task: str) -> bool:
        return task in TASKS and TASKS[task].windowed

    if not windowed(options.task):
        return options.window, options.window
    told = bool(options.source) and windowed(read_record(options.source)["settings"].get("task", ""))
    window = (model.clip["frames"] if told else model.window) if options.window is None else options.window
    return window, None if window == model.clip["frames"] else window


def prepare(options: argparse.Namespace, model: VideoGenerator, fps: float) -> Job:
    """Reads the inputs, at the size of the output; what outpaint and upscale are given keeps its own."""
    given = {axis: getattr(options, axis) for axis in ("frames", "height", "width")}
    size = {axis: model.clip[axis] if asked is None else asked for axis, asked in given.items()}
    frames = size.pop("frames")
    model.tokenizer.latent_shape(1, **size)
    if options.frames is not None and options.frames < 1:
        model.tokenizer.latent_shape(frames, **size)  # says what would fit
    fs = model.tokenizer.space_compression
    clips = []
    for path in options.input:
        wanted = 1 if options.task == "image2video" else options.frames if options.task in jobs.IN_PLACE else None
        if options.task == "outpaint":
            info = probe(path)
            size = {"height": max(fs, info.height // fs * fs), "width": max(fs, info.width // fs * fs)}
        if options.task == "upscale":
            wanted, size = options.frames, {"height": None, "width": None}
        clips.append(read_clip(path, frames=wanted, **size, fps=fps)[0])
        if options.task in jobs.IN_PLACE:
            frames = clips[0].shape[1]
    return model.job(
        options.task,
        options.prompt,
        clips,
        None if options.mask is None else read_mask(options.mask, frames, size["height"], size["width"], fps),
        options.strength,
        options.forget,
        *(getattr(options, axis) for axis in ("frames", "height", "width")),
        windows(options, model)[0],
    )


def read_mask(text: str, frames: int, height: int, width: int, fps: float) -> torch.Tensor:
    """A box, a picture, a video or a folder of pictures -> bool (1 or frames, height, width), True where white."""
    path = Path(text)
    if path.is_dir():
        pictures = [read_clip(file, 1, height, width)[0] for file in sorted(path.iterdir()) if is_image(file)]
        if len(pictures) < frames:
            raise ValueError(f"--mask {text} holds {len(pictures)} pictures, expected one for each of {frames} frames")
        mask = torch.cat(pictures[:frames], dim=1).mean(0) > 0
    elif path.is_file():
        mask = read_clip(path, 1 if is_image(path) else frames, height, width, None if is_image(path) else fps)[0]
        mask = mask.mean(0) > 0
    else:
        try:
            left, top, right, bottom = (int(n) for n in text.split(","))
        except ValueError as error:
            raise ValueError(
                f"--mask {text!r} is neither a picture, a video or a folder nor left,top,right,bottom in pixels"
            ) from error
        if right > width or bottom > height:
            raise ValueError(
                f"--mask {text} reaches beyond the {width}x{height} picture: give pixels of the output, to which "
                "inputs are resized and cropped"
            )
        mask = torch.zeros(1, height, width, dtype=torch.bool)
        mask[:, max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    if not mask.any():
        raise ValueError(f"--mask {text} covers nothing of the {width}x{height} picture")
    return mask


def describe(
    options: argparse.Namespace, model: VideoGenerator, job: Job, fps: float, typed: dict[str, str]
) -> dict[Path, dict]:
    """Every file to write and its record, from which ``--from`` makes the very same video again.

    ``typed``: what each expanded prompt was made of.
    """
    frames, height, width = model.tokenizer.pixel_shape(*job.grid)
    if job.ring:
        frames += model.tokenizer.time_compression - 1
    sources = {file: fingerprint(file) for file in (*options.input, options.mask) if file and Path(file).exists()}
    sources[options.model] = "-".join(pretrained.fingerprint(part) for part in (model.tokenizer, model.generator))
    if options.source:
        record = read_record(options.source)
        for name, told in record["sources"].items():
            if sources.get(name, told) != told:
                raise ValueError(f"{name} is not what it was when {options.source} was written: give the old one")
        made, here = record.get("versions", {}), versions(model.device)
        other = {name: made.get(name) for name in ("draws", "device") if made.get(name) != here[name]}
        if other:
            why = (
                "is of a version that drew other numbers"
                if "draws" in other
                else f"tells of a video made on {made.get('device')}, and {here['device']} rounds otherwise"
            )
            warnings.warn(f"{options.source} {why}: the video may be another", stacklevel=1)
    records = {}
    for prompt in [list(job.story)] if job.story else options.prompt or [""]:
        for seed in range(options.seed, options.seed + options.num):
            path = options.out
            if options.out.suffix not in FILES:
                path = path / f"{len(records):03d}-seed{seed}.{'png' if frames == 1 else 'mp4'}"
            raw = {"raw_prompt": [typed[p] for p in job.story] or typed.get(prompt)} if options.expand else {}
            records[path] = {
                "prompt": expanded_before(path, raw["raw_prompt"]) or prompt if raw else prompt,
                **raw,
                "seed": seed,
                "size": {"frames": frames, "height": height, "width": width},
                "fps": fps,
                "settings": {name: value for name, value in vars(options).items() if name not in NO_SETTINGS},
                "sources": sources,
                "versions": versions(model.device),
            }
    return records


def expanded_before(path: Path, raw: str | list[str]) -> str | list[str] | None:
    """The prompt of a video that is there already and was made of the same ``raw`` one: a writer never says it twice
    the same way."""
    beside = path.with_suffix(".json")
    record = read_record(beside) if path.exists() and beside.exists() else {}
    return record.get("prompt") if record.get("raw_prompt") == raw else None


if __name__ == "__main__":
    warnings.showwarning = lambda message, *_: print(f"sample.py: {message}", file=sys.stderr)
    try:
        for path in main():
            print(path)
    except (ValueError, OSError) as error:
        print(f"sample.py: {error}", file=sys.stderr)
        sys.exit(2)

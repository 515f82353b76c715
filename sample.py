"""Sampling program: prompts (and, for some tasks, a clip or a still) in, videos out.

    python sample.py --model out/demo/model --prompt "a red circle moves right" --out clip.mp4

What is wrong with an argument is one line on standard error and exit status 2, before anything is written.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NoReturn

import torch
from tqdm import tqdm

from data.video import read_clip
from data.writing import write_clip
from generator import tasks
from generator.pipeline import VideoGenerator
from generator.prompts import expand
from generator.samplers import ORDERS
from generator.tasks import Canvas

TASKS = {
    "text2video": "a video of the prompt",
    "text2image": "an image, a video of one frame",
    "image2video": "sets --input, a still, in motion",
    "extend": "goes on where --input, a clip, ends: to --frames in all",
    "inpaint": "makes the region --mask of --input anew",
    "edit": "makes a share --strength of --input anew after the prompt",
}
FILES = (".mp4", ".gif", ".webm", ".png")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; --help lists the flags\n")


def parser() -> Parser:
    p = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    p.add_argument("--model", required=True, help="exported folder, hub id or training checkpoint")
    p.add_argument("--prompt", action="append", default=[], help="may be repeated: --num samples of each")
    p.add_argument("--expand", help="makes prompts longer: template, a language model, or http://HOST/v1#MODEL")
    p.add_argument("--out", required=True, type=Path, help=f"a file ({', '.join(FILES)}) or a folder: a file a sample")
    p.add_argument("--task", default="text2video", help="; ".join(f"{k}: {v}" for k, v in TASKS.items()))
    p.add_argument("--frames", type=int, help="default: as trained")
    p.add_argument("--height", type=int, help="default: as trained")
    p.add_argument("--width", type=int, help="default: as trained")
    p.add_argument("--fps", type=float, help="frames a second of the output; default: as trained")
    p.add_argument("--num", type=int, default=1, help="samples a prompt")
    p.add_argument("--seed", type=int, default=0, help="of the first sample; the next ones count up from it")
    p.add_argument("--steps", type=int, default=16)
    p.add_argument("--guidance", type=float, default=2.0, help="classifier-free guidance; 1 is none")
    p.add_argument("--sampler", default="halton", help=", ".join(ORDERS))
    p.add_argument("--temperature", type=float, default=0.7)
    p.add_argument("--revisions", type=int, default=12, help="further calls, each to make a third of the frames anew")
    p.add_argument("--input", action="append", default=[], help="a clip or a still to begin with")
    p.add_argument("--mask", help="what to make anew: left,top,right,bottom in pixels, or a picture, white there")
    p.add_argument("--strength", type=float, default=0.5, help="edit: share of the tokens made anew")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    p.add_argument("--batch-size", type=int, default=16)
    return p


def main(args: list[str] | None = None) -> list[Path]:
    """Runs the command line; returns the files written. Raises ``ValueError`` in words for what cannot be done."""
    options = parser().parse_args(args)
    check(options)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = VideoGenerator.from_pretrained(options.model, device)
    fps = options.fps or model.clip["fps"] or 8.0
    raw = options.prompt or [""]
    prompts = expand(raw, options.expand, options.seed, device) if options.expand else raw
    canvas, shape = prepare(options, model, fps)
    texts = [text for text in prompts for _ in range(options.num)]
    seeds = [options.seed + i for _ in prompts for i in range(options.num)]
    with tqdm(total=len(texts), unit="clip", disable=not sys.stderr.isatty()) as bar:
        tokens = model.fill(
            canvas.repeat(len(texts)),
            texts,
            seeds,
            steps=options.steps,
            guidance=options.guidance,
            order=ORDERS[options.sampler](),
            temperature=options.temperature,
            revisions=options.revisions,
            batch_size=options.batch_size,
            progress=bar.update,
        )
    written = []
    for i, clip in enumerate(model.decode(tokens)):
        single = options.out.suffix in FILES
        path = options.out if single else options.out / f"{i:03d}-seed{seeds[i]}.{'png' if shape[0] == 1 else 'mp4'}"
        write_clip(path, clip, fps)
        settings = {k: str(v) if k == "out" else v for k, v in vars(options).items() if k not in ("prompt", "seed")}
        record = {
            "prompt": texts[i],
            **({"raw_prompt": raw[i // options.num]} if options.expand else {}),
            "seed": seeds[i],
            "size": dict(zip(("frames", "height", "width"), shape, strict=True)),
            "fps": fps,
            "settings": settings,
            "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
        }
        path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        written.append(path)
    return written


def check(options: argparse.Namespace) -> None:
    """What can be refused without opening the model."""
    if options.task not in TASKS:
        raise ValueError(f"unknown task {options.task!r}: expected {', '.join(TASKS)}")
    if options.sampler not in ORDERS:
        raise ValueError(f"unknown sampler {options.sampler!r}: expected {', '.join(ORDERS)}")
    if not options.prompt and options.task in ("text2video", "text2image", "edit"):
        raise ValueError(f"{options.task} needs a --prompt")
    if options.task in ("image2video", "extend", "inpaint", "edit") and len(options.input) != 1:
        raise ValueError(f"{options.task} needs one --input, got {len(options.input)}")
    if options.task in ("text2video", "text2image") and options.input:
        raise ValueError(f"{options.task} takes no --input: use image2video, extend, inpaint or edit")
    if options.task == "inpaint" and not options.mask:
        raise ValueError("inpaint needs a --mask: left,top,right,bottom in pixels or a picture, white where to fill in")
    least = {"num": 1, "steps": 1, "batch_size": 1, "temperature": 0, "guidance": 0, "strength": 0, "revisions": 0}
    for name, low in least.items():
        if getattr(options, name) < low:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(options, name)}, expected at least {low}")
    if options.strength > 1:
        raise ValueError(f"--strength is {options.strength}, expected a share between 0 and 1")
    if options.out.suffix and options.out.suffix not in FILES:
        raise ValueError(f"--out ends in {options.out.suffix}, expected {', '.join(FILES)} or a folder")
    samples = max(1, len(options.prompt)) * options.num
    if options.out.suffix and samples > 1:
        raise ValueError(f"{samples} samples do not fit one file: give --out a folder")


def prepare(options: argparse.Namespace, model: VideoGenerator, fps: float) -> tuple[Canvas, tuple[int, int, int]]:
    """The canvas of the task, and the output's frames, height and width."""
    given = {axis: getattr(options, axis) for axis in ("frames", "height", "width")}
    sizes = {axis: model.clip[axis] if size is None else size for axis, size in given.items()}
    if options.task == "text2image":
        sizes["frames"] = 1
    shape = tuple(sizes.values())
    grid, mask_id = model.tokenizer.latent_shape(*shape), model.generator.mask_id
    if options.task in ("text2video", "text2image"):
        return tasks.text2video(grid, mask_id), shape
    wanted = {"image2video": 1, "inpaint": shape[0], "edit": shape[0], "extend": None}[options.task]
    clip, _ = read_clip(options.input[0], frames=wanted, height=shape[1], width=shape[2], fps=fps)
    if options.task == "extend":  # as much of the clip's beginning as makes whole latent frames
        clip = clip[:, : 1 + (clip.shape[1] - 1) // model.tokenizer.time_compression * model.tokenizer.time_compression]
    known = model.encode(clip[None]).cpu()
    if options.task in ("image2video", "extend"):
        return tasks.extend(known, grid, mask_id), shape
    if options.task == "edit":
        return tasks.edit(known, options.strength, mask_id, options.seed), shape
    return tasks.inpaint(known, read_mask(options.mask, model, shape), mask_id), shape


def read_mask(text: str, model: VideoGenerator, shape: tuple[int, int, int]) -> torch.Tensor:
    """A box or a picture -> the token positions (h', w') that it touches."""
    _, height, width = shape
    if Path(text).is_file():
        picture, _ = read_clip(text, frames=1, height=height, width=width)
        pixels = picture[:, 0].mean(0) > 0
    else:
        try:
            left, top, right, bottom = (int(n) for n in text.split(","))
        except ValueError as error:
            raise ValueError(f"--mask {text!r} is neither a picture nor left,top,right,bottom in pixels") from error
        pixels = torch.zeros(height, width, dtype=torch.bool)
        pixels[max(0, top) : bottom, max(0, left) : right] = True
    if not pixels.any():
        raise ValueError(f"--mask {text} covers nothing of the {width}x{height} picture")
    fs = model.tokenizer.space_compression
    return pixels.unflatten(0, (-1, fs)).unflatten(2, (-1, fs)).any(3).any(1)


if __name__ == "__main__":
    try:
        for path in main():
            print(path)
    except (ValueError, OSError) as error:
        print(f"sample.py: {error}", file=sys.stderr)
        sys.exit(2)

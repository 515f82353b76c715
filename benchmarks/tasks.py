"""Every task of one model, on clips of shapes that training has never seen: what comes out right, and what is kept.

    python benchmarks/tasks.py --model models/showcase [--clips 32] [--sheets DIR] [--sizes]
    python benchmarks/tasks.py --model models/emoji --videos FOLDER [--clips 16] [--sheets DIR]

What a task is given is cut out of real clips of one object, its prompt is their caption, and the detector reads the
result: shares whose shape, colour and motion are as the caption says, with the 95% interval of all three, beside
those of reconstructions of the whole real clips, the ceiling. ``kept`` is the mean absolute difference of what was
given, in pixels from -1 to 1, to its reconstruction. Joins: the largest difference of neighbouring frames around a
seam, over the median of all neighbours. ``--sheets`` writes a picture of the first clips of each task, and one of the
first of all; ``--sizes`` makes no tasks, but videos of other sizes than the model was trained at. Clips of a folder
no detector can read: of these it is said what is kept, and how much moves, as a multiple of what moves in the real
ones.
"""

import argparse
import copy
import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))
from data.folder import Folder
from data.shapes import COLOURS, Shapes
from data.transitions import then
from data.video import Example
from evaluation.detector import score
from evaluation.intervals import wilson
from evaluation.motion import magnitude
from evaluation.sheet import contact_sheet
from generator.editing import TASKS, knows_transitions
from generator.pipeline import VideoGenerator

NAMES = ("shape", "colour", "motion", "all")
SIZES = (
    (1, 1, 1),
    (0.5, 1, 1),
    (2, 1, 1),
    (1, 0.5, 0.5),
    (1, 1, 1.5),
    (1, 1.5, 1),
    (1, 1.5, 1.5),
    (1.5, 1, 1),
    (1, 1.25, 1.25),
    (1, 1, 2),
)  # of the trained one: t, h, w
SHOWN = 3  # clips in a picture


class Table:
    def __init__(self, sheets: Path | None, fps: float) -> None:
        self.sheets, self.fps = sheets, fps
        self.firsts: list[tuple[Tensor, str]] = []
        print(f"| task | clips | {' | '.join(NAMES)} | kept | |\n|{'---|' * (len(NAMES) + 4)}", flush=True)

    def row(self, name: str, videos: Tensor, texts: list[str], wanted=None, kept=None, said: str = "", real=()) -> None:
        """Videos (b, 3, t, h, w); ``wanted``: their attributes; ``kept``: what was given, and what became of it;
        ``real``: clips that move as they may."""
        if real and not wanted:
            moved = magnitude(videos).mean() / torch.cat([magnitude(clip[None]) for clip in real]).mean()
            said = f"motion {moved:.2f}; {said}".removesuffix("; ")
        right = score(videos, wanted, self.fps) if wanted else {}
        cells = [f"{right[key]:.0%}" if key in right else "" for key in NAMES]
        if right:
            whole = wilson(round(right["all"] * len(videos)), len(videos))
            cells[-1] += f" ({100 * whole['low']:.0f} to {100 * whole['high']:.0f})"
        cells.append(f"{difference(*kept):.3f}" if kept else "")
        print(f"| {name} | {len(videos)} | {' | '.join(cells)} | {said} |", flush=True)
        if self.sheets and name in TASKS:
            contact_sheet(self.sheets / f"{name}.png", videos[:SHOWN], texts[:SHOWN])
            self.firsts.append((videos[0], f"{name}: {texts[0]}"))
            contact_sheet(self.sheets / "tasks.png", *zip(*self.firsts, strict=True))


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--videos", help="a folder of captioned clips, in place of shapes")
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--sizes", action="store_true")
    options = parser.parse_args(args)

    model = VideoGenerator.from_pretrained(options.model)
    table = Table(options.sheets, model.clip["fps"])
    if options.sizes:
        sizes(model, table, options.clips)
    else:
        tasks(
            model,
            table,
            filmed(options.videos, model, options.clips) if options.videos else drawn(model, options.clips),
        )


def sizes(model: VideoGenerator, table: Table, count: int) -> None:
    """Text to video at sizes around the trained one."""
    t, h, w, fps = (model.clip[axis] for axis in ("frames", "height", "width", "fps"))
    for scale in SIZES:
        size = fitting(model, [side * factor for side, factor in zip((t, h, w), scale, strict=True)])
        named, said = dict(zip(("frames", "height", "width"), size, strict=True)), "x".join(map(str, size))
        examples = [Shapes("test", **named, fps=fps, objects=[1], seed=3)[i] for i in range(count)]
        texts, wanted = [e.text for e in examples], [e.attributes for e in examples]
        table.row(f"reconstructions, {said}", torch.stack(through(model, [e.clip for e in examples])), texts, wanted)
        table.row(f"text2video, {said}", model(texts, **named), texts, wanted)


def drawn(model: VideoGenerator, count: int) -> list[tuple[Example, str, dict]]:
    """Clips of shapes; captions that differ in one thing, the colour, and what these say."""
    t, h, w, fps = (model.clip[axis] for axis in ("frames", "height", "width", "fps"))
    examples = recolourable(Shapes("test", 2 * t - 1, h, w, fps, objects=[1], seed=3), count)
    return [(example, *recoloured(example)) for example in examples]


def filmed(folder: str, model: VideoGenerator, count: int) -> list[tuple[Example, str, None]]:
    """The first clips of a folder that are long enough, and each other's captions."""
    t, h, w, fps = (model.clip[axis] for axis in ("frames", "height", "width", "fps"))
    clips = Folder(folder, 2 * t - 1, h, w, fps, random=False, images=False)
    long = (example for example in (clips[i] for i in range(len(clips))) if not example.skipped)
    examples = [replace(example, attributes=None) for example in islice(long, count)]
    if not examples:
        raise SystemExit(f"{folder}: no clip has the {2 * t - 1} frames at {fps:g} a second that extend needs")
    return [(a, b.text, None) for a, b in zip(examples, examples[1:] + examples[:1], strict=True)]


def tasks(model: VideoGenerator, table: Table, given: list[tuple[Example, str, dict | None]]) -> None:
    t, h, w, fps = (model.clip[axis] for axis in ("frames", "height", "width", "fps"))
    ft, long = model.tokenizer.time_compression, 2 * t - 1
    examples, new, meant = zip(*given, strict=True)
    clips, texts, wanted = ([getattr(e, name) for e in examples] for name in ("clip", "text", "attributes"))
    wanted, new = wanted if any(wanted) else None, list(new)

    def each(name: str, given: list[list[Tensor]], prompts: list[str] = texts, **job) -> Tensor:
        pairs = tqdm(list(zip(prompts, given, strict=True)), desc=name, leave=False)
        return torch.cat([model(text, task=name, inputs=inputs, **job) for text, inputs in pairs])

    short = [clip[:, :t] for clip in clips]
    table.row("reconstructions", torch.stack(through(model, short)), texts, wanted, real=short)
    table.row("text2video", model(texts), texts, wanted, real=short)
    table.row("text2image", model(texts, task="text2image"), texts, wanted and [still(a) for a in wanted])

    stills = [[clip[:, :1]] for clip in clips]
    made = each("image2video", stills)
    firsts = through(model, [given for (given,) in stills])
    table.row("image2video", made, texts, wanted, (firsts, made[:, :, :1]), real=short)

    whole = torch.stack(through(model, clips))
    said = f"join {join(whole, middle(model, long, h, w)):.1f}"
    table.row(f"reconstructions of {long} frames", whole, texts, wanted, said=said, real=clips)
    made = each("extend", [[clip] for clip in short], frames=long)
    table.row("extend", made, texts, wanted, (through(model, short), made[:, :, :t]), real=clips)
    made = each("extend-back", [[clip[:, -t:]] for clip in clips], frames=long)
    later = [
        clip[:, -(t // 2) :] for clip in through(model, clips)
    ]  # before, pixels still feel what is in front of them
    table.row("extend-back", made, texts, wanted, (later, made[:, :, -(t // 2) :]), real=clips)

    made = each("interpolate", [[clip[:, :1], clip[:, t - 1 - ft : t]] for clip in short], frames=t)
    table.row("interpolate", made, texts, wanted, (firsts, made[:, :, :1]), real=short)

    mask = torch.zeros(1, h, w, dtype=torch.bool)
    mask[:, h // 4 : 3 * h // 4, w // 4 : 3 * w // 4] = True
    made = each("inpaint", [[clip] for clip in short], mask=mask)
    near = F.max_pool2d(mask.float(), 9, stride=1, padding=4).bool() & ~mask  # within four pixels of it
    rings = [part.expand(3, t, h, w) for part in (~mask, near, ~mask & ~near)]
    pairs = [[[video[ring] for video in videos] for videos in (through(model, short), made)] for ring in rings]
    said = f"within 4 pixels {difference(*pairs[1]):.3f}, beyond {difference(*pairs[2]):.3f}"
    table.row("inpaint", made, texts, wanted, pairs[0], said=said, real=short)
    around = (h // 2 // 16 * 16, w // 2 // 16 * 16)  # whole cells to either side, whatever the compression up to 8
    made = each("outpaint", [[clip] for clip in short], height=h + around[0], width=w + around[1])
    inner = made[..., around[0] // 2 : around[0] // 2 + h, around[1] // 2 : around[1] // 2 + w]
    table.row("outpaint", made, texts, wanted, (through(model, short), inner))

    made = each("edit", [[clip] for clip in short], prompts=new, strength=0.5)
    table.row("edit", made, new, wanted and meant, said="the caption is another one", real=short)

    pairs = tqdm(list(zip(texts, new, strict=True)), desc="story", leave=False)
    made = torch.cat([model([before, after], task="story", frames=long) for before, after in pairs])
    cut = middle(model, long, h, w)
    said = f"join {join(made, cut):.1f}"
    if wanted:
        parts = [(made[:, :, :cut], wanted), (made[:, :, cut + ft :], meant)]
        first, second = (score(part, told, fps) for part, told in parts)
        named = ", ".join(f"{name} {first[name]:.0%} then {second[name]:.0%}" for name in NAMES)
        said = f"{named}; {said}"
    table.row("story", made, texts, said=said, real=clips)
    told = [of_both(model, *pair) for pair in zip(texts, texts[1:] + texts[:1], strict=True)]
    pairs = [[a, b] for a, b in zip(short, short[1:] + short[:1], strict=True)]
    made = each("connect", pairs, told, frames=t + t // 2 // ft * ft)
    table.row("connect", made, texts, said=f"join {join(made, made.shape[2] // 2):.1f}", real=short)
    made = model(texts, task="loop", frames=max(t - 1, 3 * ft))
    half = made.shape[2] // 2
    table.row("loop", made, texts, said=f"join {join(made.roll(half, dims=2), half, 0):.1f}", real=short)


def of_both(model: VideoGenerator, text: str, other: str) -> str:
    """What a model is told of a connection: "this, then that" if it has seen such captions, else of the first clip."""
    return then(text, other) if knows_transitions(model) else text


def fitting(model: VideoGenerator, size: list[float]) -> tuple[int, int, int]:
    """The nearest size, t, h, w in pixels, that tokenizer and transformer can make."""
    ft, step = model.tokenizer.time_compression, model.tokenizer.space_compression * model.generator.patch_size
    return 1 + round((size[0] - 1) / ft) * ft, *(max(1, round(side / step)) * step for side in size[1:])


def middle(model: VideoGenerator, frames: int, height: int, width: int) -> int:
    """Where the second of two prompts begins, in frames."""
    latent_frames = model.tokenizer.latent_shape(frames, height, width)[0]
    return 1 + (round(latent_frames / 2) - 1) * model.tokenizer.time_compression


def through(model: VideoGenerator, videos: list[Tensor]) -> list[Tensor]:
    """What the tokenizer makes of videos (3, t, h, w)."""
    return [model.decode(model.encode(video[None]))[0] for video in videos]


def difference(given: Iterable[Tensor], became: Iterable[Tensor]) -> float:
    """Mean absolute difference of pixels."""
    each = [(a - b).abs().mean() for a, b in zip(given, became, strict=True)]
    return torch.stack(each).mean().item()


def recolourable(shapes: Shapes, count: int) -> list:
    """The first clips whose captions name the colour, so that it can be replaced."""
    found = []
    while len(found) < count:
        index = found[-1][0] + 1 if found else 0
        while shapes[index].attributes["things"][0]["colour"] not in shapes[index].text:
            index += 1
        found.append((index, shapes[index]))
    return [example for _, example in found]


def recoloured(example) -> tuple[str, dict]:
    """The caption with another colour, and what it says."""
    colours, attributes = list(COLOURS), copy.deepcopy(example.attributes)
    old = attributes["things"][0]["colour"]
    attributes["things"][0]["colour"] = colours[(colours.index(old) + 3) % len(colours)]
    return example.text.replace(old, attributes["things"][0]["colour"]), attributes


def still(attributes: dict) -> dict:
    unseen = dict.fromkeys(("motion", "direction", "speed"))
    return attributes | {"things": [thing | unseen for thing in attributes["things"]]}


def join(videos: Tensor, frame: int, reach: int = 4) -> float:
    """How far neighbouring frames differ around a frame, at most, over the median of all; the mean of the clips."""
    steps = videos.diff(dim=2).abs().mean((1, 3, 4))  # b t-1
    around = steps[:, max(0, frame - 1 - reach) : frame + reach].amax(1)
    return (around / steps.median(1).values.clamp_min(1e-3)).mean().item()


if __name__ == "__main__":
    main()

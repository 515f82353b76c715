"""Every task, from what a user gives to tokens: pictures, clips and masks in pixels, and one ``fill`` for them all.

A task is a function of the model, which encodes, of the ``Job`` and of ``fill``, which makes the unknown cells of a
canvas (``tasks.py``) anew. The tokenizer is causal in time: its first latent frame stands for one frame and all others
for several, so that what does not begin a video is encoded as a piece of its middle.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from data.transitions import then
from generator import tasks
from generator.draws import Draws
from generator.tasks import Canvas
from generator.upscaling import enlarge

if TYPE_CHECKING:
    from generator.jobs import Job
    from generator.pipeline import VideoGenerator


TURN = 7_368_787  # between the seeds of a sample's turns


@dataclass(frozen=True)
class Fill:
    """Makes the unknown cells of a canvas, of one row or of a row a sample, for these texts and seeds."""

    model: "VideoGenerator"
    texts: list[str]
    seeds: list[int]
    window: int | None
    sampling: dict

    def __call__(
        self, canvas: Canvas, texts: list[str] | None = None, backwards: bool = False, turn: int = 0
    ) -> Tensor:
        """``turn``: which call of a task that fills several times, so that each has noise of its own."""
        rows = canvas if len(canvas.tokens) == len(self.seeds) else canvas.repeat(len(self.seeds))
        spans = {"window": self.window, "backwards": backwards}
        seeds = [seed + TURN * turn for seed in self.seeds]
        return self.model.fill(rows, texts or self.texts, seeds, **spans, **self.sampling)


def text2video(model: "VideoGenerator", job: "Job", fill: Fill) -> Tensor:
    return fill(tasks.text2video(job.grid, model.mask_id))


def extend(model: "VideoGenerator", job: "Job", fill: Fill) -> Tensor:
    """Goes on after a clip or a still; what is known of a window is the integers of the window before."""
    return fill(tasks.extend(model.encode(whole(model, job.clips[0])), job.grid, model.mask_id))


def extend_back(model: "VideoGenerator", job: "Job", fill: Fill) -> Tensor:
    """Ends with a clip or a still; windows go backwards, and only the last one begins with a first frame."""
    known = model.encode_middle(whole(model, job.clips[0], end=True))
    return fill(tasks.extend_back(known, job.grid, model.mask_id), backwards=True)


def loop(model: "VideoGenerator", job: "Job", fill: Fill) -> Tensor:
    """A ring of latent frames, none of which is a first one: made as a piece, then anew around its seam, by a model
    that has seen transitions as one from the end to the beginning."""
    ring = fill(replace(tasks.text2video(job.grid, model.mask_id), middle=True))
    size = min(ring.shape[1], max(3, job.window - 1)) if job.window else ring.shape[1]
    canvas = tasks.seam(ring, size, model.mask_id)
    texts = [then(text, text) for text in fill.texts] if knows_transitions(model) else fill.texts
    return canvas.filled(0, fill(canvas.span(0, size), texts, turn=1)).tokens


def interpolate(model: "VideoGenerator", job: "Job", fill: Fill) -> Tensor:
    start, end = whole(model, job.clips[0]), whole(model, job.clips[1], end=True)
    return fill(tasks.interpolate(model.encode(start), model.encode_middle(end), job.grid, model.mask_id))


def connect(model: "VideoGenerator", job: "Job", fill: Fill) -> Tensor:
    """A model that has seen transitions makes one, in a window with something of both clips; another is shown how one
    picture takes the other's place."""
    start, end = whole(model, job.clips[0]), whole(model, job.clips[1], end=True)
    clips = model.encode(start), model.encode_middle(end), job.grid, model.mask_id
    if not knows_transitions(model):
        return fill(tasks.connect(*clips))
    canvas = tasks.connect(*clips, wipe=False).repeat(len(fill.seeds))
    frames = (~canvas.known[0]).flatten(1).any(1).nonzero().flatten()
    first, last = int(frames[0]), int(frames[-1]) + 1
    size = min(job.grid[0], max(job.window or job.grid[0], last - first + 2))
    begin = min(max(0, first - (size - (last - first)) // 2), job.grid[0] - size)
    made = replace(fill, window=None)(canvas.span(begin, begin + size))
    return canvas.filled(begin, made).tokens


def inpaint(model: "VideoGenerator", job: "Job", fill: Fill) -> Tensor:
    """What the mask covers is painted over before the clip is encoded: a token sees its neighbours and its past."""
    clip = whole(model, job.clips[0])
    mask = job.mask.expand(clip.shape[2:])
    region = tasks.cells(mask, model.tokenizer.time_compression, model.tokenizer.space_compression)
    return fill(tasks.inpaint(model.encode(paint_over(clip[0], mask)[None]), region, model.mask_id))


def outpaint(model: "VideoGenerator", job: "Job", fill: Fill) -> Tensor:
    return fill(tasks.outpaint(model.encode(whole(model, job.clips[0])), job.grid, model.mask_id))


def edit(model: "VideoGenerator", job: "Job", fill: Fill) -> Tensor:
    """Forgets a share of the tokens: any, or those that the new prompt finds least likely, beside the others.

    The likelihood counts as it is: less that without a text, it chooses no better (docs/tasks.md).
    """
    clip = model.encode(whole(model, job.clips[0]))
    if job.forget == "random":
        scores = Draws([seed - TURN for seed in fill.seeds]).uniform(*clip.shape[1:])
    else:
        fps = fill.sampling.get("fps")
        likely = {text: model.likelihood(clip, text, fps=fps) for text in set(fill.texts)}
        scores = torch.cat([likely[text] for text in fill.texts])
    return fill(tasks.edit(clip, job.strength, model.mask_id, scores))


def story(model: "VideoGenerator", job: "Job", fill: Fill) -> Tensor:
    """A prompt after the other, each for as long: its windows begin with the last tokens of the one before.

    A model that has seen transitions first makes one, in a window half of which is the prompt's before, and is told
    "this, then that".
    """
    canvas, turns = tasks.text2video(job.grid, model.mask_id).repeat(len(fill.seeds)), len(job.story)
    stops, half = [round(i * job.grid[0] / turns) for i in range(turns + 1)], (job.window or job.grid[0]) // 2
    for i, text in enumerate(job.story):
        begin, stop = 0, stops[i + 1]
        if i and knows_transitions(model):
            begin = stops[i]
            first, last = max(stops[i - 1], begin - half), min(stop, begin + half)
            told = [then(job.story[i - 1], text)] * len(fill.seeds)
            canvas = canvas.filled(first, fill(canvas.span(first, last), told, turn=turns + i))
        canvas = canvas.filled(begin, fill(canvas.span(begin, stop), [text] * len(fill.seeds), turn=i))
    return canvas.tokens


def upscale(model: "VideoGenerator", job: "Job", fill: Fill) -> Tensor:
    """The clip in pixels becomes a draft as large as the output; nothing of it is known for certain."""
    frames, *size = model.tokenizer.pixel_shape(*job.grid)
    draft = model.encode(enlarge(whole(model, job.clips[0])[:, :, :frames], *size))
    return fill(tasks.upscale(draft, model.mask_id))


@dataclass(frozen=True)
class Task:
    """``run(model, job, fill) -> tokens`` and what it asks for.

    ``about``: a line for the user; ``inputs``: how many clips; ``needs``: what a model must have been trained for;
    ``windowed``: made in windows of the longest clips that the model was trained at, unless another is asked for.
    ``sampling``: what of ``generator.filling.Settings`` it has of its own, unless another is asked for.
    """

    run: Callable[..., Tensor]
    about: str
    inputs: int
    needs: tuple[str, ...]
    windowed: bool = False
    prompt: bool = False  # whether it must have one
    sampling: Mapping[str, float] = field(default_factory=dict)
    guidance: float | None = None  # as in ``sampling``, but of a model that has seen transitions alone


# where what is made meets what is given, or itself: whole frames made anew, told those around them
SMOOTH = {"steps": 16, "revisions": 12}


TASKS: dict[str, Task] = {
    "text2video": Task(text2video, "a video of the prompt", 0, ("text",), prompt=True),
    "text2image": Task(text2video, "an image, a video of one frame", 0, ("text",), prompt=True),
    "image2video": Task(extend, "sets --input, a still, in motion", 1, ("first",)),
    "extend": Task(extend, "goes on where --input, a clip, ends: to --frames in all", 1, ("prefix",), True),
    "extend-back": Task(extend_back, "what came before --input: --frames in all", 1, ("suffix",), True),
    "loop": Task(
        loop, "a video of the prompt that ends as it begins", 0, ("text", "ends", "middle"), True, True, SMOOTH
    ),
    "interpolate": Task(interpolate, "from one --input, a clip or a still, to another", 2, ("ends",)),
    "connect": Task(
        connect, 'from one --input into another, told "this, then that"', 2, ("ends",), True, False, SMOOTH, 7.0
    ),
    "inpaint": Task(inpaint, "makes the region --mask of --input anew", 1, ("region",)),
    "outpaint": Task(outpaint, "new borders around --input, to --height and --width", 1, ("region",)),
    "edit": Task(edit, "makes a share --strength of --input anew after the prompt", 1, ("text",), prompt=True),
    "story": Task(
        story, "one video of several --prompt, one after the other", 0, ("text", "prefix"), True, prompt=True
    ),
    "upscale": Task(
        upscale,
        "enlarges --input, by a model that is trained for nothing else",
        1,
        ("draft",),
        True,
        sampling={"steps": 8, "guidance": 1.0, "temperature": 0.0, "remask": 0.0},
    ),
}


def knows_transitions(model: "VideoGenerator") -> bool:
    return "transitions" in getattr(model.generator, "trained_for", ())


def whole(model: "VideoGenerator", clip: Tensor, end: bool = False) -> Tensor:
    """As many frames of a clip (3, t, h, w) as make whole latent frames, (1, 3, t', h, w), from its start or end."""
    ft = model.tokenizer.time_compression
    kept = 1 + (clip.shape[1] - 1) // ft * ft
    if kept < clip.shape[1]:
        warnings.warn(f"of {clip.shape[1]} frames the {'last' if end else 'first'} {kept} are used", stacklevel=2)
    return clip[None, :, clip.shape[1] - kept :] if end else clip[None, :, :kept]


def paint_over(clip: Tensor, mask: Tensor) -> Tensor:
    """A clip (3, t, h, w) whose pixels under the mask (t, h, w) are spread in from the others, frame by frame.

    What was there leaves no trace, and what the tokenizer sees instead looks like its surroundings. A frame without
    any other pixel becomes grey.
    """
    video, seen = clip.transpose(0, 1).masked_fill(mask[:, None], 0), ~mask[:, None]  # t 3 h w, t 1 h w
    while (open_frames := seen.flatten(1).any(1) & ~seen.flatten(1).all(1)).any():
        total, count = (9 * F.avg_pool2d(x.to(clip), 3, 1, 1) for x in (video, seen))
        reached = ~seen & (count > 0.5) & open_frames.view(-1, 1, 1, 1)
        video = torch.where(reached, total / count.clamp_min(1), video)
        seen = seen | reached
    return video.transpose(0, 1)

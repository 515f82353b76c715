"""What was asked for: a task, its inputs and its size, checked before anything is made."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from generator.editing import TASKS, Task, loop
from generator.masked import MaskedGenerator
from generator.tasks import Grid

if TYPE_CHECKING:
    from generator.pipeline import VideoGenerator

FORGET = ("unlikely", "random")
STRENGTH = 0.5
IN_PLACE = ("edit", "inpaint", "outpaint")  # make as many frames as their input has


@dataclass(frozen=True)
class Job:
    """What was asked for, apart from prompts and seeds.

    ``grid`` (t, h, w) of the output in tokens; ``clips`` of shape (3, t, h, w) in [-1, 1]; ``mask`` bool (t, h, w) or
    (1, h, w) in pixels, True where to make anew; ``story``: the prompts of one video, one after the other; ``window``:
    latent frames at a time, None for all.
    """

    task: Task
    grid: Grid
    clips: tuple[Tensor, ...] = ()
    mask: Tensor | None = None
    strength: float = STRENGTH
    forget: str = FORGET[0]
    story: tuple[str, ...] = ()
    window: int | None = None

    @property
    def ring(self) -> bool:
        return self.task.run is loop

    @property
    def needs(self) -> tuple[str, ...]:
        """What a model must have been trained for; all windows but the first are pieces from the middle of a video."""
        if self.window is None or self.grid[0] <= self.window:
            return self.task.needs
        onwards = () if "suffix" in self.task.needs else ("prefix",)
        return tuple(dict.fromkeys((*self.task.needs, *onwards, "middle")))


def plan(
    model: "VideoGenerator",
    task: str = "text2video",
    prompts: Sequence[str] = (),
    inputs: Sequence[Tensor] = (),
    mask: Tensor | None = None,
    strength: float = STRENGTH,
    forget: str | None = None,
    frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    window: int | None = None,
) -> Job:
    """What was asked for, checked against the model; see ``VideoGenerator``. Raises ``ValueError`` in words.

    Warns where the model was not trained for what is asked.
    """
    knows = isinstance(model.generator, MaskedGenerator)  # how likely a token is
    factor = getattr(model.generator, "upscale", 1)
    kind = check(task, len(inputs), len(prompts), mask is not None, strength, forget)
    forget = forget or FORGET[not knows]
    if not knows and task == "edit" and forget == "unlikely":
        kind = "latents" if model.generator.of_latents else "noisy tokens"
        raise ValueError(f"a generator of {kind} does not say how likely a token is: forget random ones")
    if factor > 1 and task != "upscale":
        raise ValueError(f"this model enlarges clips and does nothing else: use --task upscale --input, not {task}")
    if factor == 1 and task == "upscale":
        raise ValueError("this model does not enlarge clips: use one trained with configs/generator/upscale.yaml")
    ft, fs = model.tokenizer.time_compression, model.tokenizer.space_compression
    if task == "upscale":
        frames, height, width = enlarged(tuple(inputs[0].shape[1:]), factor, frames, height, width, ft, fs)
    if task in IN_PLACE:
        inputs, mask, frames, height, width = in_place(task, inputs[0], mask, frames, height, width, ft)
    if frames is None:
        frames = default_frames(task, [c.shape[1] for c in inputs], model.clip["frames"], len(prompts), ft)
    if task == "text2image" and frames != 1:
        raise ValueError(f"text2image makes one frame, not {frames}: use text2video")
    own = inputs[0].shape[2:] if inputs and task != "outpaint" else (model.clip["height"], model.clip["width"])
    height, width = (side if asked is None else asked for side, asked in zip(own, (height, width), strict=True))
    size = (frames, height, width)
    if task == "loop" and (frames < 3 * ft or frames % ft):
        nearest = sorted({max(3, frames // ft) * ft, max(3, frames // ft + 1) * ft})
        raise ValueError(
            f"a loop of {frames} frames does not fit {ft}x compression: use {' or '.join(map(str, nearest))}"
        )
    grid = model.tokenizer.latent_shape(frames + 1 if task == "loop" else frames, *size[1:])
    patch = model.generator.patch_size
    for name, pixels, cells in zip(("height", "width"), size[1:], grid[1:], strict=True):
        if cells % patch:
            step = patch * fs
            nearest = sorted({max(1, pixels // step) * step, (pixels // step + 1) * step})
            raise ValueError(
                f"{name} {pixels} does not fit the generator's patches of {step} pixels: use "
                f"{' or '.join(map(str, nearest))}"
            )
    if task == "story" and grid[0] < len(prompts):
        least = model.tokenizer.pixel_shape(len(prompts), *grid[1:])[0]
        raise ValueError(f"{frames} frames are too few for a story of {len(prompts)} prompts: use {least} or more")
    check_length(task, [clip.shape[1] for clip in inputs], frames, ft)
    if window is None and kind.windowed:
        window = model.window
    job = Job(
        kind,
        grid=(grid[0] - 1, *grid[1:]) if task == "loop" else grid,
        clips=tuple(inputs),
        mask=mask,
        strength=strength,
        forget=forget,
        story=tuple(prompts) if task == "story" else (),
        window=None if window is None else model.tokenizer.latent_shape(window, *size[1:])[0],
    )
    if job.window == 1 < job.grid[0]:
        raise ValueError(f"a window of {window} frames is told nothing of the one before: give at least {1 + ft}")
    if missing := model.untrained(job):
        told = ", ".join(model.generator.trained_for)
        warnings.warn(
            f"this model was trained for {told}, not for {', '.join(missing)}, which {task} asks for: it fills in what "
            "it can",
            stacklevel=3,
        )
    return job


def in_place(
    name: str, clip: Tensor, mask: Tensor | None, frames: int | None, height: int | None, width: int | None, ft: int
) -> tuple:
    """Inputs, mask, frames, height and width of a task that makes parts of a clip (3, t, h, w) anew.

    As many frames as the clip has, or the first ``frames``; its own height and width but for outpaint, which adds to
    them. ``ValueError`` for another size.
    """
    t, *size = clip.shape[1:]
    kept = 1 + (t - 1) // ft * ft
    if frames is not None and frames > kept:
        raise ValueError(f"{name} makes {kept} frames of an --input of {t}, not {frames}: use {kept} or fewer")
    clip = clip if frames is None else clip[:, :frames]
    frames = kept if frames is None else frames
    if name != "outpaint":
        if (height or size[0], width or size[1]) != tuple(size):
            raise ValueError(
                f"{name} keeps the size of its --input, {size[0]}x{size[1]}, and makes no {height or size[0]}x"
                f"{width or size[1]} of it: enlarge or shrink the clip before"
            )
        height, width = size
    elif height or width:
        height, width = height or size[0], width or size[1]
    if mask is not None:
        if mask.shape[-2:] != clip.shape[-2:] or 1 < len(mask) < frames:
            raise ValueError(
                f"the mask is {'x'.join(map(str, mask.shape))}, expected 1 or {frames} frames of {size[0]}x{size[1]}"
            )
        mask = mask[:frames]
    return (clip,), mask, frames, height, width


def check(name: str, inputs: int, prompts: int, mask: bool, strength: float, forget: str | None) -> Task:
    """The task of that name, if it can do with what it is given; else ``ValueError`` in words."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}: expected {', '.join(TASKS)}")
    task = TASKS[name]
    if task.inputs != inputs:
        asked = {0: "takes no", 1: "needs one", 2: "needs two"}[task.inputs]
        raise ValueError(f"{name} {asked} --input, got {inputs}: see --help for the tasks that take another number")
    if task.prompt and not prompts:
        raise ValueError(f"{name} needs a --prompt")
    if name == "story" and prompts < 2:
        raise ValueError(f"story needs several --prompt, one after the other, got {prompts}")
    if mask != (name == "inpaint"):
        takes = "needs a" if name == "inpaint" else "takes no"
        raise ValueError(f"{name} {takes} --mask: inpaint takes left,top,right,bottom in pixels, a picture or a video")
    if not 0 <= strength <= 1:
        raise ValueError(f"--strength is {strength}, expected a share between 0 and 1")
    if forget not in (None, *FORGET):
        raise ValueError(f"--forget is {forget!r}, expected {' or '.join(FORGET)}")
    if name != "edit" and (strength != STRENGTH or forget):
        raise ValueError(f"{name} forgets no tokens: leave out --strength and --forget, which are edit's")
    return task


def check_length(name: str, given: list[int], frames: int, ft: int) -> None:
    """``ValueError`` where inputs of so many frames leave nothing to make of ``frames``, ft to a latent frame."""
    room = 1 + (frames - 1) // ft
    begins, ends = [1 + (n - 1) // ft for n in given], [max(1, (n - 1) // ft) for n in given]
    known = {"extend": begins[:1], "image2video": begins[:1], "extend-back": ends[:1]}.get(name, [])
    if name == "interpolate":
        known = [begins[0], ends[1]]
    if known and sum(known) >= room:
        least = 1 + sum(known) * ft
        raise ValueError(f"{name} has nothing to make of {frames} frames with this --input: use {least} or more")
    if name == "connect" and (room <= max(begins[0], ends[1]) or room == begins[0] + ends[1]):
        least, meeting = 1 + max(begins[0], ends[1]) * ft, 1 + (begins[0] + ends[1] - 1) * ft
        but = f", but not {meeting}, where they only meet" if meeting > least else ""
        raise ValueError(
            f"connect cannot fade clips of {given[0]} and {given[1]} frames into each other in {frames}: use "
            f"{least + ft * (meeting == least)} or more{but}"
        )


def enlarged(
    given: tuple[int, int, int],
    factor: int,
    frames: int | None,
    height: int | None,
    width: int | None,
    ft: int,
    fs: int,
) -> tuple[int, int, int]:
    """Frames, height and width that a clip of the size ``given`` is enlarged to: ``factor`` times, or as asked for.

    ``ValueError`` for more frames, for a smaller picture and for proportions that differ by a token or more.
    """
    t, h, w = given
    kept = 1 + (t - 1) // ft * ft
    if frames is not None and frames > kept:
        raise ValueError(f"upscale makes {kept} frames of an --input of {t}, not {frames}: use {kept} or fewer")
    ratio = factor if height is None and width is None else width / w if height is None else height / h
    height, width = (round(ratio * n) if asked is None else asked for n, asked in ((h, height), (w, width)))
    if height < h or abs(width - height * w / h) >= fs:
        raise ValueError(
            f"upscale cannot make {height}x{width} of an --input of {h}x{w}: use {factor * h}x{factor * w}, or another "
            "larger size of the same proportions"
        )
    return kept if frames is None else frames, height, width


def default_frames(name: str, given: list[int], trained: int, prompts: int, ft: int) -> int:
    """How long the output is if nobody says so: ``given`` are the frames of the inputs, ``trained`` those of the model.

    As long as the model was trained at, or as much longer than what is given.
    """
    more = max(ft, trained - 1)
    known = [(frames - 1) // ft * ft for frames in given]
    if name == "text2image":
        return 1
    if name == "loop":
        return 2 * more
    if name == "story":
        return 1 + more * prompts
    if name == "connect":  # they overlap by half of the shorter one; a still, which has no half, is apart
        lengths = [known[0] // ft + 1, max(1, known[1] // ft)]
        overlap = min(lengths) // 2
        return 1 + ft * (sum(lengths) - overlap - 1) if overlap else max(trained, 1 + ft * sum(lengths))
    if name in ("extend", "extend-back", "interpolate"):
        fixed = {"extend": known[:1], "extend-back": [max(ft, n) for n in known]}
        length = 1 + sum(fixed.get(name, [known[0], max(ft, known[-1])] if known else []))
        return trained if length < trained else length + more
    return trained

"""Read shapes, colours and motions back from pixels, without learning: did the generator draw what the text asked for?

The counterpart of `data/shapes.py`, in its words and units (of the frame's short side, from the middle, y down). One
thing after the other becomes a map of how much of each pixel it covers; the maps' areas, centres and likenesses to
templates, frame by frame, tell the rest. Nothing asks for sharp edges or exact colours, so that reconstructions and
generated clips can be read, too.

    python -m evaluation.detector --clips 500 --frames 9 --height 32 --width 32

prints how often the detector is right about real clips, and about blurred, noisy ones: the ceiling for any model.
"""

import argparse
import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce

from data.commands import run
from data.shapes import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, SIZES, SPEEDS, Shapes, distance

ATTRIBUTES = ("shape", "colour", "size", "background", "motion", "speed")

# Thresholds lie between what two words mean in data/shapes.py. Lengths in units, speeds in units a second.
VISIBLE = 0.012  # square units: a third of the smallest thing; what is smaller is an edge between two colours, or noise
GROWS = 1.25  # last third of the clip against its beginning, in radius: 1.5 for what grows in a second, 1 for the rest
STRAYS = 0.025  # from a straight line, root mean square: 0.08 for what bounces or circles within a second
CREEPS = 0.06  # speed: the slowest that moves has 0.15
SHIFTS = 0.03  # distance in all, lest a short clip's jitter be taken for speed
TURNS = 0.6  # concentration of the angles: 1 for what keeps upright, 0 for a full turn
HIDES = 0.8  # share of its area that a thing still shows when it is no longer in full view

PATCH, FIELD = 24, 1.9  # pixels across a template; half its width, in radii of a disc of the thing's area
BLURS = (0.08, 0.2, 0.3)  # of templates, in those radii: from as drawn to one pixel and more at 32x32
ANGLES = 8  # templates over the angle after which a shape repeats


def detect(clip: torch.Tensor, fps: float = 8.0, count: int | None = None) -> dict:
    """What a clip (3, t, h, w) in [-1, 1] shows, in the form of `Scene.attributes()`, the largest thing first.

    `count` says how many things to look for; None: as many as are seen, perhaps none. A single frame shows no motion:
    there `motion`, `direction` and `speed` are None.
    """
    clip = clip.detach().float().cpu()
    background = find_background(clip)
    maps = find_things(clip, background, count)
    things = [_describe(colour, cover, fps) for colour, cover in maps.items()]
    _find_passing(things)
    return {"background": background, "things": [thing["attributes"] for thing in things]}


def matches(detected: dict, attributes: dict) -> dict[str, bool]:
    """For each attribute that `attributes` commits to (is not None): is it detected, in every thing?

    Several things are matched by their colours. "colour" asks for the very set of colours, "motion" for kind and
    direction, "all" for shape, colour and motion.
    """
    found, wanted = detected["things"], attributes["things"]
    pairs = [(found[0] if found else {}, wanted[0])]
    if len(wanted) > 1:
        by_colour = {thing["colour"]: thing for thing in found}
        pairs = [(by_colour.get(thing["colour"], {}), thing) for thing in wanted]
    right = {"colour": {thing["colour"] for thing in found} == {thing["colour"] for thing in wanted}}
    if attributes["background"] is not None:
        right["background"] = detected["background"] == attributes["background"]
    for name in ("shape", "size", "motion", "speed"):
        fields = ("motion", "direction") if name == "motion" else (name,)
        agree = [all(a.get(field) == b[field] for field in fields) for a, b in pairs if b[name] is not None]
        if agree:
            right[name] = all(agree)
    right["all"] = right["shape"] and right["colour"] and right.get("motion", True)
    return right


def score(videos: torch.Tensor, attributes: Sequence[dict], fps: float = 8.0) -> dict[str, float]:
    """The share of a batch (b, 3, t, h, w) that is right, an attribute; among those clips that commit to it."""
    results = [matches(detect(clip, fps), wanted) for clip, wanted in zip(videos, attributes, strict=True)]
    names = [name for name in (*ATTRIBUTES, "all") if any(name in right for right in results)]
    return {name: float(np.mean([right[name] for right in results if name in right])) for name in names}


# ----------------------------------------------------------------------------------------------- which pixels, whose


def find_background(clip: torch.Tensor) -> str:
    """The background that most pixels along the border resemble."""
    top, bottom, left, right = clip[:, :, 0], clip[:, :, -1], clip[..., 0], clip[..., -1]
    border = rearrange(torch.cat([top, bottom, left, right], dim=-1), "c t n -> (t n) c")
    nearest = torch.cdist(border, _rgb(BACKGROUNDS.values())).argmin(1)
    return list(BACKGROUNDS)[nearest.bincount(minlength=len(BACKGROUNDS)).argmax()]


def find_things(clip: torch.Tensor, background: str, count: int | None = None) -> dict[str, torch.Tensor]:
    """Colour -> cover (t, h, w) in [0, 1]: how much of each pixel the thing of that colour covers; largest first."""
    names = list(COLOURS)
    areas = reduce(_unmix(clip, background, names), "k t h w -> k t", "sum") / min(clip.shape[2:]) ** 2
    frames = max(1, areas.shape[1] // 2)
    areas = areas.topk(frames, dim=1).values.mean(1)  # (k,) when in fullest view
    if count is None:
        count = int((areas > VISIBLE).sum())
    chosen = [names[k] for k in areas.argsort(descending=True)[:count]]
    if not chosen:
        return {}
    return dict(zip(chosen, _unmix(clip, background, chosen), strict=True))


def _unmix(clip: torch.Tensor, background: str, colours: list[str]) -> torch.Tensor:
    """Cover (k, t, h, w) of k colours. A pixel is a mixture of the background and of one colour: the one that fits.

    So the soft edge of a red thing on white, which is pink, counts as half covered by red.
    """
    base = _rgb([BACKGROUNDS[background]])  # (1, 3)
    away = rearrange(clip, "c t h w -> (t h w) c") - base
    colour = _rgb(COLOURS[name] for name in colours) - base  # (k, 3)
    length = colour.square().sum(1)  # (k,)
    cover = (away @ colour.T / length).clamp(0, 1)  # (n, k) least squares
    misfit = cover * (cover * length - 2 * away @ colour.T)  # (n, k) squared, less what is the same for all k
    best = misfit.argmin(1, keepdim=True)
    cover = torch.zeros_like(cover).scatter_(1, best, cover.gather(1, best))
    return rearrange(_firm(cover), "(t h w) k -> k t h w", t=clip.shape[1], h=clip.shape[2])


def _firm(cover: torch.Tensor) -> torch.Tensor:
    return ((cover - 0.2) / 0.6).clamp(0, 1)  # noise and halos are not cover; an edge's half way stays half way


def _rgb(colours) -> torch.Tensor:
    return 2 * torch.tensor(list(colours)) - 1  # (k, 3) in [-1, 1]


# ------------------------------------------------------------------------------------------------ one thing, in words


def _describe(colour: str, cover: torch.Tensor, fps: float) -> dict:
    """A thing's attributes, and the track that they were read from."""
    t, h, w = cover.shape
    short = min(h, w)
    x = (torch.arange(w) + 0.5 - w / 2) / short  # (w,) in units
    y = (torch.arange(h) + 0.5 - h / 2) / short  # (h,)
    mass = reduce(cover, "t h w -> t", "sum").clamp(min=1e-6)
    area = mass / short**2  # (t,) square units
    centre = torch.stack([(cover.sum(1) @ x) / mass, (cover.sum(2) @ y) / mass], dim=1)  # (t, 2)
    radius = (area / math.pi).sqrt()  # (t,) of the disc of that area

    rim = cover[:, 0].sum(1) + cover[:, -1].sum(1) + cover[:, :, 0].sum(1) + cover[:, :, -1].sum(1)
    cut = rim > 0.5 * radius * short  # (t,) the frame's edge cuts something off
    last = max(1, t // 3)
    first = max(1, min(last, round(0.4 * fps)))  # growth may end soon: the beginning of a long clip is its first moment
    grows = t > 1 and bool(radius[-last:].mean() > GROWS * radius[:first].mean())
    view = torch.ones(t) if grows else (area / area.max()) ** 4  # (t,) how far to trust each frame
    view = view * torch.where(cut, 0.05, 1.0)

    likeness = compare(cover, centre, radius)  # (t, shapes, angles)
    shape = SHAPES[(view @ likeness.amax(2)).argmax()]
    whole = radius[0] if grows else (view @ radius) / view.sum()
    size = whole * math.sqrt(math.pi / _unit_area(shape))
    thing = {
        "shape": shape,
        "colour": colour,
        "size": min(SIZES, key=lambda name: abs(math.log(SIZES[name] / max(float(size), 1e-3)))),
        "motion": None,
        "direction": None,
        "speed": None,
    }
    if t > 1:
        velocity, strays = fit_line(centre, view, fps)
        pace = float(velocity.norm())
        spread = (view @ (centre - (view @ centre) / view.sum()).square() / view.sum()).sqrt()  # (2,) of x and of y
        if grows:
            thing["motion"] = "grows"
        elif strays > STRAYS:
            thing["motion"] = "bounces" if spread[0] < 0.4 * spread[1] else "circles"
        elif pace > CREEPS and pace * (t - 1) / fps > SHIFTS:
            thing["motion"] = "moves"
            thing["direction"] = max(DIRECTIONS, key=lambda name: _along(velocity, name))
            thing["speed"] = min(SPEEDS, key=lambda name: abs(math.log(SPEEDS[name] / pace)))
        else:
            thing["motion"] = "spins" if _turns(likeness, view, shape) else "still"
    return {"attributes": thing, "centre": centre, "area": area, "radius": whole}


def fit_line(centre: torch.Tensor, view: torch.Tensor, fps: float) -> tuple[torch.Tensor, float]:
    """Least squares through the centres (t, 2), weighted by `view` (t,): velocity (2,), residual (root mean square)."""
    time = torch.arange(len(centre)) / fps
    share = view / view.sum()
    middle, mean = share @ time, share @ centre
    lever = time - middle
    velocity = (share * lever) @ (centre - mean) / ((share * lever) @ lever).clamp(min=1e-6)
    rest = centre - mean - lever[:, None] * velocity
    return velocity, float((share @ rest.square()).sum().sqrt())


def _along(velocity: torch.Tensor, direction: str) -> float:
    x, y = DIRECTIONS[direction]
    return float(velocity[0] * x + velocity[1] * y) / math.hypot(x, y)


def _turns(likeness: torch.Tensor, view: torch.Tensor, shape: str) -> bool:
    """Whether the angle of best likeness runs through a full period."""
    if shape in ("circle", "ring"):
        return False
    phase = torch.arange(ANGLES) * 2 * math.pi / ANGLES
    waves = likeness[:, SHAPES.index(shape)].to(torch.complex64) @ torch.polar(torch.ones(ANGLES), phase)  # (t,)
    waves = waves * view
    return bool(waves.sum().abs() < TURNS * waves.abs().sum())


def _find_passing(things: list[dict]) -> None:
    """What moves, is hidden for a while, and meanwhile overlaps with something still in full view, passes behind it."""
    for mover in things:
        for front in things:
            if mover["attributes"]["motion"] != "moves" or front["attributes"]["motion"] != "still":
                continue
            apart = (mover["centre"] - front["centre"].median(0).values).norm(dim=1)  # (t,)
            meet = apart < 1.2 * (mover["radius"] + front["radius"])
            hidden = mover["area"] < HIDES * mover["area"].max()
            if (meet & hidden).any():
                mover["attributes"] |= {"motion": "passes behind", "speed": None}


# ----------------------------------------------------------------------------------------------------------- templates


def compare(cover: torch.Tensor, centre: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Correlation of what is covered (t, h, w) round the centre (t, 2) with each template: (t, shapes, angles).

    The thing is resampled to the templates' size, so neither its size nor the clip's matters.
    """
    h, w = cover.shape[1:]
    reach = FIELD * radius.clamp(min=1.0 / min(h, w))
    grid = _grid()[None] * rearrange(reach, "t -> t 1 1 1") + rearrange(centre, "t xy -> t 1 1 xy")  # units
    grid = grid * 2 * min(h, w) / torch.tensor([w, h])  # from units to [-1, 1] on each axis
    patches = F.grid_sample(cover[:, None], grid, align_corners=False)  # (t, 1, p, p)
    return torch.einsum("tp, sbap -> tsba", _standard(patches.flatten(1)), _templates()).amax(2)


@cache
def _grid() -> torch.Tensor:
    """Points of a patch from -1 to 1: (p, p, 2), x and y."""
    line = (torch.arange(PATCH) + 0.5) * 2 / PATCH - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], dim=-1)


@cache
def _templates() -> torch.Tensor:
    """Every shape at every blur and angle: (shapes, blurs, angles, p * p), each of mean 0 and norm 1.

    Blurred, the notches of a cross fill up: it must be compared with a blurred cross, lest it pass for a square.
    """
    templates = torch.stack([torch.stack([_template(shape, blur) for blur in BLURS]) for shape in SHAPES])
    return _standard(templates.flatten(-2))


def _template(shape: str, blur: float) -> torch.Tensor:
    """Patches (angles, p, p) of a blurred shape that covers as much as a disc of radius 1."""
    period = 2 * math.pi / (3 if shape == "triangle" else 4)
    turn = rearrange(torch.arange(ANGLES) * period / ANGLES, "a -> a 1 1")
    x, y = (FIELD * _grid()).unbind(-1)
    x, y = turn.cos() * x + turn.sin() * y, turn.cos() * y - turn.sin() * x  # (a, p, p)
    pixel = 2 * FIELD / PATCH
    radius = math.sqrt(math.pi / _unit_area(shape))
    for _ in range(2):  # the first is only measured: what blur adds or takes, the radius has to make up for
        depth = torch.from_numpy(distance(shape, x.numpy(), y.numpy(), np.float32(radius)))
        cover = (0.5 - depth.float() / pixel).clamp(0, 1)
        cover = _firm(soften(cover[:, None], blur / pixel))[:, 0]
        radius *= math.sqrt(math.pi / float(cover[0].sum() * pixel**2))
    return cover


@cache
def _unit_area(shape: str) -> float:
    """Area of a shape of radius 1."""
    line = np.linspace(-1.5, 1.5, 601)
    return float((distance(shape, line[None], line[:, None], np.ones(1)) < 0).mean() * 9)


def _standard(patches: torch.Tensor) -> torch.Tensor:
    return F.normalize(patches - patches.mean(-1, keepdim=True), dim=-1)


# ----------------------------------------------------------------------------------------------------------- measuring


def degrade(clip: torch.Tensor, blur: float = 0.8, noise: float = 0.05, seed: int = 0) -> torch.Tensor:
    """A stand-in for a tokenizer's reconstruction: a blur of so many pixels, and noise. At 32x32 about 28.5 dB."""
    blurred = soften(rearrange(clip, "c t h w -> (c t) 1 h w"), blur)
    grain = torch.randn(blurred.shape, generator=torch.Generator().manual_seed(seed))
    return rearrange((blurred + noise * grain).clamp(-1, 1), "(c t) 1 h w -> c t h w", c=clip.shape[0])


def soften(planes: torch.Tensor, blur: float) -> torch.Tensor:
    """Gaussian blur of planes (n, 1, h, w) with a standard deviation of `blur` pixels."""
    reach = math.ceil(3 * blur)
    bell = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * blur**2))
    bell = bell / bell.sum()
    planes = F.pad(planes, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(planes, bell.view(1, 1, -1, 1)), bell.view(1, 1, 1, -1))


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.detector", description="How often the detector is right."
    )
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--fps", type=float, default=8.0)
    parser.add_argument("--objects", type=int, nargs="+", default=[1])
    parser.add_argument("--split", default="test")
    args = parser.parse_args(args)

    dataset = Shapes(args.split, args.frames, args.height, args.width, args.fps, args.objects)
    examples = [dataset[index] for index in range(args.clips)]
    attributes = [example.attributes for example in examples]
    rows = {
        "real clips": [example.clip for example in examples],
        "blurred and noisy": [degrade(example.clip, seed=index) for index, example in enumerate(examples)],
    }
    print(f"{args.clips} clips, {args.split}, {args.frames}x{args.height}x{args.width} at {args.fps:g} fps, % right")
    print(" " * 18 + "".join(f"{name:>12}" for name in (*ATTRIBUTES, "all")))
    for row, clips in rows.items():
        right = score(torch.stack(clips), attributes, args.fps)
        print(f"{row:18}" + "".join(f"{100 * right.get(name, math.nan):12.1f}" for name in (*ATTRIBUTES, "all")))


if __name__ == "__main__":
    torch.set_num_threads(1)  # the tensors are small: on a busy machine, more threads mostly wait for each other
    run(main)

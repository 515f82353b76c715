"""Procedural captioned videos: coloured shapes that move, every clip a pure function of (seed, index).

A `Scene` is a few `Thing`s before a plain background, each with one `Motion`. Lengths are in *units* of the frame's
short side, with the origin in the middle of the frame and y pointing down; times are in seconds. So a scene knows
neither pixels nor frames: `render` shows the same scene at any size and rate, and `caption` puts it into words.

The shapes are signed distances, drawn with an edge one pixel soft. Some (shape, colour) pairs are held out of
training, so that one can ask whether a generator composes what it has learnt ("a yellow circle" when it has seen
yellow things and circles, but never both at once).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from data.synonyms import in_other_words, in_plain_words
from data.video import Example

SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS = {  # RGB in [0, 1]; as seen from any background below, no two lie in nearly the same direction
    "red": (0.90, 0.08, 0.08),
    "green": (0.10, 0.70, 0.15),
    "blue": (0.10, 0.35, 1.00),
    "yellow": (1.00, 0.92, 0.10),
    "orange": (1.00, 0.52, 0.00),
    "purple": (0.58, 0.10, 0.80),
    "cyan": (0.10, 0.88, 0.92),
    "pink": (1.00, 0.50, 0.78),
}
BACKGROUNDS = {
    "black": (0.00, 0.00, 0.00),
    "white": (1.00, 1.00, 1.00),
    "grey": (0.50, 0.50, 0.50),
    "navy": (0.00, 0.05, 0.38),
}
SIZES = {"small": 0.14, "medium": 0.19, "large": 0.25}  # radius in units; small is 4.5 pixels at 32x32
DIRECTIONS = {  # steps in x and in y, which points down
    "right": (1, 0),
    "left": (-1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "upper right": (1, -1),
    "upper left": (-1, -1),
    "lower right": (1, 1),
    "lower left": (-1, 1),
}
SPEEDS = {"slow": 0.15, "fast": 0.35}  # units a second
SPLITS = ("train", "test", "heldout")

HOLLOW = ("cross", "ring")  # one sees through them what passes behind
REACH = 1.15  # the furthest that a shape of radius 1 extends along an axis
HORIZON = 2.0  # seconds within which things stay in the picture and apart, as far as their speed allows
PASSING_SPEED = 0.5  # quick enough that the thing is seen to go behind the other within a second
HOPS, HOP_HEIGHT = 1.5, 0.3  # a second; units
LAPS, LAP_RADIUS = 1.0, 0.14  # turns a second; units
SPINS = 0.5  # turns a second: at 8 frames a second a square turns by less than half of its symmetry a frame
GROWTH, LARGEST = 0.8, 1.8  # a second; where it stops
WEIGHTS = {"still": 1, "moves": 4, "bounces": 1, "circles": 1, "spins": 1, "grows": 1}  # "moves" has 8 directions
KINDS = tuple(kind for kind, weight in WEIGHTS.items() for _ in range(weight))
ROUND_KINDS = tuple(kind for kind in KINDS if kind != "spins")  # nobody sees a circle spin


@dataclass(frozen=True)
class Motion:
    """How a thing moves: `kind` is a key of `WEIGHTS` or "passes behind"; the rest is for the kinds that need it."""

    kind: str
    direction: str | None = None  # of "moves" and "passes behind"
    speed: str | None = None  # of "moves"
    phase: float = 0.0  # in [0, 1): where in its period a bouncing or circling thing begins
    sense: int = 1  # 1 or -1: which way a circling or spinning thing turns


@dataclass(frozen=True)
class Thing:
    """One object. `x, y` in units is where it starts; what it circles round; the floor on which it bounces."""

    shape: str
    colour: str
    size: str
    motion: Motion
    x: float = 0.0
    y: float = 0.0

    def attributes(self) -> dict:
        return {
            "shape": self.shape,
            "colour": self.colour,
            "size": self.size,
            "motion": self.motion.kind,
            "direction": self.motion.direction,
            "speed": self.motion.speed,
        }


@dataclass(frozen=True)
class Scene:
    """`things` from back to front, before a background."""

    things: tuple[Thing, ...]
    background: str

    def attributes(self) -> dict:
        """What there is to see, as a plain dict that JSON can hold; None where a word does not apply."""
        return {"background": self.background, "things": [thing.attributes() for thing in self.things]}


def held_out(thing: Thing) -> bool:
    """Whether training never shows this (shape, colour): one colour a shape, a different one for each."""
    return (list(COLOURS).index(thing.colour) - SHAPES.index(thing.shape)) % len(COLOURS) == 3


# ------------------------------------------------------------------------------------------ from a scene to pixels


def offset(motion: Motion, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a motion has carried a thing from its (x, y) at `time` (t,) seconds: dx (t,) and dy (t,), in units."""
    zero = np.zeros_like(time)
    if motion.kind in ("moves", "passes behind"):
        x, y = DIRECTIONS[motion.direction]
        path = time * (PASSING_SPEED if motion.speed is None else SPEEDS[motion.speed]) / np.hypot(x, y)
        return x * path, y * path
    if motion.kind == "bounces":
        hop = (HOPS * time + motion.phase) % 1
        return zero, -HOP_HEIGHT * 4 * hop * (1 - hop)  # a ball's parabola, from floor to floor
    if motion.kind == "circles":
        turn = 2 * np.pi * (motion.sense * LAPS * time + motion.phase)
        return LAP_RADIUS * np.cos(turn), LAP_RADIUS * np.sin(turn)
    return zero, zero


def radius(thing: Thing, time: np.ndarray) -> np.ndarray:
    """The thing's radius at `time` (t,), in units."""
    growth = np.minimum(1 + GROWTH * time, LARGEST) if thing.motion.kind == "grows" else np.ones_like(time)
    return SIZES[thing.size] * growth


def distance(shape: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Signed distance from points to the edge of a shape round the origin, negative inside; all arguments broadcast.

    The five have about the same visual weight at the same radius; the triangle's origin is its centre of gravity.
    """
    if shape == "circle":
        return np.sqrt(x * x + y * y) - radius
    if shape == "ring":
        return np.abs(np.sqrt(x * x + y * y) - 0.78 * radius) - 0.24 * radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.85 * radius
    if shape == "triangle":
        slopes = np.sqrt(0.75) * np.abs(x) - 0.5 * y  # the two upper sides are mirror images
        return np.maximum(slopes, y) - 0.575 * radius
    if shape == "cross":
        x, y = np.abs(x), np.abs(y)
        return np.maximum(np.maximum(x, y) - 1.15 * radius, np.minimum(x, y) - 0.32 * radius)
    raise ValueError(f"got the shape {shape!r}, expected one of {', '.join(SHAPES)}")


def render(scene: Scene, frames: int, height: int, width: int, fps: float) -> torch.Tensor:
    """Draw `scene` from time 0 on: a clip (3, t, h, w) in [-1, 1]."""
    short = np.float32(min(height, width))
    column = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / short  # (w,) pixel centres, in units
    row = (np.arange(height, dtype=np.float32)[:, None] + 0.5 - height / 2) / short  # (h, 1)
    time = np.arange(frames) / fps
    pixels = np.empty((3, frames, height, width), dtype=np.float32)
    pixels[:] = _rgb(BACKGROUNDS[scene.background])
    for thing in scene.things:
        dx, dy = offset(thing.motion, time)
        x = column - _per_frame(thing.x + dx)  # (t, 1, w)
        y = row - _per_frame(thing.y + dy)  # (t, h, 1)
        if thing.motion.kind == "spins":
            turn = _per_frame(2 * np.pi * thing.motion.sense * SPINS * time)
            x, y = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
        cover = 0.5 - short * distance(thing.shape, x, y, _per_frame(radius(thing, time)))
        cover = np.clip(cover, 0, 1, out=cover)  # (t, h, w): how much of each pixel the thing covers
        pixels += cover * (_rgb(COLOURS[thing.colour]) - pixels)
    return torch.from_numpy(pixels)


def _per_frame(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)[:, None, None]  # (t, 1, 1)


def _rgb(colour: tuple[float, float, float]) -> np.ndarray:
    return (2 * np.array(colour, dtype=np.float32) - 1)[:, None, None, None]  # (3, 1, 1, 1) in [-1, 1]


# ------------------------------------------------------------------------------------------- from a scene to words

PHRASES = {  # finite verb, participle
    "still": (("stays still", "staying still"), ("does not move", "not moving"), ("stands still", "standing still")),
    "bounces": (("bounces", "bouncing"), ("bounces up and down", "bouncing up and down")),
    "circles": (("moves in a circle", "moving in a circle"), ("circles around", "circling around")),
    "spins": (("spins", "spinning"), ("spins in place", "spinning in place")),
    "grows": (("grows", "growing"), ("grows larger", "growing larger")),
}
ADVERBS = {"slow": "slowly", "fast": "quickly"}


def caption(scene: Scene, rng: np.random.Generator, motion: bool = True) -> str:
    """One of many ways to say what `scene` shows: always shapes, colours and motions, sometimes more.

    Size, speed and background are named for all things or for none; `stated` relies on it. With `motion=False` the
    caption is that of a photograph, which shows no motion.
    """
    sized, paced, placed = rng.random(3) < (0.35, 0.4, 0.35)
    finite = rng.random() < 0.7
    nouns = [_noun(thing, sized) for thing in scene.things]
    if not motion:
        text = _join(nouns, "and")
    elif any(thing.motion.kind == "passes behind" for thing in scene.things):
        text = _passing(scene, nouns, rng)
    else:
        verbs = [_verb(thing.motion, paced, finite, rng) for thing in scene.things]
        clauses = [f"{noun} {verb}" for noun, verb in zip(nouns, verbs, strict=True)]
        text = _join(clauses, "while" if finite and len(clauses) == 2 and rng.random() < 0.5 else "and")
    if not placed:
        return text
    if rng.random() < 0.3:
        return f"on {scene.background}, {text}"
    return f"{text} on a {scene.background} background"


def stated(text: str, attributes: dict) -> dict:
    """The attributes that a caption does commit to: those it leaves open become None.

    A generator that was told "a red circle moves right" is free in size, speed and background, and must not be
    marked down for them.
    """
    words = set(in_plain_words(text).replace(",", "").replace("-sized", "").split())
    things = attributes["things"]
    if not words & set(SIZES):
        things = [thing | {"size": None} for thing in things]
    if not words & set(ADVERBS.values()):
        things = [thing | {"speed": None} for thing in things]
    background = attributes["background"] if attributes["background"] in words else None
    return {"background": background, "things": things}


def _noun(thing: Thing, sized: bool) -> str:
    size = {"small": "small ", "medium": "medium-sized ", "large": "large "}[thing.size] if sized else ""
    words = f"{size}{thing.colour} {thing.shape}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _verb(motion: Motion, paced: bool, finite: bool, rng: np.random.Generator) -> str:
    if motion.kind != "moves":
        return _pick(rng, PHRASES[motion.kind])[0 if finite else 1]
    verb = "moves" if finite else "moving"
    where = _towards(motion.direction, rng)
    if not paced:
        return f"{verb} {where}"
    adverb = ADVERBS[motion.speed]
    return _pick(rng, (f"{adverb} {verb} {where}", f"{verb} {adverb} {where}", f"{verb} {where} {adverb}"))


def _towards(direction: str, rng: np.random.Generator) -> str:
    if direction in ("up", "down"):
        return direction
    if direction in ("left", "right"):
        return _pick(rng, (direction, direction, f"to the {direction}"))
    vertical, side = direction.split()
    return _pick(rng, (f"to the {direction}", f"{'up' if vertical == 'upper' else 'down'} and {side}"))


def _passing(scene: Scene, nouns: Sequence[str], rng: np.random.Generator) -> str:
    (mover, _), (behind, front) = scene.things, nouns
    where = _towards(mover.motion.direction, rng)
    still = front.split(" ", 1)[1]
    return _pick(
        rng,
        (
            f"{behind} moves {where} and passes behind a still {still}",
            f"{behind} passes behind a still {still}, moving {where}",
            f"{front} stays still while {behind} passes behind it, moving {where}",
        ),
    )


def _join(parts: Sequence[str], word: str) -> str:
    return f" {word} ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


# ------------------------------------------------------------------------------------------------- drawing by lot


def draw_scene(
    rng: np.random.Generator, objects: int = 1, height: float = 1, width: float = 1, heldout: bool = False
) -> Scene:
    """A scene of `objects` things for a frame of this aspect; `heldout`: the first one's shape and colour are.

    What does not suit, or finds no room in many tries, is drawn again.
    """
    corner = width / min(height, width) / 2, height / min(height, width) / 2  # of the frame, in units
    background = _pick(rng, tuple(BACKGROUNDS))
    passing = objects == 2 and rng.random() < 0.2
    while True:
        things = [_draw_thing(rng, objects, still=passing) for _ in range(objects)]
        if [held_out(thing) for thing in things] != [heldout] + [False] * (objects - 1):
            continue
        if len({thing.colour for thing in things}) < objects:
            continue
        if passing and things[1].shape in HOLLOW:
            continue
        if passing:
            return Scene(_place_passing(rng, *things, corner), background)
        for _ in range(10):
            if placed := _place(rng, things, corner):
                return Scene(placed, background)


def _draw_thing(rng: np.random.Generator, objects: int, still: bool) -> Thing:
    """A thing that has no place yet; the more of them, the smaller."""
    shape, colour = _pick(rng, SHAPES), _pick(rng, tuple(COLOURS))
    kind = "still" if still else _pick(rng, ROUND_KINDS if shape in ("circle", "ring") else KINDS)
    direction, speed = (_pick(rng, tuple(DIRECTIONS)), _pick(rng, tuple(SPEEDS))) if kind == "moves" else (None, None)
    motion = Motion(kind, direction, speed, phase=float(rng.random()), sense=_pick(rng, (-1, 1)))
    sizes = tuple(SIZES)[: max(1, 4 - objects - (kind == "grows"))]
    return Thing(shape, colour, _pick(rng, sizes), motion)


def _place(rng: np.random.Generator, things: list[Thing], corner: tuple[float, float]) -> tuple[Thing, ...] | None:
    """Give each thing a start from which it stays in the picture and clear of the others, or give up (None)."""
    time = np.linspace(0, HORIZON, 17)
    placed, paths = [], []
    for thing in things:
        reach = REACH * radius(thing, time)  # (17,)
        steps = offset(thing.motion, time)  # dx and dy, (17,) each
        tries = 32 if paths else 1
        starts = [_starts(rng, tries, far, step, reach) for far, step in zip(corner, steps, strict=True)]
        x, y = (start[:, None] + step for start, step in zip(starts, steps, strict=True))  # (tries, 17) each
        clear = np.ones(tries, dtype=bool)
        for other_x, other_y, other_reach in paths:
            clear &= (np.hypot(x - other_x, y - other_y) > reach + other_reach).all(1)
        if not clear.any():
            return None
        best = clear.argmax()  # the first that is clear
        placed.append(replace(thing, x=float(starts[0][best]), y=float(starts[1][best])))
        paths.append((x[best], y[best], reach))
    return tuple(placed)


def _starts(rng: np.random.Generator, tries: int, far: float, step: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Starts (tries,) on one axis of a frame from -far to far, for a thing displaced by `step` (n,) over time."""
    low, high = (-far + reach - step).max(), (far - reach - step).min()
    if low > high:  # it will leave: it starts at the edge that it moves away from, still whole
        low = high = reach[0] - far if step[-1] > 0 else far - reach[0]
    return rng.uniform(low, high, tries)


def _place_passing(
    rng: np.random.Generator, mover: Thing, front: Thing, corner: tuple[float, float]
) -> tuple[Thing, Thing]:
    """Let the first, small, thing pass behind the second: it starts at an edge, right beside the other."""
    direction = _pick(rng, ("right", "left", "up", "down"))
    along = np.array(DIRECTIONS[direction])
    across = np.abs(along[::-1])
    gap = REACH * (SIZES["small"] + SIZES[front.size])
    start = -along * min(np.abs(along) @ corner - REACH * SIZES["small"], gap + 0.1)
    start = start + across * rng.uniform(-1, 1) * (across @ corner - REACH * SIZES[front.size])
    stop = start + along * gap
    motion = Motion("passes behind", direction)
    mover = replace(mover, size="small", motion=motion, x=float(start[0]), y=float(start[1]))
    return mover, replace(front, x=float(stop[0]), y=float(stop[1]))


def _pick(rng: np.random.Generator, options: Sequence):
    return options[int(rng.integers(len(options)))]


class Shapes(torch.utils.data.Dataset):
    """Captioned clips of moving shapes: every (seed, split, index) is one scene, whatever size and rate it is shown at.

    Args:
        split: "train"; "test", other draws of the same kind; or "heldout", where the shape and colour of the first
            thing are a pair that the other two splits never show.
        frames, height, width, fps: of each clip. One frame is a photograph, whose caption names no motion.
        objects: how many things a scene may have, each number equally often; 1, 2 and 3 are possible.
        seed: another seed, other scenes.
        length: what `len` says. An index beyond it is another draw.
        buckets: several sizes, each frames, height and width, in turn, in place of the one; the first of them is what a
            model of these clips calls its own.
        synonyms: whether captions also use words that the plain ones never do (`data.synonyms`); the scenes, and what
            is drawn of them, are the same.
    """

    def __init__(
        self,
        split: str = "train",
        frames: int = 17,
        height: int = 64,
        width: int = 64,
        fps: float = 8.0,
        objects: Sequence[int] = (1, 2, 3),
        seed: int = 0,
        length: int = 1_000_000,
        buckets: Sequence[Sequence[int]] | None = None,
        synonyms: bool = False,
    ):
        if split not in SPLITS:
            raise ValueError(f"got the split {split!r}, expected one of {', '.join(SPLITS)}")
        self.sizes = [tuple(bucket) for bucket in buckets or [(frames, height, width)]]
        self.frames, self.height, self.width = self.sizes[0]
        for frames, height, width in self.sizes:
            if min(frames, height, width) < 1 or fps <= 0:
                raise ValueError(f"got {frames} frames of {height}x{width} at {fps} fps, expected positive numbers")
        if not objects or not set(objects) <= {1, 2, 3}:
            raise ValueError(f"got objects {list(objects)}, expected some of 1, 2 and 3")
        self.split, self.fps = split, fps
        self.objects, self.seed, self.length, self.synonyms = tuple(objects), seed, length, synonyms

    def __len__(self) -> int:
        return self.length

    def shape_of(self, index: int) -> tuple[int, int, int]:
        """(t, h, w) of `self[index]`; another draw of an index has the same."""
        return self.sizes[index % self.length % len(self.sizes)]

    def __getitem__(self, index: int) -> Example:
        return self._shown(index, *self._drawn(index))

    def retold(self, index: int) -> Example:
        """The same scene with its first thing in another colour, drawn by (seed, split, index), in words of its own."""
        scene, rng = self._drawn(index)
        thing, taken = scene.things[0], {other.colour for other in scene.things}
        others = [replace(thing, colour=colour) for colour in COLOURS if colour not in taken]
        alike = [other for other in others if held_out(other) == held_out(thing)] or others
        return self._shown(index, replace(scene, things=(_pick(rng, alike), *scene.things[1:])), rng)

    def _drawn(self, index: int) -> tuple[Scene, np.random.Generator]:
        """A scene, and what its caption is drawn with."""
        if index < 0:
            raise IndexError(f"got the index {index}, expected 0 or more")
        height, width = self.shape_of(index)[1:]
        rng = np.random.default_rng((self.seed, SPLITS.index(self.split), index))
        return draw_scene(rng, _pick(rng, self.objects), height, width, self.split == "heldout"), rng

    def _shown(self, index: int, scene: Scene, rng: np.random.Generator) -> Example:
        frames, height, width = self.shape_of(index)
        attributes, moving = scene.attributes(), frames > 1
        if not moving:
            unseen = dict.fromkeys(("motion", "direction", "speed"))
            attributes["things"] = [thing | unseen for thing in attributes["things"]]
        clip, text = render(scene, frames, height, width, self.fps), caption(scene, rng, moving)
        return Example(
            clip=clip,
            text=in_other_words(text, rng) if self.synonyms else text,
            fps=self.fps,
            attributes=attributes,
        )

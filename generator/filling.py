"""How each kind of generator fills a piece of a canvas: what its network is told, and the sampler that asks it.

    MaskedGenerator         logits of masked cells        samplers.sample
    UniformGenerator        logits of noisy cells         uniform.denoise
    MaskedLatentsGenerator  velocities of masked cells    samplers.sample, with a solver for each cell
    DiffusionGenerator      the velocity of all cells     diffusion.integrate

Generators of latents bring them to the tokens that they are nearest to.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor

from generator.backbone import TextMemory
from generator.caching import Pass
from generator.diffusion import DiffusionGenerator, Euler, Numbers, Solver, Velocity, integrate
from generator.guidance import Guidance, Network, apart, guide, guided, together
from generator.masked import MaskedGenerator
from generator.masked_latents import MaskedLatentsGenerator, drawing
from generator.orders import Halton, Order
from generator.samplers import Predict, Predictions, choose_tokens, draw_tokens, sample
from generator.schedules import Schedule
from generator.tasks import Canvas
from generator.uniform import Denoiser, UniformGenerator, denoise
from vq.quantizers import Quantizer

Generator = MaskedGenerator | UniformGenerator | MaskedLatentsGenerator | DiffusionGenerator
Code = Quantizer | Numbers  # tokens to latents and back
KNOBS = {  # what of the settings a kind of generator goes by, besides steps and guidance
    MaskedGenerator: ("order", "schedule", "temperature", "revisions", "refresh", "top_k", "top_p", "remask", "lean"),
    UniformGenerator: ("schedule", "temperature", "top_k", "top_p"),
    MaskedLatentsGenerator: ("order", "schedule", "revisions", "solver"),
    DiffusionGenerator: ("solver",),
}
RANGES = {
    "steps": (1, math.inf),
    "revisions": (0, math.inf),
    "refresh": (1, math.inf),
    "top_k": (1, math.inf),
    "top_p": (0, 1),
    "remask": (0, 1),
}


def knobs(generator: Generator) -> tuple[str, ...]:
    """The names of the settings that mean something to a generator."""
    return "steps", "guidance", *next(names for kind, names in KNOBS.items() if isinstance(generator, kind))


@dataclass(frozen=True)
class Settings:
    """How to sample.

    Args:
        steps: calls of the network a sample (twice as many forward passes with guidance).
        guidance: scale of classifier-free guidance; 1 is none.
        order: which cells come first; None: Halton.
        temperature: of the tokens' distribution; below 1 because guesses made at once do not know each other. Two
            numbers: of the first step and of the last.
        revisions: calls after the last step, each of which makes a third of the frames anew, told the others.
        refresh: of so many calls one computes all positions, and the others only those that matter most; 1: every
            call, which is exact. See ``generator.caching``.
        solver: of the flow; None: Euler.
        schedule, top_k, top_p, remask, lean: see ``generator.samplers.sample``.

    ``KNOBS`` says what means something to which kind of generator. ``ValueError`` for numbers out of range.
    """

    steps: int = 28
    guidance: float | Guidance = 2.0
    order: Order | None = None
    temperature: float | tuple[float, float] = 0.7
    revisions: int = 0
    refresh: int = 1
    solver: Solver | None = None
    schedule: Schedule | None = None
    top_k: int | None = None
    top_p: float = 1.0
    remask: float = 0.3
    lean: bool = True

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} is {value}, expected {f'{low} to {high}' if high == 1 else f'{low} or more'}")
        heats = self.temperature if isinstance(self.temperature, tuple | list) else (self.temperature,)
        if not 1 <= len(heats) <= 2 or not all(0 <= heat < math.inf for heat in heats):
            raise ValueError(f"temperature is {self.temperature}, expected one or two finite numbers of at least 0")

    def checked(self, generator: Generator) -> "Settings":
        """With an order, a solver and a ``Guidance``. ``ValueError`` for what the generator cannot do, or ignores."""
        idle = [f.name for f in fields(self) if f.name not in knobs(generator) and getattr(self, f.name) != f.default]
        if idle:
            raise ValueError(
                f"{', '.join(idle)}: nothing that a {type(generator).__name__} goes by; leave out, it takes "
                f"{', '.join(knobs(generator))}"
            )
        guidance = self.guidance if isinstance(self.guidance, Guidance) else Guidance(self.guidance)
        order, name = self.order or Halton(), type(self.order).__name__
        most = generator.backbone.most_guidance
        if most and not (1 <= guidance.scale <= most and not guidance.rescale):
            raise ValueError(
                f"guidance of scale {guidance.scale:g} and rescale {guidance.rescale:g}: this model was trained to be "
                f"guided in one pass, with scales from 1 to {most:g}, and takes no rescale"
            )
        if most and self.refresh > 1 and (guidance.start, guidance.stop, guidance.power) != (0, 1, 0):
            raise ValueError(
                f"refresh is {self.refresh}, which keeps what was computed at another scale of guidance: this model is "
                "told the scale, so give it one scale throughout, or refresh 1"
            )
        if self.refresh > 1 and not self.lean:
            raise ValueError(f"refresh is {self.refresh}, which computes what is asked for alone: leave lean as it is")
        if guidance.rescale and generator.of_latents:
            raise ValueError("guidance is rescaled on logits, and a generator of latents has none: leave out rescale")
        if self.refresh > 1 and not order.blind:
            raise ValueError(
                f"refresh is {self.refresh}, and {name} has to see all cells before it knows which come first: use the "
                "order halton or random, or refresh 1"
            )
        if isinstance(generator, MaskedLatentsGenerator) and not order.blind:
            raise ValueError(
                f"{name} asks how likely tokens are, and a generator of latents does not know: use the order halton or "
                "random"
            )
        return replace(self, guidance=guidance, order=order, solver=self.solver or Euler())


@dataclass(frozen=True)
class Piece:
    """What there is to fill, and what the network is told of it.

    Args:
        canvas: b samples, on the generator's device.
        texts: theirs.
        fps: frames a second, (1,).
        actions: of a game, those of the canvas's frames, int64 (b, t); None: nothing is done.
        as_one_batch: both passes of guidance at once; None: wherever it pays, which is not on a CPU.
    """

    canvas: Canvas
    texts: Sequence[str]
    fps: Tensor
    actions: Tensor | None = None
    as_one_batch: bool | None = None

    @property
    def at_once(self) -> bool:
        return self.fps.device.type != "cpu" if self.as_one_batch is None else self.as_one_batch

    @property
    def silent(self) -> Tensor:
        """Which samples are told nothing, bool (b,): an empty text is none."""
        return torch.tensor([not text for text in self.texts])

    def read(self, generator: Generator) -> tuple[TextMemory, TextMemory]:
        """What the transformer is told with the texts, and without."""
        read = partial(generator.read, list(self.texts), actions=self.actions, middle=self.canvas.middle)
        return read(drop=self.silent), read(drop=torch.ones_like(self.silent))

    def read_both(self, generator: Generator) -> TextMemory:
        """The same, one after the other, for 2b samples."""
        drop, actions = torch.cat([self.silent, torch.ones_like(self.silent)]), self.actions
        actions = None if actions is None else torch.cat([actions, actions])
        return generator.read(list(self.texts) * 2, drop=drop, actions=actions, middle=self.canvas.middle)


def fill(
    generator: Generator,
    code: Code,
    piece: Piece,
    seeds: Sequence[int],
    how: Settings,
    choose: Callable[..., tuple[Tensor, ...]] = choose_tokens,
) -> Tensor:
    """Tokens (b, t, h, w) of a piece; ``how`` is checked. ``choose``: see ``samplers.draw_tokens``."""
    canvas = piece.canvas
    if isinstance(generator, MaskedGenerator):
        rest = (how.temperature, how.revisions, how.top_k, how.top_p, how.remask, how.lean)
        predict = predictor(generator, piece, how.guidance, how.refresh)
        draw = partial(draw_tokens, choose=choose)
        return sample(predict, canvas, seeds, how.order, how.steps, how.schedule, *rest, draw=draw)
    if isinstance(generator, UniformGenerator):
        rest = (how.steps, how.schedule, how.temperature, how.top_k, how.top_p)
        return denoise(denoiser(generator, piece, how.guidance), canvas, seeds, generator.digits, *rest)
    make = flow if isinstance(generator, DiffusionGenerator) else masked_latents
    clean = generator.normalise(code.lookup(canvas.tokens.masked_fill(~canvas.known, 0)))
    latents = generator.denormalise(make(generator, piece, clean, seeds, how))
    return torch.where(canvas.known, canvas.tokens, code.nearest(latents))


def predictor(
    generator: MaskedGenerator,
    piece: Piece,
    guidance: Guidance,
    refresh: int = 1,
) -> Predict:
    """The function that a sampler is given; the texts are read once."""
    draft, silent = piece.canvas.draft, piece.silent
    ask = partial(Pass, generator, middle=piece.canvas.middle, refresh=refresh, fps=piece.fps, draft=draft)
    if piece.at_once and guidance.scale != 1 and not generator.backbone.most_guidance:
        both, twice = piece.read_both(generator), draft if draft is None else torch.cat([draft, draft])
        return guided(guidance, ask(both[: len(silent)]), together(ask(both, draft=twice)))
    memory, null = piece.read(generator)
    if generator.backbone.most_guidance:
        answer, silent = ask(memory), silent.to(piece.fps.device)

        def predict(tokens: Tensor, where: Tensor, progress: float) -> Predictions:
            return answer(tokens, where, torch.where(silent, 1.0, guidance.at(progress)))  # no text, nothing to guide

        return predict
    told = ask(memory)
    if guidance.scale == 1 or silent.all():
        return guided(Guidance(1), told, None)
    return guided(guidance, told, apart(told, ask(null)))


def denoiser(generator: UniformGenerator, piece: Piece, guidance: Guidance) -> Denoiser:
    """The function that ``denoise`` is given; the texts are read once."""
    (memory, null), canvas = piece.read(generator), piece.canvas
    both = piece.read_both(generator) if piece.at_once else None

    def predict(tokens: Tensor, level: float, progress: float) -> Predictions:
        def network(text: TextMemory) -> Network:
            def logits(tokens: Tensor, where: Tensor) -> Predictions:
                levels = torch.full((len(tokens),), level, device=tokens.device)
                return generator(tokens, ~where, levels, text, canvas.middle, piece.fps)

            return logits

        told = network(memory)
        pairs = together(network(both)) if both else apart(told, network(null))
        return guided(guidance, told, pairs)(tokens, ~canvas.known, progress)

    return predict


def flow(generator: DiffusionGenerator, piece: Piece, clean: Tensor, seeds: Sequence[int], how: Settings) -> Tensor:
    """Normalised latents (b, d, t, h, w), the clean ones where known."""
    told = velocity(generator, piece, how.guidance)
    return integrate(told, clean, piece.canvas.known, seeds, how.solver, how.steps, generator.shift)


def velocity(generator: DiffusionGenerator, piece: Piece, guidance: Guidance) -> Velocity:
    """The function that a solver is given; the texts are read once."""
    (memory, null), canvas = piece.read(generator), piece.canvas
    both, twice = piece.read_both(generator) if piece.at_once else None, canvas.repeat(2)

    def told(text: TextMemory, known: Tensor, x: Tensor, time: float) -> Tensor:
        return generator(x, known, x.new_full((len(x),), time), text, canvas.middle, piece.fps)

    def at(x: Tensor, time: float) -> Tensor:
        scale = guidance.at(1 - time)
        if both and scale != 1:
            return guide(*told(both, twice.known, torch.cat([x, x]), time).chunk(2), scale)
        return guided_velocity(partial(told, memory, canvas.known), partial(told, null, canvas.known), scale)(x, time)

    return at


def guided_velocity(told: Velocity, untold: Velocity, scale: float) -> Velocity:
    if scale == 1:
        return told
    return lambda x, time: guide(told(x, time), untold(x, time), scale)


def masked_latents(
    generator: MaskedLatentsGenerator, piece: Piece, clean: Tensor, seeds: Sequence[int], how: Settings
) -> Tensor:
    """Normalised latents (b, d, t, h, w), the clean ones where known.

    The sampler is that of tokens; what it fills in are the numbers of the vectors that have been drawn.
    """
    numbers = Numbers(generator.channels, clean.device)
    canvas = replace(piece.canvas, tokens=numbers.nearest(clean))
    memory, null = piece.read(generator)
    both = piece.read_both(generator) if piece.at_once else None

    def predict(tokens: Tensor, where: Tensor, progress: float) -> Velocity:
        known = tokens != canvas.mask_id
        latents, scale = numbers.lookup(tokens.masked_fill(~known, 0)), how.guidance.at(progress)

        def condition(text: TextMemory, times: int = 1) -> Tensor:
            grids = (torch.cat([grid] * times) for grid in (latents, known, where))
            return generator(*grids, text, canvas.middle, piece.fps)

        def told(condition: Tensor) -> Velocity:
            return lambda x, time: generator.head(x, x.new_full((len(x),), time), condition)

        if scale == 1:
            return told(condition(memory))
        halves = condition(both, 2).chunk(2) if both else (condition(memory), condition(null))
        return guided_velocity(*map(told, halves), scale)

    draw = drawing(numbers, how.solver, shift=generator.shift)
    filled = sample(predict, canvas, seeds, how.order, how.steps, how.schedule, revisions=how.revisions, draw=draw)
    return numbers.lookup(filled)

"""DiffusionGenerator: the continuous twin, which carries noise to latents; its loss and its solvers (SiT, 2401.08740).

    latents --linear--> hidden --VideoTransformer--> hidden --linear--> velocity --solver--> latents

The path from a clip's latents x (time 0) to noise e (time 1) is the straight line (1 - t) x + t e, and the network
learns its velocity e - x. Beside ``MaskedGenerator`` only the first and the last layer and this process differ.

Known positions of a canvas stay at time 0 on a grid whose others are at t. The transformer is told one time a sample,
as it is told one mask ratio, so a learned vector marks the known positions where they come in.

Shapes: b batch, d channels of the latents, t h w their grid. Normalised: zero mean and unit variance a channel.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn

from generator.actions import Actions
from generator.backbone import TextMemory, VideoTransformer
from generator.draws import Draws
from generator.masked import TokenGenerator
from generator.text import TextEncoder
from vq.config import Configurable

Velocity = Callable[[Tensor, float], Tensor]  # normalised latents (b, d, t, h, w) and their time -> their velocity
Draw = Callable[[], Tensor]  # fresh noise (b, d, t, h, w)


class DiffusionGenerator(Configurable, nn.Module):
    """Predicts the velocity of noisy latents, told the known ones and the text.

    Args:
        backbone: the transformer; its ``text_dim`` must be the text encoder's ``dim``.
        text: encoder of the captions.
        channels: d, of the tokenizer's latents.
        shift: of the times, in training and sampling; see ``shifted``. More than 1 for grids of many positions.
        trained_for, actions: see ``TokenGenerator``.
    """

    of_latents = True
    mask_id = -1  # of a canvas: no codebook and no numbering has it
    patch_size = 1  # every cell is a position, so that sequences are as long as those of tokens

    def __init__(
        self,
        backbone: VideoTransformer,
        text: TextEncoder,
        channels: int,
        shift: float = 1.0,
        trained_for: Sequence[str] = ("text",),
        actions: Actions | None = None,
    ) -> None:
        super().__init__()
        if shift <= 0:
            raise ValueError(f"shift is {shift}, expected more than 0: 1 leaves the times as they are")
        self.backbone, self.text, self.trained_for, self.actions = backbone, text, tuple(trained_for), actions
        self.channels, self.shift = channels, shift
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.input = nn.Linear(channels, backbone.dim)
        self.known = nn.Parameter(0.02 * torch.randn(backbone.dim))
        self.output = nn.Linear(backbone.dim, channels)
        self.null_text = nn.Parameter(torch.zeros(text.dim))
        self.initialise()

    def initialise(self) -> None:
        nn.init.xavier_uniform_(self.input.weight)  # as DiT does: the latents are louder than the positions
        nn.init.zeros_(self.input.bias)
        nn.init.zeros_(self.output.weight)  # the first guess is no velocity
        nn.init.zeros_(self.output.bias)

    read = TokenGenerator.read  # the very same: texts, or the null text, to what the transformer attends to

    def forward(
        self,
        latents: Tensor,
        known: Tensor,
        time: Tensor,
        text: TextMemory,
        middle: bool = False,
        fps: Tensor | None = None,
    ) -> Tensor:
        """The velocity (b, d, t, h, w); what it says at known positions means nothing.

        Args:
            latents: normalised (b, d, t, h, w), clean where known and at ``time`` elsewhere.
            known: bool (b, t, h, w).
            time: (b,) in [0, 1], 1 is noise.
            middle: the grid is a piece from the middle of a video; see ``Canvas``.
            fps: frames a second (b,), for a backbone that is told of them.
        """
        t, h, w = latents.shape[2:]
        hidden = self.input(rearrange(latents, "b d t h w -> b (t h w) d"))
        hidden = hidden + known.flatten(1)[..., None] * self.known
        hidden = self.backbone(hidden, (t, h, w), time, text, middle, fps)
        return rearrange(self.output(hidden), "b (t h w) d -> b d t h w", t=t, h=h, w=w)

    @torch.no_grad()
    def measure(self, latents: Sequence[Tensor]) -> None:
        """Sets the mean and deviation of each channel to those of latents, each (b, d, t, h, w)."""
        cells = torch.cat([rearrange(x, "b d t h w -> (b t h w) d") for x in latents]).double()
        self.mean.copy_(cells.mean(0))
        self.std.copy_(cells.std(0, correction=0).clamp(min=1e-4))  # a channel may be constant

    def normalise(self, latents: Tensor) -> Tensor:
        """A tokenizer's latents (b, d, t, h, w) -> zero mean and unit variance a channel."""
        return (latents - _on_channels(self.mean)) / _on_channels(self.std)

    def denormalise(self, latents: Tensor) -> Tensor:
        return latents * _on_channels(self.std) + _on_channels(self.mean)


def _on_channels(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def shifted(times: Tensor, shift: float) -> Tensor:
    """Times (...) in [0, 1] moved towards noise (shift > 1) or data (SD3, arXiv 2403.03206, equation 23)."""
    return shift * times / (1 + (shift - 1) * times)


def logit_normal(u: Tensor, shift: float = 1.0) -> Tensor:
    """Uniform draws u (...) in [0, 1] -> training times: middle ones more often, shifted (SD3, arXiv 2403.03206)."""
    return shifted(torch.special.ndtri(u.clamp(1e-5, 1 - 1e-5)).sigmoid(), shift)


def flow_loss(
    model: DiffusionGenerator,
    latents: Tensor,
    known: Tensor,
    time: Tensor,
    noise: Tensor,
    text: TextMemory,
    middle: bool = False,
    fps: Tensor | None = None,
    contrastive: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of the velocity, over the positions that are not known; of no guess at all it is about 2.

    Args:
        latents: the tokenizer's (b, d, t, h, w).
        known: bool (b, t, h, w), positions that stay clean; at least one a batch is not.
        time: (b,), of the others.
        noise: normal (b, d, t, h, w).
        middle, fps: see ``DiffusionGenerator.forward``.
        contrastive: how much the error to the velocity of the next sample in the batch, which is to be large, counts
            against it (contrastive flow matching, arXiv 2506.05350; .05 there).
    """
    data = model.normalise(latents)
    here = torch.where(known, 0.0, time[:, None, None, None])[:, None]  # b 1 t h w
    velocity = model((1 - here) * data + here * noise, known, time, text, middle, fps).float()
    error = (velocity - (noise - data)).square().mean(1)  # b t h w
    loss = error[~known].mean()
    if contrastive:
        other = (velocity - (noise - data).roll(1, 0)).square().mean(1)
        loss = loss - contrastive * other[~known].mean()
    return loss, {"clean": (here[:, 0].square() * error)[~known].mean().detach()}  # of the clean latents it implies


class Solver:
    """Base of the solvers, which walk from noise (time 1) to data (time 0) on a grid of times.

    ``step`` goes from time ``t`` to an earlier ``s`` and calls the velocity ``calls`` times.
    """

    calls = 1

    def times(self, steps: int, shift: float = 1.0) -> list[float]:
        """The grid, 1 first and 0 last, for at most ``steps`` calls of the velocity, and at least one step."""
        count = max(1, (steps + self.calls - 1) // self.calls)
        return shifted(torch.linspace(1, 0, count + 1, dtype=torch.float64), shift).tolist()

    def step(self, velocity: Velocity, x: Tensor, t: float, s: float, draw: Draw) -> Tensor:
        raise NotImplementedError("a solver has to define step(velocity, x, t, s, draw)")


class Euler(Solver):
    """Along the tangent: first order."""

    def step(self, velocity, x, t, s, draw):
        return x + (s - t) * velocity(x, t)


class Heun(Solver):
    """Along the mean of the tangents at both ends: second order. The last step is Euler's, because training hardly ever
    shows latents without noise; so n steps call the velocity 2 n - 1 times."""

    calls = 2

    def step(self, velocity, x, t, s, draw):
        tangent = velocity(x, t)
        there = x + (s - t) * tangent
        return there if s == 0 else x + (s - t) * (tangent + velocity(there, s)) / 2


class SDE(Solver):
    """Euler-Maruyama on the reverse stochastic equation with SiT's diffusion w_t = t: fresh noise corrects old errors.

    dx = (v - w score / 2) dt + sqrt(w) dW, where the score is -e / t for the noise e = x + (1 - t) v that the velocity
    implies. The same marginals as the straight way; the last step has no noise.
    """

    def step(self, velocity, x, t, s, draw):
        v = velocity(x, t)
        if s == 0:
            return x - t * v
        noise = x + (1 - t) * v
        return x + (s - t) * (v + noise / 2) + (t * (t - s)) ** 0.5 * draw()


SOLVERS: dict[str, Callable[[], Solver]] = {"euler": Euler, "heun": Heun, "sde": SDE}


@torch.no_grad()
def integrate(
    velocity: Velocity,
    latents: Tensor,
    known: Tensor,
    seeds: Sequence[int],
    solver: Solver,
    steps: int = 16,
    shift: float = 1.0,
) -> Tensor:
    """Noise to data on the unknown positions; known ones come back untouched.

    Args:
        velocity: of latents at a time.
        latents: normalised (b, d, t, h, w), read where ``known``, bool (b, t, h, w).
        seeds: one a sample, of which every draw of it is a function.
        steps: calls of the velocity, at most.
    """
    if len(seeds) != len(latents):
        raise ValueError(f"got {len(seeds)} seeds for {len(latents)} samples: give one a sample")
    draws, known = Draws(seeds, latents.device), known[:, None]

    def draw() -> Tensor:
        return draws.normal(*latents.shape[1:])

    def unknown_only(x: Tensor, time: float) -> Tensor:
        return velocity(x, time).masked_fill(known, 0)

    x = torch.where(known, latents, draw())
    for t, s in pairwise(solver.times(steps, shift)):
        x = torch.where(known, latents, solver.step(unknown_only, x, t, s, draw))
    return x


class Numbers:
    """Numbers for the cells of continuous latents, which have no codebook.

    A canvas speaks in integers; with these every task is the same for tokens and latents. A cell that is encoded or
    generated gets the next number, and its vector is kept for as long as this object: a hundredth of the video's size.

    Args:
        channels: d, of the latents.
    """

    def __init__(self, channels: int, device: torch.device) -> None:
        self.vectors = torch.zeros(1, channels, device=device)  # number 0 is the place-holder of unknown cells

    def nearest(self, latents: Tensor) -> Tensor:
        """Latents (b, d, t, h, w) -> int64 (b, t, h, w), under which they can be looked up again."""
        numbers = self.add(rearrange(latents.to(self.vectors), "b d t h w -> (b t h w) d"))
        return numbers.view(latents.shape[0], *latents.shape[2:])

    def add(self, cells: Tensor) -> Tensor:
        """Vectors (m, d) -> their numbers, int64 (m,)."""
        numbers = torch.arange(len(cells), device=cells.device) + len(self.vectors)
        self.vectors = torch.cat([self.vectors, cells])
        return numbers

    def lookup(self, tokens: Tensor) -> Tensor:
        """The latents (b, d, t, h, w) that have the numbers (b, t, h, w)."""
        return rearrange(self.vectors[tokens], "b t h w d -> b d t h w")

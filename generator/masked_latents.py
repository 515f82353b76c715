"""MaskedLatentsGenerator: fills in missing latents, each drawn by a small diffusion head (MAR, arXiv 2406.11838).

    latents --linear, masks--> hidden --VideoTransformer--> the asked cells --VelocityHead, solver--> latents

Masks, orders and schedule are those of tokens (``generator.masked``, ``generator.samplers``); what a softmax is there,
an MLP is here, which carries noise to the vector of one cell, told what the transformer made of the place. Its path is
the twin's straight line (``generator.diffusion``), in place of MAR's DDPM, so that both generators of latents have one.
MAR has no text and another draw of mask ratios, never below 0.7.

Shapes: b batch, d channels of the latents, t h w their grid, m asked cells.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from generator.backbone import TextMemory, VideoTransformer, sinusoid
from generator.diffusion import DiffusionGenerator, Numbers, Solver, Velocity
from generator.draws import Draws
from generator.masked import TokenGenerator
from generator.samplers import Draw
from generator.text import TextEncoder
from vq.config import Configurable

HEAD_STEPS = 25  # calls of the head that a cell is drawn with


class MaskedLatentsGenerator(Configurable, nn.Module):
    """Tells the velocity head of each asked cell what stands around it.

    Args:
        backbone: the transformer; its ``text_dim`` must be the text encoder's ``dim``.
        text: encoder of the captions.
        channels: d, of the tokenizer's latents.
        blocks: of the head, which is as wide as the transformer; MAR's default is 3.
        trained_for: see ``TokenGenerator``.
        shift: of the head's times, in training and sampling; see ``DiffusionGenerator``.
    """

    of_latents, actions = True, None  # games are not for it
    mask_id = -1  # of a canvas: no codebook and no numbering has it
    patch_size = 1  # every cell is a position, so that sequences are as long as those of tokens

    def __init__(
        self,
        backbone: VideoTransformer,
        text: TextEncoder,
        channels: int,
        blocks: int = 3,
        trained_for: Sequence[str] = ("text",),
        shift: float = 1.0,
    ) -> None:
        super().__init__()
        if shift <= 0:
            raise ValueError(f"shift is {shift}, expected more than 0: 1 leaves the times as they are")
        self.backbone, self.text, self.trained_for = backbone, text, tuple(trained_for)
        self.channels, self.shift = channels, shift
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.input = nn.Linear(channels, backbone.dim)
        self.mask = nn.Parameter(0.02 * torch.randn(backbone.dim))
        self.head = VelocityHead(channels, backbone.dim, blocks)
        self.null_text = nn.Parameter(torch.zeros(text.dim))
        nn.init.xavier_uniform_(self.input.weight)  # as in the twin
        nn.init.zeros_(self.input.bias)

    read = TokenGenerator.read  # the very same, and so are the next three
    measure, normalise, denormalise = (
        DiffusionGenerator.measure,
        DiffusionGenerator.normalise,
        DiffusionGenerator.denormalise,
    )

    def forward(
        self,
        latents: Tensor,
        known: Tensor,
        where: Tensor,
        text: TextMemory,
        middle: bool = False,
        fps: Tensor | None = None,
    ) -> Tensor:
        """What the transformer makes of the asked cells, (m, dim): the condition of ``head``.

        Args:
            latents: normalised (b, d, t, h, w), read where known.
            known: bool (b, t, h, w), all others are masked.
            where: bool (b, t, h, w), the m cells that are asked for.
            middle, fps: see ``MaskedGenerator.forward``.
        """
        grid = tuple(latents.shape[2:])
        hidden = self.input(rearrange(latents, "b d t h w -> b (t h w) d"))
        hidden = torch.where(known.flatten(1)[..., None], hidden, self.mask)
        ratio = (~known).flatten(1).float().mean(1)
        return self.backbone(hidden, grid, ratio, text, middle, fps)[where.flatten(1)]


class VelocityHead(nn.Module):
    """The velocity (m, d) of noisy cells (m, d), told their time (m,) and what stands around them (m, dim).

    MAR's denoising MLP: residual blocks modulated by the sum of time and condition.
    """

    def __init__(self, channels: int, dim: int, blocks: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.condition = nn.Linear(dim, dim)
        self.input = nn.Linear(channels, dim)
        self.blocks = nn.ModuleList(HeadBlock(dim) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(dim, channels)
        for layer in (self.modulation, self.output):  # the first guess is no velocity
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, cells: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        told = F.silu(self.time(sinusoid(time, 256)) + self.condition(condition))
        hidden = self.input(cells)
        for block in self.blocks:
            hidden = block(hidden, told)
        shift, scale = self.modulation(told).chunk(2, dim=-1)
        return self.output(self.norm(hidden) * (1 + scale) + shift)


class HeadBlock(nn.Module):
    """x + gate * MLP(scale * norm(x) + shift), modulated by what the head is told."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.up, self.down = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.modulation = nn.Linear(dim, 3 * dim)
        for layer in (self.modulation, self.down):  # adds nothing at first, with gates at one, as in the backbone
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(told).chunk(3, dim=-1)
        y = self.norm(x) * (1 + scale) + shift
        return x + (1 + gate) * self.down(F.silu(self.up(y)))


def masked_latents_loss(
    model: MaskedLatentsGenerator,
    latents: Tensor,
    where: Tensor,
    time: Tensor,
    noise: Tensor,
    text: TextMemory,
    middle: bool = False,
    fps: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of the velocity of the asked cells; of no guess at all it is about 2.

    The head is cheap beside the transformer, so that each cell is asked for at several times at once (MAR: four).

    Args:
        latents: the tokenizer's (b, d, t, h, w). where: the m asked cells, which are hidden, bool (b, t, h, w).
        time: (r, m), r times of each. noise: normal (r, m, d).
        middle, fps: see ``MaskedGenerator.forward``.
    """
    data = model.normalise(latents)
    conditions = model(data, ~where, where, text, middle, fps)
    clean, here = rearrange(data, "b d t h w -> b t h w d")[where], time[..., None]
    noisy = (1 - here) * clean + here * noise  # r m d
    told = conditions.expand(len(time), -1, -1)
    velocity = model.head(noisy.flatten(0, 1), time.flatten(), told.flatten(0, 1)).float().view_as(noise)
    error = (velocity - (noise - clean)).square().mean(-1)  # r m
    return error.mean(), {"clean": (time.square() * error).mean().detach()}  # of the clean latents it implies


def drawing(numbers: Numbers, solver: Solver, steps: int = HEAD_STEPS, shift: float = 1.0) -> Draw:
    """What ``samplers.sample`` draws with, of a ``predict`` that gives the velocity of the asked cells at a time.

    Each cell goes from noise to data by itself, and its vector gets the next of the ``numbers``. How likely it is
    nobody knows: the confidence is 0.
    """

    def draw(velocity: Velocity, places: Tensor, n: int, draws: Draws, *rest) -> tuple[Tensor, Tensor]:
        channels = numbers.vectors.shape[1]

        def noise() -> Tensor:
            return draws.normal(n, channels).flatten(0, 1)[places]

        x = noise()
        for t, s in pairwise(solver.times(steps, shift)):
            x = solver.step(velocity, x, t, s, noise)
        return numbers.add(x), x.new_zeros(len(x))

    return draw

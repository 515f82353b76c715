"""UniformGenerator: tokens that are noise become those of a clip, by discrete flow matching (2402.04997, 2407.15595).

    noisy tokens --embeddings, patches--> hidden --VideoTransformer--> hidden --heads--> logits of the clean tokens

At a level between 0, the clip, and 1, noise, each digit of a token is its own, or with a probability of the level one
drawn evenly of all its values: the mixture path with a uniform source, as in URSA (2510.24717) without its metric. What
the literature calls a token, with a softmax of its own, is a digit here. Whole tokens of 10^12, nearly all of which
never occur, would give themselves away, and be masks by another name.

Beside ``MaskedGenerator`` nothing hides a cell. The transformer is told one level a sample, and as in the twin
(``generator.diffusion``) a learned vector marks the cells that are known, and clean.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from generator.backbone import TextMemory
from generator.draws import Draws
from generator.masked import TokenGenerator, digits_loss
from generator.samplers import Predictions, draw_tokens
from generator.schedules import Cosine, Schedule
from generator.tasks import Canvas
from vq.quantizers import from_digits, to_digits

# tokens (b, t, h, w), their level and the share of the steps that are done -> logits of the clean ones where unknown
Denoiser = Callable[[Tensor, float, float], Predictions]


class UniformGenerator(TokenGenerator):
    """Predicts the clean tokens behind noisy ones, told the known ones and the text; see ``TokenGenerator``.

    ``mask_id`` stands for unknown cells of a canvas, and is never seen by the network.
    """

    marks = "known"

    def forward(
        self,
        tokens: Tensor,
        known: Tensor,
        level: Tensor,
        text: TextMemory,
        middle: bool = False,
        fps: Tensor | None = None,
    ) -> list[Callable[[Tensor], Tensor]]:
        """Logits of the clean tokens of the cells that are not known, as ``MaskedGenerator``'s of the asked ones.

        Args:
            tokens: int64 (b, t, h, w) in [0, K), clean where known and at ``level`` elsewhere.
            known: bool (b, t, h, w).
            level: (b,) in [0, 1], 1 is noise.
            middle, fps: see ``MaskedGenerator.forward``.
        """
        hidden = self.embed(tokens) + known[..., None] * self.known
        return self.answers(self.transform(hidden, level, text, middle, fps)[~known])


def add_noise(tokens: Tensor, known: Tensor, level: Tensor, sizes: Sequence[int], rng: torch.Generator) -> Tensor:
    """Tokens (b, t, h, w) on any device -> the same at ``level`` (b,) where they are not known; drawn on the CPU.

    Args:
        known: bool (b, t, h, w). sizes: values of each digit.
    """
    noise = torch.stack([torch.randint(size, tokens.shape, generator=rng) for size in sizes], dim=-1)
    drawn = torch.rand(noise.shape, generator=rng) < level.view(-1, 1, 1, 1, 1)
    drawn = (drawn & ~known.cpu()[..., None]).to(tokens.device)
    return from_digits(torch.where(drawn, noise.to(tokens.device), to_digits(tokens, sizes)), sizes)


def uniform_loss(
    model: UniformGenerator,
    tokens: Tensor,
    noisy: Tensor,
    known: Tensor,
    level: Tensor,
    text: TextMemory,
    middle: bool = False,
    fps: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the clean tokens, in nats a token, at all cells that are not known.

    At those that still have their own token, too, as in both papers and URSA: which they are is for the model to tell.

    Args:
        tokens: what is right, int64 (b, t, h, w). noisy: the same at ``level`` (b,), see ``add_noise``.
        known: bool (b, t, h, w), clean; at least one cell a batch is not.
        middle, fps: see ``MaskedGenerator.forward``.
    """
    return digits_loss(model(noisy, known, level, text, middle, fps), to_digits(tokens[~known], model.digits))


@torch.no_grad()
def denoise(
    predict: Denoiser,
    canvas: Canvas,
    seeds: Sequence[int],
    sizes: Sequence[int],
    steps: int = 16,
    schedule: Schedule | None = None,
    temperature: float | tuple[float, float] = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Tensor:
    """Noise to tokens in the unknown cells, by Euler steps of the discrete flow; known ones come back untouched.

    A step from level a to b draws a clean token for every cell, and each digit jumps to the drawn one's with
    probability 1 - b / a: the flow's rate a' / a while the prediction stays as it is. The last step takes all of them.

    Args:
        predict: for each digit its logits at the unknown cells, see ``Denoiser``.
        seeds: one a sample, of which every draw of it is a function.
        sizes: values of each digit.
        steps: calls of ``predict``.
        schedule: the level over the steps; None: cosine.
        temperature, top_k, top_p: see ``generator.samplers.sample``.

    Returns: tokens (b, t, h, w) in [0, K).
    """
    if len(seeds) != len(canvas.tokens):
        raise ValueError(f"got {len(seeds)} seeds for {len(canvas.tokens)} samples: give one a sample")
    first, last = temperature if isinstance(temperature, tuple | list) else (temperature, temperature)
    draws, number = Draws(seeds, canvas.tokens.device), len(sizes)
    unknown = ~canvas.known
    places = unknown.flatten().nonzero()[:, 0]

    def uniform() -> Tensor:
        return draws.uniform(*unknown.shape[1:], number)[unknown]  # m digits

    def grid(digits: Tensor) -> Tensor:
        return canvas.tokens.masked_scatter(unknown, from_digits(digits, sizes))

    digits = (uniform() * torch.tensor(sizes, device=unknown.device)).long()
    levels = (schedule or Cosine())(torch.arange(steps, dtype=torch.float64) / steps).tolist()
    for step, (level, left) in enumerate(pairwise([*levels, 0.0])):
        heat = first + (last - first) * step / max(1, steps - 1)
        answers = predict(grid(digits), level, step / steps)
        clean, _ = draw_tokens(answers, places, unknown[0].numel(), draws, heat, top_k, top_p, judge=False)
        digits = torch.where(uniform() >= left / level, to_digits(clean, sizes), digits)
    return grid(digits)

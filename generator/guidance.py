"""Classifier-free guidance (arXiv 2207.12598) on logits: away from what the model would say without the text.

How strongly may depend on how far the sampling has come; where the scale is 1 the pass without the text is not made.
A model that was trained with ``unguided`` answers for any scale in one pass.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Digits = list[Callable[[Tensor], Tensor]]
Network = Callable[[Tensor, Tensor], Digits]  # tokens and where, both (b, t, h, w) -> logits, digit by digit
Pairs = Callable[[Tensor, Tensor], list[Callable[[Tensor], tuple[Tensor, Tensor]]]]  # with and without the text


@dataclass(frozen=True)
class Guidance:
    """How strongly to guide.

    Args:
        scale: 1 is none, more is more.
        start, stop: guide while the share of the steps that are done lies between them (arXiv 2404.07724). Revisions
            come when all are done, at 1.
        power: of the power-cosine curve, which climbs from 1 to ``scale`` (MDT, arXiv 2303.14389), the later the
            higher the power; 0 is no curve, the full scale throughout.
        rescale: share by which the guided logits' standard deviation is brought back to that of the conditional ones
            (arXiv 2305.08891): strong guidance sharpens less.
    """

    scale: float = 2.0
    start: float = 0.0
    stop: float = 1.0
    power: float = 0.0
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale) or not 0 <= self.power < math.inf:
            raise ValueError(f"guidance of scale {self.scale} and power {self.power}: expected finite numbers")
        if not 0 <= self.start <= self.stop <= 1:
            raise ValueError(
                f"guidance from {self.start:g} to {self.stop:g}: expected shares of the steps, 0 <= start <= stop <= 1"
            )
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"guidance rescale is {self.rescale:g}, expected a share between 0 and 1")

    def at(self, progress: float) -> float:
        """The scale when this share of the steps is done."""
        if not self.start <= progress <= self.stop:
            return 1.0
        curve = (1 - math.cos(math.pi * progress**self.power)) / 2
        return self.scale * curve + (1 - curve)


def guide(conditional: Tensor, unconditional: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """unconditional + scale * (conditional - unconditional), (m, k) all; scale 1 is no guidance."""
    guided = unconditional + scale * (conditional - unconditional)
    if not rescale:
        return guided
    ratio = conditional.std(1, keepdim=True) / guided.std(1, keepdim=True).clamp_min(1e-6)
    return guided * (rescale * ratio + (1 - rescale))


def unguided(guided: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """The inverse of ``guide``: the conditional logits behind guided ones, (m, k) all, at scales (m, 1).

    A model that is told the scale, and whose answers are held against the data behind this, learns to answer what
    guidance would make of two passes (guidance-free training, arXiv 2501.15420).
    """
    return unconditional + (guided - unconditional) / scale


def guided(guidance: Guidance, told: Network, pairs: Pairs | None) -> Callable[[Tensor, Tensor, float], Digits]:
    """What a sampler is given: ``told`` alone where guidance is off, and otherwise ``pairs`` guided.

    ``pairs`` may be None where guidance never is on.
    """

    def predict(tokens: Tensor, where: Tensor, progress: float) -> Digits:
        scale = guidance.at(progress)
        if scale == 1:
            return told(tokens, where)
        return [lambda before, p=p: guide(*p(before), scale, guidance.rescale) for p in pairs(tokens, where)]

    return predict


def apart(told: Network, untold: Network) -> Pairs:
    """Both passes one after the other."""

    def pairs(tokens: Tensor, where: Tensor):
        both = zip(told(tokens, where), untold(tokens, where), strict=True)
        return [lambda before, t=t, u=u: (t(before), u(before)) for t, u in both]

    return pairs


def together(both: Network) -> Pairs:
    """Both passes as one batch of 2b, the first half of which is told the text: faster where a batch of b leaves a
    device idle, and the same within rounding."""

    def pairs(tokens: Tensor, where: Tensor):
        twice = both(tokens.repeat(2, 1, 1, 1), where.repeat(2, 1, 1, 1))
        return [lambda before, d=d: d(before.repeat(2, 1)).chunk(2) for d in twice]

    return pairs

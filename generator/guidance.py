"""Classifier-free guidance (arXiv 2207.12598) on logits: away from what the model would say without the text."""

from torch import Tensor


def guide(conditional: list[Tensor], unconditional: list[Tensor], scale: float) -> list[Tensor]:
    """unconditional + scale * (conditional - unconditional), a digit at a time; scale 1 is no guidance."""
    return [u + scale * (c - u) for c, u in zip(conditional, unconditional, strict=True)]

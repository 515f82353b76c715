"""Classifier-free guidance (arXiv 2207.12598) on logits: away from what the model would say without the text."""

from torch import Tensor


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """unconditional + scale * (conditional - unconditional); scale 1 is no guidance."""
    return unconditional + scale * (conditional - unconditional)

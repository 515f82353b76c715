"""Random numbers for a batch of samples, each a function of its sample's seed, its turn and its cell alone.

A sample must not depend on the batch that it happens to be in. A generator for each would do, and costs a call for each
of them at every draw, for which a GPU waits. Here a number is a hash of (seed, turn, cell): all samples are drawn in
one call, in any order, and on any device the same bits (counter-based generators: Salmon et al., SC 2011; the hash is
SplitMix64, Steele et al., OOPSLA 2014).
"""

import math
import sys
from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from vq.hardware import moved

DRAWS = "splitmix64"  # what records call these numbers
GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # int64 is what torch computes with, and wraps around
MIX = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


class Draws:
    """Draws for b samples, ``seeds`` one of each, on a device. Every call is the next turn of all of them."""

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        wrapped = [(seed + 2**63) % 2**64 - 2**63 for seed in seeds]
        self.keys = mix(torch.tensor(wrapped, dtype=torch.int64, device=device) * GOLDEN)
        self.turn = 0

    def at(self, step: int) -> "Draws":
        """The draws of a step: the same ones whatever was drawn before it."""
        there = copy(self)
        there.keys, there.turn = mix(~mix(self.keys) + (step + 1) * GOLDEN % 2**63), 0
        return there

    def uniform(self, *shape: int) -> Tensor:
        """float32 (b, *shape) in (0, 1), neither 0 nor 1."""
        return self.uniforms(1, *shape)[0]

    def uniforms(self, turns: int, *shape: int) -> Tensor:
        """The draws of so many turns at once, float32 (turns, b, *shape)."""
        steps = [(self.turn + 1 + i) * GOLDEN % 2**63 for i in range(turns)]
        self.turn += turns
        keys = mix(self.keys + moved(torch.tensor(steps), self.keys.device)[:, None])[..., None]
        cells = torch.arange(1, math.prod(shape) + 1, device=keys.device) * GOLDEN
        bits = _shifted(mix(keys + cells), 41)  # 23 of them, so that half a step more is still a float32
        return ((bits.float() + 0.5) * 2.0**-23).view(turns, len(self.keys), *shape)

    def silence(self, *shape: int) -> Tensor:
        """Zeros (b, *shape) for who does not listen to this turn's noise; the next turn is the same as after it."""
        self.turn += 1
        return torch.zeros((), device=self.keys.device).expand(len(self.keys), *shape)

    def gumbel(self, *shape: int) -> Tensor:
        """Gumbel(0, 1) noise, float32 (b, *shape), between -2.8 and 16.6."""
        return -(-self.uniform(*shape).log()).log()

    def normal(self, *shape: int) -> Tensor:
        """Standard normal noise, float32 (b, *shape), within 5.3."""
        return torch.special.ndtri(self.uniform(*shape))


def mix(numbers: Tensor) -> Tensor:
    """int64 -> int64: any bit of the one changes half of the bits of the other."""
    for shift, factor in MIX:
        numbers = (numbers ^ _shifted(numbers, shift)) * factor
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Tensor, by: int) -> Tensor:
    """To the right, with zeros coming in from the left."""
    return (numbers >> by) & (2 ** (64 - by) - 1)


def versions(device: torch.device) -> dict[str, str]:
    """What a video depends on besides its settings, for its record."""
    return {"torch": torch.__version__, "python": sys.version.split()[0], "device": device.type, "draws": DRAWS}

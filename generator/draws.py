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
    """Draws for b samples, ``seeds`` one of each, on a device. Every call is the next turn of all of them.

    ``steps``: how many there will be, of which each draws alike: the numbers of several are made in one go, as a GPU is
    waited for a call at a time and these are some thirty.
    """

    AHEAD = 2**18  # numbers

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu", steps: int = 1) -> None:
        wrapped = [(seed + 2**63) % 2**64 - 2**63 for seed in seeds]
        self.seeds = mix(torch.tensor(wrapped, dtype=torch.int64, device=device) * GOLDEN)
        self.step, self.steps, self.turn = None, steps, 0
        # by the number of cells: a step's turns; the first step and the numbers (steps, turns, b, cells) made ahead
        self.most: dict[int, int] = {}
        self.made: dict[int, tuple[int, Tensor]] = {}

    def at(self, step: int) -> "Draws":
        """The draws of a step: the same ones whatever was drawn before it."""
        there = copy(self)
        there.step, there.turn = step, 0
        return there

    def uniform(self, *shape: int) -> Tensor:
        """float32 (b, *shape) in (0, 1), neither 0 nor 1."""
        return self.uniforms(1, *shape)[0]

    def uniforms(self, turns: int, *shape: int) -> Tensor:
        """The draws of so many turns at once, float32 (turns, b, *shape); not to be written into."""
        cells, first, self.turn = math.prod(shape), self.turn, self.turn + turns
        if self.step is None:
            numbers = self._make(self.seeds[None], first, turns, cells)[0]
        else:
            ahead = self._ahead(cells)
            if self.turn <= len(ahead):
                numbers = ahead[first : self.turn]
            else:
                self.most[cells] = max(self.turn, self.most.get(cells, 0))
                numbers = self._make(self._keys(1), first, turns, cells)[0]
        return numbers.view(turns, len(self.seeds), *shape)

    def _ahead(self, cells: int) -> Tensor | list:
        """This step's numbers, (turns, b, cells), that were made ahead; or are now, for as many turns as a step had, if
        they are not too many. None of them otherwise."""
        start, made = self.made.get(cells, (0, []))
        if start <= self.step < start + len(made):
            return made[self.step - start]
        turns = self.most.get(cells, 0)
        steps = min(self.steps - self.step, self.AHEAD // max(1, turns * len(self.seeds) * cells))
        if self.turn > turns or steps < 1:
            return []
        self.made[cells] = self.step, self._make(self._keys(steps), 0, turns, cells)
        return self.made[cells][1][0]

    def _keys(self, steps: int) -> Tensor:
        """Those of this step and of so many in all, int64 (steps, b)."""
        return mix(~mix(self.seeds) + _golden(self.step, steps, self.seeds.device)[:, None])

    @staticmethod
    def _make(keys: Tensor, first: int, turns: int, cells: int) -> Tensor:
        """Of keys (steps, b) the uniform numbers of some turns, float32 (steps, turns, b, cells)."""
        keys = mix(keys[:, None] + _golden(first, turns, keys.device)[:, None])[..., None]
        bits = _shifted(mix(keys + torch.arange(1, cells + 1, device=keys.device) * GOLDEN), 41)
        return (bits.float() + 0.5) * 2.0**-23  # 23 bits, so that half a step more is still a float32

    def skip(self) -> None:
        """A turn that nobody draws; the next is the same as after it."""
        self.turn += 1

    def silence(self, *shape: int) -> Tensor:
        """Zeros (b, *shape) for who does not listen to this turn's noise; the next turn is the same as after it."""
        self.skip()
        return torch.zeros((), device=self.seeds.device).expand(len(self.seeds), *shape)

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


def _golden(first: int, count: int, device: torch.device) -> Tensor:
    """Numbers of so many turns or steps, from one on, int64 (count,)."""
    return moved(torch.tensor([(first + 1 + i) * GOLDEN % 2**63 for i in range(count)]), device)


def _shifted(numbers: Tensor, by: int) -> Tensor:
    """To the right, with zeros coming in from the left."""
    return (numbers >> by) & (2 ** (64 - by) - 1)


def versions(device: torch.device) -> dict[str, str]:
    """What a video depends on besides its settings, for its record."""
    return {"torch": torch.__version__, "python": sys.version.split()[0], "device": device.type, "draws": DRAWS}

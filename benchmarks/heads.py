"""What does a large codebook cost? Digits with a small head each beside a plain softmax, on the same cells, in one run.

    OMP_NUM_THREADS=1 python benchmarks/heads.py [--cells 320 --width 384 --rounds 5]

Sampling is one prediction and one draw (Gumbel-max) of every cell; training is the forward and backward pass of the
cross-entropy, at all cells for the plain head, as most implementations compute it, and at the hidden half of them for
the digits. The cells are random vectors, as a transformer of that width leaves them; its own forward pass, that of
configs/generator/sizes/s.yaml, stands beside. Contenders take turns, and the fastest round of each counts, in
processor time: what else the machine does is not in it.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))
from generator.backbone import TextMemory, VideoTransformer
from generator.masked import DigitEmbedding, Head
from generator.orders import Halton
from generator.samplers import sample
from generator.tasks import text2video
from vq.quantizers import FSQ, to_digits

LEVELS = {"1k": [8, 5, 5, 5], "4k": [8, 8, 8, 8], "64k": [8, 8, 8, 5, 5, 5]}


class Plain(nn.Module):
    """One softmax over the codebook."""

    def __init__(self, width: int, codebook_size: int) -> None:
        super().__init__()
        self.digits = (codebook_size,)
        self.linear = nn.Linear(width, codebook_size)

    def forward(self, cells: Tensor) -> list[Callable[[Tensor], Tensor]]:
        return [lambda before: self.linear(cells)]


class Digits(nn.Module):
    """The heads of a ``MaskedGenerator``: each digit is told those before it."""

    def __init__(self, width: int, digits: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.digits = tuple(math.prod(sizes) for sizes in digits)
        self.heads = nn.ModuleList(Head(width, sizes) for sizes in digits)
        self.previous = nn.ModuleList(DigitEmbedding(sizes, width) for sizes in digits[:-1])

    def forward(self, cells: Tensor) -> list[Callable[[Tensor], Tensor]]:
        def logits(i: int, before: Tensor) -> Tensor:
            return self.heads[i](cells + sum(table(before[:, j]) for j, table in enumerate(self.previous[:i])))

        return [lambda before, i=i: logits(i, before) for i in range(len(self.digits))]


def draw(head: nn.Module, cells: Tensor) -> Tensor:
    """A token for every cell, in one step of the sampler."""
    canvas = text2video((1, 1, len(cells)), math.prod(head.digits))
    return sample(lambda tokens, where, progress: head(cells), canvas, [0], Halton(), steps=1)


def train(head: nn.Module, cells: Tensor, tokens: Tensor) -> None:
    targets = to_digits(tokens, head.digits)
    loss = sum(F.cross_entropy(logits(targets), targets[:, i]) for i, logits in enumerate(head(cells)))
    loss.backward()


def milliseconds(calls: dict, rounds: int) -> dict:
    """The fastest of so many calls of each, which take turns, after one that does not count."""
    best = dict.fromkeys(calls, math.inf)
    for turn in range(rounds + 1):
        for name, call in calls.items():
            began = time.process_time()
            call()
            if turn:
                best[name] = min(best[name], 1000 * (time.process_time() - began))
    return best


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=320, help="5 x 8 x 8 latents are 17 frames of 64 x 64")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(args)
    torch.manual_seed(0)
    n, width = options.cells, options.width

    backbone = VideoTransformer(width, depth=12, heads=width // 64, text_dim=256)
    hidden, level = torch.randn(1, n, width), torch.ones(1)
    memory: TextMemory = backbone.read(torch.randn(1, 16, 256), torch.ones(1, 16, dtype=torch.bool))
    trunk = torch.no_grad()(lambda: backbone(hidden, (1, 1, n), level, memory))
    calls = {("trunk", "sampling"): trunk}
    cells = torch.randn(n, width)
    for size, levels in LEVELS.items():
        quantizer = FSQ(levels)
        tokens = torch.randint(quantizer.codebook_size, (n,))
        plain, digits = Plain(width, quantizer.codebook_size), Digits(width, quantizer.digits)
        for name, head in (("plain", plain), ("digits", digits)):
            calls[size, name, "sampling"] = lambda head=head: draw(head, cells)
            rows = slice(n if name == "plain" else n // 2)  # logits only where masked
            calls[size, name, "training"] = lambda head=head, rows=rows, tokens=tokens: train(
                head, cells[rows], tokens[rows]
            )
    times = milliseconds(calls, options.rounds)

    print(f"{n} cells, width {width}, {torch.get_num_threads()} thread(s); trunk {times['trunk', 'sampling']:.0f} ms\n")
    print("| K | digits | sampling: plain, ms | digits, ms | ratio | training: plain, ms | digits, ms | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for size, levels in LEVELS.items():
        numbers = []
        for what in ("sampling", "training"):
            plain, digits = times[size, "plain", what], times[size, "digits", what]
            numbers += [f"{plain:.1f}", f"{digits:.1f}", f"{plain / digits:.1f}"]
        print(f"| {size} | {' x '.join(str(math.prod(d)) for d in FSQ(levels).digits)} | {' | '.join(numbers)} |")


if __name__ == "__main__":
    main()

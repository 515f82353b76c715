"""Our masked generator and sampler beside phenaki-pytorch's MaskGit: clips a second, in one run on one machine.

    pip install phenaki-pytorch==0.5.0
    OMP_NUM_THREADS=1 python benchmarks/phenaki.py [--bf16 --codebooks 1k 64k --steps 16 --guidance 3 --batch 8]
    OMP_NUM_THREADS=1 python benchmarks/phenaki.py --techniques sampling training    # upon our own plain loop
    OMP_NUM_THREADS=1 python benchmarks/phenaki.py --cost 4 8 16    # sampling over steps and tokens
    python benchmarks/phenaki.py --quality 600 --cache FOLDER --tokenizer FOLDER [--bf16 --prompts 256]

Both get the same transformer (width, depth, heads; parameters are printed, tables and heads apart), tokens, codebook,
text vectors, steps and guidance, in float32 or with ``--bf16`` both in bfloat16 by autocast, and with random weights:
what is measured does not depend on them. The rival runs its own ``sample`` and training ``forward``, without a
critic, which would cost it more; its tokenizer is left out, as is ours. A step of training is one of each one's own
optimizer. Contenders take turns, and the median round counts, in processor time on a CPU: what else the machine does
is not in it. Wall-clock time stands beside.
"""

import argparse
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from contenders import INSTALL, LEVELS, TEXT, OurGenerator, Phenaki, Setup, count, ours, step

from data.shapes import Shapes
from data.tokens import TokenCache
from data.video import Example
from evaluation.arms import right
from evaluation.intervals import wilson
from generator.guidance import Guidance
from generator.masked import MaskedGenerator
from vq import pretrained
from vq.tokenizer import Tokenizer

GRIDS = {256: (4, 8, 8), 1024: (4, 16, 16), 2048: (8, 16, 16), 4096: (4, 32, 32), 8192: (8, 32, 32)}
FAST = {"refresh": 4}
RATES = (1e-4, 1e-3)  # of the rival: its trainer's own, and one that suits short runs better
ROUND = 5  # seconds of training between two contenders
LARGEST = 2**17  # a softmax of the rival's


class Everywhere(MaskedGenerator):
    """Computes the logits of all cells and then takes those that were asked for, as most implementations do."""

    def forward(self, tokens: Tensor, where: Tensor, *args, **kwargs) -> list[Callable[[Tensor], Tensor]]:
        asked = where.flatten()

        def taken(logits: Callable[[Tensor], Tensor], before: Tensor) -> Tensor:
            told = before.new_zeros(len(asked), before.shape[1])
            told[asked] = before
            return logits(told)[asked]

        return [partial(taken, logits) for logits in super().forward(tokens, torch.ones_like(where), *args, **kwargs)]


def seconds(calls: dict[str, Callable], rounds: int) -> dict[str, tuple[float, float]]:
    """Of each call, which take turns, the median of so many rounds: processor and wall-clock seconds."""
    taken = {name: [] for name in calls}
    for turn in range(rounds):
        for name, call in calls.items():
            began = time.process_time(), time.perf_counter()
            call()
            taken[name].append((time.process_time() - began[0], time.perf_counter() - began[1]))
        print(f"round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
    return {name: tuple(map(statistics.median, zip(*pairs, strict=True))) for name, pairs in taken.items()}


def show(times: dict[str, tuple[float, float]], base: str, clips: int = 1) -> None:
    """Rows of a Markdown table: clips a second by processor and wall-clock time, and how many times the base's."""
    for name, (own, wall) in times.items():
        ratio = f"{times[base][0] / own:.1f} | {times[base][1] / wall:.1f}"
        print(f"| {name} | {clips / own:.3g} | {clips / wall:.3g} | {ratio} |", flush=True)


HEADER = "\n| {} | clips/s of processor time | of wall-clock | times {} | of wall-clock |\n|---|---|---|---|---|"
PLAIN = "plain: all cells, all logits, one softmax"


def beside(setup: Setup, codebooks: list[str], batch: int, rounds: int, bf16: bool) -> None:
    """Sampling and training of both, for each codebook."""
    for codebook in codebooks:
        k = math.prod(LEVELS[codebook])
        mine, rival = ours(setup, codebook), Phenaki(setup, k)
        for c in (mine, rival):
            sizes = f"{c.trunk() / 1e6:.2f}M, with tables and heads {count(c.model) / 1e6:.2f}M"
            print(f"{c.name.partition(',')[0]}, K = {k:,}: parameters of the transformer {sizes}")
        late = Guidance(setup.guidance, start=0.5)
        if bf16:
            mine.bfloat16()
        calls = {
            "phenaki-pytorch": partial(rival.sample, TEXT),
            "ours, all cells asked": partial(mine.sample, TEXT, lean=False),
            "ours": partial(mine.sample, TEXT),
            "ours, refresh 4": partial(mine.sample, TEXT, **FAST),
            "ours, refresh 4, guidance from 0.5 on": partial(mine.sample, TEXT, guidance=late, **FAST),
        }
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for call in calls.values():
                call(steps=2)  # does not count
            print(HEADER.format(f"sampling, K = {k:,}", "the rival's"))
            show(seconds(calls, rounds), "phenaki-pytorch")
        tokens, texts = torch.randint(k, (batch, *setup.grid)), TEXT * batch
        calls = {c: partial(step, c, tokens, texts, bf16=bf16) for c in (rival, mine)}
        calls = {"phenaki-pytorch": calls[rival], "ours": calls[mine]}
        seconds(calls, 1)  # does not count: optimizers make their buffers
        print(HEADER.format(f"training, K = {k:,}, batches of {batch}", "the rival's"))
        show(seconds(calls, rounds), "phenaki-pytorch", batch)


def sampling_techniques(setup: Setup, codebook: str, rounds: int) -> None:
    """Each technique alone upon our own plain loop, some together, and all of them."""
    plain = ours(setup, codebook, network=Everywhere, digits=False)
    gathered, split = ours(setup, codebook, digits=False), ours(setup, codebook, network=Everywhere)
    best, late = ours(setup, codebook), Guidance(setup.guidance, start=0.5)
    calls = {
        PLAIN: partial(plain.sample, TEXT, lean=False),
        "logits at masked cells only": partial(gathered.sample, TEXT, lean=False),
        "logits at committed cells only": partial(gathered.sample, TEXT),
        "these, and refresh 4": partial(gathered.sample, TEXT, **FAST),
        "guidance from 0.5 on": partial(plain.sample, TEXT, guidance=late, lean=False),
        "digits": partial(split.sample, TEXT, lean=False),
        "digits at masked cells only": partial(best.sample, TEXT, lean=False),
        "all": partial(best.sample, TEXT, guidance=late, **FAST),
    }
    for call in calls.values():
        call(steps=2)  # does not count
    print(HEADER.format(f"sampling, K = {codebook}", "the plain loop's"))
    show(seconds(calls, rounds), PLAIN)


def training_techniques(setup: Setup, codebook: str, batch: int, rounds: int) -> None:
    contenders = {
        PLAIN: ours(setup, codebook, network=Everywhere, digits=False),
        "loss at masked cells only": ours(setup, codebook, digits=False),
        "digits": ours(setup, codebook, network=Everywhere),
        "both": ours(setup, codebook),
    }
    tokens, texts = torch.randint(math.prod(LEVELS[codebook]), (batch, *setup.grid)), TEXT * batch
    calls = {name: partial(step, c, tokens, texts) for name, c in contenders.items()}
    seconds(calls, 1)  # does not count: optimizers make their buffers
    print(HEADER.format(f"training, K = {codebook}, batches of {batch}", "the plain loop's"))
    show(seconds(calls, rounds), PLAIN, batch)


def cost(setup: Setup, codebook: str, tokens: list[int], steps: list[int]) -> None:
    """Processor seconds of a clip over tokens and steps, without guidance, which doubles them."""
    print(f"\n| tokens | | {' | '.join(f'{n} steps' for n in steps)} |")
    print("|---" * (2 + len(steps)) + "|")
    for n in tokens:
        contender = ours(replace(setup, grid=GRIDS[n], guidance=1.0), codebook)
        contender.sample(TEXT, steps=1)
        for name, knobs in (("exact", {}), ("refresh 4", FAST)):
            calls = {m: partial(contender.sample, TEXT, steps=m, **knobs) for m in steps}
            row = [f"{own:.2f}" for own, _ in seconds(calls, 1).values()]
            print(f"| {n} | {name} | {' | '.join(row)} |", flush=True)


def quality(
    setup: Setup, tokenizer: Tokenizer, cache: TokenCache, budget: float, batch: int, prompts: int, bf16: bool
) -> None:
    """Trains each for as much processor time on the same tokens of shapes; prints how many prompts come out right."""
    clip = {"frames": cache.frames, "height": cache.height, "width": cache.width, "fps": cache.fps}
    setup = replace(setup, grid=cache.shape_of(0))
    k = cache.info.codebook_size
    contenders = [OurGenerator(setup, tokenizer, clip), *(Phenaki(setup, k, rate) for rate in RATES)]
    if bf16:
        contenders[0].bfloat16()
    rates = [[group["lr"] for group in c.optimizer.param_groups] for c in contenders]
    spent, seen = [0.0] * len(contenders), [0] * len(contenders)
    order = torch.randperm(len(cache), generator=torch.Generator().manual_seed(0)).tolist()
    while min(spent) < budget:
        for i, c in enumerate(contenders):
            end = min(spent[i] + ROUND, budget)
            while spent[i] < end:
                rows = [cache[order[(seen[i] + j) % len(order)]] for j in range(batch)]  # read outside the clock
                factor = min((seen[i] / batch + 1) / 50, 1.0, (1 - spent[i] / budget) / 0.7)
                for group, rate in zip(c.optimizer.param_groups, rates[i], strict=True):
                    group["lr"] = rate * factor
                began = time.process_time()
                step(c, torch.stack([row.tokens for row in rows]), [row.text for row in rows], bf16=bf16)
                spent[i] += time.process_time() - began
                seen[i] += batch
        print({c.name: f"{n} clips" for c, n in zip(contenders, seen, strict=True)}, file=sys.stderr, flush=True)

    shapes = Shapes("test", objects=[1], seed=1, **clip)
    test = [shapes[i] for i in range(prompts)]
    parts = [test[start : start + 16] for start in range(0, prompts, 16)]

    def show_share(name: str, draw: Callable[[list[Example]], Tensor]) -> None:
        """Of the prompts that come out right, by a row of the table; ``draw`` makes tokens of some of them."""
        found = [right(contenders[0].videos.decode(draw(part)), part, clip["fps"])["all"] for part in parts]
        cell = wilson(int(torch.cat(found).sum()), prompts)
        print(f"| {name} | {cell['mean']:.0%} ({100 * cell['low']:.0f} to {100 * cell['high']:.0f}) |", flush=True)

    print(f"\n{budget:g} s of processor time each, {prompts} prompts, {setup.steps} steps\n")
    print("| | clips seen | guidance | right |\n|---|---|---|---|")
    for c, clips in zip(contenders, seen, strict=True):
        for guidance in (1.0, setup.guidance):
            show_share(f"{c.name} | {clips} | {guidance:g}", partial(sampled, c, guidance, bf16))
    show_share("reconstructions | |", lambda part: tokenizer.encode(torch.stack([one.clip for one in part])))


def sampled(contender, guidance: float, bf16: bool, examples: list[Example]) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return contender.sample([example.text for example in examples], guidance=guidance)


def read(tokenizer: str, cache: str) -> tuple[Tokenizer, TokenCache]:
    """Raises ``ValueError`` where they do not fit each other, or the rival."""
    tokenizer, tokens = pretrained.load(tokenizer, "tokenizer"), TokenCache(cache)
    if tokens.tokenizer != pretrained.code_of(tokenizer):
        raise ValueError(f"the tokens in {cache} are another tokenizer's: encode them again, python -m vq.encode")
    if not tokens.fps:
        raise ValueError(
            f"the clips in {cache} have rates of their own, and prompts are of one: encode clips of one rate"
        )
    if len(tokens.sizes) > 1:
        raise ValueError(f"the clips in {cache} have {len(tokens.sizes)} sizes, and the rival one: encode one size")
    if not 0 < tokens.info.codebook_size <= LARGEST:
        raise ValueError(
            f"the codebook has {tokens.info.codebook_size:,} tokens, and the rival one softmax over all of them: use a "
            f"tokenizer with at most {LARGEST:,}"
        )
    return tokenizer, tokens


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codebooks", nargs="+", default=["1k", "64k"], choices=list(LEVELS))
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=8, help="in training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="both in bfloat16, where the processor multiplies in it")
    parser.add_argument("--techniques", nargs="+", default=[], choices=["sampling", "training"], help="of ours alone")
    parser.add_argument("--cost", type=int, nargs="+", metavar="STEPS", help="of ours, over --tokens")
    parser.add_argument("--tokens", type=int, nargs="+", default=list(GRIDS), choices=list(GRIDS), help="of --cost")
    parser.add_argument("--quality", type=float, metavar="SECONDS", help="of training, each")
    parser.add_argument("--cache", help="token cache of --quality")
    parser.add_argument("--tokenizer", help="whose tokens they are")
    parser.add_argument("--prompts", type=int, default=256, help="of --quality")
    options = parser.parse_args(args)
    if options.bf16 and (options.techniques or options.cost):
        parser.error("--bf16 is for what stands beside the rival: leave out --techniques and --cost")

    if options.prompts < 1:
        parser.error(f"--prompts {options.prompts}: expected 1 or more")

    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    setup = Setup(options.dim, options.depth, options.heads, steps=options.steps, guidance=options.guidance)
    print(f"{setup}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    if "sampling" in options.techniques:
        sampling_techniques(setup, options.codebooks[-1], options.rounds)
    if "training" in options.techniques:
        training_techniques(setup, options.codebooks[-1], options.batch, options.rounds)
    if options.cost is not None:
        cost(setup, options.codebooks[-1], options.tokens, options.cost)
    if options.techniques or options.cost is not None:
        return
    try:
        import phenaki_pytorch  # noqa: F401
    except ImportError as error:
        sys.exit(f"the rival is missing ({error}): {INSTALL['phenaki-pytorch']}")
    if options.quality is None:
        beside(setup, options.codebooks, options.batch, options.rounds, options.bf16)
    elif not (options.cache and options.tokenizer):
        sys.exit("--quality needs tokens: give it --cache FOLDER, and --tokenizer, whose tokens they are")
    else:
        try:
            parts = read(options.tokenizer, options.cache)
        except ValueError as error:
            sys.exit(str(error))
        quality(setup, *parts, options.quality, options.batch, options.prompts, options.bf16)


if __name__ == "__main__":
    main()

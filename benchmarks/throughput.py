"""What share of a card's peak does training reach, and how fast is sampling? Ours beside the rivals, in one run.

    pip install phenaki-pytorch==0.5.0 magvit2-pytorch==0.5.1      # one that is missing is left out, with a sentence
    python benchmarks/throughput.py [--size b --tokenizer l --clip 17 64 64 --batch 256 --seconds 3 --minutes 8]
    python benchmarks/throughput.py --parts sampling --costliest 12        # where the time goes, first of all
    python benchmarks/throughput.py --size xs --tokenizer xs --clip 5 32 32 --batch 4 --seconds 1 --eager    # on a CPU

Made for ten minutes of a GPU with nobody at it: a measurement is a line in --out as soon as it is there, what fails is
a sentence, a batch that does not fit the memory is halved, what has no time left is skipped, and tables come last.

A training step is the forward and the backward pass, clipping and one step of each one's own optimizer, under bfloat16
autocast, on random clips or tokens that are on the device already. Sampling fills grids in 16 steps with guidance 3 and
without revisions; tokenizers are left out, and decoding stands by itself. A generator and its rival have one width,
depth and number of heads; ours also reads its texts, of which the rival is given vectors. The matched tokenizers are
those of benchmarks/magvit2.py. The rivals run as they are, not compiled.

A time is the median of five rounds, each of as many calls as fill a fifth of --seconds, and of four where these take
less than a second: a device that is synchronised before and after each call waits for the program. The first call,
which compiles, is told apart. A share is the operations of a step's forward and backward
pass, not of its optimizer, a second, by those of the card's data sheet, and by those of products of large matrices in
the same run. Our generator's operations are those of generator/flops.py, all others what torch counts at one clip.
"""

import argparse
import gc
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import yaml
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))
from contenders import INSTALL, LEVELS, TEXT, Magvit2, OurTokenizer, Phenaki, Setup, count, ours, step

from data.commands import find_device
from data.writers import one_line
from generator.flops import step_flops
from generator.text import ByteText
from vq.hardware import check_compiler, has_bf16

# dense bfloat16, TFLOP/s, of NVIDIA's data sheets; where these tell numbers "with sparsity", half of them
PEAKS = {
    "A100": 312,
    "H100 PCIe": 756,
    "H100 80GB HBM3": 989,  # SXM
    "H200 NVL": 835,
    "H200": 989,
    "L40S": 362,
    "RTX 4090": 165,
}
CONFIGS = Path(__file__).parent.parent / "configs"
GENERATORS = {file.stem: file for file in sorted((CONFIGS / "generator/sizes").glob("*.yaml"))}
TOKENIZERS = {file.stem: file for file in sorted((CONFIGS / "vq/sizes").glob("*.yaml"))}
ROUNDS = 5


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    setup: Setup
    text: dict  # arguments of the generator's ByteText
    clip: tuple[int, int, int]  # frames, height, width
    device: torch.device
    bf16: bool  # whether the device computes in it; float32 otherwise
    seconds: float  # of a measurement
    costliest: int = 0  # how many of a call's costliest operations are told


@dataclass(frozen=True)
class Job:
    """A measurement to make: ``measure(batch)`` gives its numbers. Those of a ``part`` stand in one table."""

    part: str
    who: str
    batch: int
    measure: Callable[[int], dict]


# ---- What is measured -----------------------------------------------------------------------------------------------


def jobs(bench: Bench, codebooks: list[str], tokenizer: str, batch: int, eager: bool) -> list[Job]:
    """All measurements, the most telling first; without the compiled ones if ``eager``."""
    modes = {"ours": False} if eager else {"ours, compiled": True, "ours": False}
    at_once = dict.fromkeys((1, min(64, batch)))
    todo = []

    def add(part: str, who: str, measure: Callable, *args, batch: int = batch, **knobs) -> None:
        # to profile the thousands of small operations of a rival takes minutes
        own = bench if who.startswith("ours") else replace(bench, costliest=0)
        todo.append(Job(part, who, batch, partial(measure, own, *args, **knobs)))

    for codebook in codebooks:
        codes = f"{math.prod(LEVELS[codebook]):,} codes"
        for who, compiled in modes.items():
            add(f"training generators, {codes}", who, train_our_generator, codebook, compiled)
        add(f"training generators, {codes}", "phenaki-pytorch", train_phenaki, codebook)
        for n in at_once:
            part = f"sampling, {codes}, {n} at a time"
            # sample.py computes in float32; many at a time, where that takes long, are measured in bfloat16 alone
            for bf16 in dict.fromkeys((bench.bf16, bench.bf16 and n > 1)):
                add(part, "ours", sample_ours, codebook, bf16, batch=n)
                if not eager and bf16 == bench.bf16:
                    add(part, "ours, compiled", sample_ours, codebook, bf16, True, batch=n)
                add(part, "phenaki-pytorch", sample_phenaki, codebook, bf16, batch=n)
            add(part, "ours, all cells asked", sample_ours, codebook, bench.bf16, batch=n, lean=False)
            add(part, "ours, refresh 4", sample_ours, codebook, bench.bf16, batch=n, refresh=4)
        if codebook == codebooks[0]:
            chosen = partial(OurTokenizer, **arguments(TOKENIZERS[tokenizer])["tokenizer"]["init_args"])
            rival = partial(magvit2, bench.clip)
            for who, compiled in modes.items():
                add(f"training tokenizers of size {tokenizer}", who, train_tokenizer, chosen, compiled)
            for who, compiled in modes.items():
                add("training matched tokenizers", who, train_tokenizer, OurTokenizer, compiled)
            add("training matched tokenizers", "magvit2-pytorch", train_tokenizer, rival)
            for who, build in {"ours": OurTokenizer, "magvit2-pytorch": rival}.items():
                add("decoding by matched tokenizers", who, decode, build, batch=max(at_once))
    return todo


def train_our_generator(bench: Bench, codebook: str, compiled: bool, batch: int) -> dict:
    contender = ours(bench.setup, codebook, text=ByteText(**bench.text))
    if compiled:
        compile_in_place(contender.model.backbone, bench.device)
    tokens = torch.randint(math.prod(LEVELS[codebook]), (batch, *bench.setup.grid), device=bench.device)
    words = contender.model.text(TEXT).tokens.shape[1]
    asked = round(2 / math.pi * tokens.numel())  # the mean of the cosine schedule
    flops = step_flops(contender.model, batch, bench.setup.grid, words, asked)
    return train(bench, contender, tokens, TEXT * batch, flops=flops)


def train_phenaki(bench: Bench, codebook: str, batch: int) -> dict:
    k = math.prod(LEVELS[codebook])
    contender = Phenaki(bench.setup, k)
    tokens = torch.randint(k, (batch, *bench.setup.grid), device=bench.device)
    return train(bench, contender, tokens, TEXT * batch, flops=batch * counted(contender, tokens[:1], TEXT))


def train_tokenizer(bench: Bench, build: Callable, compiled: bool = False, *, batch: int) -> dict:
    contender = build()
    contender.model.to(bench.device)
    video = torch.rand(batch, 3, *bench.clip, device=bench.device) * 2 - 1
    flops = batch * counted(contender, video[:1])
    if compiled:
        compile_in_place(contender.model, bench.device)
    return train(bench, contender, video, flops=flops)


def train(bench: Bench, contender, *batch, flops: int) -> dict:
    call = partial(step, contender, *batch, bf16=bench.bf16)
    return sizes(contender) | timing(bench, call, len(batch[0]), bench.bf16) | {"flops": flops}


def sample_ours(bench: Bench, codebook: str, bf16: bool, compiled: bool = False, *, batch: int, **knobs) -> dict:
    contender = ours(bench.setup, codebook, text=ByteText(**bench.text))
    if compiled:
        contender.videos.compile()
    if bf16:
        contender.bfloat16()  # ``fill`` has an autocast of its own
    return sizes(contender) | infer(bench, partial(contender.sample, TEXT * batch, **knobs), batch, bf16)


def sample_phenaki(bench: Bench, codebook: str, bf16: bool, batch: int) -> dict:
    contender = Phenaki(bench.setup, math.prod(LEVELS[codebook]))
    return sizes(contender) | infer(bench, partial(contender.sample, TEXT * batch), batch, bf16)


@torch.no_grad()
def decode(bench: Bench, build: Callable, batch: int) -> dict:
    contender = build()
    contender.model.to(bench.device).eval()
    tokens = contender.encode(torch.rand(1, 3, *bench.clip, device=bench.device) * 2 - 1)
    tokens = tokens.repeat(batch, *[1] * (tokens.ndim - 1))
    return sizes(contender) | infer(bench, partial(contender.decode, tokens), batch, bench.bf16)


def infer(bench: Bench, call: Callable, batch: int, bf16: bool) -> dict:
    return timing(bench, torch.autocast(bench.device.type, torch.bfloat16, enabled=bf16)(call), batch, bf16)


def magvit2(clip: tuple[int, int, int]) -> Magvit2:
    _, height, width = clip
    if height != width:
        raise ValueError(f"it takes square frames alone, and these have {height}x{width}: give --clip others")
    return Magvit2(1e-3, height)


# ---- How it is measured ---------------------------------------------------------------------------------------------


def timing(bench: Bench, call: Callable, batch: int, bf16: bool) -> dict:
    """Seconds of a call on ``batch`` clips: the first, and the median, the shortest and the longest of the rounds."""

    def lap(calls: int) -> float:
        synchronize(bench.device)
        began = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize(bench.device)
        return (time.perf_counter() - began) / calls

    cuda = bench.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    first, guess = lap(1), lap(1)
    calls = max(1, min(4, int(1 / guess)), round(bench.seconds / ROUNDS / guess))
    laps = [lap(calls) for _ in range(ROUNDS)]
    told = {"operations": operations(bench, call)} if bench.costliest else {}
    return told | {
        "precision": "bf16" if bf16 else "float32",
        "batch": batch,
        "seconds": statistics.median(laps),
        "shortest": min(laps),
        "longest": max(laps),
        "calls": ROUNDS * calls,
        "first": first,
        "memory": torch.cuda.max_memory_allocated() if cuda else None,
    }


def operations(bench: Bench, call: Callable) -> list[list]:
    """The costliest operations of a call: name, how often, milliseconds of the device altogether.

    Where their sum is far below the time of the call, the device waits for the program."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (bench.device.type == "cuda")
    with profile(activities=activities) as profiled:
        call()
        synchronize(bench.device)
    kind = "self_cpu_time_total" if bench.device.type == "cpu" else "self_device_time_total"
    found = [[event.key, event.count, getattr(event, kind) / 1000] for event in profiled.key_averages()]
    return sorted(found, key=lambda row: -row[2])[: bench.costliest]


def synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def counted(contender, *batch) -> int:
    """Operations of a forward and a backward pass. Torch counts none of fused attention on CPUs: here it is not."""
    contender.model.train()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        contender.loss(*batch).backward()
    contender.optimizer.zero_grad()
    return counter.get_total_flops()


def sizes(contender) -> dict:
    """Parameters of the model, and of a generator's transformer alone."""
    trunk = {"transformer": contender.trunk()} if hasattr(contender, "trunk") else {}
    return {"parameters": count(contender.model)} | trunk


def compile_in_place(model: nn.Module, device: torch.device) -> None:
    """As training does it."""
    check_compiler(device)
    model.compile()


def card_peak(name: str) -> float | None:
    """Operations a second in bfloat16 of a known card, by its data sheet."""
    return next((1e12 * peak for card, peak in PEAKS.items() if card in name), None)


def measured_peak(bench: Bench) -> float:
    """Operations a second of products of large matrices, in the precision of training."""
    n = 1024 if bench.device.type == "cpu" else 8192
    a, b = torch.randn(2, n, n, device=bench.device, dtype=torch.bfloat16 if bench.bf16 else torch.float32)
    return 2 * n**3 / timing(bench, lambda: a @ b, 1, bench.bf16)["shortest"]


def attempt(job: Job, deadline: float) -> dict:
    """The job's row; one that cannot be measured has ``skipped``, a sentence."""
    row = {"part": job.part, "who": job.who}
    try:
        if time.monotonic() > deadline:
            raise ValueError("no time was left: give --minutes more")
        return row | fitting(job)
    except ImportError as error:
        install = INSTALL.get(job.who, "see README.md")
        return row | {"skipped": f"it is not installed ({one_line(error)}): {install}"}
    except ValueError as error:
        return row | {"skipped": one_line(error)}
    except Exception as error:  # a compiler, a driver, a rival: they fail in many ways, and the rest is to be measured
        return row | {"skipped": f"{type(error).__name__}: {one_line(error)}"}
    finally:
        release()


def fitting(job: Job) -> dict:
    """At the job's batch, or at its largest half, quarter, ... that fits the memory."""
    batch = job.batch
    while True:
        try:
            return job.measure(batch=batch)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        release()  # not above, where the error still holds what filled the memory
        batch //= 2


def release() -> None:
    """Gives back the memory of the contender before, also what its compiled calls keep."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


# ---- What is told ---------------------------------------------------------------------------------------------------


def with_shares(row: dict, peaks: dict) -> dict:
    """A row with its clips a second, and its share of each peak where its operations are known."""
    if "skipped" in row:
        return row
    told = {"clips_per_second": row["batch"] / row["seconds"]}
    if "flops" in row:
        told |= {name: row["flops"] / row["seconds"] / peak for name, peak in peaks.items() if peak}
    return row | told


def table(part: str, rows: list[dict]) -> str:
    """Markdown of one part; ``times`` are the rival's clips a second at the same precision."""
    rivals = {row["precision"]: row for row in rows if "skipped" not in row and not row["who"].startswith("ours")}
    columns = (
        "contender",
        "precision",
        "clips",
        "ms",
        "clips/s",
        "times",
        "of the card",
        "of products",
        "first, s",
        "GB",
    )
    lines = [f"\n{part}\n", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        if "skipped" in row:
            lines.append(f"| {row['who']} | {row['skipped']} |")
            continue
        rival = rivals.get(row["precision"])
        cells = (
            f"{row['who']} | {row['precision']} | {row['batch']} | {1000 * row['seconds']:.4g}",
            f"{row['clips_per_second']:.4g}",
            f"{row['clips_per_second'] / rival['clips_per_second']:.2f}" if rival else "",
            *(f"{row[name]:.1%}" if name in row else "" for name in ("of_card", "of_products")),
            f"{row['first']:.1f}",
            f"{row['memory'] / 1e9:.1f}" if row["memory"] else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    for row in rows:
        for name, times, milliseconds in row.get("operations", []):
            lines.append(f"  {row['who']}, {row['precision']}: {milliseconds:.2f} ms in {times} x {name[:80]}")
    return "\n".join(lines)


def arguments(file: Path) -> dict:
    return yaml.safe_load(file.read_text())["model"]["init_args"]


def main(args: list[str] | None = None) -> list[dict]:
    """Measures and prints; returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="b", choices=list(GENERATORS), help="of the generator")
    parser.add_argument("--tokenizer", default="l", choices=list(TOKENIZERS), help="its size, beside the matched ones")
    parser.add_argument("--clip", type=int, nargs=3, default=[17, 64, 64], metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--codebooks", nargs="+", default=["64k", "1k"], choices=list(LEVELS))
    parser.add_argument("--batch", type=int, default=256, help="clips a step of training; sampled are 1, and up to 64")
    parser.add_argument("--steps", type=int, default=16, help="of sampling")
    parser.add_argument("--seconds", type=float, default=3, help="of a measurement, beside two calls before it")
    parser.add_argument("--minutes", type=float, default=8, help="no measurement is begun after them")
    parser.add_argument("--parts", nargs="+", default=[""], help="only tables whose titles hold one of these words")
    parser.add_argument("--costliest", type=int, default=0, help="operations of each call, by their time on the device")
    parser.add_argument("--eager", action="store_true", help="compile nothing, which takes minutes on a CPU")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--out", type=Path, default=Path("out/throughput.jsonl"), help="is appended to")
    given = parser.parse_args(args)

    deadline = time.monotonic() + 60 * given.minutes
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    try:
        device = torch.device(find_device(given.device))
        grid = OurTokenizer().model.latent_shape(*given.clip)
    except ValueError as error:
        sys.exit(str(error))
    size = arguments(GENERATORS[given.size])
    shape = size["backbone"]["init_args"]
    setup = Setup(shape["dim"], shape["depth"], shape["heads"], grid, given.steps, device=str(device))
    bench = Bench(
        setup, size["text"]["init_args"], tuple(given.clip), device, has_bf16(device), given.seconds, given.costliest
    )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    peaks = {"of_card": card_peak(name), "of_products": measured_peak(bench)}
    rows = []
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.open("a") as lines:
        settings = vars(given) | {"out": str(given.out)}
        print(
            json.dumps({"machine": name, "torch": torch.__version__, "peaks": peaks, **settings}),
            file=lines,
            flush=True,
        )
        todo = jobs(bench, given.codebooks, given.tokenizer, given.batch, given.eager)
        for job in [job for job in todo if any(word in job.part for word in given.parts)]:
            rows.append(with_shares(attempt(job, deadline), peaks))
            for place in (lines, sys.stderr):
                print(json.dumps(rows[-1]), file=place, flush=True)
    told = " and ".join(f"{peak / 1e12:.4g} ({where})" for where, peak in peaks.items() if peak)
    print(f"{name}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, peak in TFLOP/s: {told}")
    print(f"generators of size {given.size}, clips of {'x'.join(map(str, given.clip))}, {given.steps} steps")
    for part in dict.fromkeys(row["part"] for row in rows):
        print(table(part, [row for row in rows if row["part"] == part]))
    return rows


if __name__ == "__main__":
    main()

"""The verdicts of docs/hypothesis.md, computed from intervals by the rules that stand there, and by nothing else.

Differences are tokens minus latents, so that positive is good for tokens.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from evaluation.bootstrap import Interval, interval, resample
from evaluation.curves import costs_to_reach, power_law
from evaluation.intervals import wilson

MARGIN = 0.03  # of the primary measure, a share
SLOPE_MARGIN = 0.1  # of the twin's slope
STALLS = 0.1  # share of the resamples in which tokens may stand still while the twin improves
BUDGETS = (1, 2, 4, 8, 16, 32)  # of C0
EVALUATIONS = 50  # of the network, at most, at matched quality
STEADY = 1.5  # times, between rounds of a sampler's seconds, beyond which H3 is not measured
SUPPORTED, REFUTED, INCONCLUSIVE, NOT_MEASURED = "supported", "refuted", "inconclusive", "not measured"
NUMBERS_ONLY = "numbers only"
CURVE = 8  # samplers an arm, from 4 to 100 evaluations, whose cost is compared
OWN = "latents have a tokenizer of their own, and the matching of one code decides"


@dataclass(frozen=True)
class Verdict:
    """Attributes: word: one of the five above. because: a sentence with the numbers."""

    claim: str
    word: str
    because: str


@dataclass(frozen=True)
class Arm:
    """Everything that was seen of an arm.

    Attributes:
        scaling: hits (c, k, s, n) at c budgets: k training seeds, s sampling seeds, n prompts.
        curve: hits (p, k, s, n) at p costs of sampling, of the models of the largest budget.
        evaluations: of the network a clip, at those costs. seconds: clips at once -> seconds a clip, decoding included.
        headline: evaluations of the sampler of ``scaling``.
    """

    scaling: Tensor
    curve: Tensor
    evaluations: list[float]
    seconds: dict[int, list[float]]
    headline: float


@dataclass(frozen=True)
class Found:
    """Both arms, the ``multiples`` of C0 they were trained for, and the hits (n,) of reconstructions by the tokenizer
    of each, ``ceilings``: the same where they share a code.

    ``shared`` says whether they do, and ``tuned`` whether both were tuned as the protocol asks. ``bridges``: hits
    (k, s, n) of noisy tokens and of masked latents at the largest budget, tuned if the two were. ``unsteady``: of the
    seconds, see ``unsteadiness``, where it was worst; 1 of what was measured before rounds were kept.
    """

    multiples: list[int]
    tokens: Arm
    latents: Arm
    ceilings: tuple[Tensor, Tensor]
    tuned: bool = False
    shared: bool = True
    bridges: tuple[Tensor, Tensor] | None = None
    unsteady: float = 1.0

    def save(self, file: Path) -> None:
        """As JSON, a character a prompt, from which every interval and verdict can be computed again."""
        file.write_text(json.dumps(asdict(self), default=written) + "\n")

    @classmethod
    def load(cls, file: Path) -> "Found":
        """What ``save`` wrote."""
        there = json.loads(file.read_text())
        for name in ("tokens", "latents"):
            arm = {key: read_hits(there[name][key]) for key in ("scaling", "curve")}
            seconds = {int(clips): costs for clips, costs in there[name]["seconds"].items()}
            there[name] = Arm(**there[name] | arm | {"seconds": seconds})
        pairs = {name: there[name] and tuple(map(read_hits, there[name])) for name in ("ceilings", "bridges")}
        return cls(**there | pairs)


def written(hits: Tensor) -> list | str:
    """Hits (..., n) -> nested lists of strings such as "1101"."""
    return "".join(map(str, hits.int().tolist())) if hits.ndim == 1 else [written(row) for row in hits]


def read_hits(rows: list | str) -> Tensor:
    """Undoes ``written``."""
    if isinstance(rows, str):
        return torch.tensor([character == "1" for character in rows])
    return torch.stack([read_hits(row) for row in rows])


@dataclass(frozen=True)
class Scaling:
    """What H2 and H4 are about. ``slopes``: b of log(ceiling - P) = a - b log C, of tokens, latents; ``used``: the
    budgets that count."""

    shares: tuple[list[Interval], list[Interval]]
    differences: list[Interval]
    slopes: tuple[Interval, Interval] | None
    slope_difference: Interval | None
    used: list[int]
    stalls: float


@dataclass(frozen=True)
class Attribution:
    """What H5 is about, of P at the largest budget: tokens minus latents; what of it the code does, and what the
    corruption does, whatever the other is; by how much the former is larger, whatever their signs; and masks minus
    noise of tokens alone and of latents alone, whose mean the effect of the corruption is."""

    difference: Interval
    code: Interval
    corruption: Interval
    excess: Interval
    tokens: Interval
    latents: Interval


def matched_quality(difference: Interval) -> str:
    """H2, of the difference at 32 C0."""
    if difference.high < 0:
        return REFUTED
    return SUPPORTED if difference.low > -MARGIN else INCONCLUSIVE


def sampling_cost(ratios: list[Interval]) -> str:
    """H3, of log(cost of the twin / cost of tokens), in evaluations and in seconds."""
    if any(ratio.high < 0 for ratio in ratios):
        return REFUTED
    return SUPPORTED if all(ratio.low > 0 for ratio in ratios) else INCONCLUSIVE


def scaling_slope(difference: Interval | None, twin: float, stalls: float) -> str:
    """H4, of the difference of the slopes; None where too few budgets count."""
    if difference is None:
        return INCONCLUSIVE
    if difference.high < 0 or stalls > STALLS:
        return REFUTED
    return SUPPORTED if difference.low > -SLOPE_MARGIN * abs(twin) else INCONCLUSIVE


def discreteness(attribution: Attribution) -> str:
    """H5: where tokens and latents do not differ there is nothing to attribute."""
    if attribution.difference.low <= 0 <= attribution.difference.high:
        return INCONCLUSIVE
    if attribution.excess.high < 0:
        return REFUTED
    return SUPPORTED if attribution.excess.low > 0 else INCONCLUSIVE


def measure_scaling(found: Found, resamples: int = 10_000) -> Scaling:
    """Shares, differences and slopes over training, with intervals."""
    arms = [found.tokens.scaling, found.latents.scaling]
    drawn = resample([*arms, *(hits.view(1, 1, 1, -1) for hits in found.ceilings)], resamples)
    means = [hits.float().mean((1, 2, 3)) for hits in arms]
    tokens, latents, *ceilings = drawn
    gaps = (means[0] - means[1]).tolist()
    differences = [interval(value, row) for value, row in zip(gaps, tokens - latents, strict=True)]
    shares = tuple(share_intervals(hits, rows) for hits, rows in zip(arms, drawn, strict=False))
    errors = [hits.float().mean() - mean for hits, mean in zip(found.ceilings, means, strict=True)]  # c
    drawn_errors = [ceiling - rows for ceiling, rows in zip(ceilings, (tokens, latents), strict=True)]  # c resamples
    saturated = [error <= 2 * rows.std(1) for error, rows in zip(errors, drawn_errors, strict=True)]
    kept = [i for i in range(len(found.multiples)) if not (saturated[0][i] or saturated[1][i])]
    used = [found.multiples[i] for i in kept]
    least = 0.5 / len(found.ceilings[0])  # half a prompt: a resample may lie above its ceiling
    slopes = difference = None
    if len(used) >= 2:
        fits = [
            (power_law(used, e[kept].clamp(min=least))[1], power_law(used, rows[kept].T.clamp(min=least))[1])
            for e, rows in zip(errors, drawn_errors, strict=True)
        ]
        slopes = tuple(interval(value.item(), rows) for value, rows in fits)
        difference = interval((fits[0][0] - fits[1][0]).item(), fits[0][1] - fits[1][1])
    return Scaling(shares, differences, slopes, difference, used, stalls(found.multiples, tokens, latents))


def share_intervals(hits: Tensor, drawn: Tensor) -> list[Interval]:
    """Shares of hits (c, k, s, n) with intervals from their resamples (c, r); of a single run Wilson's."""
    if hits.shape[1:3] == (1, 1):
        cells = [wilson(int(row.sum()), row.numel()) for row in hits]
        return [Interval(cell["mean"], cell["low"], cell["high"]) for cell in cells]
    means = hits.float().mean((1, 2, 3)).tolist()
    return [interval(mean, row.clamp(0, 1)) for mean, row in zip(means, drawn, strict=True)]


def stalls(multiples: list[int], tokens: Tensor, latents: Tensor) -> float:
    """The share of the resamples in which tokens do not improve from 1 to 4 to 32 C0 while latents do; of shares
    (c, r)."""
    if not {1, 4, 32} <= set(multiples):
        return 0.0
    rows = [multiples.index(multiple) for multiple in (1, 4, 32)]
    improves = [(arm[rows].diff(dim=0) > 0).all(0) for arm in (tokens, latents)]
    return (~improves[0] & improves[1]).float().mean().item()


def unsteadiness(rounds: list[float]) -> float:
    """How many times the last but one of the rounds of a measurement, from fast to slow, takes the second.

    One round may meet another program. Where several do, or the machine changes its speed, seconds tell nothing.
    """
    ordered = sorted(rounds)
    return ordered[-2] / ordered[1]


def measure_cost(found: Found, resamples: int = 10_000) -> dict[str, Interval]:
    """The logarithm of the twin's cost over that of tokens, at the quality that H3 names."""
    arms = (found.tokens, found.latents)
    drawn = [rows.T for rows in resample([arm.curve for arm in arms], resamples)]  # r p
    means = [arm.curve.float().mean((1, 2, 3))[None] for arm in arms]
    kinds = {"evaluations": [arm.evaluations for arm in arms]}
    for clips in found.tokens.seconds:
        kinds[f"seconds, {clips} at once"] = [arm.seconds[clips] for arm in arms]
    ratios = {}
    for name, costs in kinds.items():
        value, draws = (
            (latents / tokens).log()
            for tokens, latents in (costs_to_reach(quality, costs) for quality in (means, drawn))
        )
        ratios[name] = interval(value.item(), draws)
    return ratios


def measure_attribution(found: Found, resamples: int = 10_000) -> Attribution | None:
    """The two effects, with intervals; None without the bridges."""
    if found.bridges is None:
        return None
    # A and D first: they are then drawn as in ``measure_scaling``, and their difference has the very same interval
    cells = [found.tokens.scaling[-1], found.latents.scaling[-1], *found.bridges]
    drawn = torch.cat(resample([hits[None] for hits in cells], resamples))  # 4 resamples
    means = torch.stack([hits.float().mean() for hits in cells])

    def effects(p: Tensor) -> tuple[Tensor, ...]:
        a, d, b, c = p
        code, corruption = ((a - c) + (b - d)) / 2, ((a - b) + (c - d)) / 2
        return a - d, code, corruption, code.abs() - corruption.abs(), a - b, c - d

    return Attribution(*(interval(m.item(), r) for m, r in zip(effects(means), effects(drawn), strict=True)))


def judge(
    found: Found, scaling: Scaling, ratios: dict[str, Interval], attribution: Attribution | None = None
) -> list[Verdict]:
    """The five claims. Where training seeds are too few there are numbers and no verdict."""
    k, s = found.tokens.scaling.shape[1:3]
    seeds = f"training seeds: {k}, sampling seeds: {s}"
    enough = k >= 3 and s >= 2

    def told(word: str) -> str:
        return word if enough or word == NOT_MEASURED else NUMBERS_ONLY

    last, most = found.multiples[-1], max(found.tokens.headline, found.latents.headline)
    difference = scaling.differences[-1]
    missing = [
        text
        for text, lacks in (
            (f"the largest budget is {last} C0 and not 32", last != 32),
            ("the arms were not tuned by equal trials", not found.tuned),
            (OWN, not found.shared),
            (f"the headline takes {most:g} evaluations, more than {EVALUATIONS}", most > EVALUATIONS),
        )
        if lacks
    ]
    quality = NOT_MEASURED if missing else matched_quality(difference)
    says = f"tokens minus latents at {last} C0: {points(difference)}; margin -{100 * MARGIN:g} points"
    verdicts = [
        Verdict("H1 capability", NOT_MEASURED, "its tests are run by benchmarks/capabilities.py"),
        Verdict("H2 matched quality", told(quality), "; ".join([says, *missing])),
    ]
    few = min(len(found.tokens.curve), len(found.latents.curve))
    lacks = [OWN] * (not found.shared) + [f"samplers of an arm: {few}, a verdict wants {CURVE}"] * (few < CURVE)
    if found.unsteady > STEADY:
        lacks.append(f"seconds of a sampler differ {found.unsteady:.1f} times between rounds: leave the machine alone")
    says = [f"log ratio of {name}: {ratio}" for name, ratio in ratios.items()] * (few > 1)
    word = NOT_MEASURED if lacks else sampling_cost(list(ratios.values()))
    verdicts.append(Verdict("H3 sampling cost", told(word), "; ".join([*says, *lacks])))
    fit = len(scaling.used) >= 4 and scaling.slopes is not None
    absent = [str(multiple) for multiple in BUDGETS if multiple not in found.multiples]
    word = scaling_slope(scaling.slope_difference, scaling.slopes[1].value, scaling.stalls) if fit else INCONCLUSIVE
    word = NOT_MEASURED if absent or not found.shared else word
    because = f"{len(scaling.used)} budgets count" + (f"; {', '.join(absent)} C0 are not among them" if absent else "")
    if scaling.slopes is not None:
        because += f"; slopes {scaling.slopes[0]} and {scaling.slopes[1]}, difference {scaling.slope_difference}"
    verdicts.append(Verdict("H4 scaling slope", told(word), because if found.shared else f"{because}; {OWN}"))
    word, because = NOT_MEASURED, "noisy tokens and masked latents are not among the arms"
    if attribution is not None:
        word = told(discreteness(attribution))
        because = f"at {last} C0 tokens minus latents: {points(attribution.difference)}"
        because += (
            f"; effect of the code {points(attribution.code)}, of the corruption {points(attribution.corruption)}"
        )
        because += f", the former larger by {points(attribution.excess)}"
    verdicts.append(Verdict("H5 discreteness, not masking", word, because))
    if enough:
        return verdicts
    note = f"{seeds}; a verdict wants at least 3 and 2"
    return [Verdict(v.claim, v.word, v.because if v.word == NOT_MEASURED else f"{v.because}; {note}") for v in verdicts]


def points(share: Interval) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * share.value:+.1f} ({100 * share.low:+.1f} to {100 * share.high:+.1f}) points"

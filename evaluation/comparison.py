"""The sections of the report on tokens against latents: numbers with their intervals, plots, clips and verdicts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from data.video import Example, to_uint8
from evaluation.arms import TOLD, Sampling, Score
from evaluation.bootstrap import Interval, interval, resample
from evaluation.claims import Arm, Attribution, Found, Scaling, Verdict, points, share_intervals
from evaluation.curves import power_law
from evaluation.plots import Line, Plot
from evaluation.report import Clip, Section, Table
from evaluation.trials import LATENTS, MASKED_LATENTS, NOISY_TOKENS, TOKENS
from generator.masked_latents import HEAD_STEPS

NAMES = (TOKENS, LATENTS)
MEANINGS = {
    "supported": "what the claim says holds, as far as the protocol asks",
    "refuted": "the interval speaks against the claim",
    "inconclusive": "the interval allows both",
    "not measured": "this run lacks what the claim is about",
    "numbers only": "too few seeds for a verdict: re-training may move the numbers further than the intervals say",
}


@dataclass(frozen=True)
class Codec:
    """A tokenizer: its codes, 0 of one without; the channels of its latents; rPSNR in dB, and whether what it makes of
    the real clips shows what they show, (n,) an attribute."""

    codes: int
    channels: int
    psnr: float
    hits: dict[str, Tensor]

    def __str__(self) -> str:
        rate = f"{math.log2(self.codes):.1f} bits a token" if self.codes else "no codes"
        return f"{rate}, {self.channels} channels, rPSNR {self.psnr:.1f} dB"


def verdict_section(verdicts: Sequence[Verdict]) -> Section:
    rows = [(v.claim, v.word.upper(), v.because) for v in verdicts]
    met = [f"{word}: {meaning}" for word, meaning in MEANINGS.items() if word in {v.word for v in verdicts}]
    notes = [
        "Claims, rules and margins were written down before the first result, in docs/hypothesis.md; the words below "
        "are computed from the intervals. " + "; ".join(met) + ".",
        "Intervals are 95%. Five claims are five looks: one of twenty such verdicts is wrong by chance.",
    ]
    return Section("Verdicts", notes, [Table(("claim", "verdict", "because"), rows)])


def clip_section(
    examples: Sequence[Example], multiples: Sequence[int], shown: dict[str, list[Score]], fps: float
) -> Section:
    """A row a prompt: the real clip, then each arm at each budget; of the first training and sampling seed. Of the
    bridges there is the largest budget alone."""
    columns = [
        (f"{name} {multiple}x", score)
        for name, scores in shown.items()
        for multiple, score in zip(multiples[-len(scores) :], scores, strict=True)
    ]
    rows = []
    for i in range(min(len(score.clips) for _, score in columns)):
        real = Clip(f"real-{i}", to_uint8(examples[i].clip), fps)
        clips = [Clip(f"{name.replace(' ', '-')}-{i}", score.clips[i], fps) for name, score in columns]
        rows.append((examples[i].text, real, *clips))
    text = ["The first prompts of the test, not chosen; the same seeds in both arms. 1x is C0."]
    return Section("Clips", text, [Table(("prompt", "real", *(name for name, _ in columns)), rows)])


def primary_section(references: dict[str, dict[str, Tensor]], last: int) -> Section:
    """Shares of prompts whose clip shows what was asked, at the largest budget; of each attribute hits (k, s, n) of an
    arm, or (n,) of what has no seeds."""
    rows = [(name, *(percent(hits[told]) for told in TOLD)) for name, hits in references.items()]
    tokens, latents = (references[name] for name in NAMES)
    rows.insert(2, ("tokens minus latents", *(points(gap(tokens[told], latents[told])) for told in TOLD)))
    text = [
        f"Share of the prompts whose clip shows what was asked, by the detector, at {last} C0; intervals by the "
        "hierarchical bootstrap, or Wilson's where there is one set of clips. 'All' is the primary measure P: shape, "
        "colour and motion. Reconstructions are the tokenizer's ceiling; real clips with each other's captions are "
        "chance.",
        "FVD, KVD and other secondary measures want 2,048 clips and features' weights: not measured here.",
    ]
    return Section("Quality", text, [Table(("", *TOLD), rows)])


def gap(tokens: Tensor, latents: Tensor) -> Interval:
    """The paired difference of the shares of hits (k, s, n)."""
    ours, theirs = resample([tokens[None], latents[None]])
    return interval((tokens.float().mean() - latents.float().mean()).item(), (ours - theirs)[0])


def percent(hits: Tensor) -> str:
    every = hits.view(1, *hits.shape) if hits.ndim == 3 else hits.view(1, 1, 1, -1)
    return spread(share_intervals(every, resample([every])[0])[0])


def spread(share: Interval) -> str:
    return f"{share.value:.1%} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def scaling_section(found: Found, scaling: Scaling, budgets: dict[str, dict], c0: float) -> Section:
    """Quality over training."""
    rows = []
    for i, multiple in enumerate(found.multiples):
        steps = [str(budgets[name]["steps"][str(multiple)]) for name in NAMES]
        shares = [spread(arm[i]) for arm in scaling.shares]
        rows.append((str(multiple), f"{multiple * c0:.3g}", *steps, *shares, points(scaling.differences[i])))
    head = ("C0", "FLOPs", *(f"steps, {name}" for name in NAMES), *(f"P, {name}" for name in NAMES), "difference")
    over = [
        Line(name, [(m * c0, s.value, s.low, s.high) for m, s in zip(found.multiples, shares, strict=True)])
        for name, shares in zip(NAMES, scaling.shares, strict=True)
    ]
    plots = [Plot("Quality over training", "training FLOPs", "P", over, ceilings(found))]
    text = [
        "Differences are paired; intervals by the hierarchical bootstrap over training seeds, sampling seeds and "
        "prompts, or Wilson's where there is one run."
    ]
    if scaling.slopes is not None:
        text.append(
            f"Errors, ceiling minus P, fall with the power b of training: {scaling.slopes[0]} of tokens, "
            f"{scaling.slopes[1]} of latents, difference {scaling.slope_difference}; fitted to the budgets "
            f"{', '.join(map(str, scaling.used))} C0, where neither arm has reached the ceiling."
        )
        plots.append(error_plot(found, scaling, c0))
    else:
        text.append("A power law wants two budgets at which neither arm has reached the ceiling: there are fewer.")
    return Section("Quality over training", text, [Table(head, rows)], plots)


def ceilings(found: Found) -> dict[str, float]:
    """Lines of plots: reconstructions, of both arms where they differ."""
    tokens, latents = (hits.float().mean().item() for hits in found.ceilings)
    if found.ceilings[0].equal(found.ceilings[1]):
        return {"reconstructions": tokens}
    return {"reconstructions, tokens": tokens, "reconstructions, latents": latents}


def error_plot(found: Found, scaling: Scaling, c0: float) -> Plot:
    least = 0.5 / len(found.ceilings[0])
    lines, fits = [], []
    arms = zip(NAMES, (found.tokens.scaling, found.latents.scaling), found.ceilings, scaling.shares, strict=True)
    for name, hits, rebuilt, shares in arms:
        marks, ceiling = [], rebuilt.float().mean().item()
        for multiple, share in zip(found.multiples, shares, strict=True):
            ends = [max(least, ceiling - value) for value in (share.value, share.high, share.low)]
            marks.append((multiple * c0, *ends))
        lines.append(Line(name, marks))
        kept = [found.multiples.index(multiple) for multiple in scaling.used]
        errors = (ceiling - hits.float().mean((1, 2, 3)))[kept].clamp(min=least)
        a, b = power_law(scaling.used, errors)
        fits.append(tuple(v for m in (scaling.used[0], scaling.used[-1]) for v in (m * c0, (a.exp() * m**-b).item())))
    return Plot("Errors over training", "training FLOPs", "ceiling - P", lines, {}, fits, log_y=True)


def attribution_section(found: Found, attribution: Attribution) -> Section:
    """The four cells of H5, and what they differ by."""
    cells = [found.tokens.scaling[-1], *found.bridges, found.latents.scaling[-1]]
    a, b, c, d = (share_intervals(hits[None], resample([hits[None]])[0])[0] for hits in cells)
    squares = [("tokens", spread(a), spread(b)), ("latents", spread(c), spread(d))]
    effects = [
        ("tokens minus latents, each in its own way", points(attribution.difference)),
        ("effect of the code: tokens minus latents, mean over masks and noise", points(attribution.code)),
        ("effect of the corruption: masks minus noise, mean over tokens and latents", points(attribution.corruption)),
        ("size of the former minus size of the latter", points(attribution.excess)),
        ("masks minus noise, of tokens alone", points(attribution.tokens)),
        ("masks minus noise, of latents alone", points(attribution.latents)),
    ]
    text = [
        f"P at {found.multiples[-1]} C0. Noisy tokens are replaced by others drawn evenly; masked latents are drawn "
        "cell by cell by a small diffusion head. Where tokens and latents do not differ there is nothing to attribute. "
        "Effects are means: where masks help the one code and harm the other, that of the corruption is small, and the "
        "last two rows are what there is to read."
    ]
    tables = [Table(("", "masked", "noisy"), squares), Table(("", "difference"), effects)]
    return Section("Is it the code, or the corruption?", text, tables)


def cost_section(found: Found, ratios: dict[str, Interval], curves: dict[str, Sequence[Sampling]]) -> Section:
    """Quality over what sampling costs."""
    rows, shares = [], {}
    for name, arm in zip(NAMES, (found.tokens, found.latents), strict=True):
        (drawn,) = resample([arm.curve])
        shares[name] = share_intervals(arm.curve, drawn)
        for i, sampling in enumerate(curves[name]):
            seconds = [f"{took[i]:.3f}" for took in arm.seconds.values()]
            rows.append((name, f"{arm.evaluations[i]:g}", in_words(name, sampling), spread(shares[name][i]), *seconds))
    sizes = tuple(found.tokens.seconds)
    head = ("arm", "evaluations", "sampler", "P", *(f"seconds, {size} at once" for size in sizes))

    def plot(title: str, x: str, costs: Sequence[Sequence[float]]) -> Plot:
        lines = []
        for name, cost in zip(NAMES, costs, strict=True):
            pairs = sorted(zip(cost, shares[name], strict=True), key=lambda pair: pair[0])
            lines.append(Line(name, [(at, s.value, s.low, s.high) for at, s in pairs]))
        return Plot(title, x, "P", lines, ceilings(found))

    arms: tuple[Arm, Arm] = (found.tokens, found.latents)
    plots = [plot("Quality over evaluations", "evaluations of the network a clip", [a.evaluations for a in arms])]
    for size in sizes:
        seconds = [arm.seconds[size] for arm in arms]
        plots.append(plot(f"Quality over seconds, {size} at once", "seconds a clip, with decoding", seconds))
    best = min(max(share.value for share in row) for row in shares.values())
    text = [
        f"At {found.multiples[-1]} C0. An evaluation is a pass of a clip through the network: guidance makes two of "
        "each call, and revisions and both halves of a Heun step are calls. Seconds include decoding: the median of "
        "five rounds of the first training seed, in which all samplers of both arms take turns. "
        f"Rounds of a sampler differ by at most {found.unsteady:.2f} times, the extremes left out."
    ]
    if min(map(len, shares.values())) < 2:  # no curve
        return Section("Quality and the cost of sampling", text, [Table(head, rows)])
    text += [
        f"The cost of {0.95 * best:.1%}, which is 95% of the best P of the weaker arm; log(latents / tokens): "
        + "; ".join(f"{name} {ratio}" for name, ratio in ratios.items())
        + ". Above 0, tokens are cheaper.",
    ]
    return Section("Quality over the cost of sampling", text, [Table(head, rows)], plots)


def in_words(arm: str, sampling: Sampling) -> str:
    masked, heat = f"{sampling.order}, {sampling.revisions} revisions", f"temperature {sampling.temperature:g}"
    forgets = f", remask {sampling.remask:g}" if sampling.remask else ""
    own = {
        TOKENS: f"{masked}{forgets}, {heat}",
        NOISY_TOKENS: heat,
        MASKED_LATENTS: f"{masked}, {HEAD_STEPS} steps of {sampling.solver} a cell",
        LATENTS: sampling.solver + ("" if sampling.snap else ", not snapped"),
    }
    return f"{sampling.steps} steps, {own[arm]}, guidance {sampling.guidance:g}"


def protocol_section(
    found: Found, budgets: dict[str, dict], codecs: dict[str, Codec], headlines: dict[str, Sampling], recipe: str
) -> Section:
    """What was done, so that a reader can object to it."""
    one, other = codecs.values()
    if one is other:
        matching = (
            "Matching 1 of docs/hypothesis.md, the same code: latents are the vectors that the same tokens of the same "
            "cache stand for, and generated ones are brought to the nearest codes before the same decoder. Tokenizer: "
            f"{one}; rFVD not measured."
        )
    else:
        matching = (
            "Matching 2 or 3 of docs/hypothesis.md, tokenizers of their own; matching 1 decides H2 to H4. That of "
            f"tokens: {one}; that of latents: {other}; rFVD not measured, what training them costs not counted."
        )
    k, s, n = found.tokens.scaling.shape[1:]
    rows = [
        (name, f"{about['parameters']:,}", f"{about['step_flops']:.4g}", in_words(name, headlines[name]))
        for name, about in budgets.items()
    ]
    rest = "recipe's, which were found for tokens; the twin takes over what means something to it"
    tuned = (
        "By equal trials each arm got its rate, its guidance and its temperature or shift (trials.json). Warm-up, "
        f"averaging and revisions are the {rest}."
        if found.tuned
        else "Neither arm was tuned for this report. Rate, warm-up, averaging, guidance, temperature and revisions are "
        f"the {rest}, and has shift 1."
    )
    text = [
        matching,
        f"Training seeds: {k}, sampling seeds: {s}, prompts: {n}; the same clips in the same order, the same prompts "
        "and seed numbers in both arms; constant rate after the warm-up, averaged weights.",
        tuned,
    ]
    head = ("arm", "parameters", "FLOPs a step", "sampler of the headline")
    return Section("Protocol", text, [Table(head, rows)], code=recipe)

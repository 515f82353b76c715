"""Verdicts follow from intervals, by the rules of docs/hypothesis.md."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
import torch

from evaluation.bootstrap import Interval
from evaluation.claims import (
    Arm,
    Attribution,
    Found,
    discreteness,
    judge,
    matched_quality,
    measure_attribution,
    measure_cost,
    measure_scaling,
    points,
    read_hits,
    sampling_cost,
    scaling_slope,
    stalls,
    unsteadiness,
)
from evaluation.comparison import gap


def between(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high)


@pytest.mark.parametrize(
    "low, high, word",
    [
        (-0.02, 0.05, "supported"),  # above the margin
        (0.01, 0.05, "supported"),
        (-0.02, -0.01, "refuted"),  # within the margin, but wholly below zero
        (-0.2, -0.1, "refuted"),
        (-0.05, 0.2, "inconclusive"),  # whatever the mean says
        (-0.03, 0.1, "inconclusive"),  # on the margin is not above it
    ],
)
def test_matched_quality(low, high, word):
    assert matched_quality(between(low, high)) == word


@pytest.mark.parametrize(
    "ratios, word",
    [
        ([(0.1, 0.5), (0.2, 0.4)], "supported"),
        ([(0.1, 0.5), (-0.1, 0.4)], "inconclusive"),
        ([(0.1, 0.5), (-0.4, -0.1)], "refuted"),
        ([(0.0, 0.5)], "inconclusive"),
    ],
)
def test_sampling_cost(ratios, word):
    assert sampling_cost([between(*ratio) for ratio in ratios]) == word


@pytest.mark.parametrize(
    "difference, stalled, word",
    [
        ((-0.02, 0.1), 0.0, "supported"),  # the twin's slope is 0.4: the margin is 0.04
        ((-0.05, 0.1), 0.0, "inconclusive"),
        ((-0.05, -0.01), 0.0, "refuted"),
        ((0.1, 0.2), 0.11, "refuted"),  # tokens stand still where the twin improves
        ((0.1, 0.2), 0.10, "supported"),
        (None, 0.0, "inconclusive"),
    ],
)
def test_scaling_slope(difference, stalled, word):
    assert scaling_slope(difference and between(*difference), 0.4, stalled) == word


@pytest.mark.parametrize(
    "difference, excess, word",
    [
        ((0.1, 0.3), (0.1, 0.2), "supported"),
        ((-0.3, -0.1), (0.1, 0.2), "supported"),  # whoever is better, the code is what does it
        ((0.1, 0.3), (-0.2, -0.1), "refuted"),
        ((0.1, 0.3), (-0.1, 0.2), "inconclusive"),
        ((-0.01, 0.3), (0.1, 0.2), "inconclusive"),  # there is nothing to attribute
        ((-0.01, 0.3), (-0.2, -0.1), "inconclusive"),
    ],
)
def test_discreteness(difference, excess, word):
    nothing = between(0, 0)
    assert discreteness(Attribution(between(*difference), nothing, nothing, between(*excess), nothing, nothing)) == word


def test_stalls_are_counted_where_the_twin_improves():
    rising, flat = (
        torch.tensor([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]]),
        torch.tensor([[0.1, 0.1], [0.2, 0.1], [0.3, 0.1]]),
    )
    assert stalls([1, 4, 32], flat, rising) == 0.5
    assert stalls([1, 4, 32], rising, flat) == 0 == stalls([1, 2, 4], flat, rising)


def arm(shares: list[float], curve: list[float], k: int = 3, s: int = 2, n: int = 256) -> Arm:
    """An arm of these shares; which prompts come out right is drawn."""
    rng = torch.Generator().manual_seed(round(1000 * sum(shares)))
    scaling, drawn = (
        torch.rand(len(row), k, s, n, generator=rng) < torch.tensor(row)[:, None, None, None] for row in (shares, curve)
    )
    evaluations = [4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 50.0, 100.0]
    seconds = {1: [0.1 * e for e in evaluations], 8: [0.02 * e for e in evaluations]}
    return Arm(scaling, drawn, evaluations, seconds, headline=32)


MULTIPLES = [1, 2, 4, 8, 16, 32]
CEILING = torch.rand(256, generator=torch.Generator().manual_seed(1)) < 0.95
CEILINGS = (CEILING, CEILING)
GOOD = arm([0.95 - 0.8 * m**-0.5 for m in MULTIPLES], [0.5] + [0.8] * 7)
BAD = arm([0.95 - 0.8 * m**-0.15 for m in MULTIPLES], [0.2, 0.3, 0.3, 0.5, 0.6, 0.8, 0.8, 0.8])


def verdicts(found: Found) -> dict[str, str]:
    scaling, ratios = measure_scaling(found, 1000), measure_cost(found, 1000)
    return {v.claim[:2]: v.word for v in judge(found, scaling, ratios, measure_attribution(found, 1000))}


def test_a_better_arm_of_tokens_is_found_supported_and_the_other_way_round_refuted():
    found = Found(MULTIPLES, GOOD, BAD, CEILINGS, tuned=True)
    unmeasured = {"H1": "not measured", "H5": "not measured"}
    assert verdicts(found) == unmeasured | dict.fromkeys(("H2", "H3", "H4"), "supported")
    other = Found(MULTIPLES, BAD, GOOD, CEILINGS, tuned=True)
    assert verdicts(other) == unmeasured | dict.fromkeys(("H2", "H3", "H4"), "refuted")
    assert measure_scaling(found, 1000).slopes[1].value == pytest.approx(0.15, abs=0.05)


def test_what_the_protocol_wants_and_a_run_lacks_gives_no_verdict():
    found = Found(MULTIPLES, GOOD, BAD, CEILINGS)
    assert verdicts(found)["H2"] == "not measured"  # untuned
    dear = replace(found, tokens=replace(GOOD, headline=64.0), tuned=True)
    assert verdicts(dear)["H2"] == "not measured"
    few = replace(found, tokens=arm([0.2] * 6, [0.5] * 8, k=2), latents=arm([0.2] * 6, [0.4] * 8, k=2))
    assert {verdicts(few)[claim] for claim in ("H3", "H4")} == {"numbers only"}


def test_saturated_budgets_are_left_out_of_both_arms():
    full = arm([0.95] * 6, [0.5] * 8)
    found = Found(MULTIPLES, full, BAD, CEILINGS, tuned=True)
    scaling = measure_scaling(found, 1000)
    assert len(scaling.used) < 4 and verdicts(found)["H4"] == "inconclusive"


def test_the_share_of_a_single_run_has_wilsons_interval():
    never = arm([0.0] * 6, [0.0] * 8, k=1, s=1)
    scaling = measure_scaling(Found(MULTIPLES, never, never, (torch.zeros(256, dtype=torch.bool),) * 2), 100)
    assert scaling.shares[0][0].low == 0 < scaling.shares[0][0].high < 0.02
    assert scaling.slopes is None and scaling.used == []  # no error is left to fall


def test_errors_are_below_the_ceiling_of_each_tokenizer():
    """An arm that has come to its own, lower ceiling is saturated, and its budget counts for neither."""
    low = torch.arange(256) < 64
    assert 32 in measure_scaling(Found(MULTIPLES, GOOD, BAD, CEILINGS), 100).used
    reached = replace(BAD, scaling=BAD.scaling & low)
    reached.scaling[-1] = low
    both = measure_scaling(Found(MULTIPLES, GOOD, reached, (CEILING, low)), 100)
    assert 32 not in both.used and 32 in measure_scaling(Found(MULTIPLES, GOOD, reached, CEILINGS), 100).used


def test_another_matching_gives_numbers_and_no_verdicts_but_one():
    found = Found(MULTIPLES, GOOD, BAD, CEILINGS, tuned=True)
    assert {verdicts(found)[claim] for claim in ("H2", "H3", "H4")} != {"not measured"}
    assert {verdicts(replace(found, shared=False))[claim] for claim in ("H2", "H3", "H4")} == {"not measured"}


@pytest.mark.parametrize("few", [1, 4])
def test_the_cost_of_sampling_wants_a_whole_curve(few):
    seconds = {clips: [0.1] * few for clips in (1, 8)}
    good, bad = (
        replace(arm, curve=arm.curve[:few], evaluations=arm.evaluations[:few], seconds=seconds) for arm in (GOOD, BAD)
    )
    found = Found(MULTIPLES, good, bad, CEILINGS, tuned=True)
    assert verdicts(found)["H3"] == "not measured" and verdicts(found)["H2"] == "supported"


def test_verdicts_can_be_computed_again_from_what_was_kept(tmp_path):
    for found in (Found(MULTIPLES, GOOD, BAD, CEILINGS, tuned=True), cells([0.8, 0.8, 0.4, 0.4])):
        found.save(tmp_path / "found.json")
        again = Found.load(tmp_path / "found.json")
        assert measure_scaling(again, 100) == measure_scaling(found, 100)
        assert measure_cost(again, 100) == measure_cost(found, 100)
        assert measure_attribution(again, 100) == measure_attribution(found, 100) and verdicts(again) == verdicts(found)


def test_seconds_of_an_unsteady_machine_decide_nothing():
    steady = Found(MULTIPLES, GOOD, GOOD, CEILINGS, tuned=True, unsteady=1.4)
    assert unsteadiness([1.0, 3.0, 1.2, 1.1, 1.0]) == pytest.approx(1.2)  # one round met another program
    assert unsteadiness([1.0, 2.0, 2.0, 1.0, 1.0]) == 2
    assert verdicts(steady)["H3"] != "not measured" == verdicts(replace(steady, unsteady=1.6))["H3"]


def short(difference: Interval) -> str:
    return points(difference).removesuffix(" points")


def test_the_verdict_on_attribution_follows_from_the_hits_that_are_kept():
    folder = Path(__file__).parents[2] / "docs/comparison/attribution"
    found, report = Found.load(folder / "found.json"), (folder / "README.md").read_text()
    attribution = measure_attribution(found)
    assert discreteness(attribution) == "supported" and found.tokens.scaling.shape[1:] == (6, 2, 128)
    assert all(points(effect) in report for effect in vars(attribution).values())
    new = gap(found.tokens.scaling[-1][3:], found.latents.scaling[-1][3:])  # seeds that no earlier look had
    assert f"alone have {short(new)}" in (folder.parents[1] / "hypothesis.md").read_text()


def test_what_is_said_of_masks_by_arccos_follows_from_the_hits_that_are_kept():
    docs = Path(__file__).parents[2] / "docs"
    found, told = Found.load(docs / "comparison/attribution/found.json"), (docs / "hypothesis.md").read_text()
    kept = json.loads((docs / "comparison/attribution/arccos.json").read_text())
    tokens, latents = read_hits(kept["tokens"]), read_hits(kept["masked latents"])
    scaling = torch.stack([found.tokens.scaling[0], tokens])
    masked = replace(found, tokens=replace(found.tokens, scaling=scaling), bridges=(found.bridges[0], latents))
    assert tokens.shape == latents.shape == (6, 2, 128)
    assert short(measure_scaling(masked).differences[-1]) in told
    assert f"{100 * tokens.float().mean():.1f}% of the same prompts" in told
    assert f"arccos, too, have {100 * latents.float().mean():.1f}%" in told
    attribution = measure_attribution(masked)
    assert discreteness(attribution) == "inconclusive"
    effects = (attribution.code, attribution.corruption, attribution.tokens, attribution.latents)
    assert all(points(effect) in told for effect in effects)


@pytest.mark.parametrize(
    ("look", "words", "prompts"),
    [
        ("searched", ["inconclusive"] * 3, 128),
        ("shapes", ["inconclusive", None, "inconclusive"], 256),
        ("best-practice", ["not measured"] * 3, 128),
    ],
)
def test_the_verdicts_of_later_looks_follow_from_the_hits_that_are_kept(look, words, prompts):
    docs = Path(__file__).parents[2] / "docs"
    folder = docs / "comparison" / look
    found, report = Found.load(folder / "found.json"), (folder / "README.md").read_text()
    scaling, told = measure_scaling(found), (docs / "hypothesis.md").read_text()
    computed = [verdicts(found)[name] for name in ("H2", "H3", "H4")]
    assert all(word in (None, got) for word, got in zip(words, computed, strict=True))  # None: seconds that are void
    assert found.tokens.scaling.shape == found.latents.scaling.shape == (6, 3, 2, prompts)
    assert short(scaling.differences[-1]) in told and points(scaling.differences[-1]) in report
    last = (arm.scaling[-1].float().mean() for arm in (found.tokens, found.latents))
    assert all(f"| {100 * share:.1f}% (" in told for share in last)


def test_what_is_said_of_few_steps_that_forget_follows_from_the_hits_that_are_kept():
    docs = Path(__file__).parents[2] / "docs"
    found = Found.load(docs / "comparison/shapes/found.json")
    kept = json.loads((docs / "comparison/shapes/curve.json").read_text())
    few, told = read_hits(kept["hits"]), (docs / "hypothesis.md").read_text()
    assert kept["evaluations"] == found.tokens.evaluations[:4] and few.shape == (4, 3, 2, 256)
    before, after = ([f"{100 * hits.float().mean():.0f}" for hits in rows] for rows in (found.tokens.curve, few))
    rounds = json.loads((docs / "comparison/shapes/seconds.json").read_text())
    seconds = {arm: {int(n): [median(row) for row in rows] for n, rows in laps.items()} for arm, laps in rounds.items()}
    curve = torch.cat([few, found.tokens.curve[4:]])
    again = replace(
        found,
        tokens=replace(found.tokens, curve=curve, seconds=seconds["tokens"]),
        latents=replace(found.latents, seconds=seconds["latents"]),
        unsteady=max(unsteadiness(row) for laps in rounds.values() for rows in laps.values() for row in rows),
    )
    assert verdicts(again)["H3"] == "inconclusive" and again.unsteady < 1.3
    assert all(str(ratio) in told for ratio in measure_cost(again).values())
    assert f"tokens {', '.join(after)}%" in told and f"they had {', '.join(before[:4])}%" in told


def test_what_is_said_of_sizes_and_latents_follows_from_the_hits_that_are_kept():
    folder = Path(__file__).parents[2] / "docs/comparison"
    panels, told = json.loads((folder / "panels/hits.json").read_text()), (folder / "panels/README.md").read_text()
    searched = Found.load(folder / "searched/found.json")
    middle = {name: getattr(searched, name).scaling[3] for name in ("tokens", "latents")}  # 8 C0
    for panel in panels.values():
        hits = {name: read_hits(rows) for name, rows in panel.items()}
        assert all(rows.shape == (3, 2, 128) for rows in hits.values())
        arms = [(middle | hits)[name] for name in ("tokens", "latents")]
        one = [Arm(rows[None], rows[None], [50.0], {1: [1.0]}, 50.0) for rows in arms]
        scaling = measure_scaling(Found([8], *one, searched.ceilings))
        assert points(scaling.differences[0]) in told
        assert all(f"{100 * rows.float().mean():.1f}%" in told for rows in arms)


def cells(shares: list[float], k: int = 3) -> Found:
    """Of A, B, C and D: masked tokens, noisy tokens, masked latents, noisy latents."""
    a, b, c, d = (arm([share], [share] * 8, k=k) for share in shares)
    return Found([32], a, d, CEILINGS, bridges=(b.scaling[-1], c.scaling[-1]))


@pytest.mark.parametrize(
    "shares, word",
    [
        ([0.8, 0.8, 0.4, 0.4], "supported"),  # A and B, the tokens, are alike
        ([0.4, 0.4, 0.8, 0.8], "supported"),
        ([0.8, 0.4, 0.8, 0.4], "refuted"),  # A and C, what is masked
        ([0.8, 0.6, 0.6, 0.4], "inconclusive"),  # as much the one as the other
        ([0.6, 0.9, 0.3, 0.6], "inconclusive"),  # A and D are alike
    ],
)
def test_what_makes_the_difference(shares, word):
    found = cells(shares)
    assert verdicts(found)["H5"] == word
    assert verdicts(cells(shares, k=2))["H5"] == "numbers only"
    attribution, (a, b, c, d) = (
        measure_attribution(found, 1000),
        (hits.float().mean().item() for hits in (found.tokens.scaling, *found.bridges, found.latents.scaling)),
    )
    code, corruption = (a - c + b - d) / 2, (a - b + c - d) / 2
    measured = [getattr(attribution, name).value for name in ("difference", "code", "corruption", "excess")]
    assert measured == pytest.approx([a - d, code, corruption, abs(code) - abs(corruption)], abs=1e-6)
    assert attribution.difference.low == measure_scaling(found, 1000).differences[-1].low  # the same draws

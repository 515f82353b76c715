"""H1: which tests a task passes, and what follows from all of them."""

import json
import re
from pathlib import Path

import pytest
import torch

from evaluation.capabilities import Capability, judge_capabilities


def found(right=230, chance=10, kept=True, seam=1.1, n=256) -> dict:
    return {
        "right": [i < right for i in range(n)],
        "chance": [i >= n - chance for i in range(n)],
        "real": [True] * n,
        "kept": [kept] * n,
        "seam": [(seam, 1.0)] * n,
        "real seam": [(2.0, 2.0), (0.0, 2.0)] * (n // 2) if n > 1 else [(1.0, 1.0)],
        "rebuilt seam": [(1.0, 1.0)] * n,
    }


def drifts(slope: float) -> dict:
    real = [-0.1, 0.1] * 128
    return {
        "made contrast": [slope] * 256,
        "real contrast": real,
        "made saturation": [0.0] * 256,
        "real saturation": real,
    }


def judged(latents=(), whole=True, **tasks) -> str:
    tokens = {name: Capability.of(name, lists) for name, lists in tasks.items()}
    twin = {name: Capability.of(name, lists) for name, lists in dict(latents).items()}
    return judge_capabilities(tokens, twin, whole).word


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        (found(seam=0.5), None),
        (found(seam=0.63), "seams are 1.26 times real ones"),  # half of that of others, as in real clips
        (found(seam=0.39), "seams are 0.78 times real ones"),
        (found(seam=0.5, kept=False), "known cells were changed"),
        (found(seam=0.5, right=20, chance=12), "no better than chance"),
        (drifts(0.01), None),
        (drifts(-0.02), r"contrast drifts by -0.0200 a second, real clips by -0.0123 to +0.0123"),
    ],
)
def test_each_test_can_fail(lists, words):
    one = Capability.of("a task", lists)
    assert list(one.failures().values()) == ([] if words is None else [words])
    assert one.cells()[-1] == (words or "yes") and len(one.cells()) == 8


def test_the_verdict_is_that_of_the_rule():
    good, bad = found(seam=0.5), found(seam=0.5, right=20, chance=12)
    assert judged(extend=good, loop=good, drift=drifts(0.0)) == "supported"
    assert judged(extend=good, loop=bad) == "inconclusive"  # nobody knows whether the twin can
    assert judged(extend=good, loop=bad, latents={"loop": bad}) == "inconclusive"
    assert judged(extend=good, loop=bad, latents={"loop": good}) == "refuted"
    assert judged(extend=good, loop=bad, latents={"loop": found(seam=2.0)}) == "refuted"  # that test is passed
    assert judged(extend=good, loop=found(seam=2.0), latents={"loop": good}) == "inconclusive"  # as many right
    assert judged(extend=good, whole=False) == "not measured"
    assert judged(extend=found(seam=0.5, n=128, right=120)) == "numbers only"


def test_borders_that_nothing_crosses_are_told():
    with pytest.raises(ValueError, match="nothing crosses the border"):
        Capability.of("edit", found() | {"real seam": [(0.0, 1.0)] * 256})


def test_a_task_without_a_border_has_no_seam():
    one = Capability.of("text2video", found() | {"kept": [], "seam": [], "real seam": [], "rebuilt seam": []})
    assert one.kept is None and one.seam is None and one.failures() == {}
    assert torch.equal(one.right, torch.arange(256) < 230)


def test_a_task_without_a_text_has_no_share():
    one = Capability.of("connect", found() | {"right": [], "chance": [], "real": []})
    assert one.right is None and one.clips == 256 and set(one.failures()) == {"seam"}


def test_the_verdict_in_the_docs_is_that_of_what_was_found():
    docs = Path(__file__).parents[2] / "docs"
    kept = json.loads((docs / "tasks" / "capabilities.json").read_text())
    results = {task: Capability.of(task, found) for task, found in kept["found"].items()}
    assert len(results) == 15 and kept["about"]["clips"] == 256 and kept["about"]["seed"] == 6
    verdict = judge_capabilities(results, {}, whole=True)
    (told,) = re.findall(r"^- \*\*H1, capability: (.*?)\*\*", (docs / "hypothesis.md").read_text(), flags=re.M)
    assert told == verdict.word
    table = (docs / "tasks.md").read_text()
    for one in results.values():
        assert " | ".join(one.cells()[1:]) in table, one.task

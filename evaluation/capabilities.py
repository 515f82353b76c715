"""H1 of docs/hypothesis.md: the tests that a task passes or fails, and the verdict that follows from all of them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from evaluation.bootstrap import Interval, interval, resample
from evaluation.claims import INCONCLUSIVE, NOT_MEASURED, NUMBERS_ONLY, REFUTED, SUPPORTED, Verdict, points
from evaluation.intervals import mean_and_error, wilson

CLAIM = "H1 capability"
CLIPS = 256  # that a verdict wants
FACTOR = 1.25  # by which seams may differ from real ones


@dataclass(frozen=True)
class Capability:
    """What a task came to, of n clips.

    Attributes:
        right, chance, real: whether each clip shows its text, another clip's text, and whether its real clip does;
            bool (n,), None where there is nothing to ask.
        kept: whether all known cells came back; None where none were known.
        seam: how much differs across the border of old and new, beside what does within the new, over the same in real
            clips; None where there is no border. rebuilt: the same of real clips' reconstructions.
        drifts: by name, the mean slope a second, and the 95% interval of the mean of real clips'.
    """

    task: str
    clips: int
    right: Tensor | None = None
    chance: Tensor | None = None
    real: Tensor | None = None
    kept: bool | None = None
    seam: float | None = None
    rebuilt: float | None = None
    drifts: dict[str, tuple[float, Interval]] = field(default_factory=dict)

    @classmethod
    def of(cls, task: str, found: dict[str, list]) -> "Capability":
        """From the lists that ``benchmarks/capabilities.py`` keeps, one entry a clip."""
        if "kept" not in found:
            names = [name.removeprefix("made ") for name in found if name.startswith("made ")]
            drifts = {name: drift(found[f"made {name}"], found[f"real {name}"]) for name in names}
            return cls(task, len(found[f"made {names[0]}"]), drifts=drifts)
        hits = {name: torch.tensor(found[name]) if found[name] else None for name in ("right", "chance", "real")}
        clips, kept, seams = len(found["right"] or found["kept"]), all(found["kept"]) if found["kept"] else None, {}
        if found["seam"]:
            real = ratio(found["real seam"])
            seams = {"seam": ratio(found["seam"]) / real, "rebuilt": ratio(found["rebuilt seam"]) / real}
        return cls(task, clips, **hits, kept=kept, **seams)

    def failures(self) -> dict[str, str]:
        """The tests that it fails, by name, in words."""
        failed = {}
        if self.kept is False:
            failed["kept"] = "known cells were changed"
        if self.right is not None and share(self.right)["low"] <= share(self.chance)["high"]:
            failed["text"] = "no better than chance"
        if self.seam is not None and not 1 / FACTOR <= self.seam <= FACTOR:
            failed["seam"] = f"seams are {self.seam:.2f} times real ones"
        for name, (slope, real) in self.drifts.items():
            if not real.low <= slope <= real.high:
                there = f"real clips by {real.low:+.4f} to {real.high:+.4f}"
                failed[name] = f"{name} drifts by {slope:+.4f} a second, {there}"
        return failed

    def cells(self) -> list[str]:
        """A row: task, clips, shares, what is kept, seams, and whether it passes."""
        shares = [percent(hits) for hits in (self.right, self.chance, self.real)]
        kept = {None: "", True: "all", False: "NOT ALL"}[self.kept]
        seam = "" if self.seam is None else f"{self.seam:.2f} ({self.rebuilt:.2f})"
        return [self.task, str(self.clips), *shares, kept, seam, "; ".join(self.failures().values()) or "yes"]


def drift(made: list[float], real: list[float]) -> tuple[float, Interval]:
    """The mean of the made clips' slopes, and that of the real ones with its interval."""
    there = mean_and_error(torch.tensor(real))
    reach = 1.96 * there["error"]
    return mean_and_error(torch.tensor(made))["mean"], Interval(
        there["mean"], there["mean"] - reach, there["mean"] + reach
    )


def ratio(seams: list[tuple[float, float]]) -> float:
    """How much differs across borders, over what would if neighbours there were like others: of all clips at once, as
    in many of them nothing crosses the border. ``ValueError`` if that is so in all."""
    border, expected = torch.tensor(seams, dtype=torch.float64).sum(0).tolist()
    if not border > 0 < expected:
        raise ValueError("nothing crosses the border of old and new in any clip: take more clips")
    return border / expected


def share(hits: Tensor) -> dict[str, float]:
    return wilson(int(hits.sum()), len(hits))


def percent(hits: Tensor | None) -> str:
    if hits is None:
        return ""
    cell = share(hits)
    return f"{cell['mean']:.0%} ({100 * cell['low']:.0f} to {100 * cell['high']:.0f})"


def judge_capabilities(tokens: dict[str, Capability], latents: dict[str, Capability], whole: bool) -> Verdict:
    """By the rule of H1; ``latents``: what of the twin was run. ``whole``: whether every task was run."""
    failed = {name: one.failures() for name, one in tokens.items() if one.failures()}
    because = f"{len(tokens) - len(failed)} of {len(tokens)} tests are passed"
    because += "".join(f"; {name}: {', '.join(words.values())}" for name, words in failed.items())
    worse = []
    for name, tests in failed.items():
        if (twin := latents.get(name)) is None or not (
            passed := [test for test in tests if test not in twin.failures()]
        ):
            continue
        because += f"; the twin passes {name}, {', '.join(passed)}"
        if twin.right is not None:
            difference = paired(tokens[name].right, twin.right)
            because += f", tokens minus latents {points(difference)}"
            worse += [name] * (difference.high < 0)
    because += "" if latents or not failed else "; the twin was not run"
    if not whole or not tokens:
        return Verdict(CLAIM, NOT_MEASURED, f"not every task was run; {because}")
    word = SUPPORTED if not failed else REFUTED if worse else INCONCLUSIVE
    if (clips := min(one.clips for one in tokens.values())) < CLIPS:
        word, because = NUMBERS_ONLY, f"{because}; clips: {clips}, a verdict wants {CLIPS}"
    return Verdict(CLAIM, word, because)


def paired(tokens: Tensor, latents: Tensor) -> Interval:
    """The difference of two shares of the same prompts."""
    rows = resample([tokens.view(1, 1, 1, -1), latents.view(1, 1, 1, -1)])
    return interval((tokens.float().mean() - latents.float().mean()).item(), rows[0][0] - rows[1][0])

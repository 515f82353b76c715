"""What the settings of the arms are chosen from before they are compared: equal trials (H2 of docs/hypothesis.md).

An arm has a learning rate and a guidance scale, and one thing of its own: tokens a temperature, latents a shift of the
times, and so have the two between. Rates and shifts are trained, each with all else as in the recipe; then scales are
tried on the run of the best rate, and temperatures at the best scale. What gets most prompts right is taken, of equals
the first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from evaluation.arms import Sampling

TOKENS, LATENTS = "tokens", "latents"
NOISY_TOKENS, MASKED_LATENTS = "noisy tokens", "masked latents"  # the bridges
OWN = {TOKENS: "temperature", NOISY_TOKENS: "temperature", LATENTS: "shift", MASKED_LATENTS: "shift"}


@dataclass(frozen=True)
class Trials:
    """
    Args:
        multiple: of C0, the budget of a training.
        learning_rate, guidance, temperature, shift: the values; as many of each as of the others.
        prompts: how many, of ``prompt_seed``. training_seed, sampling_seed: of all trials.
    """

    multiple: int
    learning_rate: list[float]
    guidance: list[float]
    temperature: list[float]
    shift: list[float]
    prompts: int = 128
    prompt_seed: int = 21
    training_seed: int = 100
    sampling_seed: int = 100

    def __post_init__(self) -> None:
        counts = {name: len(set(getattr(self, name))) for name in ("learning_rate", "guidance", *set(OWN.values()))}
        if len(set(counts.values())) > 1 or not self.guidance:
            raise ValueError(f"trials are {counts}: expected as many different values of each, or one arm has more")
        for name in ("multiple", "prompts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of the trials is {getattr(self, name)}, expected 1 or more")
        if min(self.learning_rate + self.shift) <= 0:
            raise ValueError(
                f"learning_rate and shift of the trials are {self.learning_rate} and {self.shift}: above 0"
            )
        for value in self.temperature:
            Sampling(temperature=value)  # or says what is wrong
        for value in self.guidance:
            if value == 1:
                raise ValueError("guidance of the trials has 1, which takes half of the evaluations: leave it out")
            Sampling(guidance=value)

    def trainings(self, arm: str) -> dict[str, dict]:
        """The runs of an arm by name, and what each changes in the arguments of its training."""
        names = ["learning_rate"] + ["shift"] * (OWN[arm] == "shift")
        return {f"{name}-{value:g}": {name: value} for name in names for value in getattr(self, name)}


@dataclass
class Choice:
    """What an arm's trials came to: ``changes`` of its training, ``sampling``, and the share right of each trial."""

    changes: dict = field(default_factory=dict)
    sampling: dict = field(default_factory=dict)
    shares: dict[str, dict[float, float]] = field(default_factory=dict)

    def try_all(self, name: str, values: Sequence[float], share: Callable[[float], float]) -> float:
        self.shares[name] = {value: share(value) for value in values}
        return max(values, key=self.shares[name].get)


def choose(arm: str, trials: Trials, headline: Sampling, share: Callable[[str, Sampling], float]) -> Choice:
    """Takes the best setting of each.

    Args:
        arm: one of ``OWN``.
        share: of the prompts right, of a run by its name in ``trainings`` and how it is sampled.
    """
    choice = Choice()
    rate = choice.try_all("learning_rate", trials.learning_rate, lambda v: share(f"learning_rate-{v:g}", headline))
    best, sampling = f"learning_rate-{rate:g}", headline
    choice.changes["learning_rate"] = rate
    if OWN[arm] == "shift":
        shifts = choice.try_all("shift", trials.shift, lambda v: share(f"shift-{v:g}", headline))
        choice.changes["shift"] = shifts
    for name in ["guidance"] + ["temperature"] * (OWN[arm] == "temperature"):
        value = choice.try_all(
            name, getattr(trials, name), lambda v, name=name, so_far=sampling: share(best, replace(so_far, **{name: v}))
        )
        choice.sampling[name], sampling = value, replace(sampling, **{name: value})
    return choice

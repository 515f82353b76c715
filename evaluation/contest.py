"""What ``compare.py`` compares: the recipe of a comparison, and the trainings it takes."""

from dataclasses import dataclass, field
from pathlib import Path

from evaluation.arms import Sampling
from evaluation.trials import LATENTS, MASKED_LATENTS, NOISY_TOKENS, TOKENS, Trials


@dataclass(frozen=True)
class Recipe:
    """A recipe of train.py, and what is changed in it."""

    recipe: str
    changes: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Code:
    """What an arm is trained on: its tokenizer, and the clips, encoded by it."""

    tokenizer: str
    cache: Path


@dataclass(frozen=True)
class Contestant:
    """An arm.

    Attributes:
        recipe, changes: of its training. headline: how it samples at every budget. curve: cheap to dear, how it does
            at the largest one; of a bridge nobody asks. tuned: whether it is what ``--tune`` chose.
    """

    recipe: str
    headline: Sampling
    curve: list[Sampling] = field(default_factory=list)
    changes: dict = field(default_factory=dict)
    tuned: bool = False


@dataclass(frozen=True)
class Bridges:
    """The arms between the two, for H5."""

    noisy_tokens: Contestant
    masked_latents: Contestant


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how much of it.

    Args:
        tokenizer: its recipe; or, as ``recipe``, an exported folder or hub id.
        videos: recipe of the data; its training clips are encoded, the first ``clips`` of them.
        both: changes of the recipes of all arms.
        latents_tokenizer: one of latents' own (matchings 2 and 3), perhaps without codes; None: the very same code (1).
        bridges: trained as the two arms are, and measured at the largest budget; None: H5 is not.
        c0: training operations of the smallest budget; ``multiples`` of it are the others.
        ema: see ``vq.callbacks.EMA``.
        prompts: how many, of ``prompt_seed``.
        trials: what ``--tune`` chooses the arms' settings from.
        shown: prompts whose clips the report shows.
        batch_size: clips that are sampled at once.
    """

    tokenizer: Recipe
    videos: str
    clips: int
    tokens: Contestant
    latents: Contestant
    c0: float
    both: dict = field(default_factory=dict)
    latents_tokenizer: Recipe | None = None
    bridges: Bridges | None = None
    multiples: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32])
    ema: float = 0.97
    training_seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    sampling_seeds: list[int] = field(default_factory=lambda: [0, 1])
    prompts: int = 256
    prompt_seed: int = 20
    trials: Trials | None = None
    shown: int = 6
    batch_size: int = 64

    def ends(self) -> dict[str, Contestant]:
        """The two by name."""
        return {TOKENS: self.tokens, LATENTS: self.latents}

    def between(self) -> dict[str, Contestant]:
        """The bridges by name."""
        if self.bridges is None:
            return {}
        return {NOISY_TOKENS: self.bridges.noisy_tokens, MASKED_LATENTS: self.bridges.masked_latents}

    def arms(self) -> dict[str, Contestant]:
        """All of them."""
        return self.ends() | self.between()

    def tuned(self) -> bool:
        """Whether all arms are, as H2 asks; ``ValueError`` where some are."""
        if len(kinds := {arm.tuned for arm in self.arms().values()}) > 1:
            named = ", ".join(name for name, arm in self.arms().items() if not arm.tuned)
            raise ValueError(f"some arms were tuned and {named} not: run --tune with all of them, or none")
        return kinds == {True}

    def check(self) -> None:
        """``ValueError`` for what can be told before anything is trained."""
        if self.multiples != sorted(set(self.multiples)) or not self.multiples or self.multiples[0] < 1:
            raise ValueError(f"multiples are {self.multiples}: expected rising numbers from 1 on")
        if not self.tokens.curve or not self.latents.curve:
            raise ValueError("tokens and latents need a curve: a list of samplers, cheap to dear")
        if self.prompts < 2 or not self.training_seeds or not self.sampling_seeds:
            raise ValueError("expected 2 prompts or more, a training seed and a sampling seed")
        for name in ("clips", "c0", "shown", "batch_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        for name in ("training_seeds", "sampling_seeds"):
            if len(set(seeds := getattr(self, name))) < len(seeds):
                raise ValueError(f"{name} are {seeds}: the same one twice is no second one")
        self.tuned()
        if self.bridges and self.latents_tokenizer:
            raise ValueError("bridges are for one code: leave them out where latents have a tokenizer of their own")
        if (trials := self.trials) and (
            trials.prompt_seed == self.prompt_seed
            or trials.training_seed in self.training_seeds
            or trials.sampling_seed in self.sampling_seeds
        ):
            raise ValueError(
                "trials have a seed of the comparison: what chooses the settings may not be what is reported"
            )
        recipes = [part.recipe for part in (self.tokenizer, self.latents_tokenizer) if part]
        recipes = [recipe for recipe in recipes if recipe.endswith((".yaml", ".yml"))]  # others are folders and hub ids
        recipes += [self.videos, *(arm.recipe for arm in self.arms().values())]
        if missing := [file for file in recipes if not Path(file).is_file()]:
            raise ValueError(f"no recipe at {missing[0]}: expected a yaml file")


@dataclass(frozen=True)
class Run:
    """A training of an arm, ``name``: how, with which seed, up to which multiple of C0."""

    name: str
    arm: Contestant
    seed: int
    multiples: list[int]
    arguments: dict = field(default_factory=dict)  # of the training, besides those of the recipe


def all_runs(config: Comparison) -> dict[str, Run]:
    """Every arm with every seed, by the name of its folder; a seed of all arms after the other."""
    return {
        str(run_folder(Path(), name, seed)): Run(name, arm, seed, config.multiples)
        for seed in config.training_seeds
        for name, arm in config.arms().items()
    }


def trial_runs(config: Comparison) -> dict[str, Run]:
    """The trainings that the arms' settings are chosen by."""
    trials = config.trials
    return {
        str(trial_folder(Path(), name, trial)): Run(name, arm, trials.training_seed, [trials.multiple], arguments)
        for name, arm in config.arms().items()
        for trial, arguments in trials.trainings(name).items()
    }


def run_folder(out: Path, name: str, seed: int) -> Path:
    return out / name.replace(" ", "-") / f"seed{seed}"


def trial_folder(out: Path, name: str, trial: str) -> Path:
    return out / "trials" / name.replace(" ", "-") / trial


def merged(below: dict, above: dict) -> dict:
    """Two recipes, one on top of the other."""
    both = dict(below)
    for name, value in above.items():
        inside = isinstance(value, dict) and isinstance(both.get(name), dict)
        both[name] = merged(both[name], value) if inside else value
    return both

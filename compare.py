"""Tokens against continuous diffusion, by the protocol of docs/hypothesis.md: trains both, measures, and reports.

    python compare.py -c configs/compare/tiny.yaml --out out/compare

writes report.html, which holds everything, and report.md into the folder. Interrupted and run again, it goes on where
it was: finished runs, samples and scores are found there. ``--only`` does one part of the work, so that several
processes or machines can share it; ``--tune`` chooses the arms' settings by trials instead.
"""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
import yaml
from torch import Tensor
from tqdm import tqdm

import train
from data.commands import Parser, find_device, run
from data.tokens import TokenCache, read_info
from data.video import Example
from evaluation import comparison
from evaluation.__main__ import open_videos
from evaluation.arms import Sampling, Score, Trained, fresh, keep, right
from evaluation.claims import Arm, Found, judge, measure_attribution, measure_cost, measure_scaling
from evaluation.clips import eight_bits
from evaluation.report import write_report
from evaluation.trials import Trials, choose
from vq import encode, pretrained
from vq.losses import psnr

PREPARE = "data"  # of --only: the tokenizer and the token cache
AT_ONCE = (1, 8)  # clips, when seconds are measured
ONE_DEVICE = {"trainer": {"devices": 1}}  # on a machine of several, as a budget of operations is counted for one


@dataclass(frozen=True)
class Recipe:
    """A recipe of train.py, and what is changed in it."""

    recipe: str
    changes: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Contestant:
    """An arm.

    Attributes:
        recipe, changes: of its training. headline: how it samples at every budget. curve: cheap to dear, how it does
            at the largest one; of a bridge nobody asks.
    """

    recipe: str
    headline: Sampling
    curve: list[Sampling] = field(default_factory=list)
    changes: dict = field(default_factory=dict)


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
        bridges: trained as the two arms are, and measured at the largest budget; None: H5 is not.
        c0: training operations of the smallest budget; ``multiples`` of it are the others.
        ema: see ``vq.callbacks.EMA``.
        prompts: how many, of ``prompt_seed``.
        trials: what ``--tune`` chooses the arms' settings from. tuned: whether they come from there.
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
    bridges: Bridges | None = None
    multiples: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32])
    ema: float = 0.97
    training_seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    sampling_seeds: list[int] = field(default_factory=lambda: [0, 1])
    prompts: int = 256
    prompt_seed: int = 20
    trials: Trials | None = None
    tuned: bool = False
    shown: int = 6
    batch_size: int = 64

    def between(self) -> dict[str, Contestant]:
        """The bridges by name."""
        if self.bridges is None:
            return {}
        return dict(zip(comparison.BRIDGES, (self.bridges.noisy_tokens, self.bridges.masked_latents), strict=True))

    def arms(self) -> dict[str, Contestant]:
        """The two by name."""
        return {"tokens": self.tokens, "latents": self.latents}


@dataclass(frozen=True)
class Run:
    """A training of an arm: how, with which seed, up to which multiple of C0."""

    arm: Contestant
    seed: int
    multiples: list[int]
    arguments: dict = field(default_factory=dict)  # of the training, besides those of the recipe


def main(args: list[str] | None = None) -> Path:
    given, config = parse(args)
    runs = trial_runs(config) if given.tune else all_runs(config)
    if given.only not in (None, PREPARE, *runs):
        raise ValueError(f"--only {given.only}: expected one of {', '.join([PREPARE, *runs])}")
    if given.only in runs and not is_whole(given.out / "tokens"):
        raise ValueError(f"--only {given.only} trains on what all runs share: first run the same with --only {PREPARE}")
    tokenizer = fit_tokenizer(config.tokenizer, given.out / "tokenizer")
    flags = ["--tokenizer", tokenizer, "--data", config.videos, "--clips", str(config.clips)]
    if given.only in (None, PREPARE):
        encode.main([*flags, "--out", str(given.out / "tokens")])
    if given.only == PREPARE:
        return given.out
    wanted = {name: run for name, run in runs.items() if given.only in (None, name)}
    folders = {name: fit_run(name, run, config, tokenizer, given.out) for name, run in wanted.items()}
    if given.tune:
        return tune(folders, config, given)
    if given.only:
        return measure_alone(folders, config, given)
    return compare(tokenizer, config, given)


def is_whole(cache: Path) -> bool:
    try:
        return len(TokenCache(str(cache))) > 0
    except ValueError:
        return False


def compare(tokenizer: str, config: Comparison, given) -> Path:
    """Measures what was trained, and writes the report."""
    arms = config.arms()
    runs = {
        name: [run_folder(given.out, name, seed) for seed in config.training_seeds] for name in arms | config.between()
    }
    examples = prompts(config, config)
    references, rpsnr = measure_references(tokenizer, examples, given.device)
    found, scores = {}, {}
    with tqdm(total=count_scores(config), unit="score", desc="sampling and measuring") as bar:
        for name, arm in arms.items():
            found[name], scores[name] = measure(arm, runs[name], config, examples, given.device, bar)
        for name, arm in config.between().items():
            scores[name] = measure_bridge(arm, runs[name], config, examples, given.device, bar)
    whole = Found(
        config.multiples,
        **found,
        ceiling=references["reconstructions"]["all"],
        tuned=config.tuned,
        bridges=tuple(hits(scores[name]["largest"]) for name in config.between()) or None,
    )
    page = report(given.out, config, whole, scores, references, examples, runs, tokenizer, rpsnr)
    print(f"look at {page}")
    return page


def parse(args: list[str] | None) -> tuple:
    parser = Parser(prog="compare.py", description=__doc__.splitlines()[0])
    parser.add_argument("-c", "--config", action="config", help="a recipe, such as configs/compare/tiny.yaml")
    parser.add_class_arguments(Comparison, None)
    parser.add_argument("--out", type=Path, required=True, help="a folder; what it already holds is not done again")
    parser.add_argument("--device", default="auto", help="where to sample: auto, cpu, cuda, ...")
    parser.add_argument(
        "--only", help=f"one part alone: {PREPARE}, what all need first, or a run, such as tokens/seed0"
    )
    parser.add_argument("--tune", action="store_true", help="choose the arms' settings by trials: OUT/tuned.yaml")
    given = parser.parse_args(args)
    given.device = find_device(given.device)
    built = parser.instantiate(given)
    config = Comparison(**{name: built[name] for name in Comparison.__dataclass_fields__})
    if config.multiples != sorted(set(config.multiples)) or not config.multiples or config.multiples[0] < 1:
        raise ValueError(f"multiples are {config.multiples}: expected rising numbers from 1 on")
    if not config.tokens.curve or not config.latents.curve:
        raise ValueError("tokens and latents need a curve: a list of samplers, cheap to dear")
    if config.prompts < 2 or not config.training_seeds or not config.sampling_seeds:
        raise ValueError("expected 2 prompts or more, a training seed and a sampling seed")
    for name in ("clips", "c0", "shown", "batch_size"):
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}, expected more than 0")
    for name in ("training_seeds", "sampling_seeds"):
        if len(set(seeds := getattr(config, name))) < len(seeds):
            raise ValueError(f"{name} are {seeds}: the same one twice is no second one")
    recipes = [part.recipe for part in (config.tokens, config.latents, *config.between().values())]
    if (trials := config.trials) and (
        trials.prompt_seed == config.prompt_seed
        or trials.training_seed in config.training_seeds
        or trials.sampling_seed in config.sampling_seeds
    ):
        raise ValueError("trials have a seed of the comparison: what chooses the settings may not be what is reported")
    if given.tune and config.trials is None:
        raise ValueError("--tune wants trials in the recipe, as configs/compare/shapes.yaml has them")
    if missing := [file for file in (config.videos, *recipes) if not Path(file).is_file()]:
        raise ValueError(f"no recipe at {missing[0]}: expected a yaml file")
    fresh(open_videos(Path(config.videos), {}), 1, config.prompt_seed)  # refused now rather than after all trainings
    return given, config


def prompts(config: Comparison, of: Comparison | Trials) -> list[Example]:
    """Those of the comparison, or those of its trials."""
    return fresh(open_videos(Path(config.videos), {}), of.prompts, of.prompt_seed)


# ------------------------------------------------------------------------------------------------------------ training


def fit_tokenizer(tokenizer: Recipe, folder: Path) -> str:
    """Trains it, if it is a recipe, and says where it is."""
    if not tokenizer.recipe.endswith((".yaml", ".yml")):
        return tokenizer.recipe
    fit(tokenizer.recipe, merged(tokenizer.changes, ONE_DEVICE), folder, folder / "model")
    return str(folder / "model")


def all_runs(config: Comparison) -> dict[str, Run]:
    """Every arm with every seed, by the name of its folder."""
    arms = config.arms() | config.between()
    return {
        str(run_folder(Path(), name, seed)): Run(arm, seed, config.multiples)
        for name, arm in arms.items()
        for seed in config.training_seeds
    }


def run_folder(out: Path, name: str, seed: int) -> Path:
    return out / name.replace(" ", "-") / f"seed{seed}"


def trial_runs(config: Comparison) -> dict[str, Run]:
    """The trainings that the arms' settings are chosen by."""
    trials = config.trials
    return {
        f"trials/{name}/{trial}": Run(arm, trials.training_seed, [trials.multiple], arguments)
        for name, arm in config.arms().items()
        for trial, arguments in trials.trainings(name).items()
    }


def fit_run(name: str, run: Run, config: Comparison, tokenizer: str, out: Path) -> Path:
    """Trains up to its budget; the folder."""
    folder, cache = out / name, asdict(read_info(out / "tokens"))
    callbacks = [
        {"class_path": "vq.callbacks.EMA", "init_args": {"decay": config.ema}},
        {"class_path": "generator.callbacks.Budget", "init_args": {"flops": config.c0, "multiples": run.multiples}},
    ]
    lengths = {"max_steps": -1, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    protocol = {
        "seed_everything": run.seed,
        "trainer": {"callbacks": callbacks, **lengths},
        "model": {"init_args": {"seed": run.seed, "decay": False} | run.arguments},
        "data": {"seed": run.seed},
    }
    changes = merged(merged(merged(config.both, run.arm.changes), protocol), ONE_DEVICE)
    flags = ["--model.tokenizer", tokenizer, "--data.train.folder", str(out / "tokens")]
    fit(run.arm.recipe, changes, folder, folder / f"x{run.multiples[-1]}", flags, {"tokens": cache})
    return folder


def fit(
    recipe: str, changes: dict, folder: Path, result: Path, flags: list[str] | None = None, of: dict | None = None
) -> None:
    """Trains a recipe with changes, from where an earlier run stopped; not at all where the ``result`` is there.

    Raises ``ValueError`` for a folder of a run of another recipe, or of other data: ``of``.
    """
    parts = {"recipe": yaml.safe_load(Path(recipe).read_text())}
    if isinstance(parts["recipe"].get("data"), str):  # a recipe of its own
        parts["data"] = yaml.safe_load((Path(recipe).parent / parts["recipe"]["data"]).read_text())
    record = parts | {"changes": changes} | (of or {})
    file, overlay = folder / "run.json", folder / "changes.yaml"
    there = json.loads(file.read_text()) if file.is_file() else record
    if other := [name for name in sorted({*record, *there}) if record.get(name) != there.get(name)]:
        raise ValueError(f"{folder} holds a run of other {', '.join(other)}: delete it, or give another --out")
    if (result / "config.yaml").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    overlay.write_text(yaml.safe_dump(changes))
    keep(file, record)
    print(f"\ntraining {folder}", flush=True)
    where = ["--trainer.default_root_dir", str(folder), "--ckpt_path", "last"]
    train.main(["fit", "-c", recipe, "-c", str(overlay), *where, *(flags or [])])


def merged(below: dict, above: dict) -> dict:
    """Two recipes, one on top of the other."""
    both = dict(below)
    for name, value in above.items():
        inside = isinstance(value, dict) and isinstance(both.get(name), dict)
        both[name] = merged(both[name], value) if inside else value
    return both


# ----------------------------------------------------------------------------------------------------------- measuring


def measure_references(
    tokenizer: str, examples: list[Example], device: str
) -> tuple[dict[str, dict[str, Tensor]], float]:
    """What no generator can change: hits of reconstructions, of real clips and of chance; and rPSNR."""
    real = eight_bits(torch.stack([example.clip for example in examples]))
    model, fps = pretrained.load(tokenizer, "tokenizer").to(device), examples[0].fps
    with torch.no_grad():
        again = [eight_bits(model.decode(model.encode(clip[None].to(device)))).cpu() for clip in real]
    rebuilt = torch.cat(again)
    hits = {
        "reconstructions": right(rebuilt, examples, fps),
        "real clips": right(real, examples, fps),
        "chance: others' captions": right(real, examples, fps, shuffled=True),
    }
    return hits, psnr(rebuilt, real).mean().item()


def measure(
    arm: Contestant, runs: list[Path], config: Comparison, examples: list[Example], device: str, bar: tqdm
) -> tuple[Arm, dict[str, list]]:
    """Everything about an arm that the claims ask for; and the scores that the report shows."""
    scaling, curve, shown = sample(arm, runs, config, examples, device, bar)
    largest, texts = Trained(runs[0] / f"x{config.multiples[-1]}", device), [example.text for example in examples]
    seconds = {
        count: [largest.seconds((texts * count)[:count], sampling) for sampling in arm.curve] for count in AT_ONCE
    }
    found = Arm(
        scaling=torch.stack([hits(scores) for scores in scaling]),
        curve=torch.stack([hits(scores) for scores in curve]),
        evaluations=[scores[0][0].evaluations for scores in curve],
        seconds=seconds,
        headline=scaling[-1][0][0].evaluations,
    )
    return found, shown


def sample(
    arm: Contestant, runs: list[Path], config: Comparison, examples: list[Example], device: str, bar: tqdm
) -> tuple[list, list, dict[str, list]]:
    """The scores of an arm's runs: by budget, along the curve, and those that the report shows."""

    def table(models: list[Trained], sampling: Sampling) -> list[list[Score]]:
        return score_all(models, sampling, config, examples, bar)

    models = {m: [Trained(run / f"x{m}", device) for run in runs] for m in config.multiples}
    largest = models[config.multiples[-1]]
    scaling = [table(models[multiple], arm.headline) for multiple in config.multiples]
    curve = [table(largest, sampling) for sampling in arm.curve]
    shown = {"first": [scores[0][0] for scores in scaling], "largest": scaling[-1]}
    if arm is config.latents:
        shown["not snapped"] = table(largest, replace(arm.headline, snap=False))
    return scaling, curve, shown


def measure_alone(folders: dict[str, Path], config: Comparison, given) -> Path:
    """The scores of one run, which the whole comparison then finds; not its seconds, as others may be at work."""
    for name, folder in folders.items():
        arm, examples = all_runs(config)[name].arm, prompts(config, config)
        with tqdm(unit="score", desc=f"sampling and measuring {name}") as bar:
            if arm in config.arms().values():
                sample(arm, [folder], config, examples, given.device, bar)
            else:
                measure_bridge(arm, [folder], config, examples, given.device, bar)
    return given.out


def measure_bridge(
    arm: Contestant, runs: list[Path], config: Comparison, examples: list[Example], device: str, bar: tqdm
) -> dict[str, list]:
    """What H5 asks of an arm between the two: its scores at the largest budget."""
    largest = [Trained(run / f"x{config.multiples[-1]}", device) for run in runs]
    scores = score_all(largest, arm.headline, config, examples, bar)
    return {"first": [scores[0][0]], "largest": scores}


def score_all(
    models: list[Trained], sampling: Sampling, config: Comparison, examples: list[Example], bar: tqdm
) -> list[list[Score]]:
    """Of every training seed and sampling seed."""

    def score(model: Trained, seed: int) -> Score:
        bar.update()
        return model.score(examples, sampling, seed, config.batch_size, config.shown)

    return [[score(model, seed) for seed in config.sampling_seeds] for model in models]


def hits(scores: list[list[Score]]) -> Tensor:
    """All right or not, bool (k, s, n), of k training and s sampling seeds and n prompts."""
    return stacked(scores)["all"]


def stacked(scores: list[list[Score]]) -> dict[str, Tensor]:
    """Hits (k, s, n) of all seeds, an attribute."""
    names = scores[0][0].hits
    return {name: torch.stack([torch.stack([one.hits[name] for one in row]) for row in scores]) for name in names}


def count_scores(config: Comparison) -> int:
    """Sets of samples in all; one more of latents, which are not snapped, and one of each bridge."""
    points = 2 * len(config.multiples) + len(config.tokens.curve) + len(config.latents.curve) + 1
    points += len(config.between())
    return points * len(config.training_seeds) * len(config.sampling_seeds)


# -------------------------------------------------------------------------------------------------------------- tuning


def tune(folders: dict[str, Path], config: Comparison, given) -> Path:
    """Chooses the arms' settings by their trials and writes them as a recipe; of one trial alone, only its score."""
    trials, chosen, shares = config.trials, {}, {}
    examples = prompts(config, trials)

    def share(arm: str, trial: str, sampling: Sampling) -> float:
        model = Trained(folders[f"trials/{arm}/{trial}"] / f"x{trials.multiple}", given.device)
        score = model.score(examples, sampling, trials.sampling_seed, config.batch_size, config.shown)
        return score.hits["all"].float().mean().item()

    if given.only:
        _, name, trial = given.only.split("/")
        print(f"{given.only}: {share(name, trial, config.arms()[name].headline):.0%} of {trials.prompts} right")
        return given.out
    for name, arm in config.arms().items():
        choice = choose(name, trials, arm.headline, partial(share, name))
        chosen[name] = {
            "recipe": arm.recipe,
            "changes": merged(arm.changes, {"model": {"init_args": choice.changes}}),
            "headline": asdict(replace(arm.headline, **choice.sampling)),
            "curve": [asdict(replace(sampling, **choice.sampling)) for sampling in arm.curve],
        }
        shares[name] = choice.shares
        for setting, found in choice.shares.items():
            print(f"{name}, {setting}: {', '.join(f'{value:g} {right:.0%}' for value, right in found.items())}")
    (given.out / "trials.json").write_text(json.dumps(shares, indent=1) + "\n")
    file = given.out / "tuned.yaml"
    file.write_text(yaml.safe_dump({"tuned": True} | chosen, sort_keys=False))
    print(f"a recipe with what was best of each: -c {file}, behind this one")
    return file


# ----------------------------------------------------------------------------------------------------------- reporting


def report(
    out: Path,
    config: Comparison,
    found: Found,
    scores: dict[str, dict[str, list]],
    references: dict[str, dict[str, Tensor]],
    examples: list[Example],
    runs: dict[str, list[Path]],
    tokenizer: str,
    rpsnr: float,
) -> Path:
    scaling, ratios, attribution = measure_scaling(found), measure_cost(found), measure_attribution(found)
    verdicts = judge(found, scaling, ratios, attribution)
    budgets = {name: json.loads((folders[0] / "budget.json").read_text()) for name, folders in runs.items()}
    quality = {
        "tokens": stacked(scores["tokens"]["largest"]),
        "latents": stacked(scores["latents"]["largest"]),
        "latents, not snapped": stacked(scores["latents"]["not snapped"]),
    }
    quality |= {name: stacked(scores[name]["largest"]) for name in config.between()}
    first = {name: kinds["first"] for name, kinds in scores.items()}
    bits = math.log2(pretrained.load(tokenizer, "tokenizer").codebook_size)
    headlines = {"tokens": config.tokens.headline, "latents": config.latents.headline}
    headlines |= {name: arm.headline for name, arm in config.between().items()}
    curves = {"tokens": config.tokens.curve, "latents": config.latents.curve}
    numbers = {
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "scaling": asdict(scaling),
        "log cost ratios": {name: asdict(ratio) for name, ratio in ratios.items()},
        "attribution": attribution and asdict(attribution),
    }
    (out / "results.json").write_text(json.dumps(numbers, indent=1) + "\n")
    recipe = yaml.safe_dump(asdict(config), sort_keys=False)
    attributed = [comparison.attribution_section(found, attribution)] if attribution else []
    return write_report(
        out,
        "Tokens against continuous diffusion",
        [
            comparison.verdict_section(verdicts),
            comparison.clip_section(examples, config.multiples, first, examples[0].fps),
            comparison.primary_section(quality | references, config.multiples[-1]),
            comparison.scaling_section(found, scaling, budgets, config.c0),
            comparison.cost_section(found, ratios, curves),
            *attributed,
            comparison.protocol_section(found, budgets, bits, rpsnr, headlines, recipe),
        ],
    )


if __name__ == "__main__":
    run(main)

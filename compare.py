"""Tokens against continuous diffusion, by the protocol of docs/hypothesis.md: trains both, measures, and reports.

    python compare.py -c configs/compare/tiny.yaml --out out/compare

writes report.html, which holds everything, and report.md into the folder. Interrupted and run again, it goes on where
it was: finished runs, samples and scores are found there. ``--tune`` chooses the arms' settings by trials instead.
``--processes`` trains and scores several runs at once; ``--only`` does one part of the work, so that several machines
can share it.
"""

import json
import statistics
import sys
from dataclasses import asdict, replace
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
from evaluation.arms import Sampling, Score, Trained, fresh, keep, right, seconds
from evaluation.claims import Arm, Found, judge, measure_attribution, measure_cost, measure_scaling, unsteadiness
from evaluation.clips import eight_bits
from evaluation.comparison import Codec
from evaluation.contest import (
    Code,
    Comparison,
    Contestant,
    Recipe,
    Run,
    all_runs,
    merged,
    run_folder,
    trial_folder,
    trial_runs,
)
from evaluation.processes import run_parts, terminable
from evaluation.report import write_report
from evaluation.trials import LATENTS, TOKENS, Trials, choose
from vq import encode, pretrained
from vq.losses import psnr

PREPARE = "data"  # of --only: tokenizer and token cache
AT_ONCE = (1, 8)  # clips, when seconds are measured
ONE_DEVICE = {"trainer": {"devices": 1}}  # on a machine of several, as a budget of operations is counted for one


def main(args: list[str] | None = None) -> Path:
    given, config = parse(args)
    runs = trial_runs(config) if given.tune else all_runs(config)
    if given.only not in (None, PREPARE, *runs):
        raise ValueError(f"--only {given.only}: expected one of {', '.join([PREPARE, *runs])}")
    if given.only in runs and not all(map(is_whole, caches(config, given.out).values())):
        raise ValueError(f"--only {given.only} trains on what all runs share: first run the same with --only {PREPARE}")
    codes = fit_tokenizers(config, given.out)
    if given.only in (None, PREPARE):
        for code in dict.fromkeys(codes.values()):
            flags = ["--tokenizer", code.tokenizer, "--data", config.videos, "--clips", str(config.clips)]
            encode.main([*flags, "--out", str(code.cache)])
    if given.only == PREPARE:
        return given.out
    if given.processes > 1 and given.only is None:
        command = [__file__, *(sys.argv[1:] if args is None else args), "--processes", "1", "--only"]
        run_parts(command, {name: given.out / name / "log.txt" for name in runs}, given.processes)
    wanted = {name: run for name, run in runs.items() if given.only in (None, name)}
    folders = {name: fit_run(name, run, config, codes[run.name], given.out) for name, run in wanted.items()}
    if given.tune:
        return tune(config, given)
    if given.only:
        return measure_alone(folders, config, given)
    return compare(config, given)


def is_whole(cache: Path) -> bool:
    try:
        return len(TokenCache(str(cache))) > 0
    except ValueError:
        return False


def compare(config: Comparison, given) -> Path:
    """Measures what was trained, and writes the report."""
    runs = {name: [run_folder(given.out, name, seed) for seed in config.training_seeds] for name in config.arms()}
    examples = prompts(config, config)
    samplers = {name: runs[name][0] / f"x{config.multiples[-1]}" for name in config.ends()}  # with their tokenizers
    codecs = dict.fromkeys(samplers, measure_codec(samplers[TOKENS], examples, given.device))
    if config.latents_tokenizer:
        codecs[LATENTS] = measure_codec(samplers[LATENTS], examples, given.device)
    laps = time_curves(config, samplers, [example.text for example in examples], given.device)
    found, scores = {}, {}
    with tqdm(total=count_scores(config), unit="score", desc="sampling and measuring") as bar:
        for name, arm in config.ends().items():
            took = {count: [statistics.median(rounds) for rounds in rows] for count, rows in laps[name].items()}
            found[name], scores[name] = measure(arm, runs[name], took, config, examples, given.device, bar)
        for name, arm in config.between().items():
            scores[name] = measure_bridge(arm, runs[name], config, examples, given.device, bar)
    whole = Found(
        config.multiples,
        **found,
        ceilings=tuple(codec.hits["all"] for codec in codecs.values()),
        shared=config.latents_tokenizer is None,
        tuned=config.tuned(),
        bridges=tuple(hits(scores[name]["largest"]) for name in config.between()) or None,
        unsteady=max(unsteadiness(rounds) for arm in laps.values() for rows in arm.values() for rounds in rows),
    )
    page = report(given.out, config, whole, scores, codecs, examples, runs)
    print(f"look at {page}")
    return page


def parse(args: list[str] | None) -> tuple:
    parser = parser_of("compare.py", __doc__)
    parser.add_argument(
        "--only", help=f"one part alone: {PREPARE}, what all need first, or a run, such as tokens/seed0"
    )
    parser.add_argument("--tune", action="store_true", help="choose the arms' settings by trials: OUT/tuned.yaml")
    given, config = read_recipe(parser, args)
    if given.tune and config.trials is None:
        raise ValueError("--tune wants trials in the recipe, as configs/compare/shapes.yaml has them")
    return given, config


def parser_of(program: str, about: str) -> Parser:
    """Of a program that trains the runs of a recipe, several at once, or with ``--only`` one part."""
    parser = Parser(prog=program, description=about.splitlines()[0])
    parser.add_argument("-c", "--config", action="config", help="a recipe, such as configs/compare/tiny.yaml")
    parser.add_class_arguments(Comparison, None)
    parser.add_argument("--out", type=Path, required=True, help="a folder; what it already holds is not done again")
    parser.add_argument("--device", default="auto", help="where to sample: auto, cpu, cuda, ...")
    parser.add_argument("--processes", type=int, default=1, help="runs that are trained and scored at once")
    return parser


def read_recipe(parser: Parser, args: list[str] | None) -> tuple:
    """What was given, and the comparison. ``ValueError`` for what can be told before anything is trained."""
    given = parser.parse_args(args)
    given.device = find_device(given.device)
    built = parser.instantiate(given)
    config = Comparison(**{name: built[name] for name in Comparison.__dataclass_fields__})
    config.check()
    if given.processes < 1 or (given.only and given.processes > 1):
        raise ValueError(f"--processes {given.processes}: expected 1 or more, and 1 with --only, which is one part")
    if given.processes > 1 and ":" in given.device:
        raise ValueError(f"--device {given.device} with --processes: each gets a GPU of its own, leave --device out")
    fresh(open_videos(Path(config.videos), {}), 1, config.prompt_seed)  # refused now rather than after all trainings
    return given, config


def prompts(config: Comparison, of: Comparison | Trials) -> list[Example]:
    """Those of the comparison, or those of its trials."""
    return fresh(open_videos(Path(config.videos), {}), of.prompts, of.prompt_seed)


# ------------------------------------------------------------------------------------------------------------ training


def fit_tokenizers(config: Comparison, out: Path) -> dict[str, Code]:
    """What each arm is trained on."""
    where = caches(config, out)
    codes = dict.fromkeys(config.arms(), Code(fit_tokenizer(config.tokenizer, out / "tokenizer"), where[TOKENS]))
    if config.latents_tokenizer:
        codes[LATENTS] = Code(fit_tokenizer(config.latents_tokenizer, out / "latents-tokenizer"), where[LATENTS])
    return codes


def caches(config: Comparison, out: Path) -> dict[str, Path]:
    """Where the clips are that each arm is trained on."""
    own = {LATENTS: out / "latents-cache"} if config.latents_tokenizer else {}
    return dict.fromkeys(config.arms(), out / "tokens") | own


def fit_tokenizer(tokenizer: Recipe, folder: Path) -> str:
    """Trains it, if it is a recipe, and says where it is."""
    if not tokenizer.recipe.endswith((".yaml", ".yml")):
        return tokenizer.recipe
    fit(tokenizer.recipe, merged(tokenizer.changes, ONE_DEVICE), folder, folder / "model")
    return str(folder / "model")


def fit_run(name: str, run: Run, config: Comparison, code: Code, out: Path) -> Path:
    """Trains up to its budget; the folder."""
    folder, cache = out / name, asdict(read_info(code.cache))
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
    flags = ["--model.tokenizer", code.tokenizer, "--data.train.folder", str(code.cache)]
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
        raise ValueError(
            f"{folder} holds a run of other {', '.join(other)}: give the recipes it was made with, or another --out"
        )
    if (result / "config.yaml").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    overlay.write_text(yaml.safe_dump(changes))
    keep(file, record)
    print(f"\ntraining {folder}", flush=True)
    where = ["--trainer.default_root_dir", str(folder), "--ckpt_path", "last"]
    with terminable():
        train.main(["fit", "-c", recipe, "-c", str(overlay), *where, *(flags or [])])


# ----------------------------------------------------------------------------------------------------------- measuring


def measure_codec(tokenizer: Path, examples: list[Example], device: str) -> Codec:
    """What no generator behind this tokenizer can better."""
    real = eight_bits(torch.stack([example.clip for example in examples]))
    model = pretrained.load(tokenizer, "tokenizer").to(device).eval()
    with torch.no_grad():
        again = [eight_bits(model(clip[None].to(device)).video.clamp(-1, 1)).cpu() for clip in real]
    rebuilt = torch.cat(again)
    hits = right(rebuilt, examples, examples[0].fps)
    return Codec(model.codebook_size, model.quantizer.dim, psnr(rebuilt, real).mean().item(), hits)


def time_curves(config: Comparison, models: dict[str, Path], texts: list[str], device: str) -> dict[str, dict]:
    """Of each arm, for so many clips at once, the seconds a clip of every sampler of its curve, all rounds."""
    trained = {name: Trained(models[name], device) for name in config.ends()}
    cells = [(name, n, sampling) for name, arm in config.ends().items() for n in AT_ONCE for sampling in arm.curve]
    rounds = iter(seconds([(trained[name], (texts * n)[:n], sampling) for name, n, sampling in cells]))
    return {name: {n: [next(rounds) for _ in arm.curve] for n in AT_ONCE} for name, arm in config.ends().items()}


def measure(
    arm: Contestant,
    runs: list[Path],
    took: dict[int, list[float]],
    config: Comparison,
    examples: list[Example],
    device: str,
    bar: tqdm,
) -> tuple[Arm, dict[str, list]]:
    """Everything about an arm that the claims ask for; and the scores that the report shows."""
    scaling, curve, shown = sample(arm, runs, config, examples, device, bar)
    found = Arm(
        scaling=torch.stack([hits(scores) for scores in scaling]),
        curve=torch.stack([hits(scores) for scores in curve]),
        evaluations=[scores[0][0].evaluations for scores in curve],
        seconds=took,
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
    if arm is config.latents and largest[0].model.tokenizer.codebook_size:
        shown["not snapped"] = table(largest, replace(arm.headline, snap=False))
    return scaling, curve, shown


def measure_alone(folders: dict[str, Path], config: Comparison, given) -> Path:
    """The scores of one run, which the whole comparison then finds; not its seconds, as others may be at work."""
    for name, folder in folders.items():
        arm, examples = all_runs(config)[name].arm, prompts(config, config)
        with tqdm(unit="score", desc=f"sampling and measuring {name}") as bar:
            if arm in config.ends().values():
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
    points = 2 * len(config.multiples) + len(config.tokens.curve) + len(config.latents.curve)
    points += len(config.between()) + (config.latents_tokenizer is None)
    return points * len(config.training_seeds) * len(config.sampling_seeds)


# -------------------------------------------------------------------------------------------------------------- tuning


def tune(config: Comparison, given) -> Path:
    """Chooses the arms' settings by their trials and writes them as a recipe; of one trial alone, only its score."""
    trials, chosen, shares = config.trials, {}, {}
    examples = prompts(config, trials)

    def share(arm: str, trial: str, sampling: Sampling) -> float:
        model = Trained(trial_folder(given.out, arm, trial) / f"x{trials.multiple}", given.device)
        score = model.score(examples, sampling, trials.sampling_seed, config.batch_size, config.shown)
        return score.hits["all"].float().mean().item()

    if given.only:
        (name,) = [arm for arm in config.arms() if arm.replace(" ", "-") == given.only.split("/")[1]]
        right = share(name, given.only.split("/")[2], config.arms()[name].headline)
        print(f"{given.only}: {right:.0%} of {trials.prompts} right")
        return given.out
    for name, arm in config.arms().items():
        choice = choose(name, trials, arm.headline, partial(share, name))
        chosen[name] = {
            "recipe": arm.recipe,
            "changes": merged(arm.changes, {"model": {"init_args": choice.changes}}),
            "headline": asdict(replace(arm.headline, **choice.sampling)),
            "curve": [asdict(replace(sampling, **choice.sampling)) for sampling in arm.curve],
            "tuned": True,
        }
        shares[name] = choice.shares
        for setting, found in choice.shares.items():
            print(f"{name}, {setting}: {', '.join(f'{value:g} {right:.0%}' for value, right in found.items())}")
    if config.bridges:
        chosen["bridges"] = {name.replace(" ", "_"): chosen.pop(name) for name in config.between()}
    (given.out / "trials.json").write_text(json.dumps(shares, indent=1) + "\n")
    file = given.out / "tuned.yaml"
    file.write_text(yaml.safe_dump(chosen, sort_keys=False))
    print(f"a recipe with what was best of each: -c {file}, behind this one")
    return file


# ----------------------------------------------------------------------------------------------------------- reporting


def report(
    out: Path,
    config: Comparison,
    found: Found,
    scores: dict[str, dict[str, list]],
    codecs: dict[str, Codec],
    examples: list[Example],
    runs: dict[str, list[Path]],
) -> Path:
    scaling, ratios, attribution = measure_scaling(found), measure_cost(found), measure_attribution(found)
    verdicts = judge(found, scaling, ratios, attribution)
    budgets = {name: json.loads((folders[0] / "budget.json").read_text()) for name, folders in runs.items()}
    quality = {name: stacked(scores[name]["largest"]) for name in config.arms()}
    if "not snapped" in scores[LATENTS]:
        quality["latents, not snapped"] = stacked(scores[LATENTS]["not snapped"])
    shared = codecs[TOKENS] is codecs[LATENTS]
    quality |= {"reconstructions" if shared else f"reconstructions, {n}": codec.hits for n, codec in codecs.items()}
    real = eight_bits(torch.stack([example.clip for example in examples]))
    quality["real clips"] = right(real, examples, examples[0].fps)
    quality["chance: others' captions"] = right(real, examples, examples[0].fps, shuffled=True)
    first = {name: kinds["first"] for name, kinds in scores.items()}
    headlines = {name: arm.headline for name, arm in config.arms().items()}
    curves = {name: arm.curve for name, arm in config.ends().items()}
    numbers = {
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "scaling": asdict(scaling),
        "log cost ratios": {name: asdict(ratio) for name, ratio in ratios.items()},
        "attribution": attribution and asdict(attribution),
    }
    (out / "results.json").write_text(json.dumps(numbers, indent=1) + "\n")
    found.save(out / "found.json")
    recipe = yaml.safe_dump(asdict(config), sort_keys=False)
    attributed = [comparison.attribution_section(found, attribution)] if attribution else []
    return write_report(
        out,
        "Tokens against continuous diffusion",
        [
            comparison.verdict_section(verdicts),
            comparison.clip_section(examples, config.multiples, first, examples[0].fps),
            comparison.primary_section(quality, config.multiples[-1]),
            comparison.scaling_section(found, scaling, budgets, config.c0),
            comparison.cost_section(found, ratios, curves),
            *attributed,
            comparison.protocol_section(found, budgets, codecs, headlines, recipe),
        ],
    )


if __name__ == "__main__":
    run(main)

"""Which options of training help the masked generator, or its twin? Each is trained with the same seeds as without it.

    python compare.py -c RECIPE -c TUNED --out OUT --processes 2
    python benchmarks/options.py -c RECIPE -c TUNED --out OUT --training_seeds "[0, 1, 2]" --processes 2

An arm of a comparison (``compare.py``), whose runs are the row "as it is" and are found in its folder, or trained
where it was only prepared (``--only data``); an option is a change of the arm's training (``generator.training``), and
a training of as many operations. Differences are of shares of the same prompts, those of the recipe's trials if it has
any; intervals are those of docs/hypothesis.md, at 95% each, so that one of twenty options helps or harms by chance.
"""

import sys
from pathlib import Path

import torch
import yaml
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))
import compare
from data.commands import run
from evaluation.arms import Trained
from evaluation.bootstrap import interval, resample
from evaluation.claims import points
from evaluation.contest import Run
from evaluation.processes import run_parts
from evaluation.trials import LATENTS, TOKENS

ROOT = Path(__file__).parent.parent
PLAIN = "as it is"
WEIGHTS, SCHEDULES = "generator.weights", "generator.schedules"
MIXTURE = yaml.safe_load((ROOT / "configs/generator/overlays/tasks.yaml").read_text())["model"]["init_args"]
OPTIONS = {
    TOKENS: {
        PLAIN: {},
        "arccos": {"schedule": {"class_path": f"{SCHEDULES}.Arccos"}},
        "linear": {"schedule": {"class_path": f"{SCHEDULES}.Linear"}},
        "exponential": {"schedule": {"class_path": f"{SCHEDULES}.Exponential"}},
        "ELBO": {"weight": {"class_path": f"{WEIGHTS}.ELBO"}},
        "min-SNR": {"weight": {"class_path": f"{WEIGHTS}.Clamped"}},
        "label smoothing": {"label_smoothing": 0.1},
        "corruption": {"corruption": 0.2},
        "ratios by frame": {"frame_ratios": 0.5},
        "text dropout": {"text_dropout": 0.2},
        "mixture": MIXTURE,
    },
    LATENTS: {
        PLAIN: {},
        "even times": {"times": {"class_path": f"{SCHEDULES}.Linear"}},
        "cosine times": {"times": {"class_path": f"{SCHEDULES}.Cosine"}},
        "nothing known": {"known_share": 0.0},
        "contrastive": {"contrastive": 0.05},
        "text dropout": {"text_dropout": 0.2},
        "mixture": MIXTURE,
    },
}


def main(args: list[str] | None = None) -> None:
    given, config = parse(args)
    arm = config.ends()[given.arm]
    runs = {
        f"{name}/seed{seed}": Run(given.arm, arm, seed, config.multiples, OPTIONS[given.arm][name])
        for seed in config.training_seeds
        for name in dict.fromkeys([PLAIN, *given.options])
    }
    if given.only not in (None, *runs):
        raise ValueError(f"--only {given.only}: expected one of {', '.join(runs)}")
    if not all(map(compare.is_whole, compare.caches(config, given.out).values())):
        raise ValueError(f"{given.out} has no token cache: first run compare.py with the same recipe and --only data")
    # not those of the comparison: what chooses the settings may not be what is reported
    examples = compare.prompts(config, config.trials or config)
    code = compare.fit_tokenizers(config, given.out)[given.arm]

    def hits(name: str) -> Tensor:
        """Of a run, trained if it is not there yet, (s, n) of s sampling seeds and n prompts."""
        folder = compare.fit_run(str(folder_of(given.arm, *name.split("/"))), runs[name], config, code, given.out)
        model = Trained(folder / f"x{config.multiples[-1]}", given.device)
        scores = compare.score_all([model], arm.headline, config, examples, tqdm(disable=True))
        return compare.hits(scores)[0]

    if given.only:
        hits(given.only)
        return
    if given.processes > 1:
        command = [__file__, *(sys.argv[1:] if args is None else args), "--processes", "1", "--only"]
        logs = {name: given.out / folder_of(given.arm, *name.split("/")) / "log.txt" for name in runs}
        run_parts(command, logs, given.processes)
    found = {
        name: torch.stack([hits(f"{name}/seed{seed}") for seed in config.training_seeds])[None]
        for name in dict.fromkeys([PLAIN, *given.options])
    }
    print(table(found, config.multiples[-1]))


def parse(args: list[str] | None) -> tuple:
    parser = compare.parser_of("benchmarks/options.py", __doc__)
    parser.add_argument(
        "--arm", choices=list(OPTIONS), default=TOKENS, help="whose options: tokens, or latents, the twin"
    )
    parser.add_argument("--options", nargs="+", help="some of the arm's; a wrong one lists them; none: all")
    parser.add_argument("--only", help="one run alone, such as mixture/seed0")
    given, config = compare.read_recipe(parser, args)
    known = OPTIONS[given.arm]
    given.options = given.options or list(known)
    if unknown := [name for name in given.options if name not in known]:
        raise ValueError(f"--options: {given.arm} have no {', '.join(unknown)}, expected some of {', '.join(known)}")
    return given, config


def folder_of(arm: str, option: str, seed: str) -> Path:
    """Of a run, in that of the comparison; without an option it is one of the comparison's own."""
    if option == PLAIN:
        return Path(arm) / seed
    return Path("options" if arm == TOKENS else f"{arm}-options") / option.replace(" ", "-") / seed


def table(found: dict[str, Tensor], multiple: int) -> str:
    """Hits (1, k, s, n) of each option -> Markdown."""
    plain, lines = found[PLAIN], [f"| | right at {multiple} C0 | by training seed | difference |", "|---|---|---|---|"]
    for name, hits in found.items():
        drawn = resample([plain, hits])
        means = [one.float().mean().item() for one in (plain, hits)]
        gap = points(interval(means[1] - means[0], drawn[1][0] - drawn[0][0])) if name != PLAIN else ""
        seeds = ", ".join(f"{share:.0%}" for share in hits[0].float().mean((1, 2)).tolist())
        lines.append(f"| {name} | {means[1]:.1%} | {seeds} | {gap} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)

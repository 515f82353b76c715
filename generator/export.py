"""A model to give away: ``python -m generator.export CHECKPOINT FOLDER``.

Writes a folder that needs nothing else, tokenizer and generator as safetensors with their ``config.yaml``, no pickle,
and a model card, ``README.md``; ``--push REPO`` puts it on the hub. ``VideoGenerator.from_pretrained`` takes either.
"""

import json
from pathlib import Path

import torch
import yaml
from huggingface_hub import HfApi, get_token

from data.commands import Parser, run
from generator.card import model_card
from generator.pipeline import VideoGenerator
from vq import pretrained

FILES = ("config.yaml", "tokenizer.safetensors", "generator.safetensors", "README.md", "recipe.yaml")


def main(args: list[str] | None = None) -> Path:
    parser = Parser(prog="python -m generator.export", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="training checkpoint of a generator, exported folder or hub id")
    parser.add_argument("folder", type=Path, help="is made, or written over")
    parser.add_argument(
        "--tokenizer", help="one that was trained with --model.encoder: its decoder takes the old one's place"
    )
    parser.add_argument("--scores", nargs="*", type=Path, default=[], help="JSON files of python -m evaluation")
    parser.add_argument("--recipe", type=Path, help="yaml file; default: what the training run has kept")
    parser.add_argument("--notes", type=Path, help="Markdown for the card: data, hardware, time, limits")
    parser.add_argument("--license", default="apache-2.0", help="of the weights, as hubs abbreviate it")
    parser.add_argument("--name", help="the card's title; default: that of the repository or folder")
    parser.add_argument("--push", metavar="REPO", help="hub id to upload the folder to, such as NAME/MODEL")
    given = parser.parse_args(args)
    if given.push and get_token() is None:
        raise ValueError("not logged in to the hub: run 'hf auth login' or set HF_TOKEN, or leave out --push")
    folder = export(
        given.checkpoint,
        given.folder,
        tokenizer=given.tokenizer,
        scores=given.scores,
        recipe=given.recipe or kept_recipe(given.checkpoint),
        notes=given.notes,
        license=given.license,
        name=given.name or (given.push or given.folder.resolve().name).rpartition("/")[2],
        repo=given.push,
    )
    print(folder)
    if given.push:
        print(push(folder, given.push))
    return folder


def export(
    checkpoint: str,
    folder: Path,
    tokenizer: str | None,
    scores: list[Path],
    recipe: Path | None,
    notes: Path | None,
    license: str,
    name: str,
    repo: str | None,
) -> Path:
    """Writes the folder; see ``main`` for the arguments. What is wrong is said before anything is written."""
    model = VideoGenerator.from_pretrained(checkpoint)
    if tokenizer is not None:
        better = pretrained.load(tokenizer, "tokenizer")
        if pretrained.code_of(better) != pretrained.code_of(model.tokenizer):
            raise ValueError(
                f"the tokenizer at {tokenizer} makes other tokens than the model's: give one that was trained with "
                "--model.encoder and the model's own"
            )
        model = VideoGenerator(better, model.generator, model.trained_at)
    results = [read_scores(path) for path in scores]
    text = None if recipe is None else read(recipe)
    card = model_card(
        model,
        name=name,
        source=repo or (folder.name if folder.is_absolute() else folder.as_posix()),
        license=license,
        recipe=None if text is None else parse_recipe(text, recipe),
        steps=steps_of(checkpoint),
        scores=results,
        notes="" if notes is None else read(notes),
    )
    model.save_pretrained(folder)
    if text is None:
        (folder / "recipe.yaml").unlink(missing_ok=True)
    else:
        (folder / "recipe.yaml").write_text(text)
    (folder / "README.md").write_text(card)
    return folder


def push(folder: Path, repo: str) -> str:
    """Uploads the folder's model, and nothing else that lies in it; returns its address."""
    try:
        api = HfApi()
        address = str(api.create_repo(repo, exist_ok=True))
        api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=list(FILES))
    except Exception as error:  # whatever the hub client raises: no network, no right to write, a malformed id
        first = next(iter(str(error).splitlines()), "")
        raise ValueError(
            f"could not upload to {repo!r} ({type(error).__name__}: {first.rstrip('.')}): {folder} is whole; check the "
            "network, the name and 'hf auth whoami', and call again"
        ) from error
    return address


def kept_recipe(checkpoint: str) -> Path | None:
    """The configuration that lies beside a run's checkpoints or exported model, or in an exported folder."""
    source = Path(checkpoint)
    run = source.parents[1] if source.is_file() and len(source.parents) > 1 else source.parent
    kept = sorted(run.glob("lightning_logs/*/config.yaml"), key=lambda path: path.stat().st_mtime)
    return next((path for path in (source / "recipe.yaml", *reversed(kept)) if path.is_file()), None)


def steps_of(checkpoint: str) -> int | None:
    """How far a training checkpoint is; an exported folder does not say."""
    if not Path(checkpoint).is_file():
        return None
    return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"]


def read_scores(path: Path) -> dict:
    try:
        result = json.loads(read(path))
        if {"protocol", "scores"} <= result.keys():
            return result
    except (AttributeError, json.JSONDecodeError):
        pass
    raise ValueError(f"{path} holds no scores: give a JSON file that python -m evaluation has written with --out")


def parse_recipe(text: str, path: Path) -> dict:
    """A recipe, with what it refers to of ``data`` put in."""
    try:
        recipe = yaml.safe_load(text)
        if isinstance(recipe.get("data"), str):
            recipe["data"] = yaml.safe_load(read(path.parent / recipe["data"]))
    except (AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is no recipe: give the yaml file that the model was trained with") from error
    return recipe


def read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ValueError(f"{path} cannot be read ({reason})") from error


if __name__ == "__main__":
    run(main)

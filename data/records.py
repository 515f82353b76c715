"""The record beside a video: a JSON file that says how it was made, so that it can be told apart and made again."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch

from data.writing import write_pieces

MAKES = (
    "prompt",
    "seed",
    "size",
    "fps",
    "settings",
    "sources",
)  # the video; and draws, of versions


def read_record(path: str | Path) -> dict:
    """Raises ``ValueError`` for a file that is no record."""
    try:
        record = json.loads(Path(path).read_text())
        if set(MAKES) <= record.keys():
            record["settings"].setdefault("remask", 0.0)  # before there was any
            return record
    except (AttributeError, UnicodeDecodeError, json.JSONDecodeError):
        pass
    raise ValueError(f"{path} is no record of a sample: give the .json that stands beside a video")


def is_made(path: Path, record: dict) -> bool:
    """Whether the file is there with this very record. ``ValueError`` where another file or record is in its place."""
    beside = path.with_suffix(".json")
    if not path.exists() and not beside.exists():
        return False
    if not beside.exists():
        raise ValueError(f"{path} exists, and no {beside.name} tells how it was made: give another --out")
    found = read_record(beside)
    for name in MAKES:
        if found[name] != record[name]:
            differing = name
            if isinstance(record[name], dict):
                keys = found[name].keys() | record[name].keys()
                differing = ", ".join(sorted(k for k in keys if found[name].get(k) != record[name].get(k)))
            raise ValueError(f"{beside} tells of another video (not the same {differing}): give another --out")
    if found.get("versions", {}).get("draws") != record.get("versions", {}).get("draws"):
        raise ValueError(f"{beside} is of a version that drew other numbers: give another --out")
    return path.exists()


def write_with_record(path: Path, pieces: Iterable[torch.Tensor], record: dict) -> None:
    """Writes a video that comes in pieces (3, t, h, w), and its record.

    The record comes first: were the program stopped in between, a video without one could not be told from others.
    """
    beside = path.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    shared = beside.exists()  # with the same video in another format
    beside.write_text(json.dumps(record, indent=1) + "\n")
    try:
        write_pieces(path, pieces, record["fps"])
    except BaseException:
        if not shared:
            beside.unlink(missing_ok=True)
        raise


def fingerprint(source: str | Path) -> str:
    """A short hash of a file, or of all files of a folder."""
    path = Path(source)
    digest = hashlib.sha256()
    for file in sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]

"""What scores depend on beside the model. Two results compare where that is the same, and nowhere else."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from data.video import to_uint8

ROOT = Path(__file__).parents[1]
CODE = ("data", "evaluation", "vq/losses.py", "vq/lpips.py")  # what reads clips and measures


@dataclass(frozen=True)
class Protocol:
    """How a set of clips was measured.

    Attributes:
        clips, frames, height, width, fps: of the real clips and of as many others.
        videos: that the clips are windows of; fewer than clips where a folder has fewer. Windows of one video are
            alike: errors over clips are then too small, and so are distances to further windows of the same videos.
        reference: hash of the real clips' pixels.
        code: hash of the code that read and measured them.
        features: name of a score -> the network behind it, by its weights, and how clips are shown to it.
        pixels: what clips are rounded to.
    """

    clips: int
    videos: int
    frames: int
    height: int
    width: int
    fps: float | None
    reference: str
    code: str
    features: dict[str, str] = field(default_factory=dict)
    pixels: str = "8 bits"


def fingerprint(pieces: Iterable[bytes]) -> str:
    """A short hash."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()[:16]


def clip_bytes(clip: Tensor) -> bytes:
    """What a clip (3, t, h, w) shows, as bytes."""
    return repr(tuple(clip.shape)).encode() + to_uint8(clip).tobytes()


def code_version(root: Path = ROOT, code: Sequence[str] = CODE) -> str:
    """A short hash of the source that moves scores."""
    files = [file for name in code for file in (sorted((root / name).rglob("*.py")) or [root / name])]
    return fingerprint(file.read_bytes() for file in files)


def differences(a: dict, b: dict, across: Sequence[str] = ()) -> list[str]:
    """What two results' protocols differ in, in words. ``across`` names what may differ: it is what is compared.

    A network that only one of them has used is no difference: its scores have nothing to be compared with.
    """
    one, other = _flatten(a), _flatten(b)
    names = [
        name
        for name in dict.fromkeys((*one, *other))
        if not any(name == free or name.startswith(f"{free}.") for free in across)
        and not (name.startswith("features.") and (name not in one or name not in other))
    ]
    missing = object()
    return [
        f"{name} {one.get(name, 'not said')} against {other.get(name, 'not said')}"
        for name in names
        if one.get(name, missing) != other.get(name, missing)
    ]


def _flatten(nested: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in nested.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def compare(a: dict, b: dict, across: Sequence[str] = ()) -> list[tuple[str, dict, dict]]:
    """Two results -> the scores that both have: (name, cell, cell). Raises ``ValueError`` where protocols differ."""
    differ = differences(a["protocol"], b["protocol"], across)
    if differ:
        raise ValueError(
            f"different protocols: {'; '.join(differ)}: measure both alike, or name what is compared with --across"
        )
    one, other = _cells(a["scores"]), _cells(b["scores"])
    return [(name, cell, other[name]) for name, cell in one.items() if name in other]


def _cells(scores: dict, prefix: str = "") -> dict[str, dict]:
    """Scores of one set, or of several sets side by side -> name -> cell."""
    cells = {}
    for name, score in scores.items():
        cells |= {prefix + name: score} if "mean" in score else _cells(score, f"{prefix}{name}, ")
    return cells

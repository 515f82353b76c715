"""Does a clip show what its caption says? Read back from pixels on the shapes, by I3D's classes on real videos."""

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from torch import Tensor

from data.shapes import stated
from evaluation.detector import ATTRIBUTES, matches
from evaluation.intervals import wilson


def attributes_right(detected: Sequence[dict], captions: Sequence[str], attributes: Sequence[dict]) -> dict[str, dict]:
    """What `detector.detect` saw in n clips, their captions and attributes -> a share with its interval an attribute.

    An attribute counts in those clips whose caption says something about it.
    """
    wanted = [stated(text, told) for text, told in zip(captions, attributes, strict=True)]
    results = [matches(seen, told) for seen, told in zip(detected, wanted, strict=True)]
    right = {name: [result[name] for result in results if name in result] for name in (*ATTRIBUTES, "all")}
    return {name: wilson(sum(hits), len(hits)) for name, hits in right.items() if hits}


def classes_right(logits: Tensor, labels: Sequence[str], classes: dict[str, list[int]]) -> dict[str, float]:
    """I3D's logits (n, 400) -> the share whose likeliest class, of those that the labels name, is their label's."""
    present = sorted(set(labels))
    missing = [label for label in present if label not in classes]
    if missing:
        raise ValueError(
            f"--classes does not say which of I3D's classes {missing[0]!r} is: add a line with their numbers"
        )
    likelihood = logits.softmax(1)
    scores = torch.stack([likelihood[:, classes[label]].sum(1) for label in present], dim=1)  # (n, labels)
    wanted = torch.tensor([present.index(label) for label in labels])
    return wilson(int((scores.argmax(1) == wanted).sum()), len(labels))


def read_classes(path: str | Path) -> dict[str, list[int]]:
    """A yaml file with a line a label of the data set: ``Archery: [5]``, the numbers of I3D's classes that mean it."""
    try:
        classes = yaml.safe_load(Path(path).read_text())
        if not all(isinstance(n, int) and 0 <= n < 400 for numbers in classes.values() for n in numbers):
            raise ValueError("numbers from 0 to 399 are expected")
    except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: no classes can be read: expected a yaml file with lines `Archery: [5]`") from error
    return classes

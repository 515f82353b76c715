"""Scores as tables of plain text."""

import math
from collections.abc import Sequence
from itertools import groupby

from evaluation.intervals import margin

COLUMN, NAMES = 17, 28  # characters


def cell_text(cell: dict | None) -> str:
    """``66% (53-76)`` of a share with its interval, ``0.123 ±0.0041`` of a mean with its standard error."""
    if cell is None:
        return ""
    if "low" in cell:
        return f"{cell['mean']:.0%} ({100 * cell['low']:.0f}-{100 * cell['high']:.0f})"
    return number(cell["mean"]) + (f" ±{number(cell['error'], 2)}" if "error" in cell else "")


def number(value: float, digits: int = 3) -> str:
    """So many significant digits, all of them in whole numbers."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.{digits}g}"


def score_table(scores: dict[str, dict[str, dict]]) -> str:
    """Scores of several sets side by side: {score: {set: cell}}; a new heading wherever the sets change."""
    lines = []
    for sets, rows in groupby(scores.items(), key=lambda row: tuple(row[1])):
        lines += ["", " " * NAMES + "".join(f"{name:>{COLUMN}}" for name in sets)]
        for name, score in rows:
            lines.append(f"{name:{NAMES}}" + "".join(f"{cell_text(score[column]):>{COLUMN}}" for column in sets))
    return "\n".join(lines)


def comparison_table(rows: Sequence[tuple[str, dict, dict]], names: tuple[str, str]) -> str:
    """Two results side by side, and their difference with a 95% interval where both have an error."""
    width = 2 + max(len(name) for name, *_ in rows)
    column = max(COLUMN, *(len(name) + 2 for name in names))
    lines = [" " * width + "".join(f"{name:>{column}}" for name in (*names, "difference"))]
    for name, a, b in rows:
        half = math.hypot(margin(a), margin(b))
        gap = number(b["mean"] - a["mean"]) + ("" if math.isnan(half) else f" ±{number(half, 2)}")
        lines.append(f"{name:{width}}" + "".join(f"{text:>{column}}" for text in (cell_text(a), cell_text(b), gap)))
    return "\n".join(lines)

"""Lines with intervals, as SVG that stands alone: no library, no script, no font but the reader's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 34, 48
COLOURS = ("#0b6e99", "#c4581a", "#5b5b9d", "#4a7a3a")  # told apart by colour-blind readers; marks differ, too
MARKS = ("circle", "square", "circle", "square")


@dataclass(frozen=True)
class Line:
    """A name and its points: x, y, and the ends of y's interval."""

    name: str
    points: Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True)
class Plot:
    """Lines over a cost, on a logarithmic axis.

    Attributes:
        levels: name -> a horizontal line, such as a ceiling.
        straight: lines (x, y, x, y) without a name, such as fits.
        log_y: y is on a logarithmic axis, too; points of it are above 0.
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    levels: dict[str, float] = field(default_factory=dict)
    straight: Sequence[tuple[float, float, float, float]] = ()
    log_y: bool = False

    def svg(self) -> str:
        points = [point for line in self.lines for point in line.points]
        across = Axis.fitted([x for x, *_ in points], True, LEFT, WIDTH - RIGHT)
        heights = [value for _, *values in points for value in values] + list(self.levels.values())
        up = Axis.fitted(heights if self.log_y else [0.0, *heights], self.log_y, HEIGHT - BOTTOM, TOP)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" '
            f'font-family="sans-serif" font-size="12" fill="#333"><title>{escape(self.title)}</title>',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            text(WIDTH / 2, 16, self.title, "middle", "font-weight='bold'"),
            text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, self.x, "middle"),
            f'<g transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)">',
            text(0, 0, self.y, "middle") + "</g>",
        ]
        for value in across.ticks(sorted({x for x, *_ in points})):
            parts.append(segment(across(value), HEIGHT - BOTTOM, across(value), HEIGHT - BOTTOM + 4, "#333"))
            parts.append(text(across(value), HEIGHT - BOTTOM + 17, f"{value:.3g}", "middle"))
        for value in up.ticks():
            parts.append(segment(LEFT, up(value), WIDTH - RIGHT, up(value), "#e4e4e4"))
            parts.append(text(LEFT - 6, up(value) + 4, f"{value:.2g}", "end"))
        for name, value in self.levels.items():
            parts.append(segment(LEFT, up(value), WIDTH - RIGHT, up(value), "#777", "stroke-dasharray='5 4'"))
            parts.append(text(LEFT + 4, up(value) - 4, name, "start"))
        for x0, y0, x1, y1 in self.straight:
            parts.append(segment(across(x0), up(y0), across(x1), up(y1), "#999", "stroke-dasharray='2 3'"))
        for line, colour, mark in zip(self.lines, COLOURS, MARKS, strict=False):
            parts += draw_line(line, colour, mark, across, up)
        for i, (line, colour) in enumerate(zip(self.lines, COLOURS, strict=False)):
            top = HEIGHT - BOTTOM - 12 - 16 * (len(self.lines) - 1 - i)
            parts.append(segment(WIDTH - RIGHT - 130, top - 4, WIDTH - RIGHT - 108, top - 4, colour))
            parts.append(text(WIDTH - RIGHT - 102, top, line.name, "start"))
        return "\n".join([*parts, "</svg>"])


@dataclass(frozen=True)
class Axis:
    """Values to pixels."""

    low: float
    high: float
    log: bool
    begin: float
    end: float

    @classmethod
    def fitted(cls, values: Sequence[float], log: bool, begin: float, end: float) -> "Axis":
        low, high = min(values), max(values)
        if log:
            return cls(low / 1.15, high * 1.15, True, begin, end)
        room = 0.05 * (high - low or 1)
        return cls(low if low == 0 else low - room, high + room, False, begin, end)

    def __call__(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return self.begin + share * (self.end - self.begin)

    def ticks(self, wanted: Sequence[float] = ()) -> list[float]:
        """Those of the wanted values whose names do not overlap; without them round ones."""
        if not wanted:
            if self.log:
                powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
                wanted = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
            else:
                step = 10 ** math.floor(math.log10(self.high - self.low))
                step = step / 5 if (self.high - self.low) / step < 2 else step / 2
                wanted = [i * step for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        shown: list[float] = []
        room = 48 if self.end > self.begin else 24  # across, where names are wide, or up
        for value in wanted:
            if self.low <= value <= self.high and (not shown or abs(self(value) - self(shown[-1])) > room):
                shown.append(value)
        return shown


def draw_line(line: Line, colour: str, mark: str, across: Axis, up: Axis) -> list[str]:
    spots = [(across(x), up(y), up(low), up(high)) for x, y, low, high in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, *_ in spots)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for x, y, low, high in spots:
        parts.append(segment(x, low, x, high, colour, "stroke-opacity='0.6'"))
        parts += [segment(x - 4, end, x + 4, end, colour, "stroke-opacity='0.6'") for end in (low, high)]
        if mark == "circle":
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
        else:
            parts.append(f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>')
    return parts


def segment(x0: float, y0: float, x1: float, y1: float, colour: str, style: str = "") -> str:
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{colour}" {style}/>'


def text(x: float, y: float, words: str, anchor: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {style}>{escape(words)}</text>'

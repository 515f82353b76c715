"""A report of sections as Markdown, with its pictures beside it, and as one HTML page that holds them all."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.plots import Plot

STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; font-size: 14px }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .7rem; text-align: left; vertical-align: top }
td img { image-rendering: pixelated; width: 96px; display: block }
svg { max-width: 100%; height: auto; margin: .5rem 0 }
pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: 13px }
.wide { overflow-x: auto }
"""


@dataclass(frozen=True)
class Clip:
    """A moving picture: uint8 (t, h, w, 3) at so many frames a second, and what it is called as a file."""

    name: str
    frames: np.ndarray
    fps: float

    def gif(self) -> bytes:
        pictures = [Image.fromarray(frame).quantize(128, dither=Image.Dither.NONE) for frame in self.frames]
        buffer = io.BytesIO()
        pause = round(1000 / self.fps)
        first, *rest = pictures
        first.save(buffer, "GIF", save_all=True, append_images=rest, duration=pause, loop=0, disposal=2)
        return buffer.getvalue()


@dataclass(frozen=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Sequence[str | Clip]]


@dataclass(frozen=True)
class Section:
    """Attributes: code: verbatim text, such as a recipe."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    code: str = ""


def write_report(folder: Path, title: str, sections: Sequence[Section]) -> Path:
    """Writes ``report.md``, its ``pictures`` and ``report.html``; returns the page."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(markdown(folder, title, sections), encoding="utf-8")
    page = folder / "report.html"
    page.write_text(html(title, sections), encoding="utf-8")
    return page


def markdown(folder: Path, title: str, sections: Sequence[Section]) -> str:
    """The text; writes the pictures that it shows."""

    def picture(name: str, content: bytes, words: str) -> str:
        (folder / "pictures" / name).write_bytes(content)
        return f"![{words}](pictures/{name})"

    def cell(content: str | Clip) -> str:
        if isinstance(content, Clip):
            return picture(f"{content.name}.gif", content.gif(), content.name)
        return content.replace("|", "\\|")

    parts = [f"# {title}"]
    for number, section in enumerate(sections):
        parts += [f"## {section.title}", *section.text]
        for table in section.tables:
            rows = [table.head, ["---"] * len(table.head), *([cell(c) for c in row] for row in table.rows)]
            parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
        for i, plot in enumerate(section.plots):
            parts.append(picture(f"plot-{number}-{i}.svg", plot.svg().encode(), plot.title))
        if section.code:
            parts.append(f"```\n{section.code.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def html(title: str, sections: Sequence[Section]) -> str:
    """The page, with nothing outside of it."""

    def cell(content: str | Clip) -> str:
        if isinstance(content, Clip):
            data = base64.b64encode(content.gif()).decode()
            return f'<img src="data:image/gif;base64,{data}" alt="{escape(content.name)}"/>'
        return escape(content)

    parts = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/><title>{escape(title)}</title>',
        f'<meta name="viewport" content="width=device-width"/><style>{STYLE}</style></head><body>',
        f"<h1>{escape(title)}</h1>",
    ]
    for section in sections:
        parts.append(f"<h2>{escape(section.title)}</h2>")
        parts += [f"<p>{escape(paragraph)}</p>" for paragraph in section.text]
        for table in section.tables:
            head = "".join(f"<th>{escape(name)}</th>" for name in table.head)
            rows = "".join(f"<tr>{''.join(f'<td>{cell(c)}</td>' for c in row)}</tr>\n" for row in table.rows)
            parts.append(f'<div class="wide"><table><tr>{head}</tr>\n{rows}</table></div>')
        parts += [plot.svg() for plot in section.plots]
        if section.code:
            parts.append(f"<pre>{escape(section.code)}</pre>")
    return "\n".join([*parts, "</body></html>"]) + "\n"

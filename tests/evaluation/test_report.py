"""A browser opens the report: its plots have a size and lines, and its pictures move."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from evaluation.plots import Line, Plot
from evaluation.report import Clip, Section, Table, write_report

BROWSER = next((path for name in ("chromium", "google-chrome", "chrome") if (path := shutil.which(name))), None)
# what a reader would see, counted inside the page
LOOK = """<script>
window.addEventListener("load", async () => {
  const shown = (element) => element.getBoundingClientRect().width > 20 && element.getBoundingClientRect().height > 5;
  const frames = async (image) => {
    const data = Uint8Array.from(atob(image.src.split(",")[1]), (letter) => letter.charCodeAt(0));
    const decoder = new ImageDecoder({data, type: "image/gif"});
    await decoder.tracks.ready;
    await decoder.completed;
    return decoder.tracks.selectedTrack.frameCount;
  };
  const images = [...document.images];
  const seen = {
    plots: [...document.querySelectorAll("svg")].filter(shown).length,
    lines: [...document.querySelectorAll("svg polyline, svg path")].filter(shown).length,
    pictures: images.filter((image) => image.complete && image.naturalWidth > 0 && shown(image)).length,
    frames: await Promise.all(images.map(frames)),
    wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
  };
  document.body.insertAdjacentHTML("beforeend", `<code id="seen">${JSON.stringify(seen)}</code>`);
});
</script></body>"""


def look(page, profile, width: int = 1200) -> dict:
    """What a browser shows of a page."""
    page.write_text(page.read_text().replace("</body>", LOOK))
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    size = [f"--user-data-dir={profile}", f"--window-size={width},900", "--virtual-time-budget=10000", "--dump-dom"]
    command = [BROWSER, *flags.split(), *size, page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return json.loads(re.findall(r'<code id="seen">(.*?)</code>', dom)[-1])


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: its package is chromium")
def test_a_browser_shows_plots_and_moving_pictures(tmp_path):
    clip = Clip("noise", np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), dtype=np.uint8), 8)
    still = Clip("still", np.zeros((1, 32, 32, 3), np.uint8), 8)
    lines = [
        Line("tokens", [(1, 0.2, 0.1, 0.3), (2, 0.6, 0.5, 0.7)]),
        Line("latents", [(1, 0.1, 0, 0.2), (2, 0.7, 0.6, 0.8)]),
    ]
    plot = Plot("quality", "evaluations", "share", lines)
    sections = [Section("Clips", ["In words."], [Table(["a", "b"], [[clip, still]])]), Section("Curves", plots=[plot])]
    seen = look(write_report(tmp_path, "A report", sections), tmp_path / "profile", width=600)
    assert seen.pop("lines") >= 2
    assert seen == {"plots": 1, "pictures": 2, "frames": [5, 1], "wide": False}

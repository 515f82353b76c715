"""The card of a model: its ``README.md``, with the YAML head that hubs read, as Mitchell et al. 2019 ask for
("Model Cards for Model Reporting", arXiv 1810.03993): what it is, how to use it, data, recipe, scores."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from torch import nn

from generator.editing import TASKS
from generator.masked import MaskedGenerator
from generator.masked_latents import MaskedLatentsGenerator
from generator.pipeline import VideoGenerator

USE = """\
```python
from generator.pipeline import VideoGenerator

generator = VideoGenerator.from_pretrained("{source}")
videos = generator("{prompt}", num=4, seed=0)  # (4, 3, {frames}, {height}, {width}) in [-1, 1]
```

```
python sample.py --model {source} --prompt "{prompt}" --out clip.mp4
```
"""

USE_UPSCALER = """\
```python
from generator.pipeline import VideoGenerator

upscaler = VideoGenerator.from_pretrained("{source}")
larger = upscaler.upscale(videos, "{prompt}")  # videos (b, 3, t, h, w) in [-1, 1], {times} times as high and wide
```

```
python sample.py --model {source} --task upscale --input small.mp4 --prompt "{prompt}" --out large.mp4
```
"""

READING = "Shares stand with their 95% intervals, other means with their standard errors (±)."


def model_card(
    model: VideoGenerator,
    name: str,
    source: str,
    license: str,
    recipe: dict | None,
    steps: int | None,
    scores: Sequence[dict],
    notes: str,
) -> str:
    """Markdown.

    Args:
        source: what ``from_pretrained`` takes to load it: a hub id or a folder.
        recipe: what training was configured with, whose ``data`` is quoted; it lies beside as ``recipe.yaml``.
        steps: how many of its steps were taken; None: all.
        scores: results of ``python -m evaluation``.
        notes: further Markdown: data in words, hardware, time, limits.
    """
    masked = isinstance(model.generator, MaskedGenerator | MaskedLatentsGenerator)
    head = {
        "license": license,
        "library_name": "tessera",
        "pipeline_tag": "text-to-video",
        "tags": ["tessera", "text-to-video", "video-tokenizer", "masked-generation" if masked else "diffusion"],
    }
    prompt = first_prompt(recipe) or "a red circle moves right"
    times = getattr(model.generator, "upscale", 1)
    use = USE_UPSCALER if times > 1 else USE
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {name}",
        "Text to video: a causal 3D tokenizer and a text-conditioned transformer, in one folder of `config.yaml` and "
        "safetensors.",
        use.format(source=source, prompt=prompt, times=times, **model.clip).rstrip(),
        "## Model",
        table(["", ""], [[about, value] for about, value in facts(model).items()]),
        "## Training",
        training(recipe, steps),
        notes.strip(),
        *(["## Scores", READING, *map(score_section, scores)] if scores else []),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def facts(model: VideoGenerator) -> dict[str, str]:
    """What the parts say of themselves."""
    tokenizer, generator, clip = model.tokenizer, model.generator, model.clip
    grid = tokenizer.latent_shape(clip["frames"], clip["height"], clip["width"])
    ft, fs = tokenizer.time_compression, tokenizer.space_compression
    codes = f"{tokenizer.codebook_size:.3g} codes" if tokenizer.codebook_size else "no codes"
    trained = getattr(generator, "trained_for", None)
    tasks = [task for task, about in TASKS.items() if trained is None or set(about.needs) <= set(trained)]
    rate = f" at {clip['fps']:g} frames a second" if clip.get("fps") else ""
    longer = f", some of {model.window}" if model.window > clip["frames"] else ""
    return {
        "trained on clips of": f"{clip['frames']} frames of {clip['height']}x{clip['width']}{rate}{longer}",
        "latent grid": f"{grid[0]}x{grid[1]}x{grid[2]}, {ft}x{fs}x{fs} compression",
        "tokenizer": f"{part(tokenizer.quantizer)}, {codes}, {size(tokenizer)}",
        "generator": f"{part(generator)}, {size(generator)}, captions by {part(generator.text)}",
        "trained for": ", ".join(tasks),
    }


def part(module: nn.Module) -> str:
    return f"`{module.config['class_path'].rpartition('.')[2]}`"


def size(module: nn.Module) -> str:
    """Parameters in millions and megabytes of weights."""
    count = sum(p.numel() for p in module.parameters())
    stored = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    return f"{count / 1e6:.2f}M parameters ({stored / 1e6:.1f} MB)"


def training(recipe: dict | None, steps: int | None) -> str:
    if recipe is None:
        return "The recipe was not kept."
    planned = recipe.get("trainer", {}).get("max_steps")
    taken = f", {steps} of {planned} steps" if steps and steps != planned else f", {planned} steps" if planned else ""
    said = f"`python train.py fit -c recipe.yaml`{taken}"
    if not recipe.get("data"):
        return f"{said}."
    block = yaml.safe_dump({"data": recipe["data"]}, sort_keys=False).strip()
    return f"{said}, on\n\n```yaml\n{block}\n```"


def first_prompt(recipe: dict | None) -> str | None:
    """The first of the prompts that training drew samples of."""
    callbacks = (recipe or {}).get("trainer", {}).get("callbacks") or []
    prompts = [prompt for each in callbacks for prompt in (each.get("init_args") or {}).get("prompts", [])]
    return prompts[0] if prompts else None


def score_section(result: dict) -> str:
    """One result: what it was measured on, and its scores, of one set or of several side by side."""
    protocol, scores = result["protocol"], result["scores"]
    videos = "/".join(Path(result.get("videos", "clips")).parts[-2:])  # not whose disk they lay on
    rate = f" at {protocol['fps']:g} frames a second" if protocol.get("fps") else ""
    few = protocol.get("videos", protocol["clips"]) < protocol["clips"]
    windows = f", windows of {protocol['videos']} videos" if few else ""
    said = (
        f"{protocol['clips']} clips of {videos}{windows}, {protocol['frames']} frames of "
        f"{protocol['height']}x{protocol['width']}{rate} (reference {protocol['reference']}, code {protocol['code']}):"
    )
    nested = {name: cells for name, cells in scores.items() if "mean" not in cells}
    flat = {name: {"score": cell} for name, cell in scores.items() if "mean" in cell}
    tables = []
    for rows in filter(None, (flat, nested)):
        sets = list(dict.fromkeys(column for cells in rows.values() for column in cells))
        tables.append(table(["", *sets], [[n, *(cell(cells.get(s)) for s in sets)] for n, cells in rows.items()]))
    refused = [f"Not measured: {reason}." for reason in result.get("refused", [])]
    return "\n\n".join([said, *tables, *refused])


def cell(score: dict | None) -> str:
    """``66% (53-76)`` of a share with its 95% interval, ``0.123 ± 0.0041`` of a mean with its standard error."""
    if score is None:
        return ""
    if "low" in score:
        return f"{score['mean']:.0%} ({100 * score['low']:.0f}-{100 * score['high']:.0f})"
    return f"{score['mean']:.4g}" + (f" ± {score['error']:.2g}" if "error" in score else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

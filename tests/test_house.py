"""The house rules of the code: who may import whom, and how flags are written."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ["data", "vq", "generator", "evaluation"]
PROGRAMS = ["train", "sample", "demo", "compare"]
FILES = [p for floor in FLOORS for p in (ROOT / floor).rglob("*.py")] + [ROOT / f"{p}.py" for p in PROGRAMS]


def imports(path: Path) -> set[str]:
    """The modules that a file imports from, and their packages."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names | {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_come_from_floors_below(path):
    place = path.relative_to(ROOT)
    floor = FLOORS.index(place.parts[0]) if len(place.parts) > 1 else len(FLOORS)
    above = set(FLOORS[floor + 1 :]) | (set(PROGRAMS) if len(place.parts) > 1 else set())
    assert not imports(path) & above
    may_use_lightning = place.name in ("training.py", "callbacks.py") or place.parts in (
        ("data", "module.py"),
        ("generator", "frozen.py"),
        ("train.py",),
    )
    assert may_use_lightning or "lightning" not in imports(path)
    if str(place) != "data/hub.py":
        assert "transformers" not in imports(path)
    if str(place) not in ("generator/text.py", "generator/prompts.py", "data/captions.py", "evaluation/features.py"):
        assert "data.hub" not in imports(path)  # which hands transformers to those that load models
    if str(place) != "vq/quantizers.py":
        assert "vector_quantize_pytorch" not in imports(path)


def test_flags_are_written_with_underscores():
    """As LightningCLI writes them. The first name of a flag is its own; others may follow."""
    for path in [*FILES, *(ROOT / "benchmarks").glob("*.py")]:
        flags = re.findall(r'add_argument\(\s*"--([^"]+)"', path.read_text())
        assert not [flag for flag in flags if "-" in flag], path

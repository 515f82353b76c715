"""The benchmark of a card's peak runs to its end with nobody at it, whatever fails on the way."""

import importlib
import json
import math
import sys
from pathlib import Path

import pytest
import torch

TINY = "--size xs --tokenizer xs --clip 5 16 16 --batch 2 --steps 2 --seconds 0 --codebooks 1k --eager --device cpu"


@pytest.fixture
def throughput(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("throughput")


def test_every_measurement_is_made_or_says_why_not(throughput, tmp_path, monkeypatch, capsys):
    for rival in ("phenaki_pytorch", "magvit2_pytorch"):
        monkeypatch.setitem(sys.modules, rival, None)
    file = tmp_path / "new/rows.jsonl"
    rows = throughput.main([*TINY.split(), "--out", str(file)])
    machine, *written = map(json.loads, file.read_text().splitlines())
    assert written == rows
    skipped = {row["who"]: row["skipped"] for row in rows if "skipped" in row}
    for rival in ("phenaki-pytorch", "magvit2-pytorch"):
        assert f"it is not installed (import of {rival.replace('-', '_')}" in skipped[rival]
        assert f"pip install {rival}==" in skipped.pop(rival)
    assert not skipped
    made = [row for row in rows if "skipped" not in row]
    assert all(0 < row["shortest"] <= row["seconds"] <= row["longest"] for row in made)
    trained = [row for row in made if row["part"].startswith("training")]
    assert [row["part"].partition(",")[0] for row in trained] == [
        "training generators",
        "training tokenizers of size xs",
        "training matched tokenizers",
    ]
    for row in trained:
        assert row["of_products"] == pytest.approx(row["flops"] / row["seconds"] / machine["peaks"]["of_products"])
    said = capsys.readouterr().out
    for part in {row["part"] for row in rows}:
        assert said.count(f"\n{part}\n") == 1


def test_a_part_alone_and_where_its_time_goes(throughput, tmp_path, capsys):
    flags = [*TINY.split(), "--parts", "decoding", "--costliest", "2", "--out", str(tmp_path / "rows.jsonl")]
    row, _ = throughput.main(flags)
    assert row["part"] == "decoding by matched tokenizers" and len(row["operations"]) == 2
    (name, times, milliseconds), (_, _, less) = row["operations"]
    assert milliseconds >= less > 0 and f"{milliseconds:.2f} ms in {times} x {name}" in capsys.readouterr().out


def test_a_batch_that_does_not_fit_is_halved(throughput):
    def measure(batch, most):
        if batch > most:
            raise torch.OutOfMemoryError("too large")
        return {"batch": batch}

    def row(most):
        return throughput.attempt(throughput.Job("a", "b", 12, lambda batch: measure(batch, most)), math.inf)

    assert row(4)["batch"] == 3
    assert row(0)["skipped"] == "OutOfMemoryError: too large"


def test_what_fails_and_what_comes_too_late_are_a_sentence(throughput):
    def fails(batch):
        raise RuntimeError("a driver\nsays no")

    job = throughput.Job("a", "b", 1, fails)
    assert throughput.attempt(job, math.inf) == {"part": "a", "who": "b", "skipped": "RuntimeError: a driver says no"}
    assert "no time was left" in throughput.attempt(job, -math.inf)["skipped"]
    with pytest.raises(SystemExit, match="16 frames do not fit 4x compression"):
        throughput.main([*TINY.split(), "--clip", "16", "16", "16"])


def test_cards_are_known_by_their_names(throughput):
    cards = {"NVIDIA A100-SXM4-80GB": 312, "NVIDIA H200": 989, "NVIDIA H200 NVL": 835, "NVIDIA H100 PCIe": 756}
    assert {name: throughput.card_peak(name) / 1e12 for name in cards} == cards
    assert throughput.card_peak("cpu") is None


def test_times_are_those_of_the_rival_at_the_same_precision(throughput):
    def row(who, precision, seconds):
        numbers = {"batch": 2, "seconds": seconds, "first": 1.0, "memory": None, "flops": 6}
        return throughput.with_shares(
            {"who": who, "precision": precision, **numbers}, {"of_products": 100, "of_card": None}
        )

    rows = [
        row("rival", "bf16", 3.0),
        row("rival", "float32", 8.0),
        row("ours", "bf16", 1.5),
        row("ours", "float32", 2.0),
    ]
    cells = [[cell.strip() for cell in line.split("|")] for line in throughput.table("", rows).splitlines()[5:]]
    assert [(line[6], line[7], line[8]) for line in cells] == [
        ("1.00", "", "2.0%"),
        ("1.00", "", "0.8%"),
        ("2.00", "", "4.0%"),
        ("4.00", "", "3.0%"),
    ]

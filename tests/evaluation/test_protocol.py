"""Intervals, protocols and the cache: what a number is worth, and when two of them compare."""

import dataclasses

import pytest
import torch

from evaluation.extractor import Extractor
from evaluation.fidelity import classes_right, read_classes
from evaluation.intervals import jackknife, mean_and_error, wilson
from evaluation.protocol import ROOT, Protocol, code_version, compare
from evaluation.table import cell_text, comparison_table, score_table

PROTOCOL = Protocol(64, 64, 9, 32, 32, 8.0, "f00", "c0de", {"i3d": "one"})


def result(score: float, **changes) -> dict:
    protocol = dataclasses.asdict(dataclasses.replace(PROTOCOL, **changes))
    return {"protocol": protocol, "scores": {"kvd": {"samples": {"mean": score, "error": 0.5}}, "psnr": {"mean": 20.0}}}


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_intervals_that_are_known(hits, n, low, high):  # the last one: Newcombe 1998, table I
    cell = wilson(hits, n)
    assert (cell["mean"], cell["n"]) == (hits / n, n)
    assert (cell["low"], cell["high"]) == pytest.approx((low, high), abs=1e-4)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert jackknife((values.sum() - values) / 29) == pytest.approx(mean_and_error(values)["error"])


def test_results_of_one_protocol_compare():
    rows = compare(result(3.0), result(1.0, features={"i3d": "one", "clip": "another"}))
    assert [(name, a["mean"], b["mean"]) for name, a, b in rows] == [("kvd, samples", 3, 1), ("psnr", 20, 20)]
    table = comparison_table(rows, ("a", "b"))
    assert "3 ±0.5" in table and "-2 ±1.4" in table  # 1.96 times the root of 0.5 squared twice


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clips": 32}, "clips 64 against 32"),
        ({"fps": None}, "fps 8.0 against None"),
        ({"features": {"i3d": "two"}}, "features.i3d one against two"),
        ({"reference": "bad", "code": "0"}, "reference f00 against bad; code c0de against 0"),
    ],
)
def test_different_protocols_are_refused(changes, words):
    with pytest.raises(ValueError, match="different protocols") as refusal:
        compare(result(3.0), result(1.0, **changes))
    assert words in str(refusal.value) and "\n" not in str(refusal.value)
    assert compare(result(3.0), result(1.0, **changes), across=list(changes))


def test_other_programs_results_are_refused():
    other = result(1.0)
    other["protocol"]["sampling"] = {"steps": 8}
    with pytest.raises(ValueError, match=r"sampling\.steps not said against 8"):
        compare(result(3.0), other)
    assert compare(result(3.0), other, across=["sampling"])


def test_the_code_version_is_that_of_the_source(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.py").write_text("x = 1")
    before = code_version(tmp_path, ["a"])
    assert code_version(tmp_path, ["a"]) == before and code_version(tmp_path, ["a/b.py"]) == before
    (tmp_path / "a/b.py").write_text("x = 2")
    assert code_version(tmp_path, ["a"]) != before


def test_features_are_computed_once_for_what_a_clip_shows(tmp_path):
    looked = []

    def network(video, texts=None):
        looked.append(len(video))
        return video.flatten(1)[:, :4] * (1 if texts is None else len(texts[0]))

    video = torch.rand(5, 3, 2, 4, 4).mul(255).round() / 127.5 - 1
    cached = Extractor("a", network, "one", folder=tmp_path)
    first = cached(video[:3])
    assert torch.equal(cached(video), Extractor("a", network, "one")(video)) and torch.equal(cached(video)[:3], first)
    assert looked == [3, 2, 5]
    Extractor("a", network, "two", folder=tmp_path)(video)  # another network
    cached(video, ["a"] * 5)  # the same clips with texts
    assert torch.equal(cached(video.flip(0)), video.flip(0).flatten(1)[:, :4])
    assert looked == [3, 2, 5, 5, 5]


def test_the_likeliest_class_of_those_present(tmp_path):
    logits = torch.zeros(4, 400)
    logits[:, 7] = 9  # of no label
    logits[[0, 1, 2, 3], [1, 3, 2, 1]] = 1
    classes = {"a": [1], "b": [2, 3], "absent": [7]}
    assert classes_right(logits, ["a", "b", "b", "b"], classes)["mean"] == 0.75
    with pytest.raises(ValueError, match="'c'"):
        classes_right(logits, ["a", "b", "b", "c"], classes)
    assert read_classes(ROOT / "configs/evaluation/ucf6.yaml")["Archery"] == [5]
    (tmp_path / "bad.yaml").write_text("a: [400]")
    for path in (tmp_path / "bad.yaml", tmp_path / "none.yaml"):
        with pytest.raises(ValueError, match="no classes can be read"):
            read_classes(path)


def test_tables():
    assert cell_text(wilson(5, 10)) == "50% (24-76)"
    assert cell_text({"mean": 0.12345, "error": 0.00678}) == "0.123 ±0.0068"
    assert cell_text({"mean": 1234.5}) == "1234"
    table = score_table({"a": {"x": {"mean": 1.0}}, "b": {"x": {"mean": 2.0}}, "c": {"y": {"mean": 3.0}}})
    assert [line.split() for line in table.splitlines()] == [[], ["x"], ["a", "1"], ["b", "2"], [], ["y"], ["c", "3"]]

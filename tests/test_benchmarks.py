"""The programs behind the tables of docs/tasks.md run to their end, and say what they measure."""

import importlib
import json
import re
from pathlib import Path

import pytest
import torch

from generator.jobs import FORGET
from generator.pipeline import VideoGenerator
from generator.tasks import Canvas
from vq import pretrained

SIZE = {"frames": 9, "height": 32, "width": 32, "fps": 8.0}


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def saved(tokenizer, generator, tmp_path) -> str:
    return str(pretrained.save(tmp_path / "model", SIZE, tokenizer=tokenizer, generator=generator))


def rows(text: str) -> dict[str, list[str]]:
    """The cells of a Markdown table by its first column."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): [cell.strip(" |") for cell in cells[1:]] for cells in lines}


@pytest.mark.filterwarnings("ignore:this model was trained for")
def test_every_task_has_its_row_and_its_picture(program, saved, tmp_path, capsys):
    program("tasks").main(["--model", saved, "--clips", "2", "--sheets", str(tmp_path)])
    table = rows(capsys.readouterr().out)
    made = [
        "image2video",
        "extend",
        "extend-back",
        "interpolate",
        "inpaint",
        "outpaint",
        "edit",
        "story",
        "connect",
        "loop",
    ]
    assert set(made) <= set(table) and all(table[name][0] == "2" for name in made)
    for name in ("image2video", "extend"):
        assert table[name][5] == "0.000"  # what is given comes out as its reconstruction, bit for bit
    assert re.match(r"\d+% \(\d+ to \d+\)", table["reconstructions"][4])
    assert {f"{name}.png" for name in [*made, "tasks"]} <= {file.name for file in tmp_path.iterdir()}


@pytest.fixture
def capabilities(program, monkeypatch):
    module = program("capabilities")
    monkeypatch.setattr(module, "EXTENSIONS", 1)
    return module


@pytest.mark.filterwarnings("ignore:this model was trained for")
def test_every_capability_is_tested_and_found_again(capabilities, saved, tmp_path, capsys, monkeypatch):
    flags = ["--model", saved, "--clips", "2", "--out", str(tmp_path / "out")]
    capabilities.main(flags)
    said = capsys.readouterr().out
    table = rows(said)
    assert len(table) == 16 and "H1 capability: NUMBERS ONLY" in said and "the twin was not run" in said
    known = {name for name, cells in table.items() if cells[4] == "all"}
    assert known == set(table) - {
        "task",
        "text2video",
        "text2image",
        "another size",
        "another length",
        "ten extensions",
    }
    assert {name for name, cells in table.items() if "(" in cells[5]} == known - {"edit"}
    assert {name for name, cells in table.items() if not cells[1]} == {"connect", "ten extensions"}
    assert {name for name, cells in table.items() if not cells[3]} == {"edit", "story", "connect", "ten extensions"}
    monkeypatch.setattr(capabilities, "run_task", lambda *rest: pytest.fail("this was done before"))
    capabilities.main([*flags, "--tasks", "extend"])
    assert capsys.readouterr().out == said
    (tmp_path / "out/loop.json").unlink()
    capabilities.main([*flags, "--tasks", "extend"])
    assert "NOT MEASURED" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"\.json is of another latents"):
        capabilities.main([*flags, "--tasks", "extend", "--beside", str(tmp_path / "out")])
    there = json.loads((tmp_path / "out/extend.json").read_text())
    there["about"] |= {"latents": True, "model": "the twin"}
    (tmp_path / "twin").mkdir()
    (tmp_path / "twin/extend.json").write_text(json.dumps(there))
    capabilities.main([*flags, "--tasks", "extend", "--beside", str(tmp_path / "twin")])
    assert "the twin was not run" not in capsys.readouterr().out
    for wrong, words in (
        (["--model", saved, "--clips", "3", "--out", str(tmp_path / "out")], r"\.json is of another clips: delete it"),
        ([*flags, "--tasks", "extend", "--beside", str(tmp_path)], "holds none of these tasks"),
    ):
        with pytest.raises(ValueError, match=words):
            capabilities.main(wrong)
    with pytest.raises(SystemExit):
        capabilities.main([*flags, "--tasks", "dance"])
    assert "no task is called 'dance'" in capsys.readouterr().err


def test_what_is_known_in_pixels_and_what_crosses_its_border(capabilities, tokenizer):
    cells = torch.zeros(1, 3, 2, 2, dtype=torch.bool)
    cells[0, :2, :, 0] = True
    fs = tokenizer.space_compression
    for middle, frames, until in ((False, 9, 5), (True, 12, 8), (True, 16, 8)):
        canvas = Canvas(cells.long(), cells, 7, middle=middle)
        new = capabilities.in_pixels(canvas, frames, tokenizer)
        assert new.shape == (frames, 2 * fs, 2 * fs)
        assert not new[:until, :, :fs].any() and new[:until, :, fs:].all()
        assert new[until:12].all() and not new[12:].any()  # what is behind the canvas is not made
    piece = capabilities.in_pixels(Canvas(cells.long(), cells, 7).span(1, 3), 13, tokenizer)
    assert not piece[:1].any() and piece[1:5, :, fs:].all() and piece[5:9].all()  # where it is in the video
    assert piece.sum() == 4 * 2 * fs * fs + 4 * 4 * fs * fs
    video = torch.zeros(3, 4, 2, 6)
    video[..., 3:] = torch.tensor([0.5, 0.7, 0.9])  # by .5 across the border, by .2 within
    turns = torch.zeros(4, 2, 6, dtype=torch.long)
    turns[..., 3:] = 1
    border, expected = capabilities.across(video, turns)
    assert border == pytest.approx(8 * 0.5) and expected == pytest.approx(8 * 0.2)
    assert capabilities.across(video, 1 - turns) == (pytest.approx(8 * 0.5), 0)  # within what is new nothing differs
    turns[..., 5:] = 2
    border, expected = capabilities.across(video, turns)  # two borders, .5 and .2, and one pair within a turn
    assert border == pytest.approx(8 * 0.7) and expected == pytest.approx(16 * 0.2)


@pytest.mark.filterwarnings("ignore:this model was trained for")
@pytest.mark.parametrize("trained", [(), ("transitions",)])
def test_what_is_new_is_found_where_it_is_in_the_video(capabilities, saved, trained):
    model = VideoGenerator.from_pretrained(saved)
    model.generator.trained_for = ("text", "ends", *trained)
    watched, clip = capabilities.Watched(model), torch.rand(3, 9, 32, 32) * 2 - 1
    story = capabilities.Case(["a", "b"], clip, [], job={"frames": 33, "window": 9})
    _, kept, turns = watched(story, "story", 0)
    assert kept and not turns[:13].any() and (turns[13:] > 0).all()  # the second prompt's part, from its border on
    ends = [torch.rand(3, 17, 32, 32) * 2 - 1 for _ in range(2)]
    connection = capabilities.Case("a, then b", clip, [], ends, {"frames": 25, "window": 9})
    _, kept, turns = watched(connection, "connect", 0)
    assert kept and turns[9:17].any() and not turns[:9].any() and not turns[17:].any()


def test_integers_and_pixels_drift_beside_the_real_clips(program, saved, lpips_weights, capsys):
    flags = ["--clips", "2", "--extensions", "2", "--sampling", '{"steps": 2}', "--lpips", lpips_weights]
    program("drift").main(["--model", saved, *flags])
    said = capsys.readouterr().out
    for arm in ("real clips", "integers", "encoded anew"):
        part = said.partition(f"{arm}\n")[2].splitlines()[:3]
        assert [line.split()[0] for line in part] == ["brightness", "contrast", "LPIPS"]
        assert all(len(re.findall(r" -?\d\.\d{3}(?= )", line)) == 3 for line in part)  # the clip and two extensions


def test_edits_of_every_strength(program, saved, capsys):
    program("edits").main(["--model", saved, "--clips", "2", "--strengths", "0.5", "1"])
    said = capsys.readouterr().out.splitlines()
    arms = [f"{forget} {strength}" for strength in ("0.5", "1") for forget in FORGET]
    assert [re.split(r"\s+new colour", line)[0] for line in said] == ["reconstruction", *arms]


def test_large_codebooks_beside_a_plain_softmax(program, capsys):
    program("heads").main(["--cells", "4", "--width", "64", "--rounds", "1"])
    table = rows(capsys.readouterr().out)
    assert set(table) >= {"1k", "4k", "64k"} and table["64k"][0] == "512 x 125"


def test_what_it_costs_that_an_end_does_not_know_its_past(program, saved, capsys):
    program("tails").main(["--model", saved, "--clips", "2"])
    table = rows(capsys.readouterr().out)
    assert set(table) >= {"1", "5"} and re.fullmatch(r"\d+%", table["5"][0]) and "±" in table["5"][3]

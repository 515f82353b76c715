"""What users get wrong is one line."""

import pytest

from data.commands import Parser, find_device, in_words, run


def test_a_wrong_argument_is_one_line_and_status_2(capsys):
    parser = Parser(prog="python -m x")
    parser.add_argument("--size", type=int | None)
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--size", "large"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1 and "Given value: large" in said and "int" in said


def test_what_a_program_refuses_is_one_line_and_status_2(capsys, monkeypatch):
    def refuse():
        raise ValueError("Does not validate\n  - 10 frames do not fit\n  - Expected a <class 'NoneType'>")

    with pytest.raises(SystemExit) as stopped:
        run(refuse)
    assert stopped.value.code == 2 and capsys.readouterr().err == "error: 10 frames do not fit\n"
    monkeypatch.setenv("TESSERA_DEBUG", "1")
    with pytest.raises(ValueError, match="10 frames"):
        run(refuse)
    assert run(lambda: 3) == 3 and in_words("plain") == "plain"
    handed_on = (
        "Caught VideoError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "folder.py", line 9, in fetch\ndata.video.VideoError: x: none of 3 files can be used\n'
    )
    assert in_words(handed_on) == "x: none of 3 files can be used"


def test_devices(monkeypatch):
    assert find_device("cpu") == "cpu" and find_device("auto") in ("cpu", "cuda")
    with pytest.raises(ValueError, match="--device abacus cannot be used here: expected auto, cpu, cuda"):
        find_device("abacus")

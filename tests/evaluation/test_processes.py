"""Parts of a program as processes of their own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from evaluation.processes import portions, run_parts

PROGRAM = """
import os, sys, time
from pathlib import Path
folder, name = Path(sys.argv[1]), sys.argv[2]
(folder / name).touch()
if name == "bad":
    sys.exit("error: not this one")
if name == "killed":
    print("error: something else", flush=True)
    os.kill(os.getpid(), 9)
if name == "slow":
    for i in range(600):
        (folder / "beat").write_text(str(i))
        time.sleep(0.1)
for _ in range(1000):  # until the other is there: both are at work
    if all((folder / other).exists() for other in "ab"):
        break
    time.sleep(0.02)
print(name, os.environ["OMP_NUM_THREADS"], sum((folder / other).exists() for other in "ab"))
"""


@pytest.fixture
def command(tmp_path) -> list[str]:
    (tmp_path / "program.py").write_text(PROGRAM)
    return [str(tmp_path / "program.py"), str(tmp_path)]


def logs(folder: Path, *names: str) -> dict[str, Path]:
    return {name: folder / f"logs/{name}.txt" for name in names}


def test_parts_run_side_by_side_and_say_what_they_say_into_their_files(command, tmp_path):
    run_parts(command, logs(tmp_path, "a", "b"), 2)
    said = {name: log.read_text().split()[::2] for name, log in logs(tmp_path, "a", "b").items()}
    assert said == {"a": ["a", "2"], "b": ["b", "2"]}


def test_a_part_that_fails_ends_the_others_and_no_further_begins(command, tmp_path):
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"^bad failed \(see .*bad.txt\): not this one$"):
        run_parts(command, logs(tmp_path, "slow", "bad", "a"), 2)
    assert time.monotonic() - began < 30 and not (tmp_path / "a").exists()


def test_what_an_earlier_run_has_said_is_not_taken_for_its_reason(command, tmp_path):
    (log,) = logs(tmp_path, "killed").values()
    log.parent.mkdir()
    log.write_text("error: delete it\n")
    with pytest.raises(ValueError, match=r"^killed failed .*: ended by SIGKILL$"):
        run_parts(command, logs(tmp_path, "killed"), 1)
    assert log.read_text() == "error: delete it\nerror: something else\n"


def test_no_part_outlives_a_program_that_is_terminated(command, tmp_path):
    """Or the same command once more would train beside it, in the same folder."""
    script = (
        "import sys; from pathlib import Path; from evaluation.processes import run_parts\n"
        "run_parts(sys.argv[1:3], {'slow': Path(sys.argv[3])}, 1)"
    )
    root, beat = Path(__file__).parents[2], tmp_path / "beat"
    parent = subprocess.Popen([sys.executable, "-c", script, *command, str(tmp_path / "log.txt")], cwd=root)
    until(beat.exists)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(30) == 128 + signal.SIGTERM
    last = beat.read_text()
    time.sleep(0.5)
    assert beat.read_text() == last


def until(true) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.05)
    pytest.fail("waited for half a minute")


def test_each_has_its_share_of_the_machine(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert portions(3) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert portions(99)[0] == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [share["CUDA_VISIBLE_DEVICES"] for share in portions(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    assert [share["CUDA_VISIBLE_DEVICES"] for share in portions(2)] == ["5", "GPU-7"]

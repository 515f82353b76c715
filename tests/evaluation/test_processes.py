"""Parts of a program as processes of their own."""

import pytest
import torch

from evaluation.processes import portions, run_parts

PROGRAM = """
import os, sys, time
from pathlib import Path
folder, name = Path(sys.argv[1]), sys.argv[2]
if name == "bad":
    sys.exit("error: not this one")
(folder / name).touch()
for _ in range(1000):  # until the other is there: both are at work
    if all((folder / other).exists() for other in "ab"):
        break
    time.sleep(0.02)
print(name, os.environ["OMP_NUM_THREADS"], sum((folder / other).exists() for other in "ab"))
"""


def test_parts_run_side_by_side_and_say_what_they_say_into_their_files(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    logs = {name: tmp_path / f"logs/{name}.txt" for name in "ab"}
    run_parts([str(tmp_path / "program.py"), str(tmp_path)], logs, 2)
    assert {name: log.read_text().split()[::2] for name, log in logs.items()} == {"a": ["a", "2"], "b": ["b", "2"]}


def test_a_part_that_fails_is_told_and_no_other_begins(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    logs = {name: tmp_path / f"{name}.txt" for name in ("bad", "a", "b")}
    with pytest.raises(ValueError, match=r"^bad failed \(see .*bad.txt\): not this one$"):
        run_parts([str(tmp_path / "program.py"), str(tmp_path)], logs, 1)
    assert not (tmp_path / "b").exists()


def test_each_has_its_share_of_the_machine(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert portions(3) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert portions(99)[0] == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [share["CUDA_VISIBLE_DEVICES"] for share in portions(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    assert [share["CUDA_VISIBLE_DEVICES"] for share in portions(2)] == ["5", "GPU-7"]

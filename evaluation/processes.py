"""Parts of a program as processes of their own, a few at once, with a share of the cores or a GPU each."""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import torch


def run_parts(command: Sequence[str], parts: dict[str, Path], processes: int) -> None:
    """Runs ``command`` with each part's name behind it; what a process says goes into the part's file.

    Raises ``ValueError`` with the last line of the first that fails. Those at work then come to their end, no other
    begins.
    """
    shares: Queue[dict[str, str]] = Queue()
    for share in portions(processes):
        shares.put(share)

    def run_part(name: str, log: Path) -> None:
        share = shares.get()
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            print(f"{name}: see {log}", flush=True)
            with log.open("a") as file:
                done = subprocess.run(
                    [sys.executable, *command, name], env=os.environ | share, stdout=file, stderr=subprocess.STDOUT
                )
        finally:
            shares.put(share)
        if done.returncode:
            said = log.read_text(errors="replace").split("\n")
            last = next((line for line in reversed(said) if line.strip()), "it said nothing")
            raise ValueError(f"{name} failed (see {log}): {last.strip().removeprefix('error: ')}")

    with ThreadPoolExecutor(processes) as pool:
        begun = [pool.submit(run_part, name, log) for name, log in parts.items()]
        try:
            for part in begun:
                part.result()
        finally:
            pool.shutdown(cancel_futures=True)


def portions(processes: int) -> list[dict[str, str]]:
    """What each of so many processes is to find in its environment: threads, and on a machine of several GPUs one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {"OMP_NUM_THREADS": str(max(1, cores // processes))}
    if (count := torch.cuda.device_count()) < 2:
        return [threads] * processes
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    return [threads | {"CUDA_VISIBLE_DEVICES": seen[i % len(seen)]} for i in range(processes)]

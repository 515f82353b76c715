"""Parts of a program as processes of their own, a few at once, with a share of the cores or a GPU each."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from threading import Lock, current_thread, main_thread

import torch


def run_parts(command: Sequence[str], parts: dict[str, Path], processes: int) -> None:
    """Runs ``command`` with each part's name behind it; what a process says goes into the part's file.

    Raises ``ValueError`` with what the first that fails has said last. No other begins then, and those at work are
    ended, as they are when this process is interrupted or terminated: they go on where they were another time.
    """
    shares: Queue[dict[str, str]] = Queue()
    for share in portions(processes):
        shares.put(share)
    at_work: set[subprocess.Popen] = set()
    ending, lock = False, Lock()

    def run_part(name: str, log: Path) -> None:
        nonlocal ending
        share = shares.get()
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as file, lock:
                if ending:
                    return
                before = file.tell()
                print(f"{name}: see {log}", flush=True)
                process = subprocess.Popen(
                    [sys.executable, *command, name], env=os.environ | share, stdout=file, stderr=subprocess.STDOUT
                )
                at_work.add(process)
            status = process.wait()
            with lock:
                at_work.discard(process)
                first, ending = status != 0 and not ending, ending or status != 0
        finally:
            shares.put(share)
        if first:
            raise ValueError(f"{name} failed (see {log}): {last_words(log, before, status)}")

    with ThreadPoolExecutor(processes) as pool, terminable():
        try:
            for part in as_completed([pool.submit(run_part, name, log) for name, log in parts.items()]):
                part.result()
        finally:
            with lock:
                ending = True
                for process in at_work:
                    process.terminate()
            pool.shutdown(cancel_futures=True)


def last_words(log: Path, start: int, status: int) -> str:
    """What a process that failed has written last, from byte ``start`` on."""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    said = log.read_bytes()[start:].decode(errors="replace").split("\n")
    return next((line.strip().removeprefix("error: ") for line in reversed(said) if line.strip()), "it said nothing")


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises ``SystemExit``, so that what has been begun is cleared away."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def portions(processes: int) -> list[dict[str, str]]:
    """What each of so many processes is to find in its environment: threads, and on a machine of several GPUs one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {"OMP_NUM_THREADS": str(max(1, cores // processes))}
    if (count := torch.cuda.device_count()) < 2:
        return [threads] * processes
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    return [threads | {"CUDA_VISIBLE_DEVICES": seen[i % len(seen)]} for i in range(processes)]

"""How fast do clips come out of a folder? Ours against the lower bound, on the same files, in one run.

    python benchmarks/decoding.py FOLDER [--frames 17 --height 64 --width 64 --seconds 10]

The bound is a plain PyAV loop that opens the same files at the same random starts, decodes every frame it needs and
throws it away: no resizing, no cropping, no tensors. Rounds of all contenders alternate until each had its seconds,
so that a machine that others share does not favour one of them.
"""

import argparse
import sys
import time
import warnings
from itertools import count, islice
from pathlib import Path

import av
import numpy as np
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).parent.parent))
from data.folder import Folder

ROUND = 128  # clips between two looks at the clock: many against the few that idle workers prefetch


class Plain(Dataset):
    """The decoding that `Folder` must do for a clip, and nothing else."""

    def __init__(self, folder: Folder):
        self.folder = folder

    def __getitem__(self, index: int) -> int:
        folder = self.folder
        when = np.random.default_rng([folder.seed, index]).random()  # Folder's first draw
        with av.open(str(folder.files[index % len(folder)])) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            fps, duration = float(stream.average_rate), float(stream.duration * stream.time_base)
            lasts = (folder.frames - 1) / (folder.fps or fps)
            start = when * max(0, duration - lasts - 1 / fps)
            container.seek(int(start / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time + 1 / fps > start + lasts:
                    break
        return index


def clips(dataset: Dataset, workers: int):
    """An endless iterator over a dataset, through a data loader."""
    return iter(DataLoader(dataset, sampler=count(), batch_size=None, num_workers=workers))


def measure(contenders: dict, seconds: float) -> dict[str, float]:
    """Clips a second of each contender, an endless iterator."""
    done, spent = dict.fromkeys(contenders, 0), dict.fromkeys(contenders, 0.0)
    for iterator in contenders.values():
        next(iterator)  # workers start
    while min(spent.values()) < seconds:
        for name, iterator in contenders.items():
            began = time.perf_counter()
            done[name] += sum(1 for _ in islice(iterator, ROUND))
            spent[name] += time.perf_counter() - began
    return {name: done[name] / spent[name] for name in contenders}


def main(args=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--fps", type=float)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args(args)

    warnings.simplefilter("ignore")  # too short files are passed over
    folder = Folder(options.folder, options.frames, options.height, options.width, options.fps, images=False)
    speeds = measure(
        {
            (who, workers): clips(dataset, workers)
            for workers in (0, 2)
            for who, dataset in (("plain", Plain(folder)), ("Folder", folder))
        },
        options.seconds,
    )
    print(f"{len(folder)} files, {options.frames} x {options.height} x {options.width}")
    print(f"{'reader':8} {'workers':>8} {'clips/s':>9} {'frames/s':>9} {'of plain':>9}")
    for (who, workers), speed in speeds.items():
        ratio = speed / speeds["plain", workers]
        print(f"{who:8} {workers:8} {speed:9.1f} {speed * options.frames:9.0f} {ratio:8.0%}")


if __name__ == "__main__":
    main()

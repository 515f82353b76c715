"""VideoData: a training and a validation set as Lightning loaders, and Batch, what they yield."""

import dataclasses
import itertools
from dataclasses import dataclass

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.buckets import StepBatches
from data.video import Example


@dataclass(frozen=True)
class Batch:
    """Clips of one shape: ``video`` (b, 3, t, h, w) in [-1, 1], their captions, frames a second, and attributes.

    ``skipped`` holds a line for each broken file that was passed over on the way.
    """

    video: Tensor
    text: list[str]
    fps: Tensor
    attributes: list[dict | None]
    skipped: tuple[str, ...] = ()

    def to(self, device, non_blocking: bool = False) -> "Batch":
        moved = {k: getattr(self, k).to(device, non_blocking=non_blocking) for k in ("video", "fps")}
        return dataclasses.replace(self, **moved)

    def pin_memory(self) -> "Batch":
        return dataclasses.replace(self, video=self.video.pin_memory(), fps=self.fps.pin_memory())


def collate(examples: list[Example]) -> Batch:
    """Examples of one shape -> a batch."""
    return Batch(
        video=torch.stack([e.clip for e in examples]),
        text=[e.text for e in examples],
        fps=torch.tensor([e.fps for e in examples], dtype=torch.float32),
        attributes=[e.attributes for e in examples],
        skipped=tuple(line for e in examples for line in e.skipped),
    )


class VideoData(L.LightningDataModule):
    """Training batches without end, chosen by (seed, step) alone, and a fixed number of validation clips.

    Args:
        train: data set of training clips.
        val: data set of validation clips; the first ``val_clips`` of it are used.
        batch_size: clips a step and process.
        val_clips: validation clips.
        num_workers: processes that read or render clips; 0 does it in the training process.
        seed: of the order of the clips.
    """

    def __init__(
        self,
        train: Dataset,
        val: Dataset,
        batch_size: int = 32,
        val_clips: int = 64,
        num_workers: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.batch_size, self.val_clips, self.num_workers, self.seed = batch_size, val_clips, num_workers, seed

    @property
    def clip(self) -> dict:
        """The size of the training clips: frames, height, width and fps (None: that of each file)."""
        return {axis: getattr(self.train, axis) for axis in ("frames", "height", "width", "fps")}

    def train_dataloader(self) -> DataLoader:
        batches = StepBatches(
            _groups(self.train),
            self.batch_size,
            seed=self.seed,
            # a resumed run has restored its step by now; batches are counted, not optimizer steps
            start=self.trainer.global_step * self.trainer.accumulate_grad_batches,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
        )
        return self._loader(self.train, batch_sampler=batches, persistent_workers=self.num_workers > 0)

    def val_dataloader(self) -> DataLoader:
        groups = _groups(self.val)
        indices = range(min(self.val_clips, len(self.val)))
        if isinstance(groups, list):  # neighbours of one shape share a batch
            indices = sorted(indices, key=lambda i: groups[i])
            runs = [list(run) for _, run in itertools.groupby(indices, key=lambda i: groups[i])]
        else:
            runs = [list(indices)]
        batches = [run[i : i + self.batch_size] for run in runs for i in range(0, len(run), self.batch_size)]
        return self._loader(self.val, batch_sampler=batches)

    def _loader(self, dataset: Dataset, **kwargs) -> DataLoader:
        return DataLoader(
            dataset,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            **kwargs,
        )


def _groups(dataset: Dataset) -> list | int:
    """The shape of each clip where clips differ in shape (``shape_of``), otherwise just their number."""
    if hasattr(dataset, "shape_of"):
        return [dataset.shape_of(i) for i in range(len(dataset))]
    return len(dataset)

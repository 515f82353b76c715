"""VideoData: a training and a validation set as Lightning loaders, and Batch, what they yield."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from data.buckets import Shape, StepBatches, clips_within, count_tokens
from data.tokens import TokenCache
from data.video import Example


@dataclass(frozen=True)
class Batch:
    """Clips of one shape: ``video`` (b, 3, t, h, w) in [-1, 1], their captions, frames a second, and attributes.

    Out of a token cache come ``tokens`` int64 (b, t', h', w') instead, and ``video`` is None; ``latents``
    (b, d, t', h', w') where it holds them; and of encoded texts ``words`` (b, l, d), of which the first
    ``word_counts`` (b,) count. Of games there are ``actions`` int64 (b, t), those that led to each frame. ``skipped``
    holds a line for each broken file that was passed over on the way. ``tails`` int64 (b,) are the frames at the end
    that are known, and encoded by themselves (``data.tails``); None: of no clip.
    """

    video: Tensor | None
    text: list[str]
    fps: Tensor
    attributes: list[dict | None]
    skipped: tuple[str, ...] = ()
    tokens: Tensor | None = None
    latents: Tensor | None = None
    words: Tensor | None = None
    word_counts: Tensor | None = None
    actions: Tensor | None = None
    tails: Tensor | None = None

    def to(self, device, non_blocking: bool = False) -> "Batch":
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}
        return dataclasses.replace(self, **{k: function(v) for k, v in tensors.items()})


def collate(examples: list[Example]) -> Batch:
    """Examples of one shape -> a batch."""
    return Batch(
        video=_stack([e.clip for e in examples]),
        text=[e.text for e in examples],
        fps=torch.tensor([e.fps for e in examples], dtype=torch.float32),
        attributes=[e.attributes for e in examples],
        skipped=tuple(line for e in examples for line in e.skipped),
        tokens=_stack([e.tokens for e in examples]),
        latents=_stack([e.latents for e in examples]),
        actions=_stack([e.actions for e in examples]),
        tails=torch.tensor([e.tail for e in examples]) if any(e.tail for e in examples) else None,
        **_padded([e.words for e in examples]),
    )


def _stack(tensors: list[Tensor | None]) -> Tensor | None:
    return None if tensors[0] is None else torch.stack(tensors)


def _padded(words: list[Tensor | None]) -> dict[str, Tensor]:
    if words[0] is None:
        return {}
    return {"words": pad_sequence(words, batch_first=True), "word_counts": torch.tensor([len(w) for w in words])}


class VideoData(L.LightningDataModule):
    """Training batches without end, chosen by (seed, step) alone, and a fixed number of validation clips.

    Args:
        train: data set of training clips.
        val: data set of validation clips; the first ``val_clips`` of it are used.
        batch_size: clips a step and process.
        token_budget: tokens a step and process, in place of ``batch_size``: of larger clips a batch holds fewer.
        compression: frames and pixels a side of a token, to count them by; of a token cache they are there to be seen.
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
        token_budget: int | None = None,
        compression: tuple[int, int] = (4, 8),
    ) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.token_budget, self.compression = token_budget, compression
        self.batch_size, self.val_clips, self.num_workers, self.seed = batch_size, val_clips, num_workers, seed

    @property
    def clip(self) -> dict:
        """The size of the training clips, of windows that of the whole: frames, height, width and fps (None: that of
        each file)."""
        whole = getattr(self.train, "whole", self.train)
        return {axis: getattr(whole, axis) for axis in ("frames", "height", "width", "fps")}

    def clips_a_batch(self, dataset: Dataset, shape: Shape | None = None) -> int:
        """Clips a step and process, of a shape of the data set; None: of the only one."""
        if self.token_budget is None:
            return self.batch_size
        return clips_within(self.token_budget, self.tokens(dataset, shape or sizes_of(dataset)[0]))

    def tokens(self, dataset: Dataset, shape: Shape) -> int:
        """Tokens of a clip of a shape of the data set."""
        return count_tokens(shape, (1, 1) if isinstance(dataset, TokenCache) else self.compression)

    @property
    def sizes(self) -> list[Shape]:
        """Frames, height and width of all training clips, in pixels."""
        if isinstance(self.train, TokenCache):
            return [(self.train.frames, self.train.height, self.train.width)]
        return sizes_of(self.train)

    def train_dataloader(self) -> DataLoader:
        batches = StepBatches(
            groups(self.train),
            partial(self.clips_a_batch, self.train),
            seed=self.seed,
            # a resumed run has restored its step by now; batches are counted, not optimizer steps
            start=self.trainer.global_step * self.trainer.accumulate_grad_batches,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
        )
        for line in self.report(batches):
            rank_zero_info(line)
        return self.loader(self.train, batches, persistent_workers=self.num_workers > 0)

    def report(self, batches: StepBatches) -> list[str]:
        """What there is of each shape where there are several, and how much of the budget and the pictures is used."""
        if len(batches.groups) == 1:
            return []
        lines = []
        for shape, clips, size in zip(batches.groups, batches.members, batches.sizes, strict=True):
            tokens = size * self.tokens(self.train, shape) / batches.world
            full = f", {tokens / self.token_budget:.0%} of the token budget" if self.token_budget else ""
            lines.append(f"{'x'.join(map(str, shape))}: {len(clips)} clips, {size} a batch{full}")
        if hasattr(self.train, "kept"):
            lines.append(f"{self.train.kept:.0%} of the pictures' area is left after cropping")
        return lines

    def val_dataloader(self) -> DataLoader:
        alike = groups(self.val)
        indices = range(min(self.val_clips, len(self.val)))
        if isinstance(alike, list):  # neighbours of one shape share a batch
            indices = sorted(indices, key=lambda i: alike[i])
            runs = [list(run) for _, run in itertools.groupby(indices, key=lambda i: alike[i])]
        else:
            runs = [list(indices)]
        sizes = [self.clips_a_batch(self.val, alike[run[0]] if isinstance(alike, list) else None) for run in runs]
        batches = [run[i : i + n] for run, n in zip(runs, sizes, strict=True) for i in range(0, len(run), n)]
        return self.loader(self.val, batches)

    def loader(self, dataset: Dataset, batches: Iterable[list[int]], **kwargs) -> DataLoader:
        """Batches of the given indices of a data set."""
        return DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            **kwargs,
        )


class First(Dataset):
    """The first clips of a data set, again and again: for a model that is to learn them by heart.

    Args:
        dataset: of clips of one shape.
        clips: how many.
    """

    def __init__(self, dataset: Dataset, clips: int = 1) -> None:
        self.dataset, self.clips = dataset, clips
        self.frames, self.height, self.width, self.fps = dataset.frames, dataset.height, dataset.width, dataset.fps
        self.actions, self.transitions = getattr(dataset, "actions", None), getattr(dataset, "transitions", [])

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, index: int) -> Example:
        return self.dataset[index % self.clips]


def sizes_of(dataset: Dataset) -> list[Shape]:
    """The shapes (t, h, w) that the clips of a data set have, without repetition."""
    if hasattr(dataset, "shape_of"):
        return getattr(dataset, "sizes", None) or sorted({dataset.shape_of(i) for i in range(len(dataset))})
    return [(dataset.frames, dataset.height, dataset.width)]


def groups(dataset: Dataset) -> list | int:
    """The shape of each clip where clips differ in shape (``shape_of``), otherwise just their number."""
    if len(sizes_of(dataset)) > 1:
        return [dataset.shape_of(i) for i in range(len(dataset))]
    return len(dataset)

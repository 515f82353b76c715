"""Batches of equal shape, and which clips go into them: a pure function of (seed, step).

Because the batch of a step depends on nothing else, a run that was killed goes on with exactly the batches that it
would have seen, whatever the number of workers, and no state has to be stored.

Clips of several sizes are sorted into buckets, each a shape (t, h, w). A batch holds clips of one bucket, as many as a
budget of tokens allows, so that a step costs the same whatever it shows and nothing is padded.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence

import torch

Shape = tuple[int, int, int]  # frames, height, width
LEAST_KEPT = 0.75  # of a picture's area: with less of it, a clip does not fit a bucket


def nearest(buckets: Sequence[Shape], frames: int, height: int, width: int) -> Shape:
    """The bucket for a clip of so many frames of height x width: of those it is long enough for, the one that crops
    least; of these, the largest that it need not be enlarged for; of these, the longest."""
    shortest = min(t for t, _, _ in buckets)
    candidates = [bucket for bucket in buckets if bucket[0] <= max(frames, shortest)]

    def cost(bucket: Shape) -> tuple[float, float, int, int]:
        t, h, w = bucket
        return -round(kept(bucket, height, width), 6), max(1.0, h / height, w / width), -h * w, -t

    return min(candidates, key=cost)


def kept(bucket: Shape, height: int, width: int) -> float:
    """The share of a picture's area that is left when it covers a bucket and is cropped."""
    ratio = bucket[1] * width / (bucket[2] * height)
    return min(ratio, 1 / ratio)


def fits(bucket: Shape, frames: int, height: int, width: int) -> bool:
    return bucket[0] <= frames and kept(bucket, height, width) >= LEAST_KEPT


def count_tokens(shape: Shape, compression: tuple[int, int] = (1, 1)) -> int:
    """Tokens of a clip, by the frames and the pixels a side of a token; (1, 1) where a shape is one of tokens."""
    (t, h, w), (time, space) = shape, compression
    return (1 + (t - 1) // time) * (h // space) * (w // space)


def clips_within(budget: int, tokens: int) -> int:
    """How many clips of so many tokens have at most ``budget`` together. ``ValueError`` where not even one has."""
    if tokens > budget:
        raise ValueError(f"a clip of {tokens} tokens is more than the token_budget of {budget} of a batch: raise it")
    return budget // tokens


class StepBatches:
    """Endless batches of indices for one process; ``batch_sampler`` of a DataLoader.

    Indices of the same ``group`` (clips of one shape) share a batch. An epoch visits each group in a new order; what
    fills no batch at its end is left out. The index grows by ``len(groups)`` every time a clip is drawn again,
    which data sets take as another draw of the same clip: another crop, another moment.

    Args:
        groups: the group of each clip of the data set, or their number where all are of one shape.
        batch_size: clips a process and step, or a function that gives it for a group. A smaller group is drawn more
            than once a batch.
        start: the step to begin at; world, rank: the number of processes, and which one this is.
    """

    def __init__(
        self,
        groups: Sequence[Hashable] | int,
        batch_size: int | Callable[[Hashable], int],
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.length = groups if isinstance(groups, int) else len(groups)
        self.seed, self.start, self.rank, self.world = seed, start, rank, world
        members: dict[Hashable, list[int] | torch.Tensor] = {}
        if isinstance(groups, int):
            members[None] = torch.arange(groups)
        else:
            for index, group in enumerate(groups):
                members.setdefault(group, []).append(index)
        self.groups = list(members)
        self.members = [torch.as_tensor(m) for m in members.values()]
        sizes = [batch_size(group) if callable(batch_size) else batch_size for group in members]
        self.sizes = [size * world for size in sizes]  # of a batch of all processes
        self.rounds = [-(-size // len(m)) for size, m in zip(self.sizes, self.members, strict=True)]
        self.batches_per_epoch = sum(
            len(m) * r // size for m, r, size in zip(self.members, self.rounds, self.sizes, strict=True)
        )

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start
        while True:
            epoch, first = divmod(step, self.batches_per_epoch)
            for batch in self._epoch(epoch)[first:]:
                yield batch[self.rank :: self.world].tolist()
                step += 1

    def _epoch(self, epoch: int) -> list[torch.Tensor]:
        """All batches of an epoch, each (batch_size,), shuffled across groups."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        batches = []
        for members, rounds, size in zip(self.members, self.rounds, self.sizes, strict=True):
            draws = [
                members[torch.randperm(len(members), generator=generator)] + self.length * (epoch * rounds + r)
                for r in range(rounds)
            ]
            batches += [batch for batch in torch.cat(draws).split(size) if len(batch) == size]
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]

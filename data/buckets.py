"""Batches of equal shape, and which clips go into them: a pure function of (seed, step).

Because the batch of a step depends on nothing else, a run that was killed goes on with exactly the batches that it
would have seen, whatever the number of workers, and no state has to be stored.
"""

from collections.abc import Hashable, Iterator, Sequence

import torch


class StepBatches:
    """Endless batches of indices for one process; ``batch_sampler`` of a DataLoader.

    Indices of the same ``group`` (clips of one shape) share a batch. An epoch visits each group in a new order; what is
    left over at its end goes into a later epoch. The index grows by ``len(groups)`` every time a clip is drawn again,
    which data sets take as another draw of the same clip: another crop, another moment.

    Args:
        groups: the group of each clip of the data set, or their number where all are of one shape.
        batch_size: clips a process and step. A smaller group is drawn more than once a batch.
        start: the step to begin at; world, rank: the number of processes, and which one this is.
    """

    def __init__(
        self,
        groups: Sequence[Hashable] | int,
        batch_size: int,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.length = groups if isinstance(groups, int) else len(groups)
        self.batch_size, self.seed, self.start, self.rank, self.world = batch_size * world, seed, start, rank, world
        if isinstance(groups, int):
            self.members = [torch.arange(groups)]
        else:
            members: dict[Hashable, list[int]] = {}
            for index, group in enumerate(groups):
                members.setdefault(group, []).append(index)
            self.members = [torch.tensor(m) for m in members.values()]
        self.rounds = [-(-self.batch_size // len(m)) for m in self.members]
        self.batches_per_epoch = sum(
            len(m) * r // self.batch_size for m, r in zip(self.members, self.rounds, strict=True)
        )

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start
        while True:
            epoch, first = divmod(step, self.batches_per_epoch)
            for batch in self._epoch(epoch)[first:]:
                yield batch[self.rank :: self.world].tolist()
                step += 1

    def _epoch(self, epoch: int) -> torch.Tensor:
        """All batches of an epoch, (batches, batch_size), shuffled across groups."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        batches = []
        for members, rounds in zip(self.members, self.rounds, strict=True):
            draws = [
                members[torch.randperm(len(members), generator=generator)] + self.length * (epoch * rounds + r)
                for r in range(rounds)
            ]
            indices = torch.cat(draws)
            count = len(indices) // self.batch_size
            batches.append(indices[: count * self.batch_size].view(count, self.batch_size))
        batches = torch.cat(batches)
        return batches[torch.randperm(len(batches), generator=generator)]

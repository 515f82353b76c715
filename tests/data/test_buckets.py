from itertools import chain, islice

import torch
from torch.utils.data import DataLoader, Dataset

from data.buckets import StepBatches
from data.module import VideoData, collate
from data.video import Example


def take(batches, count):
    return list(islice(iter(batches), count))


def test_a_step_has_the_same_batch_wherever_one_starts():
    whole = take(StepBatches(10, batch_size=3, seed=1), 12)
    for start in (1, 3, 7):
        assert take(StepBatches(10, batch_size=3, seed=1, start=start), 5) == whole[start : start + 5]
    assert whole != take(StepBatches(10, batch_size=3, seed=2), 12)


def test_an_epoch_draws_each_clip_once_and_the_next_one_draws_it_anew():
    batches = take(StepBatches(12, batch_size=3), 8)
    first, second = list(chain(*batches[:4])), list(chain(*batches[4:]))
    assert sorted(first) == list(range(12))
    assert sorted(i % 12 for i in second) == list(range(12)) and min(second) >= 12


def test_groups_do_not_mix_and_small_groups_still_come():
    groups = ["long"] * 9 + ["image"] * 2
    batches = take(StepBatches(groups, batch_size=4), 30)
    kinds = [{groups[i % 11] for i in batch} for batch in batches]
    assert all(len(kind) == 1 for kind in kinds) and {"long"} in kinds and {"image"} in kinds
    assert all(len(set(batch)) == 4 for batch in batches)  # a clip drawn twice in a batch is another draw


def test_processes_share_a_batch_without_overlap():
    parts = [take(StepBatches(20, batch_size=2, rank=r, world=3), 6) for r in range(3)]
    whole = take(StepBatches(20, batch_size=6), 6)
    for step, batch in enumerate(whole):
        assert sorted(chain(*(part[step] for part in parts))) == sorted(batch)


class Mixed(Dataset):
    """Clips of five frames and images; the index is in the pixels."""

    frames, height, width, fps = 5, 8, 8, 8.0

    def __len__(self):
        return 6

    def shape_of(self, index):
        return (1 if index % 3 == 0 else 5, 8, 8)

    def __getitem__(self, index):
        t = self.shape_of(index % 6)[0]
        return Example(torch.full((3, t, 8, 8), index / 100), f"clip {index}", 8.0, skipped=("x.mp4: broken",))


def test_images_and_videos_come_in_batches_of_their_own():
    data = VideoData(Mixed(), Mixed(), batch_size=2, num_workers=0)
    shapes = [tuple(batch.video.shape) for batch in data.val_dataloader()]
    assert sorted(shapes) == [(2, 3, 1, 8, 8), (2, 3, 5, 8, 8), (2, 3, 5, 8, 8)]
    loader = DataLoader(
        Mixed(), batch_sampler=StepBatches([Mixed().shape_of(i) for i in range(6)], 2), collate_fn=collate
    )
    for batch in islice(loader, 9):
        assert batch.video.shape[0] == len(batch.text) == 2
        assert batch.skipped == ("x.mp4: broken", "x.mp4: broken")
    assert data.clip == {"frames": 5, "height": 8, "width": 8, "fps": 8.0}

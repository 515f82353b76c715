from itertools import chain, islice

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from data.buckets import StepBatches, clips_within, count_tokens, fits, kept, nearest
from data.module import VideoData, collate, groups
from data.shapes import Shapes
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


# ---- Sizes ----------------------------------------------------------------------------------------------------------

BUCKETS = [(17, 64, 64), (9, 64, 96), (1, 64, 64)]  # 320, 288 and 64 tokens at 4x8x8
KINDS = [BUCKETS[i % 3] for i in range(90)]


def within(budget):
    return lambda shape: clips_within(budget, count_tokens(shape, (4, 8)))


def test_a_batch_has_as_many_clips_as_the_budget_allows():
    for batch in take(StepBatches(KINDS, within(1000)), 40):
        (shape,) = {KINDS[i % 90] for i in batch}
        tokens = len(batch) * count_tokens(shape, (4, 8))
        assert tokens <= 1000 < tokens + count_tokens(shape, (4, 8))
    sizes = {KINDS[b[0] % 90]: len(b) for b in take(StepBatches(KINDS, within(1000)), 40)}
    assert sizes == {(17, 64, 64): 3, (9, 64, 96): 3, (1, 64, 64): 15}
    with pytest.raises(ValueError, match="a clip of 320 tokens is more than the token_budget of 300"):
        StepBatches(KINDS, within(300))


def test_batches_of_many_sizes_go_on_in_the_middle_of_an_epoch():
    whole = take(StepBatches(KINDS, within(1000), seed=1), 60)  # an epoch has 22
    for start in (1, 10, 22, 31):
        assert take(StepBatches(KINDS, within(1000), seed=1, start=start), 20) == whole[start : start + 20]
    epoch = list(chain(*whole[:22]))
    assert len(set(epoch)) == len(epoch) == 90


def test_processes_share_batches_of_one_size():
    whole = take(StepBatches(KINDS, lambda shape: 2 * within(1000)(shape)), 12)
    parts = [take(StepBatches(KINDS, within(1000), rank=r, world=2), 12) for r in range(2)]
    for step, batch in enumerate(whole):
        assert sorted(chain(*(part[step] for part in parts))) == sorted(batch)


def test_the_nearest_bucket():
    buckets = [*BUCKETS, (17, 128, 128), (1, 96, 64)]
    assert nearest(buckets, 40, 70, 70) == (17, 64, 64)  # the larger one would enlarge it
    assert nearest(buckets, 40, 720, 720) == (17, 128, 128)
    assert nearest(buckets, 12, 720, 720) == (1, 64, 64)  # too short for the others
    assert nearest(buckets, 40, 480, 720) == (9, 64, 96)
    assert nearest(buckets, 40, 640, 480) == (1, 96, 64)
    assert nearest([(17, 64, 64)], 4, 64, 64) == (17, 64, 64) and not fits((17, 64, 64), 4, 64, 64)
    assert kept((9, 64, 96), 480, 720) == 1 and kept((17, 64, 64), 360, 640) == pytest.approx(360 / 640)
    assert fits((17, 64, 64), 17, 64, 80) and not fits((17, 64, 64), 17, 360, 640)


def test_shapes_come_in_several_sizes():
    data = Shapes(buckets=BUCKETS, length=90)
    assert groups(data) == KINDS and groups(Shapes()) == 1_000_000
    for index in (0, 1, 2, 92):
        assert data[index].clip.shape[1:] == data.shape_of(index) == KINDS[index % 90]
    assert data[0].clip.equal(Shapes()[0].clip)  # a scene does not depend on the other sizes
    assert (data.frames, data.height, data.width) == BUCKETS[0]
    module = VideoData(data, data, val_clips=30, num_workers=0, token_budget=1000)
    seen = [tuple(batch.video.shape) for batch in module.val_dataloader()]
    assert sorted(seen) == sorted([(10, 3, 1, 64, 64)] + [(n, 3, *b) for b in BUCKETS[:2] for n in (3, 3, 3, 1)])
    lines = module.report(StepBatches(groups(data), within(1000)))
    assert lines == [
        "17x64x64: 30 clips, 3 a batch, 96% of the token budget",
        "9x64x96: 30 clips, 3 a batch, 86% of the token budget",
        "1x64x64: 30 clips, 15 a batch, 96% of the token budget",
    ]

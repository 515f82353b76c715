import pytest
import torch

from data.crops import Crops
from data.module import VideoData
from data.shapes import Shapes


def clips(**size):
    return Shapes("train", **{"frames": 9, "height": 48, "width": 64, "objects": [1]} | size)


def test_a_window_is_a_piece_of_its_clip_and_depends_on_seed_and_index_alone():
    whole, crops = clips(), Crops(clips(), frames=5, height=32, width=16)
    window = crops[3].clip
    assert window.shape == (3, 5, 32, 16)
    pieces = whole[3].clip.unfold(1, 5, 1).unfold(2, 32, 1).unfold(3, 16, 1)  # 3 t h w 5 32 16
    assert (pieces == window[:, None, None, None]).flatten(4).all(-1).all(0).any()
    assert torch.equal(window, Crops(clips(), frames=5, height=32, width=16)[3].clip)
    assert not torch.equal(window, Crops(clips(), frames=5, height=32, width=16, seed=1)[3].clip)
    assert crops[3].text == whole[3].text and crops[3].attributes is None


def test_windows_show_what_happens_rather_than_the_ground():
    busy, any_ = (Crops(clips(), 5, 16, 16, tries=tries) for tries in (8, 1))
    dull = [sum(crops[i].clip.var().item() < 1e-4 for i in range(40)) for crops in (busy, any_)]
    assert dull[0] < dull[1] / 2


def test_a_window_larger_than_the_clips_is_refused():
    with pytest.raises(ValueError, match="9 frames of 48x64: ask for smaller"):
        Crops(clips(), frames=9, height=64, width=64)
    with pytest.raises(ValueError, match="9 frames of 32x80: ask for smaller"):
        Crops(clips(buckets=[[9, 64, 64], [9, 32, 80]]), frames=9, height=48, width=48)


def test_a_model_of_windows_is_one_of_whole_clips():
    assert VideoData(Crops(clips(), 5, 16, 16), clips()).clip == {"frames": 9, "height": 48, "width": 64, "fps": 8.0}

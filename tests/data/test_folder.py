"""Captions are found, draws are pure functions of (seed, index), broken files are passed over and said."""

import json
import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from data.folder import Folder
from data.video import VideoError
from data.writing import write_clip

SIZE = {"frames": 5, "height": 16, "width": 16}


def moving(seed, frames=20):
    noise = torch.randn(1, 3, 6, 4, 4, generator=torch.Generator().manual_seed(seed))
    clip = torch.nn.functional.interpolate(noise, (frames, 24, 32), mode="trilinear", align_corners=True)[0]
    return (0.4 * clip).clamp(-1, 1)


def fill(root, names=("a.mp4", "b.mp4", "sub/c.webm"), captions=None):
    """A folder of small videos; `captions` as lines of its metadata, one a file where not given."""
    for seed, name in enumerate(names):
        write_clip(root / name, moving(seed), 10)
    if captions is None:
        captions = [json.dumps({"file_name": name, "text": f"clip {name}", "size": 3}) for name in names]
    root.mkdir(exist_ok=True)
    (root / "metadata.jsonl").write_text("".join(f"{line}\n" for line in captions))
    return root


@pytest.fixture
def root(tmp_path):
    return fill(tmp_path / "clips")


def quiet(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Folder(*arguments, **options)


def test_examples(root):
    folder = Folder(str(root), **SIZE)
    assert len(folder) == 3
    for index, name in enumerate(("a.mp4", "b.mp4", "sub/c.webm")):
        example = folder[index]
        assert example.clip.shape == (3, 5, 16, 16) and example.clip.dtype == torch.float32
        assert (example.text, example.attributes, example.skipped) == (f"clip {name}", {"size": 3}, ())
        assert example.fps == pytest.approx(10)
        assert folder.shape_of(index) == (5, 16, 16)


def test_pure_in_seed_and_index(root):
    one, two, other = Folder(str(root), **SIZE), Folder(str(root), **SIZE), Folder(str(root), seed=1, **SIZE)
    draws = [one[index].clip for index in range(12)]
    for index in reversed(range(12)):  # in any order
        assert two[index].clip.equal(draws[index])
        assert one[index].text == one[index % 3].text
    assert not any(other[index].clip.equal(draws[index]) for index in range(3))
    assert len({draw.numpy().tobytes() for draw in draws}) > 9  # another index of the same file is another clip


def test_validation_is_the_beginning_and_the_centre(root):
    folder = Folder(str(root), random=False, **SIZE)
    assert folder[0].clip.equal(folder[3].clip)
    expected = torch.nn.functional.interpolate(moving(0)[:, :5].transpose(0, 1), (16, 21), mode="area")
    assert (folder[0].clip.transpose(0, 1) - expected[..., 2:18]).abs().mean() < 0.1


def test_fps(root):
    example = Folder(str(root), fps=4, random=False, **SIZE)[0]
    native = Folder(str(root), frames=20, height=16, width=16, random=False)[0].clip
    assert example.fps == 4
    assert example.clip.equal(native[:, [0, 2, 5, 7, 10]])


def test_single_frames(root):
    folder = Folder(str(root), frames=1, height=16, width=16)
    draws = {folder[index * 3].clip.numpy().tobytes() for index in range(8)}
    assert folder[0].clip.shape == (3, 1, 16, 16) and len(draws) > 4


def test_images_are_one_frame(root):
    write_clip(root / "still.png", moving(9, frames=1), 10)
    folder = quiet(str(root), **SIZE)
    shapes = [folder.shape_of(index) for index in range(4)]
    assert shapes == [(5, 16, 16)] * 2 + [(1, 16, 16), (5, 16, 16)]
    assert [tuple(folder[index].clip.shape[1:]) for index in range(4)] == shapes
    assert len(quiet(str(root), images=False, **SIZE)) == 3


# ---- Buckets --------------------------------------------------------------------------------------------------------


def test_files_go_into_the_nearest_bucket(root):
    """Clips of 20 frames of 24x32 at 10 fps, a tall one, and a still."""
    write_clip(root / "tall.mp4", moving(7).transpose(2, 3), 10)
    write_clip(root / "still.png", moving(9, frames=1), 10)
    folder = quiet(str(root), buckets=[[9, 24, 32], [5, 32, 24], [17, 48, 64]])
    shapes = {file.name: folder.shape_of(i) for i, file in enumerate(folder.files)}
    assert shapes == {
        "a.mp4": (9, 24, 32),
        "b.mp4": (9, 24, 32),
        "still.png": (1, 24, 32),
        "c.webm": (9, 24, 32),
        "tall.mp4": (5, 32, 24),
    }
    for index in range(10):
        assert folder[index].clip.shape[1:] == folder.shape_of(index)
    assert (folder.frames, folder.height, folder.width) == (9, 24, 32) and folder.kept == pytest.approx(1)
    assert folder.sizes == [(1, 24, 32), (5, 32, 24), (9, 24, 32)]


def test_a_file_that_fits_no_bucket_is_named_once_and_used(root):
    with pytest.warns(UserWarning, match=r"3 of 3 files fit no bucket .*a\.mp4 \(20x24x32\) into 9x48x16") as caught:
        folder = Folder(str(root), buckets=[[9, 48, 16]])
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert folder[0].clip.shape == (3, 9, 48, 16)
    assert folder.kept == pytest.approx(0.25)


def test_what_cannot_be_read_does_not_stand_alone_in_its_bucket(root):
    (root / "broken.mp4").write_bytes(b"")
    write_clip(root / "short.mp4", moving(5, frames=3).transpose(2, 3), 10)
    folder = quiet(str(root), buckets=[[5, 32, 24], [5, 24, 32]])
    assert folder.sizes == [(5, 24, 32)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert all(folder[index].clip.shape[1:] == (5, 24, 32) for index in range(5))


def test_a_video_that_is_too_short_becomes_no_still_where_stills_are_many(root):
    for i in range(4):
        write_clip(root / f"still{i}.png", moving(9, frames=1), 10)
    write_clip(root / "short.mp4", moving(5, frames=3), 10)
    folder = quiet(str(root), buckets=[[9, 24, 32], [5, 24, 32]])
    short = [file.name for file in folder.files].index("short.mp4")
    with pytest.warns(UserWarning, match="short.mp4"):
        assert folder[short].clip.shape == (3, 9, 24, 32) and "short.mp4" in folder[short].skipped[0]


# ---- Captions -------------------------------------------------------------------------------------------------------


def test_text_beside_the_video(tmp_path):
    root = fill(tmp_path, captions=['{"file_name": "b.mp4", "size": 3}'])
    (root / "a.txt").write_text("a line beside\n")
    (root / "b.txt").write_text("attributes elsewhere\n")
    with pytest.warns(UserWarning, match='1 of 3 files have no caption and get ""'):
        folder = Folder(str(root), **SIZE)
    assert [folder[index].text for index in range(3)] == ["a line beside", "attributes elsewhere", ""]
    assert folder[1].attributes == {"size": 3}
    assert folder.uncaptioned == 1


def test_metadata_of_a_folder_within(tmp_path):
    fill(tmp_path / "one", names=["a.mp4"])
    fill(tmp_path / "two", names=["a.mp4"], captions=['{"file_name": "a.mp4", "text": "the other"}', ""])
    folder = Folder(str(tmp_path), **SIZE)
    assert [folder[index].text for index in range(2)] == ["clip a.mp4", "the other"]


def test_captions_without_files(root):
    with (root / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "x.mp4", "text": "gone"}\n{"file_name": "y.mp4", "text": "gone"}\n')
    with pytest.warns(UserWarning, match=r"2 captions without a file, first .*x\.mp4") as caught:
        folder = Folder(str(root), **SIZE)
    assert len(caught) == 1 and len(folder) == 3


@pytest.mark.parametrize(
    "line, reason",
    [
        ('{"file_name": "b.mp4"', "delimiter"),
        ('{"text": "nameless"}', "no 'file_name'"),
        ('{"file_name": "b.mp4", "text": 5}', "must be strings"),
        ("[1, 2]", "expected"),
        ("5", "expected"),
    ],
)
def test_malformed_line(tmp_path, line, reason):
    root = fill(tmp_path, captions=['{"file_name": "a.mp4", "text": "good"}', line])
    with pytest.raises(VideoError, match=f"line 2: .*{reason}") as error:
        Folder(str(root))
    assert "\n" not in str(error.value)


def test_odd_text(tmp_path):
    """Line separators within a caption are not ends of lines; what is not UTF-8 is said to be so."""
    root = fill(tmp_path, names=["a.mp4"], captions=['{"file_name": "a.mp4", "text": "one\u2028caption"}'])
    assert Folder(str(root), **SIZE)[0].text == "one\u2028caption"
    (root / "a.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(VideoError, match=r"a\.txt: is not UTF-8"):
        Folder(str(root))


def test_nothing_to_read(tmp_path):
    with pytest.raises(VideoError, match="no such folder"):
        Folder(str(tmp_path / "none"))
    with pytest.raises(VideoError, match="holds no video"):
        Folder(str(tmp_path))


# ---- Broken files ---------------------------------------------------------------------------------------------------


def test_passed_over(root):
    (root / "a.mp4").write_bytes((root / "a.mp4").read_bytes()[:500])
    write_clip(root / "aa.mp4", moving(5, frames=3), 10)
    write_clip(root / "still.png", moving(9, frames=1), 10)
    folder = quiet(str(root), **SIZE)
    with pytest.warns(UserWarning) as caught:
        example = folder[0]
    assert len(caught) == 2
    assert example.text == "clip b.mp4" and example.clip.shape == (3, 5, 16, 16)
    broken, short = example.skipped
    assert str(root / "a.mp4") in broken and "has 0.30 s" in short
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # each file is warned of once
        again = folder[0]
    assert again.clip.equal(example.clip) and again.skipped == example.skipped


def test_passed_over_to_the_same_shape(root):
    """What `shape_of` promised holds for files that turn out broken."""
    write_clip(root / "aa.png", moving(9, frames=1), 10)
    write_clip(root / "still.png", moving(9, frames=1), 10)
    (root / "a.mp4").write_bytes(b"")
    (root / "still.png").write_bytes(b"")
    folder = quiet(str(root), **SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index in range(5):
            assert folder[index].clip.shape[1:] == folder.shape_of(index)


def test_all_broken(root):
    folder = Folder(str(root), frames=50, height=16, width=16)
    with pytest.warns(UserWarning), pytest.raises(VideoError, match=r"none of 3 files can be used; .*50 frames"):
        folder[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_in_a_data_loader(root, workers):
    folder = Folder(str(root), **SIZE)
    loader = DataLoader(folder, sampler=range(6), batch_size=2, num_workers=workers, collate_fn=list)
    examples = [example for batch in loader for example in batch]
    assert len(examples) == 6
    for index, example in enumerate(examples):
        assert example.clip.equal(folder[index].clip) and example.text == folder[index].text

"""Shards give what a folder of the same files gives, from anywhere in a tar file."""

import io
import json
import tarfile

import pytest
import torch

from data.folder import Folder
from data.shards import Shards
from data.video import VideoError
from data.writing import write_clip

SIZE = {"frames": 5, "height": 16, "width": 16}


def moving(seed):
    noise = torch.randn(1, 3, 6, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, (20, 24, 32), mode="trilinear", align_corners=True)[0].clamp(-1, 1)


@pytest.fixture
def folders(tmp_path):
    """The same clips as files and in two shards."""
    files, shards = tmp_path / "files", tmp_path / "shards"
    shards.mkdir()
    for seed, name in enumerate(("a.mp4", "b.gif", "c.png", "d.webm")):
        write_clip(files / name, moving(seed)[:, : 1 if name == "c.png" else None], 10)
        (files / name).with_suffix(".txt").write_text(f"clip {name}")
    for shard, names in (
        ("0.tar", ("./a.mp4", "a.txt", ".hidden.mp4", "b.gif", "b.txt")),
        ("1.tar", ("c.png", "d.webm")),
    ):
        with tarfile.open(shards / shard, "w") as tar:
            for name in names:
                tar.add(files / ("a.mp4" if "a.mp4" in name or "hidden" in name else name), name)
            for name in names[:2] if shard == "1.tar" else ():
                said = json.dumps({"caption": f"clip {name}", "size": 3}).encode()
                header = tarfile.TarInfo(name.partition(".")[0] + ".json")
                header.size = len(said)
                tar.addfile(header, io.BytesIO(said))
    return files, shards


def test_shards_are_a_folder(folders):
    files, shards = Folder(str(folders[0]), **SIZE), Shards(str(folders[1]), **SIZE)
    assert len(shards) == len(files) == 4
    for i in (2, 0, 3, 1, 7):
        assert torch.equal(shards[i].clip, files[i].clip) and shards[i].text == files[i].text
        assert shards.shape_of(i) == files.shape_of(i)
    assert shards[3].attributes == {"size": 3} and shards[0].attributes is None


def test_where_members_lie_is_remembered_until_the_shard_changes(folders, monkeypatch):
    _, shards = folders
    first = Shards(str(shards), **SIZE).files
    opened = []
    monkeypatch.setattr(
        "data.shards.tarfile.open", lambda path, *mode, was=tarfile.open: opened.append(path) or was(path)
    )
    assert Shards(str(shards), **SIZE).files == first and not opened
    (shards / "1.tar").write_bytes((shards / "0.tar").read_bytes())
    assert len(Shards(str(shards), **SIZE)) == 4 and opened == [shards / "1.tar"]


def test_broken_members_are_passed_over_and_broken_shards_refused(folders, tmp_path):
    _, shards = folders
    content = bytearray((shards / "0.tar").read_bytes())
    member = Shards(str(shards), **SIZE).files[0]
    content[member.offset : member.offset + member.size] = bytes(member.size)
    (shards / "0.tar").write_bytes(content)
    with pytest.warns(UserWarning, match=r"passed over .*0\.tar/.*a\.mp4: not a readable video"):
        example = Shards(str(shards), **SIZE)[0]
    assert example.text == "clip b.gif" and len(example.skipped) == 1
    (shards / "0.tar").write_bytes(b"no tar file at all" * 100)
    with pytest.raises(VideoError, match=r"0\.tar: not a readable tar file"):
        Shards(str(shards), **SIZE)
    with pytest.raises(VideoError, match=r"holds no tar file: expected 00000\.tar"):
        Shards(str(tmp_path / "files"), **SIZE)

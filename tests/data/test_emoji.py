import io
import json
import sys
import tarfile

import pytest
import torch
from PIL import Image

from data import emoji, npm
from data.folder import Folder
from data.npm import Package
from data.video import read_clip

NAMES = {"🌀": "cyclone", "🌞": "sun with face", "👍🏿": "thumbs up dark skin tone", "🌋": "volcano", "🔥": "fire"}
PACKAGES = (Package("@tiny/one", "1", ""), Package("@tiny/two", "1", ""))
GROUPS = Package("groups", "1", "")


def animated(frames: int, size: int = 64) -> bytes:
    """A red bar that grows by two columns a frame on a transparent ground, 42 ms a frame."""
    pictures = []
    for k in range(frames):
        picture = Image.new("RGBA", (size, size), (0, 0, 0, 0))
        picture.paste((255, 0, 0, 255), (0, 0, 2 * k + 2, size))
        pictures.append(picture)
    file = io.BytesIO()
    pictures[0].save(file, "webp", save_all=True, append_images=pictures[1:], duration=42, lossless=True)
    return file.getvalue()


def pack(path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """The registry, and the names: four animated emoji of a train, a test and a set aside character, and others."""
    monkeypatch.setattr(emoji, "names_of_emoji", lambda: NAMES)
    pack(
        tmp_path / "one.tgz",
        {
            "README.md": b"pictures",
            "assets/1f300.webp": animated(20),
            "assets/1f30b.webp": animated(1),  # no animation
            "assets/1f31e.webp": animated(21),
            "assets/1f525.webp": animated(20),  # set aside
        },
    )
    pack(tmp_path / "two.tgz", {"assets/1f44d-1f3ff.webp": animated(18), "assets/1f300-fe0f.webp": animated(16)})
    table = {"🌀": "Travel & Places", "🌞": "Travel & Places", "👍": "People & Body"}
    about = json.dumps({characters: {"group": group} for characters, group in table.items()})
    pack(tmp_path / "groups.tgz", {"data-by-emoji.json": about.encode()})
    return lambda package, folder: tmp_path / f"{package.name.rpartition('/')[2]}.tgz"


def write(folder, fetch, **options) -> dict:
    return emoji.write(folder, packages=PACKAGES, groups=GROUPS, fetch=fetch, **{"size": 32, "limit": None} | options)


def test_clips_captions_and_split(fetch, tmp_path):
    assert write(tmp_path / "out", fetch) == {"train": 1, "test": 2}
    train, test = (Folder(str(tmp_path / "out" / part), 9, 32, 32) for part in ("train", "test"))
    assert [example.text for example in (train[0], test[0], test[1])] == [
        "cyclone",
        "sun with face",
        "thumbs up with dark skin tone",
    ]
    assert test[1].attributes == {
        "frames": 9,
        "fps": 12,
        "name": "thumbs up",
        "tone": ["dark skin tone"],
        "group": "People & Body",
    }
    assert test[0].attributes["frames"] == 11 and test[0].attributes["tone"] is None


def test_every_other_frame_stands_on_white(fetch, tmp_path):
    write(tmp_path / "out", fetch, size=64)
    clip, fps = read_clip(tmp_path / "out/train/1f300.mp4")
    assert clip.shape == (3, 10, 64, 64) and fps == 12
    red = torch.tensor([1.0, -1.0, -1.0])[:, None, None]
    for k in range(10):
        edge = 4 * k + 2
        assert (clip[:, k, :, : max(1, edge - 2)] - red).abs().mean() < 0.15
        assert (clip[:, k, :, edge + 2 :] - 1).abs().mean() < 0.05


def test_smaller_clips(fetch, tmp_path):
    write(tmp_path / "out", fetch, size=16)
    clip, _ = read_clip(tmp_path / "out/test/1f31e.mp4")
    assert clip.shape == (3, 11, 16, 16)
    torch.testing.assert_close(clip[:, -1, :, -2:], torch.ones(3, 16, 2), atol=0.1, rtol=0)


def test_called_again_it_goes_on_where_it_was(fetch, tmp_path, monkeypatch):
    assert write(tmp_path / "out", fetch, limit=2) == {"train": 1, "test": 1}
    written = []
    real = emoji.write_clip
    monkeypatch.setattr(emoji, "write_clip", lambda path, *rest: (written.append(path.name), real(path, *rest)))
    assert write(tmp_path / "out", fetch) == {"train": 1, "test": 2}
    assert written == ["1f44d-1f3ff.mp4"]
    lines = (tmp_path / "out/test/metadata.jsonl").read_text().splitlines()
    assert [json.loads(line)["file_name"] for line in lines] == ["1f31e.mp4", "1f44d-1f3ff.mp4"]


def test_a_limit_fetches_no_more_packages_than_it_takes(fetch, tmp_path):
    asked = []
    write(tmp_path / "out", lambda package, folder: (asked.append(package.name), fetch(package, folder))[1], limit=2)
    assert asked == ["groups", "@tiny/one"]


@pytest.mark.parametrize(
    "options, words", [({"size": 33}, "even number from 16 to 256"), ({"limit": 0}, "expected at least 1")]
)
def test_wrong_arguments_are_one_line(fetch, tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        write(tmp_path / "out", fetch, **options)
    assert not (tmp_path / "out").exists()


def test_clips_of_two_sizes_do_not_mix(fetch, tmp_path):
    write(tmp_path / "out", fetch, limit=1)
    with pytest.raises(ValueError, match="holds clips of 32 pixels, not 16: give another folder or --size 32"):
        write(tmp_path / "out", fetch, size=16)


def test_a_limit_takes_no_captions_from_clips_that_are_there(fetch, tmp_path):
    write(tmp_path / "out", fetch)
    with pytest.raises(ValueError, match="holds 3 clips, more than --limit 2"):
        write(tmp_path / "out", fetch, limit=2)
    assert len((tmp_path / "out/test/metadata.jsonl").read_text().splitlines()) == 2


def test_no_base_character_is_in_two_parts():
    assert not set(emoji.TEST) & set(emoji.ASIDE)
    assert len(emoji.TEST) == len(set(emoji.TEST)) == len(emoji.ASIDE) == len(set(emoji.ASIDE)) == 60
    assert emoji.part_of("1f44d") == emoji.part_of("1f44d-1f3ff") == "test"
    assert emoji.part_of("1f64d-1f3fb-200d-2642-fe0f") == "test" and emoji.part_of("2764-fe0f") is None
    assert emoji.part_of("1f300") == "train"


def test_a_tone_in_the_midst_of_a_name_goes_to_its_end():
    name = {emoji.characters("1f468-1f3fc-200d-1f9b0"): "man medium-light skin tone red hair"}
    told = emoji.caption("1f468-1f3fc-200d-1f9b0", name)
    assert told["text"] == "man red hair with medium-light skin tone" and told["name"] == "man red hair"


def test_the_packages_names():
    names = emoji.names_of_emoji()
    assert names["👍🏿"] == "thumbs up dark skin tone" and names["🌀"] == "cyclone"


def test_without_the_package_of_the_names_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "emoji", None)
    with pytest.raises(ValueError, match=r"pip install -e '.\[emoji\]'"):
        emoji.names_of_emoji()


def test_the_program(fetch, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(emoji, "PACKAGES", PACKAGES)
    monkeypatch.setattr(emoji, "GROUPS", GROUPS)
    monkeypatch.setattr(npm, "fetch", fetch)
    assert emoji.main([str(tmp_path / "out"), "--size", "32", "--limit", "2"]) == {"train": 1, "test": 1}
    assert "train: 1 clips" in capsys.readouterr().out

"""Shards of captioned clips: tar files in the manner of WebDataset, for collections too large for a folder.

Members of a name up to its first dot belong together: ``000017.mp4`` is a clip, ``000017.txt`` its caption, or
``000017.json`` with a ``text`` or ``caption``, a ``long_text``, and attributes. A shard is read once
to find where its members lie, which is written beside it as ``00000.tar.index``; after that any clip is one seek away.
So shards are as a folder of files: shuffled as a whole, resumed at any step, spread over any number of processes.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data.folder import Caption, Folder
from data.video import VideoError


class Shards(Folder):
    """Captioned clips (3, frames, height, width) out of the tar files of a folder; see ``Folder`` for the arguments."""

    def _files(self, suffixes: set[str]) -> list["Member"]:
        shards = sorted(self.root.rglob("*.tar"))
        if self.metadata:
            raise VideoError("captions of shards lie in the tar files: leave out metadata")
        if not shards:
            raise VideoError(f"{self.root}: holds no tar file: expected 00000.tar ..., or use data.folder.Folder")
        self.captions: dict[Member, Caption] = {}
        for shard in shards:
            for name, offset, size, said in index(shard):
                if PurePosixPath(name).suffix.lower() in suffixes:
                    self.captions[Member(shard, name, offset, size)] = caption(said)
        return list(self.captions)

    def _captions(self) -> dict["Member", Caption]:
        return self.captions


@dataclass(frozen=True)
class Member:
    """A file within a tar file: ``size`` bytes from ``offset`` on."""

    shard: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"

    def open(self) -> io.BufferedReader:
        return io.BufferedReader(Window(self.shard, self.offset, self.size))


class Window(io.RawIOBase):
    """A stretch of a file as a file of its own."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self.file, self.offset, self.size, self.place = path.open("rb", buffering=0), offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence])
        return self.place

    def readinto(self, buffer) -> int:
        count = max(0, min(len(buffer), self.size - self.place))
        self.file.seek(self.offset + self.place)
        count = self.file.readinto(memoryview(buffer)[:count])
        self.place += count
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


def caption(said: dict) -> Caption:
    """What is said of a clip, as captions of different lengths and attributes."""
    said = dict(said)
    text, other, long = (said.pop(key, None) or "" for key in ("text", "caption", "long_text"))
    return Caption(text or other, tuple([long] if isinstance(long, str) and long else long), said or None)


def index(shard: Path) -> list[tuple[str, int, int, dict]]:
    """(name, offset, size, what is said of it) of each file of a shard, remembered beside it where one may write."""
    memory = shard.with_name(shard.name + ".index")
    state = shard.stat()
    stamp = [state.st_size, state.st_mtime_ns]
    with suppress(OSError, ValueError):
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known["stamp"] == stamp:
            return [tuple(row) for row in known["clips"]]
    clips = list(_clips(shard))
    with suppress(OSError):  # shards may lie on a read-only disk
        memory.write_text(json.dumps({"stamp": stamp, "clips": clips}), encoding="utf-8")
    return clips


def _clips(shard: Path) -> Iterator[tuple[str, int, int, dict]]:
    members, said = [], {}
    try:
        with tarfile.open(shard) as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                stem, _, kind = path.name.partition(".")
                key = path.with_name(stem or "hidden")
                if stem and kind in ("txt", "json"):
                    said[key] = said.get(key, {}) | _read(tar.extractfile(member).read(), kind)
                elif stem and member.isfile():
                    members.append((key, member))
    except (tarfile.TarError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise VideoError(f"{shard}: not a readable tar file ({reason}): download or copy it again") from error
    for key, member in members:
        yield member.name, member.offset_data, member.size, said.get(key, {})


def _read(content: bytes, kind: str) -> dict:
    text = content.decode("utf-8-sig")
    return {"text": text.strip()} if kind == "txt" else json.loads(text)

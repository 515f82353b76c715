"""Animated emoji with captions, as videos to train on: ``python -m data.emoji FOLDER``.

Some two thousand clips of Microsoft's Fluent emoji (MIT) from npm packages of LobeHub (MIT); their names are those of
the Python package ``emoji``, their groups those of ``unicode-emoji-json`` (MIT). Writes FOLDER/train and FOLDER/test,
each with its mp4 files on white ground and a ``metadata.jsonl``, and keeps the packages, 730 MB, in FOLDER/packages.

The split is by base character, the first code point: what is in test occurs in train neither with another skin tone nor
as another gender. It is written down here, so that scores of different people compare.

Interrupted and called again, it goes on where it was.
"""

import io
import json
import os
import re
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data import npm
from data.commands import Parser, run
from data.folder import METADATA
from data.npm import Package
from data.video import to_float
from data.writing import write_clip

PACKAGES = (
    Package(
        "@lobehub/fluent-emoji-anim-1",
        "1.0.0",
        "sha512-/4m31vAuZEQ4aUJ5pxcOU5PVkuJya55GRxUZL7+zgLlxZXpzzE8jPqpDyhZICE3n47nS/Y9M5/vLdizi8201QA==",
    ),
    Package(
        "@lobehub/fluent-emoji-anim-2",
        "1.0.0",
        "sha512-S6yzf0RZXrQbXdxCWuHA9BAoLdBRk2flX+ne4TPGEH/qApwisCAKHoAAGjKSlTY3OVeZ9b7t/NEbmpjawnQYJA==",
    ),
    Package(
        "@lobehub/fluent-emoji-anim-3",
        "1.0.0",
        "sha512-UzRSUDMjdfdt9vER5bhjHkPqgc3EEgfGtYs6ndvizOTvQOxYQ57ow2RTkWSDZxwW30X4EYBi2eWTS7CXDDoFsg==",
    ),
    Package(
        "@lobehub/fluent-emoji-anim-4",
        "1.0.0",
        "sha512-IIkl5ztSd1HrzvIDt/uGsFoC1WODXRdYq5uROrnkyqi9DbToEcJ1nlY86PnoUXeFS9nBCnHfiYk3ouSEGThFmA==",
    ),
)
GROUPS = Package(
    "unicode-emoji-json",
    "0.8.0",
    "sha512-3wDXXvp6YGoKGhS2O2H7+V+bYduOBydN1lnI0uVfr1cIdY02uFFiEH1i3kE5CCE4l6UqbLKVmEFW9USxTAMD1g==",
)
FPS = 12  # the originals have 24, in steps of 42 ms, of which every other frame is kept
SHORTEST = 9  # frames; of the originals two are shorter
ORIGINAL = 256  # pixels
TEST = (
    "⛈🌞🌤🌩🌪🌫🎃🐇🐡🐫🐸🐼🐽👍👯💈💞🕒🕞🕟🕠🕧🖐😅😉😖😨😵😿🙍🙎🚝🚟🚴🛖🛩🛼🤎🤓🤕🤥🤨🤫🤳🤷🤹🥵🥺🦇🦣🦥🦴🦶🦷🦹🦾🧘🧠🪲🫶"
)
# In neither: they were not in the set that this project's scores were measured on.
ASIDE = (
    "⛹❤🌝🍹🍺🎄🐓🐕🐘🐞🐟🐠🐧🐮🐯🐲🐴🐾👥💗💺🔥🕔🕦🕷🕸🖤😇😎😚"
    "😝😠🙊🚂🚌🚘🚢🚤🛬🤘🤚🤡🤤🤲🥱🥶🥷🦀🦂🦊🦋🦒🦕🦦🦮🦿🧐🧕🧙🪰"
)
TONES = re.compile(r" ((?:medium-)?(?:light|dark)|medium) skin tone")
MODIFIERS = dict.fromkeys(range(0x1F3FB, 0x1F400)) | {0xFE0F: None}  # the tones' code points, and "as a picture"


def main(args: list[str] | None = None) -> dict[str, int]:
    parser = Parser(prog="python -m data.emoji", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where train/ and test/ are written")
    parser.add_argument("--size", type=int, default=128, help=f"height and width in pixels, up to {ORIGINAL}")
    parser.add_argument("--limit", type=int, help="the first so many clips; default: all")
    given = parser.parse_args(args)
    counts = write(given.folder, given.size, given.limit, PACKAGES, GROUPS, npm.fetch)
    print(", ".join(f"{given.folder / part}: {count} clips" for part, count in counts.items()))
    return counts


def write(
    folder: Path,
    size: int,
    limit: int | None,
    packages: Sequence[Package],
    groups: Package,
    fetch: Callable[[Package, Path], Path],
) -> dict[str, int]:
    """Writes the clips, (3, t, size, size) at 12 frames a second, and returns how many each part has.

    ``fetch`` returns the tarball of a package, put into a folder. Raises ``ValueError`` for a size that does not fit,
    a folder with clips of another size, and where a package cannot be had.
    """
    if size % 2 or not 16 <= size <= ORIGINAL:
        raise ValueError(f"--size is {size}: expected an even number from 16 to {ORIGINAL}, the originals' size")
    if limit is not None and limit < 1:
        raise ValueError(f"--limit is {limit}: expected at least 1")
    names, group_of = names_of_emoji(), read_groups(fetch(groups, folder / "packages"))
    begin(folder, size, limit)
    rows: dict[str, list[dict]] = {"train": [], "test": []}
    for package in packages:
        if sum(map(len, rows.values())) == limit:
            break
        print(f"fetching {package.name}", file=sys.stderr)
        tarball = fetch(package, folder / "packages")
        for code, picture in pictures(tarball):
            part, frames = part_of(code), (picture.n_frames + 1) // 2
            if part is None or frames < SHORTEST:
                continue
            if sum(map(len, rows.values())) == limit:
                break
            path = folder / part / f"{code}.mp4"
            if not path.exists():
                write_clip(path, to_float(read(picture, size)), FPS)
            row = {"file_name": path.name, **caption(code, names), "group": group_of.get(bare(code))}
            rows[part].append(row | {"frames": frames, "fps": FPS})
        write_metadata(folder, rows)
    return {part: len(lines) for part, lines in rows.items()}


def names_of_emoji() -> dict[str, str]:
    """Characters -> name, such as "man golfing dark skin tone"."""
    try:
        from emoji import EMOJI_DATA
    except ImportError as error:
        raise ValueError("the emoji's names need the package emoji: pip install -e '.[emoji]'") from error
    return {characters: about["en"].strip(":").replace("_", " ") for characters, about in EMOJI_DATA.items()}


def read_groups(tarball: Path) -> dict[str, str]:
    """Characters without tones -> Unicode's group, such as "Food & Drink"."""
    with tarfile.open(tarball) as archive:
        table = json.load(archive.extractfile("package/data-by-emoji.json"))
    return {characters.translate(MODIFIERS): about["group"] for characters, about in table.items()}


def begin(folder: Path, size: int, limit: int | None) -> None:
    """Says in the folder what its clips are. ``ValueError`` where it has others, or more, which would lose captions."""
    file, count = folder / "emoji.json", sum(1 for part in ("train", "test") for _ in (folder / part).glob("*.mp4"))
    if file.exists() and (there := json.loads(file.read_text())["size"]) != size:
        raise ValueError(f"{folder} holds clips of {there} pixels, not {size}: give another folder or --size {there}")
    if limit is not None and count > limit:
        raise ValueError(f"{folder} holds {count} clips, more than --limit {limit}: give another folder or no limit")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"size": size}) + "\n")


def pictures(tarball: Path) -> Iterator[tuple[str, Image.Image]]:
    """The animated pictures of a package, each with its code points in hexadecimal, such as "1f44d-1f3fb"."""
    with tarfile.open(tarball) as archive:
        members = [m for m in archive.getmembers() if re.fullmatch(r".*/[0-9a-f]+(-[0-9a-f]+)*\.webp", m.name)]
        for member in tqdm(sorted(members, key=lambda m: m.offset), unit="picture", desc=tarball.stem):
            picture = Image.open(io.BytesIO(archive.extractfile(member).read()))
            if picture.is_animated:
                yield Path(member.name).stem, picture


def read(picture: Image.Image, size: int) -> np.ndarray:
    """Every other frame on white ground, uint8 (t, size, size, 3)."""
    frames = []
    for k in range(0, picture.n_frames, 2):
        picture.seek(k)
        ground = Image.new("RGBA", picture.size, "white")
        flat = Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")
        frames.append(np.asarray(flat.resize((size, size), Image.Resampling.HAMMING)))  # sharp, and no rings on white
    return np.stack(frames)


def part_of(code: str) -> str | None:
    """Where an emoji belongs: "train", "test", or None for one that was set aside."""
    base = chr(int(code.split("-")[0], 16))
    return None if base in ASIDE else "test" if base in TEST else "train"


def caption(code: str, names: dict[str, str]) -> dict:
    """``text``, and what it is made of: "man golfing with dark skin tone", its ``name`` and ``tone``."""
    if (full := names.get(characters(code))) is None:
        raise ValueError(f"the package emoji has no name for {code}: update it, pip install --upgrade emoji")
    name, tones = TONES.sub("", full), [f"{tone} skin tone" for tone in TONES.findall(full)]
    return {"text": name + " with " * bool(tones) + " and ".join(tones), "name": name, "tone": tones or None}


def characters(code: str) -> str:
    return "".join(chr(int(point, 16)) for point in code.split("-"))


def bare(code: str) -> str:
    """The characters without their tones, as groups are looked up."""
    return characters(code).translate(MODIFIERS)


def write_metadata(folder: Path, rows: dict[str, list[dict]]) -> None:
    for part, lines in rows.items():
        partial = folder / part / f".{METADATA}"
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        os.replace(partial, folder / part / METADATA)


if __name__ == "__main__":
    run(main)

"""The tokens of a data set, made once: ``python -m vq.encode --tokenizer DIR --data CONFIG --out FOLDER``.

A generator that trains on them (``data.tokens.TokenCache``) renders, decodes and encodes nothing. What varies from
epoch to epoch, such as random crops, is drawn once a clip; ask for more clips than there are, and each is drawn again.
``torchrun --nproc-per-node N -m vq.encode ...`` shares the work out among N processes, each on a GPU of its own.
"""

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from jsonargparse.typing import PositiveInt
from torch import nn
from tqdm import tqdm

from data.commands import Parser, find_device, run
from data.module import VideoData, groups, sizes_of
from data.tokens import CacheInfo, TokenCache, begin, has_shard, write_shard
from data.video import to_uint8
from vq import pretrained
from vq.hardware import check_convolutions

SHARD = 1024  # clips


def main(args: list[str] | None = None) -> TokenCache | None:
    parser = Parser(prog="python -m vq.encode", description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", required=True, help="exported folder, training checkpoint or hub id")
    parser.add_class_arguments(VideoData, "data")  # --data configs/data/demo.yaml, --data.batch_size 64, ...
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache")
    parser.add_argument("--split", choices=("train", "val"), default="train", help="which data set of the recipe")
    parser.add_argument("--clips", type=PositiveInt | None, help="the first so many; default: all")
    parser.add_argument("--latents", action="store_true", help="what the decoder is given, too")
    parser.add_argument(
        "--text",
        type=nn.Module | None,
        help="a frozen encoder: its vectors, too",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    given = parser.parse_args(args)
    built = parser.instantiate(given)
    return encode(
        given.tokenizer,
        built.data,
        given.out,
        given.split,
        given.clips,
        given.latents,
        built.text,
        find_device(given.device),
        *((int(os.environ[name]) for name in ("RANK", "WORLD_SIZE")) if "RANK" in os.environ else (0, 1)),
    )


def encode(
    tokenizer: str,
    data: VideoData,
    out: Path,
    split: str = "train",
    clips: int | None = None,
    latents: bool = False,
    text: nn.Module | None = None,
    device: str = "cpu",
    rank: int = 0,
    world: int = 1,
) -> TokenCache | None:
    """Writes the tokens of the first ``clips`` clips of a data set and returns them as a data set.

    With ``latents`` also what the decoder is given, always of a continuous tokenizer, which has no tokens; with a
    frozen ``text`` encoder also what it makes of the captions. Interrupted and called again, it goes on behind the last
    whole shard. Process ``rank`` of ``world`` writes every ``world``-th shard, and returns None while the others are
    still at theirs. Raises ``ValueError`` for a folder that holds another cache, for clips that do not fit the
    tokenizer, and for a text encoder that is trained along with the generator.
    """
    check_convolutions(torch.device(device))
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)  # whatever else asks for memory asks there
    model = pretrained.load(tokenizer, "tokenizer").to(device)
    latents = latents or not model.codebook_size
    if text is not None:
        if any(parameter.requires_grad for parameter in text.parameters()):
            raise ValueError(
                f"{type(text).__name__} is trained along with the generator: its vectors cannot be made before; leave "
                "out --text or give a frozen encoder, such as generator.text.PretrainedText"
            )
        text = text.to(device)
    dataset = getattr(data, split)
    for frames, height, width in sizes_of(dataset):
        model.latent_shape(frames, height, width)
    clips = clips or len(dataset)
    size = {axis: getattr(dataset, axis) for axis in ("frames", "height", "width", "fps")}
    games = getattr(dataset, "actions", None)
    about = {
        "latents": latents,
        "text": None if text is None else text.config,
        "actions": games and list(games),
        "tails": getattr(dataset, "tails", None),
        "transitions": getattr(dataset, "transitions", None),
        "data": looks_of(dataset, clips),
    }
    begin(out, CacheInfo(pretrained.code_of(model), model.codebook_size, clips, **size, **about))

    every = list(enumerate(shards(dataset, clips)))
    own = every[rank::world]
    left = [(number, shard) for number, shard in own if not has_shard(out, number)]
    batches = [shard[i : i + data.batch_size] for _, shard in left for i in range(0, len(shard), data.batch_size)]
    loader = iter(data.loader(dataset, batches))
    skipped: dict[str, None] = {}
    total, ahead = (sum(len(shard) for _, shard in some) for some in (own, left))
    with tqdm(total=total, initial=total - ahead, unit="clip", desc="encoding", disable=rank > 0) as bar:
        for number, shard in left:
            tokens, vectors, words, actions, captions = [], [], [], [], []
            while len(captions) < len(shard):
                batch = next(loader)
                quantized = model.quantize(batch.video.to(device), batch.tails)
                if quantized.tokens is not None:
                    tokens.append(quantized.tokens.cpu())
                if latents:
                    vectors.append(quantized.latents.cpu())
                if text is not None:
                    encoded = text(batch.text)
                    words += [row[mask].cpu() for row, mask in zip(encoded.tokens, encoded.mask, strict=True)]
                if games:
                    actions.append(batch.actions)
                tails = [0] * len(batch.text) if batch.tails is None else batch.tails.tolist()
                captions += zip(batch.text, batch.fps.tolist(), tails, strict=True)
                skipped |= dict.fromkeys(batch.skipped)
                bar.update(len(batch.text))
            parts = {"tokens": tokens, "latents": vectors, "actions": actions}
            whole = {name: torch.cat(rows) for name, rows in parts.items() if rows}
            write_shard(out, number, captions, **whole, words=words or None)
    if skipped:
        print(f"{len(skipped)} files were skipped:\n  " + "\n  ".join(skipped), file=sys.stderr)
    others_at_work = world > 1 and not all(has_shard(out, number) for number, _ in every)
    return None if others_at_work else TokenCache(str(out))


def looks_of(dataset, clips: int) -> str:
    """A short hash of eight of the clips, evenly spread, and of their captions: which data set they are of."""
    digest = hashlib.sha256()
    for index in sorted({i * clips // 8 for i in range(8)}):
        example = dataset[index]
        digest.update(example.text.encode() + to_uint8(example.clip).tobytes())
    return digest.hexdigest()[:16]


def shards(dataset, clips: int) -> Iterator[list[int]]:
    """The clips' indices in runs of one shape, of at most 1024."""
    of = groups(dataset)
    alike: dict = {}
    for index in range(clips):
        alike.setdefault(of[index % len(of)] if isinstance(of, list) else None, []).append(index)
    for indices in alike.values():
        yield from (indices[i : i + SHARD] for i in range(0, len(indices), SHARD))


if __name__ == "__main__":
    run(main)

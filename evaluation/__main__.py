"""Scores of a model: ``python -m evaluation reconstruction --model DIR --videos FOLDER|CONFIG --out metrics.json``."""

import json
import sys
from pathlib import Path

import torch
import yaml

from data.folder import Folder
from data.module import VideoData
from evaluation.features import I3D
from evaluation.reconstruction import evaluate
from vq import pretrained
from vq.commands import Parser, in_words
from vq.lpips import LPIPS


def main(args: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m evaluation", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("reconstruction",))
    parser.add_argument("--model", required=True, help="exported folder, training checkpoint or hub id")
    parser.add_argument("--videos", required=True, type=Path, help="a folder of videos, or a recipe of a data module")
    parser.add_argument("--out", required=True, type=Path, help="a JSON file")
    parser.add_argument("--clips", type=int, help="how many; default: all, one a video")
    for axis in ("frames", "height", "width"):
        parser.add_argument(f"--{axis}", type=int, help="of a folder's clips; default: as the model was trained")
    parser.add_argument("--fps", type=float, help="of a folder's clips; default: as the model was trained")
    parser.add_argument("--lpips", help="safetensors file with LPIPS of AlexNet, or 'download'; default: no LPIPS")
    parser.add_argument("--i3d", help="safetensors file with I3D; default: no rFVD")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(args)
    if given.out.suffix != ".json":
        raise ValueError(f"--out is {given.out}: expected a file that ends in .json")
    tokenizer = pretrained.load(given.model, "tokenizer")
    if not tokenizer.codebook_size:
        raise ValueError(f"the tokenizer at {given.model} is continuous: it makes no tokens")
    size = pretrained.clip(given.model)
    size |= {axis: value for axis in ("frames", "height", "width", "fps") if (value := given[axis]) is not None}
    dataset = open_videos(given.videos, size)
    tokenizer.latent_shape(dataset.frames, dataset.height, dataset.width)
    lpips = given.lpips and LPIPS(None if given.lpips == "download" else given.lpips, net="alex")
    i3d = given.i3d and I3D(given.i3d)
    result = evaluate(
        tokenizer, dataset, given.clips or len(dataset), lpips, i3d, batch_size=given.batch_size, device=given.device
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"model": given.model, "videos": str(given.videos)} | result, indent=1) + "\n")
    for name, score in result["scores"].items():
        error = f" (standard error {score['error']:.4f})" if "error" in score else ""
        print(f"{name}: {score['mean']:.4f}{error}")
    return result


def open_videos(videos: Path, size: dict):
    """A folder as its first clip and its further random ones, or the validation set of a recipe."""
    if videos.suffix in (".yaml", ".yml"):
        if not videos.is_file():
            raise ValueError(f"no recipe at {videos}: expected a yaml file with a data module")
        parser = Parser()
        parser.add_class_arguments(VideoData, "data")
        return parser.instantiate(parser.parse_object({"data": yaml.safe_load(videos.read_text())})).data.val
    return Folder(str(videos), **size, images=False)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {in_words(error)}")

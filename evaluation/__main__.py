"""Scores of a model, as JSON and as a table.

python -m evaluation reconstruction --model DIR --videos FOLDER|CONFIG [--out metrics.json]
python -m evaluation generation     --model DIR --videos FOLDER|CONFIG [--out metrics.json]
python -m evaluation compare a.json b.json
"""

import json
from pathlib import Path

import torch
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import PositiveFloat, PositiveInt

from data.commands import Parser, find_device, run
from data.folder import Folder
from data.module import VideoData, sizes_of
from evaluation import generation, reconstruction, samples
from evaluation.clips import read, read_reference
from evaluation.extractor import Extractor
from evaluation.features import I3D, WINDOW, FrameEncoder, TextVideo, VideoEncoder
from evaluation.fidelity import read_classes
from evaluation.protocol import compare
from evaluation.table import comparison_table, score_table
from generator.pipeline import VideoGenerator
from vq import pretrained
from vq.lpips import LPIPS

AGAIN = 16  # captions that get a second sample, to see how much samples of one caption differ
SIZE = ("frames", "height", "width")


def main(args: list[str] | None = None) -> dict:
    parser = Parser(prog="python -m evaluation", description=__doc__.splitlines()[0])
    programs = parser.add_subcommands(required=True, dest="what")
    programs.add_subcommand("reconstruction", reconstruction_parser(), help="what a tokenizer loses")
    programs.add_subcommand("generation", generation_parser(), help="how good a generator's samples are")
    programs.add_subcommand("compare", compare_parser(), help="two results side by side, if they are comparable")
    given = parser.parse_args(args)
    options = given[given.what]
    if "device" in options:
        options.device = find_device(options.device)
    return {"reconstruction": run_reconstruction, "generation": run_generation, "compare": run_compare}[given.what](
        options
    )


def clips_parser(model: bool) -> Parser:
    parser = Parser()
    parser.add_argument("--model", required=model, help="exported folder, training checkpoint or hub id")
    parser.add_argument("--videos", required=True, type=Path, help="a folder of videos, or a recipe of a data module")
    parser.add_argument("--out", type=Path | None, help="a JSON file; None: the table alone")
    parser.add_argument("--clips", type=PositiveInt | None, help="how many; default: all, one a video")
    for axis in SIZE:
        parser.add_argument(
            f"--{axis}", type=PositiveInt | None, help="of a folder's clips; default: as the model was trained"
        )
    parser.add_argument(
        "--fps", type=PositiveFloat | None, help="of a folder's clips; default: as the model was trained"
    )
    parser.add_argument(
        "--i3d", help="safetensors file with I3D, or hf://NAME/REPOSITORY/FILE; default: neither FVD nor KVD"
    )
    parser.add_argument("--cache", type=Path, help="a folder that keeps features, by what a clip shows")
    parser.add_argument("--batch_size", type=PositiveInt, default=8)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    return parser


def reconstruction_parser() -> Parser:
    parser = clips_parser(model=True)
    parser.add_argument(
        "--lpips",
        help="safetensors file with LPIPS of AlexNet, hf://NAME/REPOSITORY/FILE, or 'download'; default: no LPIPS",
    )
    return parser


def generation_parser() -> Parser:
    parser = clips_parser(model=False)
    parser.add_argument(
        "--samples", type=Path, help="a folder that sample.py has written: scored in place of new samples"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first caption's sample; the next ones count up")
    skip = {"canvas", "texts", "seeds", "batch_size", "progress", "backwards", "fps", "actions"}
    parser.add_method_arguments(VideoGenerator, "fill", "sampling", skip=skip)
    parser.add_argument(
        "--video_features", help="folder or hub id of V-JEPA 2 or VideoMAE: FVD and KVD on its features"
    )
    parser.add_argument("--frame_features", help="folder or hub id of CLIP, SigLIP, DINOv2 or ViT: FID and KID on them")
    parser.add_argument("--text", help="folder or hub id of CLIP, SigLIP or X-CLIP: how well clips fit their captions")
    parser.add_argument("--classes", type=Path, help="yaml file: which of I3D's classes are a label of the data set")
    parser.add_argument(
        "--train", type=Path, help="the training's folder or recipe: how near is the nearest of its clips"
    )
    parser.add_argument(
        "--train_clips", type=PositiveInt, default=4096, help="of --train, the first ones; fewer if it has fewer"
    )
    return parser


def compare_parser() -> Parser:
    parser = Parser()
    parser.add_argument("results", nargs=2, type=Path, help="two JSON files that this program has written")
    parser.add_argument(
        "--across", nargs="*", default=[], help="entries of the protocol that may differ: sampling, ..."
    )
    return parser


def run_reconstruction(given: Namespace) -> dict:
    check_out(given.out)
    tokenizer = pretrained.load(given.model, "tokenizer")
    if not tokenizer.codebook_size:
        raise ValueError(f"the tokenizer at {given.model} is continuous: it makes no tokens")
    dataset = open_videos(given.videos, size_of(given, pretrained.clip(given.model)))
    tokenizer.latent_shape(dataset.frames, dataset.height, dataset.width)
    lpips = given.lpips and LPIPS(None if given.lpips == "download" else given.lpips, net="alex")
    i3d = given.i3d and open_i3d(given)
    result = reconstruction.evaluate(
        tokenizer, dataset, given.clips or len(dataset), lpips, i3d, batch_size=given.batch_size, device=given.device
    )
    write(given.out, {"model": given.model, "videos": str(given.videos)} | result)
    for name, score in result["scores"].items():
        error = f" (standard error {score['error']:.4f})" if "error" in score else ""
        print(f"{name}: {score['mean']:.4f}{error}")
    print_refused(result)
    return result


def run_generation(given: Namespace) -> dict:
    check_out(given.out)
    if not given.model and not given.samples:
        raise ValueError("there is nothing to score: expected a --model that makes samples, or a folder of --samples")
    model = given.model and VideoGenerator.from_pretrained(given.model, given.device)
    records = given.samples and samples.records(given.samples)
    first = next(iter(records.values())) if records else {}
    usual = model.clip if model else {"fps": first.get("fps")} | first.get("size", {})
    dataset = open_videos(given.videos, size_of(given, usual))
    size = {axis: getattr(dataset, axis) for axis in SIZE}
    if model:
        model.tokenizer.latent_shape(**size)
    extractors, text_score = open_networks(given)
    classes = given.classes and read_classes(given.classes)
    train = given.train and open_videos(given.train, size | {"fps": dataset.fps}, split="train")
    if train and size != {axis: getattr(train, axis) for axis in SIZE}:
        told = "x".join(str(getattr(train, axis)) for axis in SIZE)
        raise ValueError(f"--train has clips of {told}, expected {'x'.join(map(str, size.values()))} as --videos")
    real, further = read_reference(dataset, given.clips or len(dataset))
    if records:
        source = samples.stored(records, real.texts, size, dataset.fps)
    else:
        texts = real.texts + real.texts[:AGAIN]
        seeds = [given.seed + i for i in range(len(texts))]
        settings = vars(generation_parser().instantiate(given).sampling)
        source = samples.Drawn(model, size, texts, seeds, settings | {"fps": dataset.fps}, given.sampling.as_dict())
    result = generation.evaluate(
        dataset,
        real,
        further,
        source,
        reconstruct=model and (lambda video: model.decode(model.encode(video))),
        extractors=extractors,
        text_score=text_score,
        classes=classes,
        train=train and read(train, 0, min(given.train_clips, len(train)), "reading training clips"),
        batch_size=given.batch_size,
        device=given.device,
    )
    parts = {part: pretrained.fingerprint(getattr(model, part)) for part in ("tokenizer", "generator")} if model else {}
    about = {"model": given.model, "samples": given.samples and str(given.samples), "videos": str(given.videos)}
    write(given.out, about | {"weights": parts, "torch": torch.__version__} | result)
    print(f"\n{len(real)} clips; ± standard error, or in brackets the 95% interval")
    print(score_table(result["scores"]))
    print_refused(result)
    return result


def run_compare(given: Namespace) -> dict:
    results = []
    for path in given.results:
        try:
            results.append(json.loads(path.read_text()))
            results[-1]["protocol"], results[-1]["scores"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no result of python -m evaluation: expected its JSON") from error
    rows = compare(*results, across=given.across)
    print(f"{results[0]['protocol']['clips']} clips; ± standard error, of differences the 95% interval")
    print(comparison_table(rows, tuple(path.stem for path in given.results)))
    return {name: {"a": a, "b": b} for name, a, b in rows}


def open_i3d(given: Namespace) -> Extractor:
    i3d = I3D(given.i3d).to(given.device)
    return Extractor("i3d", lambda video: i3d(video[:, :, :WINDOW]), i3d.identity, folder=given.cache)


def open_networks(given: Namespace) -> tuple[list[Extractor], Extractor | None]:
    """The networks that are asked for, on their device."""
    extractors = []
    if given.i3d:
        extractors.append(open_i3d(given))
    if given.video_features:
        encoder = VideoEncoder(given.video_features).to(given.device)
        extractors.append(Extractor(encoder.kind, encoder, encoder.identity, folder=given.cache))
    if given.frame_features:
        encoder = FrameEncoder(given.frame_features).to(given.device)
        extractors.append(Extractor(encoder.kind, encoder, encoder.identity, ("fid", "kid"), given.cache))
    if not given.text:
        return extractors, None
    reader = TextVideo(given.text).to(given.device)
    return extractors, Extractor(reader.kind, reader, reader.identity, folder=given.cache)


def size_of(given: Namespace, usual: dict) -> dict:
    """The size of a folder's clips: as given, otherwise as usual."""
    if given.videos.suffix in (".yaml", ".yml") and any(given[axis] is not None for axis in (*SIZE, "fps")):
        raise ValueError(
            f"{given.videos} says itself how large its clips are: leave out --frames, --height, --width, --fps"
        )
    size = {axis: usual.get(axis) if given[axis] is None else given[axis] for axis in (*SIZE, "fps")}
    return {axis: value for axis, value in size.items() if value is not None}


def open_videos(videos: Path, size: dict, split: str = "val"):
    """A folder as its first clip and its further random ones, or a set of a recipe."""
    if videos.suffix in (".yaml", ".yml"):
        if not videos.is_file():
            raise ValueError(f"no recipe at {videos}: expected a yaml file with a data module")
        parser = Parser()
        parser.add_class_arguments(VideoData, "data")
        parsed = parser.parse_object({"data": yaml.safe_load(videos.read_text())})
        dataset = getattr(parser.instantiate(parsed).data, split)
        if len(sizes_of(dataset)) > 1:
            raise ValueError(f"{videos}: clips of several sizes cannot be scored together: give a recipe of one size")
        return dataset
    return Folder(str(videos), **size, images=False)


def check_out(path: Path | None) -> None:
    if path and path.suffix != ".json":
        raise ValueError(f"--out is {path}: expected a file that ends in .json")


def write(path: Path | None, result: dict) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def print_refused(result: dict) -> None:
    for line in result.get("refused", []):
        print(f"refused: {line}")


if __name__ == "__main__":
    run(main)

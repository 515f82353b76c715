"""Longer captions for a folder of videos: ``python -m data.captions FOLDER --backend template|MODEL|URL``.

Writes a new file, FOLDER/captions.jsonl: each video's line with its own caption as ``text``, its attributes, and what
was written as ``long_text``. ``data.folder.Folder`` reads it and mixes short and long (``metadata``, ``long_share``).

Interrupted and called again, it goes on where it was. What could not be written keeps its own caption and says why
in ``error``; the next call tries it again, and the last line of a file counts.
"""

import base64
import io
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from data import hub
from data.commands import Parser, find_device, run
from data.folder import Caption, Folder
from data.looks import describe
from data.video import VideoError, probe, read_clip, to_uint8
from data.writers import Endpoint, Guarded, Request, Writer, Written, one_line

FILE = "captions.jsonl"
QUESTION = (
    "These are frames of one video, in their order. Describe the video in one or two plain sentences: what is seen, "
    "its colours, how it moves, the background, the camera. Say only what can be seen. Answer with the description "
    "alone."
)


def main(args: list[str] | None = None) -> Path:
    parser = Parser(prog="python -m data.captions", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of videos and images, with captions or without")
    parser.add_argument(
        "--backend",
        default="template",
        help="template: what can be measured; a folder or hub id: a captioning model of transformers; "
        "http://HOST/v1#MODEL: a server that speaks OpenAI's protocol, with the key in OPENAI_API_KEY",
    )
    parser.add_argument("--out", type=Path, help=f"default: {FILE} in the folder")
    parser.add_argument("--frames", type=int, default=8, help="of each video that the backend sees")
    parser.add_argument("--size", type=int, default=336, help="pixels of a frame's longer side; never enlarged")
    parser.add_argument(
        "--batch_size", "--batch-size", type=int, default=8, help="videos between two writings to the file"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    given = parser.parse_args(args)
    for name in ("frames", "size", "batch_size"):
        if given[name] < 1:
            raise ValueError(f"--{name} is {given[name]}, expected at least 1")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* have no caption")  # that is what they come for
        folder = Folder(str(given.folder))
    out = given.out or folder.root / FILE
    failed = recaption(
        folder,
        out,
        Guarded(writer(given.backend, find_device(given.device))),
        given.backend,
        given.frames,
        given.size,
        given.batch_size,
    )
    if failed:
        print(
            f"{failed} files have no long caption, {out} says why: the same command tries them again", file=sys.stderr
        )
    return out


def writer(backend: str, device: str = "cpu") -> Writer:
    """The writer of captions that a user names: "template", the URL of a server, or a model."""
    if backend == "template":
        return Template()
    if backend.startswith(("http://", "https://")):
        return Endpoint(backend, messages)
    return VisionModel(backend, device)


def recaption(
    folder: Folder, out: Path, write: Guarded, name: str, frames: int = 8, size: int = 336, batch_size: int = 8
) -> int:
    """Appends a line for every file of ``folder`` that ``out`` has none for, and returns how many have failed.

    ``name`` of the writer stands in every line; ``ValueError`` where ``out`` is another's.
    """
    there = read_lines(out, name)
    names = {file: file.relative_to(folder.root).as_posix() for file in folder.files}
    left = [file for file in folder.files if "error" in there.get(names[file], {"error": "none yet"})]
    failed = 0
    with out.open("a", encoding="utf-8") as lines, tqdm(total=len(left), unit="clip", desc="captioning") as bar:
        for first in range(0, len(left), batch_size):
            files = left[first : first + batch_size]
            results = _captions(files, folder, write, frames, size)
            for file in files:
                entry = line(names[file], folder.entries.get(file, Caption()), results[file], name)
                failed += results[file].error is not None
                if entry != there.get(names[file]):  # what fails again for the same reason need not be said again
                    lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
            lines.flush()
            bar.update(len(files))
    return failed


def line(file_name: str, caption: Caption, result: Written, name: str) -> dict:
    """The metadata of a file: all it had, and the new caption behind the long ones that there are."""
    entry = {"file_name": file_name, "text": caption.text, **(caption.attributes or {})}
    longs = list(caption.long) if result.error else [*caption.long, result.text]
    if longs:
        entry["long_text"] = longs[0] if len(longs) == 1 else longs
    return entry | {"writer": name} | ({"error": result.error} if result.error else {})


def read_lines(out: Path, name: str) -> dict[str, dict]:
    """file_name -> its last line in the captions that the writer ``name`` has begun, ready to be appended to.

    A last line that was cut off when a run was killed is taken away. ``ValueError`` for anybody else's file, untouched.
    """
    if not out.is_file():
        return {}
    data = out.read_bytes()
    whole, end, cut = data.rpartition(b"\n")
    try:
        entries = [json.loads(text) for text in whole.decode().split("\n") if text.strip()]
        writers = {entry.get("writer", "somebody else") for entry in entries if entry["file_name"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{out}: is no file of captions ({one_line(error)}): give another --out") from error
    if data and writers != {name}:
        raise ValueError(
            f"{out}: was written by {' and '.join(writers) or 'somebody else'}, not by {name}: give another --out, or "
            "delete it"
        )
    if cut:
        with out.open("r+b") as file:
            file.truncate(len(whole + end))
    return {entry["file_name"]: entry for entry in entries}


def _captions(files: Sequence[Path], folder: Folder, write: Guarded, frames: int, size: int) -> dict[Path, Written]:
    """What is written on each file; one that cannot be read fails alone."""
    requests, unread = {}, {}
    for file in files:
        text = folder.entries.get(file, Caption()).text
        try:
            requests[file] = Request(text, _read(file, frames, size))
        except VideoError as error:
            unread[file] = Written(text, str(error))
    return unread | dict(zip(requests, write(list(requests.values())), strict=True))


def _read(file: Path, frames: int, size: int) -> torch.Tensor:
    """Frames at equal distances over the whole video, (3, t, h, w) in [-1, 1], uncropped."""
    info = probe(file)
    scale = min(1.0, size / max(info.height, info.width))
    height, width = (max(1, round(side * scale)) for side in (info.height, info.width))
    if info.is_image:
        return read_clip(file, 1, height, width)[0]
    # No frame is shown twice, so that a short video does not seem to stand still in between
    frames = max(1, min(frames, info.frames))
    return read_clip(file, frames, height, width, fps=frames / info.duration)[0]


# ---- Writers --------------------------------------------------------------------------------------------------------


class Template(Writer):
    """The caption that there is, and what can be measured in the clip."""

    def write(self, request: Request) -> str:
        own, looks = request.text.strip(), describe(request.clip)
        looks = looks[0].upper() + looks[1:]
        return f"{own}{'' if own[-1] in '.!?' else '.'} {looks}" if own else looks


class VisionModel(Writer):
    """A captioning or image-text-to-text model of ``transformers``, greedy: the same clip, the same caption.

    A model that chats (LLaVA, Qwen-VL, SmolVLM and their kin) sees all frames and the original caption, a plain
    captioner (BLIP, GIT) the middle frame.

    Args:
        model: a folder or a hub id. Only safetensors are read.
        max_tokens: of an answer.
    """

    def __init__(self, model: str, device: str = "cpu", max_tokens: int = 128) -> None:
        self.processor, network = _load(model)
        self.model, self.max_tokens = network.to(device).eval(), max_tokens
        self.chats = getattr(self.processor, "chat_template", None) is not None

    @torch.inference_mode()
    def write(self, request: Request) -> str:
        pictures = [Image.fromarray(frame) for frame in to_uint8(request.clip)]
        if self.chats:
            parts = [{"type": "image", "image": picture} for picture in pictures]
            chat = [{"role": "user", "content": [*parts, {"type": "text", "text": question(request)}]}]
            inputs = self.processor.apply_chat_template(
                chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
        else:
            inputs = self.processor(images=pictures[len(pictures) // 2], return_tensors="pt")
        inputs = inputs.to(self.model.device, self.model.dtype)
        tokens = self.model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        asked = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0  # models repeat what they were asked
        return self.processor.decode(tokens[0, asked:], skip_special_tokens=True)


def question(request: Request) -> str:
    return f'{QUESTION} Somebody called it "{request.text}".' if request.text else QUESTION


def messages(request: Request) -> list[dict]:
    """The question and the frames as chat messages of OpenAI's protocol."""
    pictures = [{"type": "image_url", "image_url": {"url": data_url(frame)}} for frame in to_uint8(request.clip)]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": question(request)}]}]


def data_url(picture: np.ndarray) -> str:
    """uint8 (h, w, 3) as a JPEG within a URL."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _load(model: str) -> tuple:
    """The processor and the model of a folder or hub id."""
    expected = (
        "'template', the URL of a server, a folder with config.json, model.safetensors and a processor, or a hub id "
        "such as 'Salesforce/blip-image-captioning-base'"
    )
    with hub.loading("captioning model", model, expected) as transformers:
        dtype = hub.dtype(transformers.AutoConfig.from_pretrained(model))
        network = transformers.AutoModelForImageTextToText.from_pretrained(model, dtype=dtype, use_safetensors=True)
        processor = transformers.AutoProcessor.from_pretrained(model)
        if not hasattr(processor, "image_processor"):
            raise ValueError("no image processor is with it")
        return processor, network


if __name__ == "__main__":
    print(run(main))

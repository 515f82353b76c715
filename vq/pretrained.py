"""A model for use: a folder with ``config.yaml`` (how its parts are built) and one safetensors file a part.

``load`` also takes a hub id and a training checkpoint. No pickled object is ever executed: checkpoints are opened with
``weights_only=True``.
"""

import hashlib
import re
from pathlib import Path

import torch
import yaml
from huggingface_hub import hf_hub_download, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vq.config import Configurable, build

FORMAT = "tessera-1"


def save(folder: str | Path, clip: dict, **parts: Configurable) -> Path:
    """Writes the parts, ``save("out/model", clip, tokenizer=tokenizer, generator=generator)``; returns the folder.

    ``clip`` is the size that they were trained at: frames, height, width, fps; ``window`` is there where clips were
    longer, too: frames of the longest.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        state = {k: v.detach().cpu().contiguous() for k, v in part.state_dict().items()}
        temporary = folder / f"{name}.safetensors.tmp"
        save_file(state, temporary)
        temporary.rename(folder / f"{name}.safetensors")
    config = {"format": FORMAT, "clip": clip} | {name: part.config for name, part in parts.items()}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))  # last: a folder with it is whole
    return folder


def load(source: str | Path, part: str) -> Configurable:
    """Builds one part of a model, on the CPU, in evaluation mode.

    Args:
        source: an exported folder, a training checkpoint (``.ckpt``), or a hub id.
        part: ``tokenizer`` or ``generator``.

    Raises ``ValueError`` for a source that does not exist or does not hold the part.
    """
    path = Path(source)
    config, state = _from_checkpoint(path, part) if path.is_file() else _from_folder(_folder(source), part)
    built = build(config)
    try:
        built.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ValueError(f"the weights in {source} do not fit its configuration: {first}") from error
    return built.eval()


def clip(source: str | Path) -> dict:
    """The size that a model was trained at, as ``save`` was told."""
    path = Path(source)
    if path.is_file():
        return torch.load(path, map_location="cpu", weights_only=True)["clip"]
    return yaml.safe_load((_folder(source) / "config.yaml").read_text())["clip"]


def code_of(tokenizer: nn.Module) -> str:
    """A short hash of what makes a tokenizer's tokens: with one code, decoders may differ, tokens do not."""
    return fingerprint(nn.ModuleDict({"encoder": tokenizer.encoder, "quantizer": tokenizer.quantizer}))


def fingerprint(module: nn.Module) -> str:
    """A short hash of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def file_of(source: str | Path) -> Path:
    """A file, or one of the hub, ``hf://NAME/REPOSITORY/FILE``, which is downloaded at first use."""
    there = re.fullmatch(r"hf://([^/]+/[^/]+)/(.+)", str(source))
    return Path(hf_hub_download(there[1], there[2])) if there else Path(source)


def _folder(source: str | Path) -> Path:
    """The folder itself, or the download of a hub id."""
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(str(source)))
    except Exception as error:  # whatever the hub client raises: no network, no such repository, a malformed id
        raise ValueError(
            f"no model at {str(source)!r}: expected an exported folder, a training checkpoint or a hub id "
            f"({type(error).__name__} from the hub)"
        ) from error


def _from_folder(folder: Path, part: str) -> tuple[dict, dict]:
    file = folder / "config.yaml"
    if not file.is_file():
        raise ValueError(f"{folder} holds no config.yaml: expected a folder that training or an export has written")
    config = _read_config(file)
    if part not in config:
        raise ValueError(
            f"{folder} holds no {part}: it has {', '.join(k for k in config if k not in ('format', 'clip'))}"
        )
    weights = folder / f"{part}.safetensors"
    try:
        return config[part], load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"{weights} is damaged or no safetensors file: copy or download it again ({error})") from error


def _read_config(file: Path) -> dict:
    try:
        config = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        config = None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"{file} is not a model's configuration of format {FORMAT}")
    return config


def _from_checkpoint(path: Path, part: str) -> tuple[dict, dict]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # not a checkpoint, or one with pickled objects in it
        raise ValueError(f"{path} is not a readable training checkpoint: {type(error).__name__}") from error
    if part not in checkpoint.get("parts", {}):
        raise ValueError(f"{path} holds no {part}: it has {', '.join(checkpoint.get('parts', {})) or 'no parts'}")
    prefix = f"{part}."
    state = {k[len(prefix) :]: v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    return checkpoint["parts"][part], state

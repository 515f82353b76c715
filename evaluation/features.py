"""Networks that look at clips: I3D, and encoders of videos, frames and texts from `transformers`.

I3D is the video classifier whose features the Frechet video distance compares (arXiv 1705.07750, 1812.01717). The
others come by a folder or hub id: V-JEPA 2 (arXiv 2506.09985) and VideoMAE (2203.12602) for videos, whose features mind
motion more than I3D's do (2404.12391); CLIP, SigLIP and DINOv2 for frames; CLIP, SigLIP and X-CLIP for texts.
"""

import json
import math
from functools import reduce

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn

from data import hub
from evaluation import protocol
from vq.pretrained import file_of, fingerprint

WINDOW = 16  # frames that I3D is shown, by custom
MIXED = ("3b", "3c", "pool3", "4b", "4c", "4d", "4e", "4f", "pool2", "5b", "5c")
SIDE = 224  # pixels that the network was trained at
LAYERS = 58  # convolutions
LEAST = 9  # frames: fewer leave nothing to average over time


class I3D(nn.Module):
    """Inception-I3D for RGB, trained on Kinetics-400: clips -> 400 logits, the usual features of FVD.

    Its layers are what the weights say: each convolution is followed by a batch norm without gain, which is folded in.

    Args:
        weights: a safetensors file, or hf://NAME/REPOSITORY/FILE, with ``Conv3d_1a_7x7.conv3d.weight``,
            ``.bn.bias``, ``.bn.running_mean`` and ``.bn.running_var``, ... ``Mixed_3b.b0``, ``.b1a``, ``.b1b``,
            ``.b2a``, ``.b2b``, ``.b3b`` ... ``logits.conv3d.weight``, as the common PyTorch port of DeepMind's network
            names them.

    Attributes:
        identity: the network by its weights, and how clips are shown to it.
    """

    def __init__(self, weights: str) -> None:
        super().__init__()
        try:
            file = file_of(weights)
            state = load_file(file)
            names = {key.rsplit(".", 2)[0] for key in state if key.endswith(".conv3d.weight")}
            for name in sorted(names):
                kernel, bias = state[f"{name}.conv3d.weight"], state.get(f"{name}.conv3d.bias")
                if bias is None:
                    scale = (state[f"{name}.bn.running_var"] + 1e-3).rsqrt()
                    kernel = kernel * scale.view(-1, 1, 1, 1, 1)
                    bias = state[f"{name}.bn.bias"] - state[f"{name}.bn.running_mean"] * scale
                self.register_buffer(f"{name}_kernel".replace(".", "_"), kernel, persistent=False)
                self.register_buffer(f"{name}_bias".replace(".", "_"), bias, persistent=False)
            if len(names) != LAYERS:
                raise KeyError(f"{len(names)} layers")
            weighed = protocol.fingerprint([file.read_bytes()])
        except Exception as error:  # no such file, another format, missing keys
            raise ValueError(
                f"{weights}: no I3D weights can be read: expected a safetensors file, or hf://NAME/REPOSITORY/FILE"
            ) from error
        self.identity = f"{weighed}, logits of the first {WINDOW} frames, stretched to {SIDE}x{SIDE}"

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        """Videos (b, 3, t, h, w) in [-1, 1], stretched to 224x224 -> logits (b, 400), the mean over time."""
        b, _, t, *_ = video.shape
        if t < LEAST:
            raise ValueError(f"I3D needs clips of at least {LEAST} frames, got {t}")
        frames = rearrange(video, "b c t h w -> (b t) c h w")
        frames = F.interpolate(frames, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        x = rearrange(frames, "(b t) c h w -> b c t h w", b=b)
        x = self.unit(x, "Conv3d_1a_7x7", stride=2)
        x = pool(x, (1, 3, 3), (1, 2, 2))
        x = self.unit(self.unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3")
        x = pool(x, (1, 3, 3), (1, 2, 2))
        for name in MIXED:
            if name == "pool3":
                x = pool(x, (3, 3, 3), (2, 2, 2))
            elif name == "pool2":
                x = pool(x, (2, 2, 2), (2, 2, 2))
            else:
                x = self.mixed(x, f"Mixed_{name}")
        x = F.avg_pool3d(x, (2, 7, 7), stride=1)  # b 1024 t' 1 1
        return F.conv3d(x, self.logits_kernel, self.logits_bias).mean((2, 3, 4))

    def mixed(self, x: Tensor, name: str) -> Tensor:
        """Inception's four branches side by side."""
        branches = [
            self.unit(x, f"{name}_b0"),
            self.unit(self.unit(x, f"{name}_b1a"), f"{name}_b1b"),
            self.unit(self.unit(x, f"{name}_b2a"), f"{name}_b2b"),
            self.unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}_b3b"),
        ]
        return torch.cat(branches, dim=1)

    def unit(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel, bias = getattr(self, f"{name}_kernel"), getattr(self, f"{name}_bias")
        return F.relu(F.conv3d(same(x, kernel.shape[2:], (stride,) * 3), kernel, bias, stride=stride))


def pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Greatest of each window, an axis after the other: on CPUs torch's own 3-D pooling takes half of I3D's time."""
    x = same(x, kernel, stride)
    for axis, (k, step) in enumerate(zip(kernel, stride, strict=True), start=2):
        span = x.shape[axis] - k + 1
        shifted = (x.narrow(axis, i, span) for i in range(k))
        every = (slice(None),) * axis + (slice(None, None, step),)
        x = reduce(torch.maximum, (part[every] for part in shifted))
    return x


def same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """TensorFlow's "SAME" padding, where it is odd one more behind; zeros, which no maximum after a ReLU minds."""
    padding: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        padding = [total // 2, total - total // 2, *padding]
    return F.pad(x, padding)


class Encoder(nn.Module):
    """A frozen network of `transformers`: weights as safetensors, from a folder or a hub id.

    Attributes:
        kind: its family: "videomae", "clip", ...
        identity: the network by its weights, and how clips are shown to it.
    """

    kinds: tuple[str, ...] = ()

    def __init__(self, source: str) -> None:
        super().__init__()
        expected = (
            f"a folder or hub id of {', '.join(self.kinds)} with config.json, model.safetensors and "
            "preprocessor_config.json"
        )
        with hub.loading("encoder", source, expected) as transformers:
            self.config = transformers.AutoConfig.from_pretrained(source)
            self.kind = self.config.model_type
            if self.kind not in self.kinds:
                raise ValueError(f"it is a {self.kind}")
            self.network = transformers.AutoModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
            for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
                file = transformers.utils.cached_file(source, name, _raise_exceptions_for_missing_entries=False)
                if file is not None:
                    break
            with open(file) as text:
                self.shown = json.load(text)
            self.words = transformers.AutoTokenizer.from_pretrained(source) if self.reads else None
        self.network.eval().requires_grad_(False)
        vision = getattr(self.config, "vision_config", self.config)
        self.side = _side(self.shown) or getattr(vision, "crop_size", None) or vision.image_size
        self.identity = f"{self.kind} {fingerprint(self.network)}, stretched to {self.side}x{self.side}"

    reads = False  # texts

    def show(self, frames: Tensor) -> Tensor:
        """Frames (n, 3, h, w) in [-1, 1] -> (n, 3, side, side), scaled as in the network's training."""
        frames = F.interpolate(frames, (self.side, self.side), mode="bilinear", antialias=True).clamp(-1, 1)
        mean, std = (frames.new_tensor(self.shown[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
        return ((frames + 1) / 2 - mean) / std


class VideoEncoder(Encoder):
    """Videos -> features: the mean over all patches of V-JEPA 2 or VideoMAE."""

    kinds = ("vjepa2", "videomae")

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        """Videos (b, 3, t, h, w) in [-1, 1] -> (b, d). VideoMAE sees the 16 frames of its training, evenly chosen."""
        t, tube = video.shape[2], self.config.tubelet_size
        fixed = self.config.num_frames if self.kind == "videomae" else math.ceil(t / tube) * tube
        frames = evenly(video, fixed)  # b 3 t h w
        seen = self.show(rearrange(frames, "b c t h w -> (b t) c h w"))
        seen = rearrange(seen, "(b t) c h w -> b t c h w", b=len(video))
        if self.kind == "vjepa2":
            return self.network(pixel_values_videos=seen, skip_predictor=True).last_hidden_state.mean(1)
        return self.network(pixel_values=seen).last_hidden_state.mean(1)


class FrameEncoder(Encoder):
    """Videos -> features of their middle frames. One frame a clip: frames of one clip are no independent samples."""

    kinds = ("clip", "siglip", "dinov2", "vit")

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        """Videos (b, 3, t, h, w) in [-1, 1] -> (b, d)."""
        seen = self.show(video[:, :, video.shape[2] // 2])
        if self.kind in ("clip", "siglip"):
            return self.network.get_image_features(pixel_values=seen).pooler_output
        return self.network(pixel_values=seen).last_hidden_state[:, 0]


class TextVideo(Encoder):
    """Videos and their captions -> cosines: of X-CLIP, or the mean over frames of CLIP (CLIPScore) or SigLIP."""

    kinds = ("clip", "siglip", "xclip")
    reads = True

    @torch.no_grad()
    def forward(self, video: Tensor, texts: list[str]) -> Tensor:
        """Videos (b, 3, t, h, w) in [-1, 1] and b texts -> (b,) in [-1, 1]; each video with its own text."""
        b = len(video)
        words = self.read(texts)
        if self.kind == "xclip":
            video = evenly(video, self.config.vision_config.num_frames)
        seen = self.show(rearrange(video, "b c t h w -> (b t) c h w"))
        if self.kind == "xclip":  # its text features depend on the video
            pairs = self.network(pixel_values=rearrange(seen, "(b t) c h w -> b t c h w", b=b), **words)
            return pairs.logits_per_video.diagonal() / self.network.logit_scale.exp()
        frames = F.normalize(self.network.get_image_features(pixel_values=seen).pooler_output, dim=1)
        text = F.normalize(self.network.get_text_features(**words).pooler_output, dim=1)
        return torch.einsum("btd, bd -> b", rearrange(frames, "(b t) d -> b t d", b=b), text) * b / len(frames)

    def read(self, texts: list[str]) -> dict[str, Tensor]:
        longest = self.config.text_config.max_position_embeddings
        padding = "max_length" if self.kind == "siglip" else True  # as it was trained
        words = self.words(texts, padding=padding, truncation=True, max_length=longest, return_tensors="pt")
        named = {name: words[name] for name in ("input_ids", "attention_mask") if name in words}
        if self.kind == "siglip":  # reads its padding, as in training
            named.pop("attention_mask", None)
        return {name: tensor.to(self.network.device) for name, tensor in named.items()}


def evenly(video: Tensor, frames: int) -> Tensor:
    """As many frames (b, 3, frames, h, w), evenly chosen from the first to the last; repeated where there are fewer."""
    chosen = torch.linspace(0, video.shape[2] - 1, frames).round().long()
    return video[:, :, chosen.to(video.device)]


def _side(shown: dict) -> int | None:
    """The pixels a side that a network's preprocessor crops or resizes to."""
    for name in ("crop_size", "size"):
        size = shown.get(name)
        if isinstance(size, dict):
            size = size.get("height") or size.get("shortest_edge")
        if size:
            return size
    return None

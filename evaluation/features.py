"""I3D: the video classifier whose features the Frechet video distance compares (arXiv 1705.07750, 1812.01717)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn

MIXED = ("3b", "3c", "pool3", "4b", "4c", "4d", "4e", "4f", "pool2", "5b", "5c")
SIDE = 224  # pixels that the network was trained at
LAYERS = 58  # convolutions
LEAST = 9  # frames: fewer leave nothing to average over time


class I3D(nn.Module):
    """Inception-I3D for RGB, trained on Kinetics-400: clips -> 400 logits, the usual features of FVD.

    Its layers are what the weights say: each convolution is followed by a batch norm without gain, which is folded in.

    Args:
        weights: a safetensors file with ``Conv3d_1a_7x7.conv3d.weight``, ``.bn.bias``, ``.bn.running_mean`` and
            ``.bn.running_var``, ... ``Mixed_3b.b0``, ``.b1a``, ``.b1b``, ``.b2a``, ``.b2b``, ``.b3b`` ...
            ``logits.conv3d.weight``, as the common PyTorch port of DeepMind's network names them.
    """

    def __init__(self, weights: str) -> None:
        super().__init__()
        try:
            state = load_file(weights)
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
        except Exception as error:  # no such file, another format, missing keys
            raise ValueError(f"{weights}: no I3D weights can be read: expected a safetensors file") from error

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
    return F.max_pool3d(same(x, kernel, stride), kernel, stride)


def same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """TensorFlow's "SAME" padding, where it is odd one more behind; zeros, which no maximum after a ReLU minds."""
    padding: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        padding = [total // 2, total - total // 2, *padding]
    return F.pad(x, padding)

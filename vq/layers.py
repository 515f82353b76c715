"""The layers of the tokenizer: all of them causal in time, and normalised position by position.

Tensors are (b, c, t, h, w), kept in ``channels_last_3d``, the layout that fast convolutions work in, provided that the
causal padding keeps it, which ``F.pad`` does and indexing does not.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vq.streaming import begins, with_past


class SpatialConv(nn.Conv3d):
    """A convolution inside each frame, 3x3 by default: (b, c, t, h, w) -> (b, out, t, h/stride, w/stride)."""

    def __init__(self, channels: int, out_channels: int, stride: int = 1, kernel: int = 3) -> None:
        around = kernel // 2
        super().__init__(
            channels, out_channels, (1, kernel, kernel), stride=(1, stride, stride), padding=(0, around, around)
        )


class TemporalConv(nn.Conv3d):
    """A convolution over 3 frames: the present one and the two before it; the first frame stands for its own past.

    So an image is a video that has always stood still, and no output depends on a later frame.
    """

    def __init__(self, channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(channels, out_channels, (3, 1, 1), stride=(stride, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(with_past(self, x, frames=2, stride=self.stride[0]))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position by itself.

    Statistics over time would let later frames change earlier ones. Statistics over a frame would let an object change
    the tokens of the background far from it: a code then says little about its place, and the generator, which has to
    predict it, learns far more slowly (docs/LOG.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution in space; norm, SiLU, convolution in time; added to the input."""

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.space_norm, self.space = ChannelNorm(channels), SpatialConv(channels, channels, kernel=kernel)
        self.time_norm, self.time = ChannelNorm(channels), TemporalConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.space(F.silu(self.space_norm(x)))
        y = self.time(F.silu(self.time_norm(y)))
        return x + y


class FrameAttention(nn.Module):
    """Self-attention among the positions of each frame, for the decoder's end of the bottleneck.

    The encoder has none, so that a token depends on its surroundings only.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.heads = max(1, channels // 64)

    def forward(self, x: Tensor) -> Tensor:
        b, _, t, h, w = x.shape
        tokens = rearrange(self.norm(x), "b c t h w -> (b t) (h w) c")
        q, k, v = rearrange(self.qkv(tokens), "b n (three l d) -> three b l n d", three=3, l=self.heads)
        tokens = rearrange(F.scaled_dot_product_attention(q, k, v), "b l n d -> b n (l d)")
        return x + rearrange(self.out(tokens), "(b t) (h w) c -> b c t h w", b=b, t=t, h=h, w=w)


class Blend(nn.Module):
    """A learned mix of two ways to the same shape (VidTok's AlphaBlender): one number, half and half at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return b + torch.sigmoid(self.weight).to(a.dtype) * (a - b)


class TimeDown(nn.Module):
    """Halves the frame rate and keeps the first frame: t -> 1 + (t - 1) / 2. Mean of two frames, or a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.blend = TemporalConv(channels, channels, stride=2), Blend()

    def forward(self, x: Tensor) -> Tensor:
        mean = F.avg_pool3d(with_past(self, x, frames=1, stride=2), (2, 1, 1))
        return self.blend(mean, self.conv(x))


class TimeUp(nn.Module):
    """Doubles the frame rate behind the first frame: t -> 1 + 2 (t - 1). Repeated frames, or a convolution of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.blend = TemporalConv(channels, channels), Blend()

    def forward(self, x: Tensor) -> Tensor:
        repeated = x.repeat_interleave(2, dim=2)
        if begins(self.conv):
            repeated = repeated[:, :, 1:]
        repeated = repeated.contiguous(memory_format=torch.channels_last_3d)
        return self.blend(repeated, self.conv(repeated))


class SpaceDown(nn.Module):
    """Halves height and width: (b, c, t, h, w) -> (b, out, t, h/2, w/2).

    A convolution is added to a way without weights, space-to-depth and the mean of neighbouring channels (DC-AE, arXiv
    2410.10733): through deep compression the gradient finds a straight path. With ``kernel=1`` an output sees its own
    2x2 inputs only, otherwise 3x3 of them.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__()
        if 4 * channels % out_channels:
            raise ValueError(
                f"{channels} channels cannot halve into {out_channels}: the latter must divide {4 * channels}"
            )
        self.local = kernel == 1
        if self.local:
            self.conv = SpatialConv(4 * channels, out_channels, kernel=1)
        else:
            self.conv = SpatialConv(channels, out_channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        folded = patchify(x, 2)
        y = self.conv(folded if self.local else x)
        return y + rearrange(folded, "b (k c) t h w -> b k c t h w", c=y.shape[1]).mean(1)


class SpaceUp(nn.Module):
    """Doubles height and width: (b, c, t, h, w) -> (b, out, t, 2h, 2w): the mirror of ``SpaceDown``."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        if 4 * out_channels % channels:
            raise ValueError(
                f"{channels} channels cannot double into {out_channels}: the former must divide {4 * out_channels}"
            )
        self.repeats = 4 * out_channels // channels
        self.conv = SpatialConv(channels, 4 * out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return unpatchify(self.conv(x) + x.repeat(1, self.repeats, 1, 1, 1), 2)


def patchify(video: Tensor, size: int) -> Tensor:
    """Space-to-depth: (b, c, t, h, w) -> (b, c * size^2, t, h/size, w/size)."""
    x = rearrange(video, "b c t (h p) (w q) -> b (p q c) t h w", p=size, q=size)
    return x.contiguous(memory_format=torch.channels_last_3d)


def unpatchify(x: Tensor, size: int) -> Tensor:
    """Depth-to-space, the inverse of ``patchify``."""
    x = rearrange(x, "b (p q c) t h w -> b c t (h p) (w q)", p=size, q=size)
    return x.contiguous(memory_format=torch.channels_last_3d)

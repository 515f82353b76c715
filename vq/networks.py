"""The trunk of the tokenizer: a convolutional encoder and decoder, causal in time.

    video -> patchify -> [residual blocks, halve time, halve space] x stages -> latents
    latents -> attention -> [double space, double time, residual blocks] x stages -> unpatchify -> video

Space shrinks by ``patch_size`` in the stem and by 2 a stage of ``space_down``; time by 2 a stage of ``time_down``. The
first frame stands alone, so t = 1 + k * ft frames become 1 + k latent frames, and an image is a video of one frame.
Factorised causal convolutions after Cosmos (arXiv 2501.03575), learned temporal blending after VidTok (2412.13061).
"""

from collections.abc import Sequence

from torch import Tensor, nn

from vq.layers import (
    ChannelNorm,
    FrameAttention,
    ResidualBlock,
    SpaceDown,
    SpaceUp,
    SpatialConv,
    TemporalConv,
    TimeDown,
    TimeUp,
    patchify,
    unpatchify,
)


class Encoder(nn.Module):
    """Video (b, 3, t, h, w) -> latents (b, d, t', h', w')."""

    def __init__(
        self,
        dim: int,
        channels: Sequence[int],
        blocks: int,
        patch_size: int,
        space_down: Sequence[bool],
        time_down: Sequence[bool],
        kernel: int = 3,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.stem = SpatialConv(3 * patch_size**2, channels[0], kernel=kernel)
        layers: list[nn.Module] = []
        for i, width in enumerate(channels):
            following = channels[min(i + 1, len(channels) - 1)]
            layers += [ResidualBlock(width, kernel) for _ in range(blocks)]
            layers += [TimeDown(width)] if time_down[i] else []
            out = (width, following)
            layers += [SpaceDown(*out, kernel=kernel) if space_down[i] else SpatialConv(*out, kernel=kernel)]
        self.stages = nn.Sequential(*layers)
        self.bottleneck = ResidualBlock(channels[-1], kernel)
        self.out = nn.Sequential(ChannelNorm(channels[-1]), nn.SiLU(), SpatialConv(channels[-1], dim, kernel=kernel))

    def forward(self, video: Tensor) -> Tensor:
        x = self.stem(patchify(video, self.patch_size))  # b c t h/p w/p
        x = self.stages(x)  # b c t' h' w'
        x = self.bottleneck(x)
        return self.out(x)  # b d t' h' w'


class Decoder(nn.Module):
    """Latents (b, d, t', h', w') -> video (b, 3, t, h, w), the encoder's mirror."""

    def __init__(
        self,
        dim: int,
        channels: Sequence[int],
        blocks: int,
        patch_size: int,
        space_down: Sequence[bool],
        time_down: Sequence[bool],
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.stem = TemporalConv(dim, channels[-1])
        self.bottleneck = nn.Sequential(SpatialConv(channels[-1], channels[-1]), FrameAttention(channels[-1]))
        layers: list[nn.Module] = []
        for i in reversed(range(len(channels))):
            width, previous = channels[i], channels[min(i + 1, len(channels) - 1)]
            layers += [SpaceUp(previous, width) if space_down[i] else SpatialConv(previous, width)]
            layers += [TimeUp(width)] if time_down[i] else []
            layers += [ResidualBlock(width) for _ in range(blocks)]
        self.stages = nn.Sequential(*layers)
        self.out = nn.Sequential(ChannelNorm(channels[0]), nn.SiLU(), SpatialConv(channels[0], 3 * patch_size**2))

    def forward(self, latents: Tensor) -> Tensor:
        x = self.bottleneck(self.stem(latents))  # b c t' h' w'
        x = self.stages(x)  # b c t h/p w/p
        return unpatchify(self.out(x), self.patch_size)  # b 3 t h w

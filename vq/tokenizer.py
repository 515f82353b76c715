"""Tokenizer: a 3D VQ-VAE that turns a video into a grid of integers and back.

``encode(video) -> tokens`` and ``decode(tokens) -> video`` are all that the rest of the project needs; ``forward`` is
what training needs. The quantizer is a part of its own, chosen by ``class_path``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vq.config import Configurable
from vq.layers import FrameAttention, ResidualBlock
from vq.networks import Decoder, Encoder
from vq.quantizers import Quantized, Quantizer
from vq.streaming import Stream, Tiles


@dataclass(frozen=True)
class Reconstruction:
    """``video`` (b, 3, t, h, w), not clamped, and the ``quantized`` latents that it was decoded from."""

    video: Tensor
    quantized: Quantized


class Tokenizer(Configurable, nn.Module):
    """Causal 3D VQ-VAE.

    Args:
        quantizer: the bottleneck; its ``dim`` is the number of latent channels.
        channels: width of each stage, from the picture inwards.
        blocks: residual blocks a stage.
        patch_size: side of the pixel patches that the stem folds into channels.
        time_compression: frames a latent frame (ft), a power of two.
        space_compression: pixels a latent position, in height and in width (fs), a power-of-two multiple of
            ``patch_size``.
        encoder_kernel: side of the encoder's convolutions inside a frame. With 1 a token speaks of its own square of
            pixels alone (and of its past): what is equal gets equal tokens, wherever it stands, which a generator
            learns to predict in far fewer steps. The decoder sees all around either way. (docs/LOG.md)
        decoder_channels, decoder_blocks: of the decoder, where it is to be larger; None: those of the encoder.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        channels: Sequence[int] = (32, 64, 128),
        blocks: int = 1,
        patch_size: int = 2,
        time_compression: int = 4,
        space_compression: int = 8,
        encoder_kernel: int = 3,
        decoder_channels: Sequence[int] | None = None,
        decoder_blocks: int | None = None,
    ) -> None:
        super().__init__()

        def trunk(channels: Sequence[int], blocks: int) -> tuple:
            space_down = _halvings(space_compression / patch_size, len(channels), "space_compression / patch_size")
            time_down = _halvings(time_compression, len(channels), "time_compression")
            return quantizer.dim, tuple(channels), blocks, patch_size, space_down, time_down[::-1]

        self.encoder, self.quantizer = Encoder(*trunk(channels, blocks), encoder_kernel), quantizer
        self.decoder = Decoder(*trunk(decoder_channels or channels, decoder_blocks or blocks))
        self.time_compression, self.space_compression = time_compression, space_compression
        self.codebook_size = quantizer.codebook_size
        self.initialise()
        self.to(memory_format=torch.channels_last_3d)

    def initialise(self) -> None:
        trunk = [*self.encoder.modules(), *self.decoder.modules()]  # a quantizer has begun as it wants
        for module in trunk:
            if isinstance(module, nn.Conv3d | nn.Linear):  # keeps the variance, where torch's default divides it by 3
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                nn.init.zeros_(module.bias)
        for module in trunk:  # residual branches add nothing at first
            if isinstance(module, ResidualBlock):
                nn.init.zeros_(module.time.weight)
            elif isinstance(module, FrameAttention):
                nn.init.zeros_(module.out.weight)

    def forward(self, video: Tensor) -> Reconstruction:
        """Encodes, quantizes and decodes a video (b, 3, t, h, w) in [-1, 1]."""
        quantized = self.quantizer(self.encoder(video))
        return Reconstruction(self.decoder(quantized.latents), quantized)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Video (b, 3, t, h, w) in [-1, 1] -> tokens int64 (b, t', h', w') in [0, codebook_size).

        Raises ``ValueError`` for another shape, for a size that the strides do not divide, and for values outside
        [-1, 1].
        """
        return self.quantize(video).tokens

    @torch.no_grad()
    def latents(self, video: Tensor) -> Tensor:
        """Video (b, 3, t, h, w) in [-1, 1] -> what the decoder sees, float32 (b, d, t', h', w')."""
        return self.quantize(video).latents

    @torch.no_grad()
    def quantize(self, video: Tensor, tails: Tensor | None = None) -> Quantized:
        """What ``encode`` finds, with the latents (b, d, t', h', w') that the decoder is given; see ``encode``.

        Where ``tails``, int64 (b,), is not 0, the last so many frames of a clip are encoded by themselves, as a piece:
        see ``data.tails`` and ``alone``.
        """
        check_pixels(video)
        self.latent_shape(*video.shape[2:])
        whole = self.quantizer(self.encoder(video))
        for frames in set([] if tails is None else tails.tolist()) - {0}:
            self.latent_shape(frames, *video.shape[3:])
            rows, length = (tails == frames).to(video.device), self.tail_length(frames)
            piece = self.quantizer(self.encoder(self.alone(video[rows, :, -frames:])))
            whole.latents[rows, :, -length:] = piece.latents[:, :, 1:]
            if whole.tokens is not None:
                whole.tokens[rows, -length:] = piece.tokens[:, 1:]
        return whole

    def alone(self, video: Tensor) -> Tensor:
        """What to encode for a piece that does not begin a video, and whose first latent frame is then left out.

        Of 1 + k * ft frames the first is the one before the piece; of a still there are ft copies.
        """
        return video if video.shape[2] > 1 else video.expand(-1, -1, 1 + self.time_compression, -1, -1)

    def tail_length(self, frames: int) -> int:
        """Latent frames of a known end of 1 + k * ft frames: k, of a still one, and none of no frames."""
        return max(min(frames, 1), (frames - 1) // self.time_compression)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (b, t', h', w') -> video (b, 3, t, h, w) in [-1, 1]. Raises ``ValueError`` for ids out of range."""
        return self.decoder(self.quantizer.lookup(tokens)).clamp(-1, 1)

    def stream(self, tile: int | None = None) -> "TokenizerStream":
        """For one video that is too long, or with ``tile`` (pixels) too large, to be encoded or decoded at once."""
        return TokenizerStream(self, tile)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(t, h, w) in pixels -> (t', h', w') in tokens. Raises ``ValueError`` naming the nearest sizes that fit."""
        ft, fs = self.time_compression, self.space_compression
        if frames < 1 or (frames - 1) % ft:
            below = 1 + max(0, frames - 1) // ft * ft
            raise ValueError(f"{frames} frames do not fit {ft}x compression in time: use {below} or {below + ft}")
        for name, size in (("height", height), ("width", width)):
            if size < fs or size % fs:
                nearest = sorted({max(fs, size // fs * fs), size // fs * fs + fs})
                raise ValueError(
                    f"{name} {size} does not fit {fs}x compression: use {' or '.join(str(n) for n in nearest)}"
                )
        return 1 + (frames - 1) // ft, height // fs, width // fs

    def pixel_shape(self, t: int, h: int, w: int) -> tuple[int, int, int]:
        """(t', h', w') in tokens -> (t, h, w) in pixels, the inverse of ``latent_shape``."""
        return 1 + (t - 1) * self.time_compression, h * self.space_compression, w * self.space_compression


class TokenizerStream:
    """Encodes and decodes one video piece by piece, at a memory that does not grow with its length.

    All pieces together are what ``Tokenizer.encode`` and ``decode`` make of the whole. With tiles of ``tile`` pixels
    that overlap by a quarter they are not quite: a tile's border sees less than the whole frame, and its decoder's
    attention no more than the tile.
    """

    def __init__(self, tokenizer: Tokenizer, tile: int | None = None) -> None:
        self.tokenizer, self.begun = tokenizer, False
        self.encoder, self.decoder = Stream(tokenizer.encoder), Stream(tokenizer.decoder)
        if tile is not None:
            fs = tokenizer.space_compression
            if tile < 4 * fs or tile % (4 * fs):
                raise ValueError(f"tiles of {tile} pixels do not fit {fs}x compression: use a multiple of {4 * fs}")
            size, overlap = tile // fs, tile // fs // 4
            self.encoder = Tiles(lambda: Stream(tokenizer.encoder), size * fs, overlap * fs, 1 / fs)
            self.decoder = Tiles(lambda: Stream(tokenizer.decoder), size, overlap, fs)

    @torch.no_grad()
    def encode(self, piece: Tensor) -> Tensor:
        """The next frames (b, 3, t, h, w) in [-1, 1] -> their tokens (b, t', h', w').

        The first piece has 1 + k * ft frames, each later one k * ft. Raises ``ValueError`` for others.
        """
        check_pixels(piece)
        ft, (frames, height, width) = self.tokenizer.time_compression, piece.shape[2:]
        if self.begun and frames % ft:
            raise ValueError(f"{frames} frames do not continue a stream at {ft}x compression: use multiples of {ft}")
        self.tokenizer.latent_shape(frames + 1 if self.begun else frames, height, width)
        self.begun = True
        return self.tokenizer.quantizer(self.encoder(piece)).tokens

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """The next tokens (b, t', h', w') -> their frames (b, 3, t, h, w) in [-1, 1]."""
        return self.decode_latents(self.tokenizer.quantizer.lookup(tokens))

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """The next latents (b, d, t', h', w') -> their frames (b, 3, t, h, w) in [-1, 1]."""
        return self.decoder(latents).clamp(-1, 1)


def check_pixels(video: Tensor) -> None:
    """Refuses what is not a video (b, 3, t, h, w) with values in [-1, 1]."""
    if video.ndim != 5 or video.shape[1] != 3:
        raise ValueError(f"got a video of shape {tuple(video.shape)}, expected (batch, 3, frames, height, width)")
    low, high = video.amin().item(), video.amax().item()
    if not (low >= -1.001 and high <= 1.001):
        raise ValueError(
            f"got pixel values from {low:.3g} to {high:.3g}, expected [-1, 1]: divide 8-bit pixels by 127.5 and "
            "subtract 1"
        )


def _halvings(ratio: float, stages: int, name: str) -> tuple[bool, ...]:
    """Which stages halve, the outer ones first: 4 in 3 stages -> (True, True, False)."""
    count = round(math.log2(ratio)) if ratio >= 1 else -1
    if 2**count != ratio or count > stages:
        raise ValueError(f"{name} is {ratio:g}, expected a power of two up to {2**stages} for {stages} stages")
    return tuple(i < count for i in range(stages))

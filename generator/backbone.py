"""VideoTransformer: the transformer of both generators, tokens and latents alike.

It maps a sequence of hidden vectors on a (t, h, w) grid to another one, told the text and how much is corrupted (the
mask ratio for tokens, the time for the continuous twin). It knows neither masks nor noise.

Pre-norm LayerNorm, SwiGLU, qk-norm, axial 3-D rotary positions, text by cross-attention, and adaLN-single: one
modulation for all blocks plus a learned offset a block (PixArt-alpha, arXiv 2310.00426).
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vq.config import Configurable

KeysAndValues = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TextMemory:
    """What the blocks are told, computed once a generation: keys and values of the text, and which of them count.

    Of a game there are also ``actions``, a vector for each latent frame, see ``generator.actions``. ``guidance`` is
    the scale that a transformer with ``most_guidance`` is told; None: 1.
    """

    keys_and_values: KeysAndValues  # a block: two (b, heads, l, head_dim)
    mask: Tensor  # (b, l) bool
    actions: Tensor | None = None  # (b, t, dim)
    guidance: Tensor | None = None  # (b,)

    def __getitem__(self, rows) -> "TextMemory":
        rest = (None if part is None else part[rows] for part in (self.actions, self.guidance))
        return TextMemory([(k[rows], v[rows]) for k, v in self.keys_and_values], self.mask[rows], *rest)


class VideoTransformer(Configurable, nn.Module):
    """Bidirectional transformer over a spacetime grid.

    Args:
        dim: width. depth: blocks. heads: attention heads; dim / heads must be a multiple of 8.
        text_dim: width of the text that ``read`` is given.
        mlp_ratio: hidden width of the SwiGLU relative to ``dim``.
        conditions: whether the modulation is told frames a second and the size of the grid, beside the level.
        rotary_fps: rotary positions in time are seconds, this many of them to one, so that a motion looks alike at any
            frame rate; None: they are latent frames. The same thing at this rate.
        most_guidance: the modulation is told a scale of guidance from 1 to this one, 2 or more, for a masked generator
            that learns to answer in one pass what guidance makes of two (``generator.guidance``). None: it is not.
    """

    def __init__(
        self,
        dim: int = 256,
        depth: int = 8,
        heads: int = 4,
        text_dim: int = 256,
        mlp_ratio: float = 2.67,
        conditions: bool = False,
        rotary_fps: float | None = None,
        most_guidance: float | None = None,
    ) -> None:
        super().__init__()
        if most_guidance is not None and most_guidance < 2:
            raise ValueError(f"most_guidance is {most_guidance:g}, expected at least 2, by which samples are guided")
        if dim % (8 * heads):
            raise ValueError(f"dim {dim} does not split into {heads} heads of a multiple of 8: change dim or heads")
        self.dim, self.head_dim = dim, dim // heads
        self.place = nn.Linear(6 * 16, dim)
        self.text_norm = Norm(text_dim)  # pretrained encoders differ in scale by orders of magnitude
        self.level = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.modulation = nn.Linear(dim, 6 * dim)
        hidden = 32 * round(mlp_ratio * dim / 32)
        self.blocks = nn.ModuleList(Block(dim, heads, text_dim, hidden) for _ in range(depth))
        self.norm = Norm(dim)
        self.conditions = nn.Linear(4 * 64, dim) if conditions else None
        self.rotary_fps, self.most_guidance = rotary_fps, most_guidance
        self.guidance = nn.Linear(64, dim) if most_guidance else None
        self.initialise()

    def initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.blocks:  # every branch adds nothing at first, so depth does not matter to the first steps
            for out in (block.attention.out, block.text.out, block.mlp.down):
                nn.init.zeros_(out.weight)
        # no gradient reaches a gate that multiplies zero, so the gates start at one and the branches' outputs at zero
        nn.init.zeros_(self.modulation.weight)

    def read(self, text: Tensor, mask: Tensor) -> TextMemory:
        """Text (b, l, text_dim) and which of it counts (b, l) -> what the blocks attend to."""
        text = self.text_norm(text)
        return TextMemory([block.text.read(text) for block in self.blocks], mask)

    def forward(
        self,
        hidden: Tensor,
        grid: tuple[int, int, int],
        level: Tensor,
        text: TextMemory,
        middle: bool = False,
        fps: Tensor | None = None,
        cache=None,
    ) -> Tensor:
        """hidden (b, t*h*w, dim), the grid (t, h, w), the corruption level in [0, 1] (b,) -> (b, t*h*w, dim).

        ``middle``: the grid is a piece from the middle of a video, and does not begin with its first frame.
        ``fps`` (b,) or (1,): frames a second, needed with ``conditions`` and ``rotary_fps``. ``ValueError`` without.
        ``cache``: a ``generator.caching.Cache``, which may say that some positions only are computed; None: all are.
        """
        if fps is None and (self.conditions or self.rotary_fps):
            raise ValueError("this transformer was built to be told frames a second, and got none: give it fps (b,)")
        hidden = hidden + self.place(borders(grid, middle, hidden.device))
        if text.actions is not None:
            hidden = hidden + text.actions.repeat_interleave(grid[1] * grid[2], dim=1)
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        stretch = self.rotary_fps / fps if self.rotary_fps else None
        rotation = rotary(grid, self.head_dim, hidden.device, stretch)
        told = self.level(sinusoid(level, 256))  # b dim
        if self.conditions:
            told = told + self.conditions(rate_and_size(grid, fps))
        if self.guidance:
            share = torch.ones_like(level) if text.guidance is None else 1 / text.guidance
            told = told + self.guidance(sinusoid(share, 64))
        modulation = self.modulation(F.silu(told))  # b 6*dim
        modulation = rearrange(modulation, "b (six d) -> six b 1 d", six=6)
        text_mask = rearrange(text.mask, "b l -> b 1 1 l")
        n = hidden.shape[1]
        if cache is not None:
            hidden, rotation = cache.take(hidden, rotation)
        for i, (block, keys_and_values) in enumerate(zip(self.blocks, text.keys_and_values, strict=True)):
            update = None if cache is None else partial(cache.update, i)
            hidden = block(hidden, rotation, modulation, keys_and_values, text_mask, update)
        hidden = self.norm(hidden.float())
        return hidden if cache is None else cache.put(hidden, n)


class Norm(nn.LayerNorm):
    """LayerNorm without bias. RMSNorm has no fused backward pass on CPUs, where it takes four to five times as long."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), None, self.eps)


class Block(nn.Module):
    """Self-attention, attention to the text, SwiGLU; the first and the last modulated by the corruption level."""

    def __init__(self, dim: int, heads: int, text_dim: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = Norm(dim), SelfAttention(dim, heads)
        self.text_norm, self.text = Norm(dim), TextAttention(dim, heads, text_dim)
        self.mlp_norm, self.mlp = Norm(dim), SwiGLU(dim, hidden)
        self.offset = nn.Parameter(torch.zeros(6, 1, 1, dim))

    def forward(
        self, x: Tensor, rotation: Tensor, modulation: Tensor, keys_and_values, text_mask: Tensor, update=None
    ) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (modulation + self.offset).to(x.dtype).unbind(0)
        y = self.attention_norm(x) * (1 + scale_a) + shift_a
        x = x + (1 + gate_a) * self.attention(y, rotation, update)
        x = x + self.text(self.text_norm(x), keys_and_values, text_mask)
        y = self.mlp_norm(x) * (1 + scale_m) + shift_m
        return x + (1 + gate_m) * self.mlp(y)


class SelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.q_norm, self.k_norm = Norm(dim // heads), Norm(dim // heads)

    def forward(self, x: Tensor, rotation: Tensor, update=None) -> Tensor:
        """``update`` maps the keys and values of x to those that x looks at; None: to themselves."""
        q, k, v = rearrange(self.qkv(x), "b n (three l d) -> three b l n d", three=3, l=self.heads)
        q, k = rotate(self.q_norm(q), rotation), rotate(self.k_norm(k), rotation)
        if update is not None:
            k, v = update(k, v)
        return self.out(rearrange(attend(q, k, v), "b l n d -> b n (l d)"))


class TextAttention(nn.Module):
    def __init__(self, dim: int, heads: int, text_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(dim, dim, bias=False), nn.Linear(text_dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.q_norm, self.k_norm = Norm(dim // heads), Norm(dim // heads)

    def read(self, text: Tensor) -> tuple[Tensor, Tensor]:
        k, v = rearrange(self.kv(text), "b n (two l d) -> two b l n d", two=2, l=self.heads)
        return self.k_norm(k), v

    def forward(self, x: Tensor, keys_and_values: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        k, v = keys_and_values
        q = self.q_norm(rearrange(self.q(x), "b n (l d) -> b l n d", l=self.heads))
        y = attend(q, k.to(q.dtype), v.to(q.dtype), mask)
        return self.out(rearrange(y, "b l n d -> b n (l d)"))


class SwiGLU(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(dim, 2 * hidden, bias=False), nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of q (b, heads, n, d) to k and v (b, heads, m, d) where the mask (b, 1, 1, m) is True.

    Training short sequences on a CPU, the plain formula is 2 (n = 192) to 7 times (n = 48) as fast as torch's fused
    kernel, whose backward pass is slow there; from about 1000 positions on, and without gradients, the kernel wins.
    """
    if q.is_cuda or not torch.is_grad_enabled() or q.shape[2] > 512:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).to(v.dtype) @ v


def sinusoid(level: Tensor, dim: int) -> Tensor:
    """A number in [0, 1] a sample, (b,), as sines and cosines (b, dim)."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(dim // 2, device=level.device) / (dim // 2))
    angles = 1000 * level.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rate_and_size(grid: tuple[int, int, int], fps: Tensor) -> Tensor:
    """Frames a second (b,), length, area and aspect of a grid, in octaves, as sines and cosines (b, 4 * 64).

    An image has no rate: it is told the same whatever ``fps`` says.
    """
    t, h, w = grid
    rate = torch.ones_like(fps) if t == 1 else fps
    octaves = [rate.log2(), *(torch.full_like(rate, math.log2(number)) for number in (t, h * w, w / h))]
    return torch.cat([sinusoid(octave / 16, 64) for octave in octaves], dim=-1)


def borders(grid: tuple[int, int, int], middle: bool, device) -> Tensor:
    """How far each position is from the six borders of the grid, as sines and cosines, (t*h*w, 96).

    A piece from the ``middle`` of a video is counted from 1 in time, wherever it was cut out.

    Rotary positions are relative: where everything is masked, and therefore alike, they tell all positions the same,
    and the first choices of a generation would know neither the first frame nor the middle of the picture.
    """
    frequencies = torch.pi / 2 ** torch.arange(1, 9, device=device)  # periods of 4 to 512 positions
    axes = []
    for size, before in zip(grid, (int(middle), 0, 0), strict=True):
        index = torch.arange(size, device=device)
        angles = torch.stack([index + before, size - 1 - index], dim=1)[..., None] * frequencies  # size 2 8
        axes.append(torch.cat([angles.cos(), angles.sin()], dim=-1).flatten(1))  # size 32
    cells = torch.cartesian_prod(*(torch.arange(size, device=device) for size in grid))  # t*h*w 3
    return torch.cat([axis[cells[:, i]] for i, axis in enumerate(axes)], dim=-1)


def rotary(grid: tuple[int, int, int], head_dim: int, device, stretch: Tensor | None = None) -> Tensor:
    """Cosines and sines of axial 3-D rotary positions, (2, t*h*w, head_dim / 2).

    With ``stretch`` (b,), the length of a step in time in each sample, (2, b, 1, t*h*w, head_dim / 2).

    A quarter of the pairs turns with time, and three eighths with each of height and width. The base is 100, not
    10,000: grids are at most a few hundred long, and slower pairs would hardly turn.
    """
    pairs = head_dim // 2
    time_pairs = pairs // 4
    height_pairs = (pairs - time_pairs) // 2
    counts = (time_pairs, height_pairs, pairs - time_pairs - height_pairs)
    positions = torch.meshgrid(*(torch.arange(n, device=device) for n in grid), indexing="ij")
    angles = [
        p.flatten().float()[:, None] * 100 ** (-torch.arange(c, device=device) / c)
        for p, c in zip(positions, counts, strict=True)
    ]
    if stretch is not None:
        angles = [angles[0] * stretch[:, None, None, None], *(a.expand(len(stretch), 1, -1, -1) for a in angles[1:])]
    angles = torch.cat(angles, dim=-1)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turns pairs of channels of x (b, l, n, head_dim): channel i with channel i + head_dim / 2."""
    cos, sin = rotation.to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)

"""How much clips move, where to, and how much they flicker: plain tensor operations, nothing learned."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

SIDE = 32  # pixels of the short side at which velocities are read: quick things then move about a pixel a frame
CREEPS = 0.06  # short sides a second: what is slower counts as still
SECTORS = 8  # directions


def magnitude(video: Tensor) -> Tensor:
    """Videos (b, 3, t, h, w) in [-1, 1] -> (b,): mean absolute change from frame to frame, as a share of full range."""
    return video.diff(dim=2).abs().flatten(1).mean(1) / 2


def flicker(video: Tensor) -> Tensor:
    """Videos -> (b,): mean absolute second difference over time. What changes evenly does not flicker."""
    return video.diff(n=2, dim=2).abs().flatten(1).mean(1) / 2


def velocity(video: Tensor, fps: Tensor) -> Tensor:
    """Videos (b, 3, t, h, w) and their frames a second (b,) -> (b, t - 1, 2): the velocity of what has contrast, x and
    y (down), in short sides a second.

    Brightness constancy by least squares over the whole frame (Lucas and Kanade 1981), on small blurred frames.
    """
    b, (h, w) = len(video), video.shape[3:]
    scale = SIDE / min(h, w)
    grey = rearrange(video.mean(1), "b t h w -> (b t) 1 h w")
    grey = F.interpolate(grey, (round(h * scale), round(w * scale)), mode="bilinear", antialias=True)
    for _ in range(3):  # about a Gaussian of two pixels, which reaches as far as things move
        grey = F.avg_pool2d(F.pad(grey, (2,) * 4, mode="replicate"), 5, stride=1)
    frames = rearrange(grey, "(b t) 1 h w -> b t h w", b=b)
    middle = (frames[:, 1:] + frames[:, :-1]) / 2
    y, x = torch.gradient(middle, dim=(2, 3))
    change = frames.diff(dim=1)
    slopes = torch.stack([x, y], dim=-1).flatten(2, 3)  # b t-1 n 2
    normal = slopes.mT @ slopes + 1e-3 * torch.eye(2)  # noise of 8 bits is no motion
    pixels = torch.linalg.solve(normal, -slopes.mT @ change.flatten(2)[..., None])[..., 0]
    return pixels * fps.view(-1, 1, 1) / SIDE


def directions(velocities: Tensor) -> Tensor:
    """Velocities (..., 2) -> (9,): shares that head in each of eight directions, right first, clockwise; or stay."""
    x, y = velocities.flatten(0, -2).unbind(-1)
    sector = (torch.atan2(y, x) / (2 * math.pi / SECTORS)).round().long() % SECTORS
    sector[torch.hypot(x, y) < CREEPS] = SECTORS
    return sector.bincount(minlength=SECTORS + 1) / len(sector)


def apart(a: Tensor, b: Tensor) -> float:
    """Values (n,) and (n,) -> how far their distributions are apart: the Wasserstein-1 distance."""
    return (a.sort().values - b.sort().values).abs().mean().item()

"""Losses of the tokenizer: functions of tensors that return ``(loss, logs)``."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure


def reconstruction_loss(
    reconstruction: Tensor, video: Tensor, temporal_weight: float = 0.5, squared_weight: float = 10.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Absolute and squared error of the pixels, and of the differences between successive frames.

    The absolute error keeps edges sharp. The squared error is what PSNR measures, and it has to lead: by the absolute
    error alone the best first guess is the median, which is the background, and small things are never found. The
    temporal difference weighs what moves against the still ground.

    Args:
        reconstruction, video: (b, 3, t, h, w).
    """
    reconstruction, video = reconstruction.float(), video.float()
    error = reconstruction - video
    absolute, squared = error.abs().mean(), error.square().mean()
    temporal = error.diff(dim=2).abs().mean() if video.shape[2] > 1 else torch.zeros_like(absolute)
    loss = absolute + squared_weight * squared + temporal_weight * temporal
    return loss, {"l1": absolute.detach(), "mse": squared.detach(), "temporal": temporal.detach()}


def psnr(reconstruction: Tensor, video: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each clip, (b,), for videos (b, 3, t, h, w) in [-1, 1] (peak to peak 2)."""
    error = F.mse_loss(reconstruction.float().clamp(-1, 1), video.float(), reduction="none").flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp_min(1e-10))


def ssim(reconstruction: Tensor, video: Tensor) -> Tensor:
    """Structural similarity of each clip, (b,), the mean of its frames, for videos (b, 3, t, h, w) in [-1, 1]."""
    a, b = (rearrange(v.float().clamp(-1, 1), "b c t h w -> (b t) c h w") for v in (reconstruction, video))
    frames = structural_similarity_index_measure(a, b, data_range=2.0, reduction="none")
    return frames.view(len(video), -1).mean(1)

"""Training the tokenizer: a LightningModule that encodes, decodes, weighs the error and logs."""

import math

import lightning as L
import torch
from torch import Tensor, nn

from data.module import Batch
from vq.losses import psnr, reconstruction_loss
from vq.optimizer import Muon
from vq.tokenizer import Tokenizer


class TokenizerTraining(L.LightningModule):
    """Fits a tokenizer by reconstruction.

    Args:
        tokenizer: the model.
        learning_rate: peak of the schedule, which falls to zero at the trainer's ``max_steps``; see ``optimizer``.
        warmup_steps: steps of the linear warm-up.
        weight_decay: of the matrices and kernels, not of biases and gains; see ``vq.optimizer.Muon``.
        temporal_weight, squared_weight: see ``vq.losses.reconstruction_loss``.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        learning_rate: float = 2e-3,
        warmup_steps: int = 100,
        weight_decay: float = 1e-4,
        temporal_weight: float = 0.5,
        squared_weight: float = 10.0,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.learning_rate, self.warmup_steps, self.weight_decay = learning_rate, warmup_steps, weight_decay
        self.weights = {"temporal_weight": temporal_weight, "squared_weight": squared_weight}

    def on_fit_start(self) -> None:
        check_sizes(self)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, logs = self._loss(batch.video)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/psnr", logs.pop("psnr"), prog_bar=True)
        self.log_dict({f"train/{k}": v for k, v in logs.items()})
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss, logs = self._loss(batch.video)
        size = len(batch.video)
        self.log("val/loss", loss, batch_size=size)
        self.log("val/psnr", logs.pop("psnr"), batch_size=size, prog_bar=True)
        self.log_dict({f"val/{k}": v for k, v in logs.items()}, batch_size=size)

    def _loss(self, video: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        reconstruction = self.tokenizer(video)
        loss, logs = reconstruction_loss(reconstruction.video, video, **self.weights)
        quantizer_loss = reconstruction.quantized.loss
        logs |= {"quantizer": quantizer_loss.detach(), "psnr": psnr(reconstruction.video.detach(), video).mean()}
        return loss + quantizer_loss, logs

    def configure_optimizers(self) -> dict:
        return optimizer(self, self.tokenizer, adamw=("stem", "coder.out"))

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["parts"] = {"tokenizer": self.tokenizer.config}
        checkpoint["clip"] = self.trainer.datamodule.clip


def check_sizes(training: L.LightningModule) -> None:
    """Refuses a run whose clips do not fit the tokenizer's strides, before the first step. ``ValueError`` in words."""
    clip = training.trainer.datamodule.clip
    training.tokenizer.latent_shape(clip["frames"], clip["height"], clip["width"])


def optimizer(training: L.LightningModule, model: nn.Module, adamw: tuple[str, ...]) -> dict:
    """Muon, from ``learning_rate``, ``warmup_steps`` and ``weight_decay``.

    The rate rises over the warm-up, stays until 30% of ``max_steps``, and falls linearly to zero: in short runs better
    than a cosine (docs/LOG.md). ``adamw`` names the parts of the model that AdamW takes over: first and last layers,
    embeddings.
    """
    muon = Muon(model.named_parameters(), training.learning_rate, weight_decay=training.weight_decay, adamw=adamw)
    warmup, total = training.warmup_steps, training.trainer.estimated_stepping_batches
    if not math.isfinite(total):
        raise ValueError("the learning rate falls to zero at --trainer.max_steps: give it a number of steps")

    def factor(step: int) -> float:
        return max(0.0, min((step + 1) / max(1, warmup), 1.0, (total - step) / (0.7 * total)))

    schedule = torch.optim.lr_scheduler.LambdaLR(muon, factor)
    return {"optimizer": muon, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

"""Training the tokenizer: a LightningModule that encodes, decodes, weighs the error and logs."""

import math
from collections.abc import Sequence

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch._functorch import config as functorch

from data.module import Batch
from vq import pretrained
from vq.discriminator import Adversary
from vq.hardware import check_compiler, check_convolutions
from vq.losses import psnr, reconstruction_loss
from vq.lpips import LPIPS
from vq.optimizer import Muon
from vq.tokenizer import Tokenizer


class TokenizerTraining(L.LightningModule):
    """Fits a tokenizer by reconstruction, on request also to what eyes and an adversary see.

    Args:
        tokenizer: the model; or an exported folder, training checkpoint or hub id of one that is to be trained further.
        learning_rate: peak of the schedule, which falls to zero at the trainer's ``max_steps``; see ``optimizer``.
        warmup_steps: steps of the linear warm-up.
        weight_decay: of the matrices and kernels, not of biases and gains; see ``vq.optimizer.Muon``.
        temporal_weight, squared_weight: see ``vq.losses.reconstruction_loss``.
        perceptual: LPIPS, of ``perceptual_frames`` frames of each clip, drawn anew at each step.
        perceptual_weight: of LPIPS beside the absolute error.
        adversary: discriminators, and when they begin.
        start: folder, training checkpoint or hub id of a tokenizer whose encoder and decoder this one begins with, as
            far as their weights have the same shapes: with another quantizer all but two layers. None: from nothing.
        encoder: folder, training checkpoint or hub id of a tokenizer whose encoder and quantizer this one takes over
            and leaves as they are, and with them all tokens: what was trained on these goes on with the new decoder
            (``generator.export --tokenizer``). None: the encoder is trained, too.
        compile: whether torch.compile makes the model faster, after some minutes at the first step; it needs a C++
            compiler.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | str,
        learning_rate: float = 2e-3,
        warmup_steps: int = 100,
        weight_decay: float = 1e-4,
        temporal_weight: float = 0.5,
        squared_weight: float = 10.0,
        perceptual: LPIPS | None = None,
        perceptual_weight: float = 0.5,
        perceptual_frames: int = 2,
        adversary: Adversary | None = None,
        start: str | None = None,
        encoder: str | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.tokenizer = pretrained.load(tokenizer, "tokenizer").train() if isinstance(tokenizer, str) else tokenizer
        if start is not None and isinstance(tokenizer, str):
            raise ValueError(
                "--model.tokenizer names a trained one, whose weights those of --model.start would replace: give "
                "--model.start null"
            )
        if start is not None:
            begin_with(self.tokenizer, start, "tokenizer", leave="quantizer.")
        self.frozen = [] if encoder is None else take_over(self.tokenizer, encoder)
        self.adversary, self.compiled = adversary, compile
        self.learning_rate, self.warmup_steps, self.weight_decay = learning_rate, warmup_steps, weight_decay
        self.weights = {"temporal_weight": temporal_weight, "squared_weight": squared_weight}
        self._perceptual = perceptual and (perceptual,)  # in a tuple, out of sight of state_dict: not to be stored
        self.perceptual_weight, self.perceptual_frames = perceptual_weight, perceptual_frames

    def train(self, mode: bool = True) -> "TokenizerTraining":
        super().train(mode)
        for part in self.frozen:  # a quantizer's running statistics, too
            part.eval()
        return self

    def on_fit_start(self) -> None:
        check_start(self)
        if self._perceptual:
            self._perceptual[0].to(self.device)
        if self.compiled:
            check_compiler(self.device)
            # the adversary's balance goes through the decoder twice, and a compiled one gives its memory away once
            functorch.donated_buffer = self.adversary is None
            self.tokenizer.compile()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        reconstruction, loss, logs = self._loss(batch.video)
        if self._perceptual:
            rng = torch.Generator().manual_seed(self.global_step)
            frames = torch.randperm(batch.video.shape[2], generator=rng)[: self.perceptual_frames]
            logs["lpips"] = self._lpips(reconstruction[:, :, frames], batch.video[:, :, frames])
            loss = loss + self.perceptual_weight * logs["lpips"]
        if self.adversary:
            if self.global_step < self.adversary.start:  # DDP wants a gradient of every parameter at every step
                loss = loss + 0 * sum(p.sum() for p in self.adversary.parameters())
            else:
                term, told = self.adversary(batch.video, reconstruction, loss, self.tokenizer.decoder.out[-1].weight)
                loss, logs = loss + term, logs | told
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/psnr", logs.pop("psnr"), prog_bar=True)
        self.log_dict({f"train/{k}": v for k, v in logs.items()})
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        reconstruction, loss, logs = self._loss(batch.video)
        if self._perceptual:
            logs["lpips"] = self._lpips(reconstruction, batch.video)
        size = len(batch.video)
        self.log("val/loss", loss, batch_size=size, sync_dist=True)
        self.log("val/psnr", logs.pop("psnr"), batch_size=size, prog_bar=True, sync_dist=True)
        self.log_dict({f"val/{k}": v for k, v in logs.items()}, batch_size=size, sync_dist=True)

    def _loss(self, video: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The reconstruction, what it costs by pixels, and the numbers to log."""
        result = self.tokenizer(video)
        loss, logs = reconstruction_loss(result.video, video, **self.weights)
        quantizer_loss = result.quantized.loss
        logs |= {"quantizer": quantizer_loss.detach(), "psnr": psnr(result.video.detach(), video).mean()}
        return result.video, loss + quantizer_loss, logs

    def _lpips(self, reconstruction: Tensor, video: Tensor) -> Tensor:
        return self._perceptual[0](reconstruction, video).mean()

    def configure_optimizers(self) -> dict:
        groups = []
        if self.adversary:
            rate = self.adversary.learning_rate
            groups = [{"params": list(self.adversary.parameters()), "lr": rate, "weight_decay": 0.0}]
        return optimizer(self, self.tokenizer, adamw=("stem", "coder.out"), groups=groups)

    @property
    def clip(self) -> dict:
        """The size of the training clips."""
        return self.trainer.datamodule.clip

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["parts"] = {"tokenizer": self.tokenizer.config}
        checkpoint["clip"] = self.clip


def begin_with(model: nn.Module, source: str, part: str, leave: str = "-") -> set[str]:
    """Gives a model what another has learnt, where names and shapes are the same; returns the names of these weights.

    ``leave`` is how the names begin of what is not to be taken. ``ValueError`` where nothing is alike.
    """
    own = {name: value for name, value in model.state_dict().items() if not name.startswith(leave)}
    learnt = pretrained.load(source, part).state_dict()
    alike = {name: learnt[name] for name, value in own.items() if name in learnt and learnt[name].shape == value.shape}
    if not alike:
        raise ValueError(f"no weight of {source} has the shape of one of this {part}: leave out --model.start")
    model.load_state_dict(alike, strict=False)
    rank_zero_info(f"begins with {len(alike)} of its {len(own)} weights as they are in {source}")
    return set(alike)


def take_over(tokenizer: Tokenizer, source: str) -> list[nn.Module]:
    """Gives a tokenizer another's encoder and quantizer, which no training changes; returns the two."""
    other = pretrained.load(source, "tokenizer")
    parts = {name: getattr(tokenizer, name) for name in ("encoder", "quantizer")}
    for name, part in parts.items():
        try:
            part.load_state_dict(getattr(other, name).state_dict())
        except RuntimeError as error:
            raise ValueError(
                f"the {name} of {source} has another shape than that of --model.tokenizer, which is to take it over: "
                "give both the same, the decoder's channels and blocks may differ"
            ) from error
        part.requires_grad_(False).eval()
    return list(parts.values())


def check_start(training: L.LightningModule) -> None:
    """Refuses, before the first step, clips that do not fit the tokenizer's strides, and builds of torch that compute
    nonsense. ``ValueError`` in words."""
    check_convolutions(training.device)
    for frames, height, width in training.trainer.datamodule.sizes:
        training.tokenizer.latent_shape(frames, height, width)


def optimizer(
    training: L.LightningModule,
    model: nn.Module,
    adamw: tuple[str, ...],
    groups: Sequence[dict] = (),
    decay: bool = True,
) -> dict:
    """Muon, from ``learning_rate``, ``warmup_steps`` and ``weight_decay``.

    The rate rises over the warm-up, stays until 30% of ``max_steps``, and falls linearly to zero: in short runs better
    than a cosine (docs/LOG.md). ``adamw`` names the parts of the model that AdamW takes over: first and last layers,
    embeddings. ``groups`` are further parameters for AdamW, with rates of their own on the same schedule. Without
    ``decay`` the rate stays after the warm-up: then the run's length need not be known, and any step is an end.
    """
    muon = Muon(model.named_parameters(), training.learning_rate, weight_decay=training.weight_decay, adamw=adamw)
    for group in groups:
        muon.add_param_group(group)
    warmup = training.warmup_steps
    total = training.trainer.estimated_stepping_batches if decay else math.inf
    if decay and not math.isfinite(total):
        raise ValueError("the learning rate falls to zero at --trainer.max_steps: give it a number of steps")

    def factor(step: int) -> float:
        left = (total - step) / (0.7 * total) if decay else 1.0
        return max(0.0, min((step + 1) / max(1, warmup), 1.0, left))

    schedule = torch.optim.lr_scheduler.LambdaLR(muon, factor)
    return {"optimizer": muon, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

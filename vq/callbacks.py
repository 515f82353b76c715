"""What to look at while the tokenizer trains, and what is left when it has: listed in YAML, one idea each."""

from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, distributed
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vq import pretrained
from vq.quantizers import FSQ, to_digits


class CodebookUsage(Callback):
    """Logs how much of the codebook the validation clips use.

    ``val/usage``: share of the codes that occur, of those that the number of validation tokens allows.
    Warns when that is less than a twentieth, after 500 steps: the codebook has collapsed.
    ``val/perplexity``: exp of the entropy of their frequencies, the number of codes as good as in use.
    ``val/parts_in_use``: where a code has parts (levels of FSQ, codebooks), the perplexity of each over its size, on
    average. Of 10^12 codes every token is another one; of eight levels some may be idle.
    """

    def on_validation_epoch_start(self, trainer: L.Trainer, training: L.LightningModule) -> None:
        self.tokens: list[Tensor] = []

    def on_validation_batch_end(self, trainer, training, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if training.tokenizer.codebook_size:
            self.tokens.append(training.tokenizer.encode(batch.video.clamp(-1, 1)).flatten().cpu())

    def on_validation_epoch_end(self, trainer: L.Trainer, training: L.LightningModule) -> None:
        if not training.tokenizer.codebook_size:  # a continuous one
            return
        tokens = _from_all_processes(torch.cat(self.tokens))
        counts = tokens.unique(return_counts=True)[1]  # of the codes in use: a table of all may not fit in memory
        possible = min(training.tokenizer.codebook_size, len(tokens))
        perplexity = torch.special.entr(counts / counts.sum()).sum().exp().item()
        training.log("val/usage", len(counts) / possible, rank_zero_only=True, prog_bar=True)
        training.log("val/perplexity", perplexity, rank_zero_only=True)
        sizes = tuple(size for digit in training.tokenizer.quantizer.digits for size in digit)
        training.log("val/parts_in_use", parts_in_use(tokens, sizes), rank_zero_only=True)
        # codes in use, not the perplexity: still ground is most of many videos, and one code of it
        if len(counts) < 0.05 * possible and trainer.global_step > 500:
            fsq = isinstance(training.tokenizer.quantizer, FSQ)
            rank_zero_warn(
                f"the codebook has collapsed: {len(counts)} of {possible} codes are in use. "
                + ("" if fsq else "Use vq.quantizers.FSQ. ")
                + "Lower the learning rate, or look at the data: is every clip the same?"
            )


def parts_in_use(tokens: Tensor, sizes: tuple[int, ...]) -> float:
    """Of tokens (n,) whose parts have these sizes: the perplexity of each part over its size, on average, in (0, 1]."""
    shares = []
    for part, size in zip(to_digits(tokens, sizes).unbind(1), sizes, strict=True):
        frequencies = part.bincount(minlength=size) / len(part)
        shares.append(torch.special.entr(frequencies).sum().exp().item() / size)
    return sum(shares) / len(shares)


def _from_all_processes(tokens: Tensor) -> Tensor:
    """The tokens (n,) of all processes, each of which may have another number of them."""
    if not distributed.is_initialized():
        return tokens
    parts: list[Tensor] = [tokens] * distributed.get_world_size()
    distributed.all_gather_object(parts, tokens)
    return torch.cat(parts)


class ReconstructionPictures(Callback):
    """Puts reconstructions beside their originals into TensorBoard: a row a clip, original above, frames in a row."""

    def __init__(self, clips: int = 6) -> None:
        self.clips = clips

    def on_validation_batch_end(self, trainer, training, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if batch_idx > 0:
            return
        video = batch.video[: self.clips]
        reconstruction = training.tokenizer(video).video.clamp(-1, 1)
        rows = torch.stack([video, reconstruction], dim=1).flatten(0, 1)
        log_picture(trainer, "val/reconstructions", filmstrips(rows))


class EMA(WeightAveraging):
    """Validates and exports the exponential moving average of the weights over the steps.

    Of the old average (1 + n) / (10 + n) is kept at step n, and at most ``decay``: so it always spans about a tenth of
    the run so far, and no early one is mostly the weights that the run began with.

    Lightning's ``EMAWeightAveraging`` computes ``decay * a + (1 - decay) * b``, which rounds: frozen weights drift, and
    integer buffers such as FSQ's levels count down. Here equal weights stay equal, and buffers are copied.

    Args:
        decay: the largest share of the old average that is kept at a step, below 1.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay of the average is {decay}, expected 0 to less than 1")
        self.decay, self.step = decay, 0
        super().__init__(use_buffers=False, multi_avg_fn=self.mix)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Behind every step; notes its number on the CPU, as that of the average lies on the device."""
        self.step = step_idx or 0
        return super().should_update(step_idx, epoch_idx)

    def mix(self, averages: list[Tensor], weights: list[Tensor], count: Tensor) -> None:
        """Moves averages towards the weights of a step."""
        kept = min(self.decay, (1 + self.step) / (10 + self.step))
        get_ema_multi_avg_fn(kept)(averages, weights, count)

    @contextmanager
    def in_place(self, training: L.LightningModule) -> Iterator[None]:
        """Inside, the average stands in the module; afterwards the trained weights do again."""
        self._swap_models(training)
        try:
            yield
        finally:
            self._swap_models(training)


class Export(Callback):
    """Writes the trained parts as a folder for use, ``model/`` beside the checkpoints, when the run ends."""

    def on_fit_end(self, trainer: L.Trainer, training: L.LightningModule) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        parts = {name: getattr(training, name) for name in ("tokenizer", "generator") if hasattr(training, name)}
        folder = pretrained.save(f"{trainer.default_root_dir}/model", training.clip, **parts)
        rank_zero_info(f"model written to {folder}")


class SkippedFiles(Callback):
    """Counts the broken files that the data sets passed over, and lists them when the run ends, however it does."""

    def __init__(self) -> None:
        self.lines: dict[str, None] = {}

    def on_train_batch_end(self, trainer, training, outputs, batch, batch_idx) -> None:
        self.lines |= dict.fromkeys(batch.skipped)

    def on_validation_batch_end(self, trainer, training, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.lines |= dict.fromkeys(batch.skipped)

    def on_exception(self, trainer: L.Trainer, training: L.LightningModule, exception: BaseException) -> None:
        self.on_fit_end(trainer, training)

    def on_fit_end(self, trainer: L.Trainer, training: L.LightningModule) -> None:
        if self.lines:
            rank_zero_warn(f"{len(self.lines)} files were skipped:\n  " + "\n  ".join(self.lines))


def filmstrips(videos: Tensor, frames: int = 8) -> Tensor:
    """Videos (b, 3, t, h, w) in [-1, 1] -> a picture (3, b * h, frames * w) in [0, 1], a row a clip, evenly spaced."""
    t = videos.shape[2]
    chosen = torch.linspace(0, t - 1, min(frames, t)).round().long()
    strip = videos[:, :, chosen].permute(1, 0, 3, 2, 4)  # 3 b h t w
    return (strip.flatten(3).flatten(1, 2).float().cpu() + 1) / 2


def log_picture(trainer: L.Trainer, name: str, picture: Tensor) -> None:
    """A picture (3, h, w) in [0, 1] to every logger that takes pictures."""
    for logger in trainer.loggers:
        if hasattr(logger.experiment, "add_image"):
            logger.experiment.add_image(name, picture, trainer.global_step)

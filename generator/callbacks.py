"""Samples to look at while the generator trains, and runs that end when their budget is spent."""

import json
from contextlib import nullcontext
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from data.module import VideoData, collate
from data.tokens import TokenCache
from generator.flops import step_flops
from generator.pipeline import VideoGenerator
from vq import pretrained
from vq.callbacks import EMA, filmstrips, log_picture


class SamplePictures(Callback):
    """Samples fixed prompts with fixed seeds at each validation, a row a prompt, so that they can be followed.

    With the weights that are validated and exported: behind the first batch, as an average is gone after the last.

    Args:
        prompts: what to sample.
        steps, guidance: of the sampler.
    """

    def __init__(self, prompts: list[str], steps: int = 24, guidance: float = 2.0) -> None:
        self.prompts, self.steps, self.guidance = prompts, steps, guidance

    def on_validation_batch_end(self, trainer, training, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if batch_idx > 0 or trainer.sanity_checking or not trainer.is_global_zero:
            return
        model = VideoGenerator(training.tokenizer, training.generator, training.clip, training.device)
        with torch.autocast(training.device.type, enabled=False):
            videos = model(self.prompts, steps=self.steps, guidance=self.guidance)
        log_picture(trainer, "val/samples", filmstrips(videos))
        for logger in trainer.loggers:
            if hasattr(logger.experiment, "add_text"):
                logger.experiment.add_text("val/prompts", "  \n".join(self.prompts), trainer.global_step)


class Budget(Callback):
    """Ends a run at a number of training operations, and exports the averaged weights on the way.

    ``budget.json`` in the run's folder says what a step costs and at how many steps each budget is spent; the exported
    models are ``x1``, ``x2``, ... there. Wants a rate that does not fall (``decay: false``), and comes behind ``EMA``
    in the list of callbacks.

    Args:
        flops: C0, floating-point operations by ``generator.flops.step_flops``.
        multiples: of C0, each of which exports; the largest one ends the run.
    """

    def __init__(self, flops: float, multiples: list[int]) -> None:
        self.flops, self.multiples = flops, sorted(multiples)

    def on_fit_start(self, trainer: L.Trainer, training: L.LightningModule) -> None:
        batches = trainer.world_size * trainer.accumulate_grad_batches  # a step
        cost = batches * mean_step_flops(training, trainer.datamodule)
        self.steps = {round(multiple * self.flops / cost): multiple for multiple in self.multiples}
        if len(self.steps) < len(self.multiples) or 0 in self.steps:
            raise ValueError(
                f"budgets of {self.multiples} times {self.flops:.3g} operations are not so many different numbers of "
                f"steps of {cost:.3g}: raise flops"
            )
        if trainer.is_global_zero:
            about = {
                "step_flops": cost,
                "steps": {multiple: step for step, multiple in self.steps.items()},
                "parameters": sum(p.numel() for p in training.generator.parameters()),
            }
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "budget.json").write_text(json.dumps(about, indent=1) + "\n")

    def on_train_batch_end(self, trainer: L.Trainer, training: L.LightningModule, *rest) -> None:
        if trainer.global_step in self.steps and trainer.is_global_zero:
            average = next((c for c in trainer.callbacks if isinstance(c, EMA)), None)
            with average.in_place(training) if average else nullcontext():
                folder = f"{trainer.default_root_dir}/x{self.steps[trainer.global_step]}"
                parts = {"tokenizer": training.tokenizer, "generator": training.generator}
                pretrained.save(folder, training.clip, **parts)
        if trainer.global_step >= max(self.steps):
            trainer.should_stop = True


@torch.no_grad()
def mean_step_flops(training: L.LightningModule, data: VideoData, batches: int = 16) -> float:
    """Operations of a training step on a batch, on average over pieces of clips, mask ratios and captions' lengths."""
    if len(data.sizes) > 1:
        raise ValueError(f"a budget of operations is for clips of one size, got {len(data.sizes)} sizes")
    cached = isinstance(data.train, TokenCache)
    grid = data.train.shape_of(0) if cached else training.tokenizer.latent_shape(*data.sizes[0])
    size = data.clips_a_batch(data.train)
    shares = {grid: 1 - training.image_share - training.middle_share}
    shares |= {(1, *grid[1:]): training.image_share, (grid[0] - 1, *grid[1:]): training.middle_share}
    total = 0.0
    for start in range(0, batches * size, size):
        batch = collate([data.train[i] for i in range(start, start + size)])
        words = training.generator.text(batch.text).tokens if batch.words is None else batch.words
        for (t, h, w), share in shares.items():
            if share:
                asked = round(training.asked_share * size * t * h * w)
                total += share * step_flops(training.generator, size, (t, h, w), words.shape[1], asked)
    return total / batches

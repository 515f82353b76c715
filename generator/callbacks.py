"""Samples to look at while the generator trains."""

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from generator.pipeline import VideoGenerator
from vq.callbacks import filmstrips, log_picture


class SamplePictures(Callback):
    """Samples fixed prompts with fixed seeds at each validation, a row a prompt, so that they can be followed.

    Args:
        prompts: what to sample.
        steps, guidance: of the sampler.
    """

    def __init__(self, prompts: list[str], steps: int = 12, guidance: float = 2.0) -> None:
        self.prompts, self.steps, self.guidance = prompts, steps, guidance

    def on_validation_epoch_end(self, trainer: L.Trainer, training: L.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        model = VideoGenerator(training.tokenizer, training.generator, trainer.datamodule.clip, training.device)
        with torch.autocast(training.device.type, enabled=False):
            videos = model(self.prompts, steps=self.steps, guidance=self.guidance)
        log_picture(trainer, "val/samples", filmstrips(videos))
        for logger in trainer.loggers:
            if hasattr(logger.experiment, "add_text"):
                logger.experiment.add_text("val/prompts", "  \n".join(self.prompts), trainer.global_step)

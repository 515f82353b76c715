"""Training program: ``python train.py fit -c configs/vq/shapes.yaml``; ``--help`` and ``fit --help`` list the rest."""

import os

import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

from data.commands import OneSentence, run
from data.module import VideoData
from vq.hardware import has_bf16

CPU = torch.device("cpu")


class LightningParser(OneSentence, LightningArgumentParser):
    pass


class TrainingCLI(LightningCLI):
    """LightningCLI with a checkpoint to go on from: ``--ckpt_path last`` resumes, or begins where there is none."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.save_last": True, "checkpoint.every_n_train_steps": 500})
        parser.link_arguments("trainer.default_root_dir", "checkpoint.dirpath", compute_fn=_checkpoints)

    def before_instantiate_classes(self) -> None:
        trainer = self.config[self.subcommand].trainer
        on_cpu = trainer.accelerator == "cpu" or (
            trainer.accelerator == "auto" and not torch.accelerator.is_available()
        )
        if trainer.precision == "bf16-mixed" and on_cpu and not has_bf16(CPU):
            rank_zero_info(
                "this CPU has no bfloat16 arithmetic and would emulate it, fifty times slower: using float32"
            )
            trainer.precision = "32-true"


def main(args: list[str] | None = None) -> TrainingCLI:
    """Runs the command line; returns the CLI with its ``trainer``, ``model`` and ``datamodule``."""
    return TrainingCLI(
        LightningModule,
        VideoData,
        subclass_mode_model=True,
        parser_class=LightningParser,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        # batches are chosen, and shared out among processes, by data.buckets; lengths are counted in steps
        trainer_defaults={"use_distributed_sampler": False, "max_epochs": -1, "check_val_every_n_epoch": None},
        args=args,
    )


def _checkpoints(root: str | None) -> str:
    return os.path.join(root or ".", "checkpoints")


if __name__ == "__main__":
    run(main)

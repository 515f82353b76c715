"""A callback for the tests: ends a run after step 3, in the middle of it."""

from lightning.pytorch.callbacks import Callback


class StopAt(Callback):
    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.global_step == 3:
            trainer.should_stop = True

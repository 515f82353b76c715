"""Training the two between tokens and the twin: noisy tokens and masked latents.

Tokens are masked and the twin's latents are noisy. Which of the two makes a difference can be told only if the others
are measured, too: docs/hypothesis.md, H5.
"""

import torch
from torch import Tensor

from data.module import Batch
from generator.backbone import TextMemory, VideoTransformer
from generator.conditioning import checked
from generator.diffusion import logit_normal
from generator.masked_latents import MaskedLatentsGenerator, masked_latents_loss
from generator.puzzles import draw_clean, draw_puzzle, random_masks
from generator.schedules import Cosine, Schedule
from generator.text import TextEncoder
from generator.training import FrozenTokenizer, LatentTraining, conditionings
from generator.uniform import UniformGenerator, add_noise, uniform_loss
from vq import pretrained
from vq.training import optimizer


class UniformTraining(FrozenTokenizer):
    """Fits a generator of tokens out of noise to the tokens of a data set.

    Args:
        tokenizer, backbone, text: see ``GeneratorTraining``.
        learning_rate, warmup_steps, weight_decay, decay: of Muon; see ``vq.training.optimizer``.
        schedule: how levels are drawn, and the shares of unknown cells where some are known; None: cosine.
        patch_size: see ``GeneratorTraining``.
        mixture: what is known of a clip, and so is clean; see ``GeneratorTraining``.
        known_share: without a mixture, the share of the samples of which random cells are known.
        text_dropout: share of the captions replaced by the null text, for guidance.
        image_share, middle_share: see ``GeneratorTraining``.
        seed: of levels, noise, masks and dropped captions. What is known is that of a twin, images and dropped captions
            those of every generator, that is trained with the same seed.
        compile: whether torch.compile makes the transformer faster, after some minutes at the first step.
    """

    def __init__(
        self,
        tokenizer: str,
        backbone: VideoTransformer,
        text: TextEncoder,
        learning_rate: float = 1e-3,
        warmup_steps: int = 100,
        weight_decay: float = 0.02,
        schedule: Schedule | None = None,
        patch_size: int = 1,
        mixture: dict[str, float] | None = None,
        known_share: float = 0.25,
        text_dropout: float = 0.1,
        image_share: float = 0.05,
        middle_share: float = 0.0,
        seed: int = 0,
        compile: bool = False,
        decay: bool = True,
    ) -> None:
        super().__init__()
        self.compiled, self.decay = compile, decay
        self.tokenizer = pretrained.load(tokenizer, "tokenizer").requires_grad_(False)
        if not self.tokenizer.codebook_size:
            raise ValueError(f"the tokenizer at {tokenizer} is continuous: noise on tokens needs a codebook")
        codebook_size, digits = self.tokenizer.codebook_size, self.tokenizer.quantizer.digits
        trained_for = conditionings(mixture or {"text": 1.0}, middle_share)
        self.generator = UniformGenerator(backbone, text, codebook_size, digits, patch_size, trained_for)
        self.learning_rate, self.warmup_steps, self.weight_decay = learning_rate, warmup_steps, weight_decay
        self.mixture = checked(mixture) if mixture else None
        self.known_share, self.schedule = known_share, schedule or Cosine()
        self.text_dropout, self.image_share, self.middle_share = text_dropout, image_share, middle_share
        self.seed = seed

    @property
    def asked_share(self) -> float:
        return 1 - self.known_share * (1 - super().asked_share)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        rng = self._rng(batch_idx)
        tokens, middle = self._piece(self._tokens(batch), rng, axis=1)
        b, grid = len(tokens), tuple(tokens.shape[1:])
        drop = torch.rand(b, generator=rng) < self.text_dropout
        # levels spread evenly over the batch (shifted by one draw) have less variance than independent ones
        level = self.schedule((torch.rand((), generator=rng) + torch.arange(b) / b) % 1)
        known = draw_clean(b, grid, rng, self.schedule, self.known_share, self.mixture)
        loss, logs = self._loss(tokens, known, level, rng, self._text(batch, drop), middle, batch.fps)
        return self._report("train", loss, logs)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same levels and noise at every validation, so that the curve moves only when the model does."""
        rng = torch.Generator().manual_seed(batch_idx)
        tokens = self._tokens(batch)
        level = self.schedule(torch.arange(len(tokens)) / len(tokens))
        known = torch.zeros(tokens.shape, dtype=torch.bool)
        loss, logs = self._loss(tokens, known, level, rng, self._text(batch), fps=batch.fps)
        self._report("val", loss, logs, len(tokens))

    def _loss(
        self,
        tokens: Tensor,
        known: Tensor,
        level: Tensor,
        rng: torch.Generator,
        text: TextMemory,
        middle: bool = False,
        fps: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``uniform_loss`` of fresh noise; ``known`` and ``level`` are on the CPU."""
        noisy = add_noise(tokens, known, level, self.generator.digits, rng)
        known, level = known.to(tokens.device), level.to(tokens.device)
        return uniform_loss(self.generator, tokens, noisy, known, level, text, middle, fps)

    def configure_optimizers(self) -> dict:
        edges = ("embeddings", "previous", "join", "logits", "offset", "text.letters", "text.positions")
        return optimizer(self, self.generator, adamw=edges, decay=self.decay)


class MaskedLatentsTraining(LatentTraining):
    """Fits a generator of masked latents to the latents of a data set, or to the vectors that its tokens stand for.

    Args:
        tokenizer: exported folder, training checkpoint or hub id of a trained tokenizer, discrete or ``Continuous``. It
            stays frozen and becomes part of the checkpoint.
        backbone, text: see ``GeneratorTraining``.
        learning_rate, warmup_steps, weight_decay, decay: of Muon; see ``vq.training.optimizer``.
        blocks: of the head; see ``MaskedLatentsGenerator``.
        times: how many each hidden cell is asked at, in one step.
        schedule: how mask ratios are drawn; None: cosine.
        text_dropout, image_share, middle_share, mixture: see ``GeneratorTraining``.
        measured_clips: of the training set, the first ones, that the mean and deviation of each channel are taken of.
        seed: of masks, times, noise and dropped captions. Masks are those of tokens, images and dropped captions those
            of every generator, that is trained with the same seed.
        compile: whether torch.compile makes the transformer faster, after some minutes at the first step.
    """

    def __init__(
        self,
        tokenizer: str,
        backbone: VideoTransformer,
        text: TextEncoder,
        learning_rate: float = 1e-3,
        warmup_steps: int = 100,
        weight_decay: float = 0.02,
        blocks: int = 3,
        times: int = 4,
        schedule: Schedule | None = None,
        text_dropout: float = 0.1,
        image_share: float = 0.05,
        middle_share: float = 0.0,
        mixture: dict[str, float] | None = None,
        measured_clips: int = 512,
        seed: int = 0,
        compile: bool = False,
        decay: bool = True,
    ) -> None:
        super().__init__()
        self.compiled, self.decay = compile, decay
        self.tokenizer = pretrained.load(tokenizer, "tokenizer").requires_grad_(False)
        channels, trained_for = self.tokenizer.quantizer.dim, conditionings(mixture or {"text": 1.0}, middle_share)
        self.generator = MaskedLatentsGenerator(backbone, text, channels, blocks, trained_for)
        self.learning_rate, self.warmup_steps, self.weight_decay = learning_rate, warmup_steps, weight_decay
        self.mixture = checked(mixture) if mixture else None
        self.times, self.schedule = times, schedule or Cosine()
        self.text_dropout, self.image_share, self.middle_share = text_dropout, image_share, middle_share
        self.measured_clips, self.seed = measured_clips, seed

    @property
    def asked_share(self) -> float:
        return self.times * super().asked_share

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        rng = self._rng(batch_idx)
        latents, middle = self._piece(self._latents(batch), rng, axis=2)
        cells = torch.zeros(len(latents), *latents.shape[2:], dtype=torch.long)
        drop = torch.rand(len(latents), generator=rng) < self.text_dropout
        where = draw_puzzle(cells, self.generator.mask_id, rng, self.schedule, self.mixture).asked
        time = logit_normal(torch.rand(self.times, int(where.sum()), generator=rng))
        loss, logs = self._loss(latents, where, time, rng, self._text(batch, drop), middle, batch.fps)
        return self._report("train", loss, logs)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same masks, times and noise at every validation, so that the curve moves only when the model does."""
        rng = torch.Generator().manual_seed(batch_idx)
        latents = self._latents(batch)
        b = len(latents)
        where = random_masks((b, *latents.shape[2:]), self.schedule(torch.arange(b) / b), rng)
        time = self.TIMES[:, None].expand(-1, int(where.sum()))
        loss, logs = self._loss(latents, where, time, rng, self._text(batch), fps=batch.fps)
        self._report("val", loss, logs, b)

    def _loss(
        self,
        latents: Tensor,
        where: Tensor,
        time: Tensor,
        rng: torch.Generator,
        text: TextMemory,
        middle: bool = False,
        fps: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``masked_latents_loss`` of fresh noise; ``where`` and ``time`` are on the CPU."""
        noise = torch.randn(*time.shape, latents.shape[1], generator=rng)
        drawn = (x.to(latents.device) for x in (where, time, noise))
        return masked_latents_loss(self.generator, latents, *drawn, text, middle, fps)

    def configure_optimizers(self) -> dict:
        edges = ("input", "output", "offset", "text.letters", "text.positions")
        return optimizer(self, self.generator, adamw=edges, decay=self.decay)

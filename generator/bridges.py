"""Training the two between tokens and the twin: noisy tokens and masked latents.

Tokens are masked and the twin's latents are noisy. Which of the two makes a difference can be told only if the others
are measured, too: docs/hypothesis.md, H5.
"""

import torch
from torch import Tensor

from data.module import Batch
from generator.backbone import TextMemory, VideoTransformer
from generator.diffusion import logit_normal
from generator.frozen import FrozenTokenizer, LatentTraining, Span
from generator.masked_latents import MaskedLatentsGenerator, masked_latents_loss
from generator.puzzles import draw_clean, draw_puzzle, random_masks, with_tails
from generator.text import TextEncoder
from generator.uniform import UniformGenerator, add_noise, uniform_loss
from vq.training import optimizer


class UniformTraining(FrozenTokenizer):
    """Fits a generator of tokens out of noise to the tokens of a data set.

    Args:
        backbone, text, patch_size: see ``GeneratorTraining``.
        known_share: without a mixture, the share of the samples of which random cells are known, and so are clean:
            those of a twin that is trained with the same seed.
        common: see ``FrozenTokenizer``; of the schedule are the levels of noise, too.
    """

    def __init__(
        self,
        tokenizer: str,
        backbone: VideoTransformer,
        text: TextEncoder,
        patch_size: int = 1,
        known_share: float = 0.25,
        **common,
    ) -> None:
        super().__init__(tokenizer, **common)
        self.generator = UniformGenerator(backbone, text, *self.codebook(), patch_size, self.trained_for)
        self.known_share = known_share

    @property
    def asked_share(self) -> float:
        return 1 - self.known_share * (1 - super().asked_share)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        rng = self._rng(batch_idx)
        tokens, span = self._piece(self._tokens(batch), rng, axis=1)
        b, grid = len(tokens), tuple(tokens.shape[1:])
        drop = torch.rand(b, generator=rng) < self.text_dropout
        # levels spread evenly over the batch (shifted by one draw) have less variance than independent ones
        level = self.schedule((torch.rand((), generator=rng) + torch.arange(b) / b) % 1)
        tails = self._tails(batch, span)
        known = draw_clean(b, grid, rng, self.schedule, self.known_share, self.mixture, tails)
        loss, logs = self._loss(tokens, known, level, rng, self._told(batch, drop, span), span.middle, batch.fps)
        return self._report("train", loss, logs)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same levels and noise at every validation, so that the curve moves only when the model does."""
        rng = torch.Generator().manual_seed(batch_idx)
        tokens = self._tokens(batch)
        level = self.schedule(torch.arange(len(tokens)) / len(tokens))
        known = with_tails(torch.zeros(tokens.shape, dtype=torch.bool), self._tails(batch, Span.whole(tokens.shape[1])))
        loss, logs = self._loss(tokens, known, level, rng, self._told(batch), fps=batch.fps)
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
        backbone, text: see ``GeneratorTraining``.
        blocks: of the head; see ``MaskedLatentsGenerator``.
        times: how many each hidden cell is asked at, in one step. shift: of them; see ``MaskedLatentsGenerator``.
        common: see ``LatentTraining``; masks are those of tokens that are trained with the same seed.
    """

    def __init__(
        self,
        tokenizer: str,
        backbone: VideoTransformer,
        text: TextEncoder,
        blocks: int = 3,
        times: int = 4,
        shift: float = 1.0,
        **common,
    ) -> None:
        super().__init__(tokenizer, **common)
        channels = self.tokenizer.quantizer.dim
        self.generator = MaskedLatentsGenerator(backbone, text, channels, blocks, self.trained_for, shift)
        self.times = times

    @property
    def asked_share(self) -> float:
        return self.times * super().asked_share

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        rng = self._rng(batch_idx)
        latents, span = self._piece(self._latents(batch), rng, axis=2)
        cells = torch.zeros(len(latents), *latents.shape[2:], dtype=torch.long)
        drop = torch.rand(len(latents), generator=rng) < self.text_dropout
        tails = self._tails(batch, span)
        where = draw_puzzle(cells, self.generator.mask_id, rng, self.schedule, self.mixture, tails=tails).asked
        time = self.draw_times(int(where.sum()), rng)
        loss, logs = self._loss(latents, where, time, rng, self._told(batch, drop, span), span.middle, batch.fps)
        return self._report("train", loss, logs)

    def draw_times(self, cells: int, rng: torch.Generator) -> Tensor:
        """At which each hidden cell is asked, (times, cells)."""
        return logit_normal(torch.rand(self.times, cells, generator=rng), self.generator.shift)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same masks, times and noise at every validation, so that the curve moves only when the model does."""
        rng = torch.Generator().manual_seed(batch_idx)
        latents = self._latents(batch)
        b = len(latents)
        known = torch.zeros(b, *latents.shape[2:], dtype=torch.bool)
        known = with_tails(known, self._tails(batch, Span.whole(latents.shape[2])))
        where = random_masks(known.shape, self.schedule(torch.arange(b) / b), rng, known)
        time = self.TIMES[:, None].expand(-1, int(where.sum()))
        loss, logs = self._loss(latents, where, time, rng, self._told(batch), fps=batch.fps)
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

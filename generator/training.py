"""Training the generators: tokens of a frozen tokenizer are hidden and guessed, or latents emerge from noise.

The two between, noisy tokens and masked latents, stand in ``generator.bridges``; what all four share, in
``generator.frozen``.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from data.module import Batch
from data.tokens import TokenCache
from generator.actions import Actions
from generator.backbone import VideoTransformer
from generator.diffusion import DiffusionGenerator, flow_loss, logit_normal, shifted
from generator.frozen import FrozenTokenizer, LatentTraining, Span
from generator.masked import MaskedGenerator, masked_loss
from generator.puzzles import draw_clean, draw_puzzle, random_masks, with_tails
from generator.schedules import Schedule
from generator.text import TextEncoder
from generator.upscaling import Drafts
from generator.weights import Weight
from vq.hardware import moved
from vq.training import begin_with, optimizer


class GeneratorTraining(FrozenTokenizer):
    """Fits a masked generator to the tokens of a data set.

    Args:
        backbone: the transformer.
        text: encoder of the captions.
        patch_size: p x p tokens of a frame share a position of the transformer; see ``MaskedGenerator``.
        frame_ratios: share of the steps in which each latent frame has a mask ratio of its own.
        corruption: up to which share of the visible tokens are doubtful; see ``generator.puzzles.corrupt``.
        weight: of the hidden tokens by mask ratio, see ``generator.weights``; None: all alike.
        label_smoothing: of the cross-entropy.
        start: folder, training checkpoint or hub id of a generator whose weights this one begins with, where names and
            shapes are the same; further layers add nothing at first. None: from nothing.
        drafts: for an upscaler: what it is told of each clip. None: it is told nothing, and is none.
        actions: names of those that the data's game has, to tell the transformer of them; None: of no game.
        common: see ``FrozenTokenizer``.
    """

    def __init__(
        self,
        tokenizer: str,
        backbone: VideoTransformer,
        text: TextEncoder,
        patch_size: int = 1,
        frame_ratios: float = 0.0,
        corruption: float = 0.0,
        weight: Weight | None = None,
        label_smoothing: float = 0.0,
        start: str | None = None,
        drafts: Drafts | None = None,
        actions: list[str] | None = None,
        **common,
    ) -> None:
        super().__init__(tokenizer, **common)
        games = actions and Actions(actions, self.tokenizer.time_compression, backbone.dim)
        trained_for = ["draft" if name == "text" and drafts else name for name in self.trained_for]
        shape = (*self.codebook(), patch_size)
        self.drafts, upscale = drafts, drafts.factor if drafts else 1
        self.generator = MaskedGenerator(backbone, text, *shape, trained_for, games, upscale)
        if start is not None:
            grow(self.generator, start)
        self.label_smoothing = label_smoothing
        self.puzzles = {
            "mixture": None if set(self.mixture or {}) == {"text"} else self.mixture,
            "frame_ratios": frame_ratios,
            "corruption": corruption,
            "weight": weight,
        }

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if not self.drafts:
            return
        data = self.trainer.datamodule
        if any(isinstance(dataset, TokenCache) for dataset in (data.train, data.val)):
            raise ValueError(
                "drafts are made of the clips themselves, and a token cache has none: give the data set that it was "
                "encoded from"
            )
        for size in data.sizes:
            self.drafts.check(self.tokenizer, *size[1:])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        rng = self._rng(batch_idx)
        tokens = self._tokens(batch)
        draft = self.drafts and self.drafts(batch.video, self.tokenizer, rng)
        grids = torch.stack([tokens] if draft is None else [tokens, draft])
        grids, span = self._piece(grids, rng, axis=2)
        tokens, draft = grids[0], draft if draft is None else grids[1]
        drop = torch.rand(len(tokens), generator=rng) < self.text_dropout
        tails = self._tails(batch, span)
        puzzle = draw_puzzle(tokens, self.generator.mask_id, rng, self.schedule, tails=tails, **self.puzzles)
        told, untold = self._told(batch, drop, span), None
        if most := self.generator.backbone.most_guidance:
            share = 1 / most + (1 - 1 / most) * torch.rand(len(tokens), generator=rng)  # one over the scale
            told = replace(told, guidance=moved((1 / share).masked_fill(drop, 1.0), self.device))
            with torch.no_grad():
                untold = self._told(batch, torch.ones_like(drop), span)
        loss, logs = masked_loss(
            self.generator,
            tokens,
            puzzle.asked,
            told,
            self.label_smoothing,
            puzzle.shown,
            puzzle.weights,
            span.middle,
            batch.fps,
            draft,
            untold=untold,
        )
        return self._report("train", loss, logs)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same masks at every validation, so that the curve moves only when the model does."""
        rng = torch.Generator().manual_seed(batch_idx)
        tokens = self._tokens(batch)
        u = torch.arange(len(tokens)) / len(tokens)
        known = with_tails(torch.zeros(tokens.shape, dtype=torch.bool), self._tails(batch, Span.whole(tokens.shape[1])))
        mask = random_masks(tokens.shape, self.schedule(u), rng, known)
        draft = self.drafts and self.drafts(batch.video, self.tokenizer, rng)
        loss, logs = masked_loss(self.generator, tokens, mask, self._told(batch), fps=batch.fps, draft=draft)
        self._report("val", loss, logs, len(tokens))

    def configure_optimizers(self) -> dict:
        edges = (
            "embeddings",
            "previous",
            "actions.table",
            "join",
            "logits",
            "offset",
            "text.letters",
            "text.positions",
        )
        return optimizer(self, self.generator, adamw=edges, decay=self.decay)


def grow(generator: MaskedGenerator, source: str) -> None:
    """Gives a generator what another has learnt; layers of text that the other has not got add nothing at first, as
    blocks of the transformer never do, so that the two say the same."""
    learnt = begin_with(generator, source, "generator")
    for name, layer in generator.text.named_modules(prefix="text"):
        if isinstance(layer, nn.TransformerEncoderLayer) and f"{name}.linear2.weight" not in learnt:
            for out in (layer.self_attn.out_proj, layer.linear2):
                nn.init.zeros_(out.weight)
                nn.init.zeros_(out.bias)


class DiffusionTraining(LatentTraining):
    """Fits the continuous twin to the latents of a data set, or to the vectors that its tokens stand for.

    Args:
        backbone, text, actions: see ``GeneratorTraining``.
        shift: of the times; see ``DiffusionGenerator``.
        times: how they are drawn, before the shift; ``generator.schedules.Linear`` draws all alike, as SiT does (arXiv
            2401.08740). None: logit-normal, the middle ones more often (SD3, arXiv 2403.03206).
        contrastive: see ``flow_loss``.
        known_share: without a mixture, the share of the samples of which random positions are known, and so are clean.
        common: see ``LatentTraining``.
    """

    def __init__(
        self,
        tokenizer: str,
        backbone: VideoTransformer,
        text: TextEncoder,
        shift: float = 1.0,
        times: Schedule | None = None,
        contrastive: float = 0.0,
        known_share: float = 0.25,
        actions: list[str] | None = None,
        **common,
    ) -> None:
        super().__init__(tokenizer, **common)
        games = actions and Actions(actions, self.tokenizer.time_compression, backbone.dim)
        channels = self.tokenizer.quantizer.dim
        self.generator = DiffusionGenerator(backbone, text, channels, shift, self.trained_for, games)
        self.known_share, self.times, self.contrastive = known_share, times or logit_normal, contrastive

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        rng = self._rng(batch_idx)
        latents, span = self._piece(self._latents(batch), rng, axis=2)
        b, grid = len(latents), tuple(latents.shape[2:])
        drop = torch.rand(b, generator=rng) < self.text_dropout
        # times spread evenly over the batch (shifted by one draw) have less variance than independent ones
        u = (torch.rand((), generator=rng) + torch.arange(b) / b) % 1
        tails = self._tails(batch, span)
        known = draw_clean(b, grid, rng, self.schedule, self.known_share, self.mixture, tails)
        noise = torch.randn(latents.shape, generator=rng)
        time = shifted(self.times(u), self.generator.shift)
        drawn = (moved(x, self.device) for x in (known, time, noise))
        told = self._told(batch, drop, span)
        loss, logs = flow_loss(self.generator, latents, *drawn, told, span.middle, batch.fps, self.contrastive)
        return self._report("train", loss, logs)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same times and noise at every validation, so that the curve moves only when the model does."""
        rng = torch.Generator().manual_seed(batch_idx)
        latents = self._latents(batch)
        b = len(latents)
        known = torch.zeros(b, *latents.shape[2:], dtype=torch.bool)
        known = with_tails(known, self._tails(batch, Span.whole(latents.shape[2])))
        time, noise = self.TIMES[torch.arange(b) % len(self.TIMES)], torch.randn(latents.shape, generator=rng)
        drawn = (moved(x, self.device) for x in (known, time, noise))
        loss, logs = flow_loss(self.generator, latents, *drawn, self._told(batch), fps=batch.fps)
        self._report("val", loss, logs, b)

    def configure_optimizers(self) -> dict:
        edges = ("input", "output", "actions.", "offset", "text.letters", "text.positions")
        return optimizer(self, self.generator, adamw=edges, decay=self.decay)

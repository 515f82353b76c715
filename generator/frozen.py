"""What all trainings of generators have in common: a frozen tokenizer, told captions, draws by seed and step."""

from typing import NamedTuple

import lightning as L
import torch
from torch import Tensor

from data.module import Batch, collate
from data.tokens import TokenCache
from generator.backbone import TextMemory
from generator.conditioning import checked
from generator.masked import MaskedGenerator
from generator.schedules import Cosine, Schedule
from generator.text import Text
from vq import pretrained
from vq.hardware import check_compiler
from vq.training import check_start


class Span(NamedTuple):
    """The latent frames from ``first`` to ``last`` of a clip that has ``length``."""

    first: int
    last: int
    length: int

    @classmethod
    def whole(cls, length: int) -> "Span":
        return cls(0, length, length)

    @property
    def middle(self) -> bool:
        """Whether the first latent frame, which stands for one frame only, is not in it."""
        return self.first > 0


class FrozenTokenizer(L.LightningModule):
    """Base of all: the ``tokenizer`` stays as it is, draws depend on ``seed`` and step alone, checkpoints hold all.

    Args:
        tokenizer: exported folder, training checkpoint or hub id of a trained tokenizer. It stays frozen and becomes
            part of the checkpoint.
        learning_rate, warmup_steps, weight_decay, decay: of Muon; see ``vq.training.optimizer``.
        schedule: how mask ratios, or shares of what is unknown, are drawn; None: cosine.
        mixture: what is known of a clip: names of ``generator.conditioning`` and their weights; None: nothing in
            particular.
        text_dropout: share of the captions replaced by the null text, for guidance.
        image_share: share of the steps that see only first frames: images, in the same model.
        middle_share: share of the steps on a piece from the middle of a video: for what follows, precedes or closes
            the circle. It is the clip without its first latent frame; of a clip that is longer than usual it is as
            often as long as such a piece of each shorter length there is, from the usual on, and from anywhere in it.
        seed: of all that is drawn; each step has its own generator, so a resumed run draws the same, and images and
            dropped captions are those of every kind of generator that is trained with the same seed.
        compile: whether torch.compile makes the transformer faster, after some minutes at the first step.
    """

    def __init__(
        self,
        tokenizer: str,
        learning_rate: float = 1e-3,
        warmup_steps: int = 100,
        weight_decay: float = 0.02,
        decay: bool = True,
        schedule: Schedule | None = None,
        mixture: dict[str, float] | None = None,
        text_dropout: float = 0.1,
        image_share: float = 0.05,
        middle_share: float = 0.0,
        seed: int = 0,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.tokenizer = pretrained.load(tokenizer, "tokenizer").requires_grad_(False)
        self.learning_rate, self.warmup_steps, self.weight_decay = learning_rate, warmup_steps, weight_decay
        self.decay, self.compiled, self.seed = decay, compile, seed
        self.schedule, self.mixture = schedule or Cosine(), mixture and checked(mixture)
        self.text_dropout, self.image_share, self.middle_share = text_dropout, image_share, middle_share

    @property
    def trained_for(self) -> list[str]:
        """By name; see ``MaskedGenerator.trained_for``."""
        shares = self.mixture or {"text": 1.0}
        return [name for name, share in shares.items() if share] + ["middle"] * (self.middle_share > 0)

    @property
    def clip(self) -> dict:
        """The size of the training clips, see ``vq.pretrained.save``; where some that are as high and as wide are
        longer, there is a ``window``: the longest's frames, or those of the longest but one, as pieces of that length
        are from anywhere in longer ones."""
        usual = self.trainer.datamodule.clip
        long = {t for t, h, w in self._sizes() if h >= usual["height"] and w >= usual["width"] and t > usual["frames"]}
        return usual | ({"window": sorted(long)[-2:][0]} if long else {})

    def codebook(self) -> tuple[int, tuple]:
        """Its size and the tokenizer's digits. ``ValueError`` where there is none."""
        if not self.tokenizer.codebook_size:
            raise ValueError(
                "the tokenizer is continuous, and tokens need a codebook: give a discrete --model.tokenizer"
            )
        return self.tokenizer.codebook_size, self.tokenizer.quantizer.digits

    def train(self, mode: bool = True) -> "FrozenTokenizer":
        super().train(mode)
        self.tokenizer.eval()
        return self

    def on_fit_start(self) -> None:
        check_start(self)
        if self.generator.backbone.most_guidance and not isinstance(self.generator, MaskedGenerator):
            raise ValueError(
                "only masked tokens learn to be guided in one pass: leave out --model.backbone.most_guidance"
            )
        if self.generator.backbone.most_guidance and not self.text_dropout:
            raise ValueError(
                "guidance in one pass is learnt from the null text: give --model.text_dropout a share above 0"
            )
        if self.compiled:
            check_compiler(self.device)
            self.generator.backbone.compile()
        if any(one["share"] for one in getattr(self.trainer.datamodule.train, "transitions", [])):
            names = tuple(dict.fromkeys((*self.generator.trained_for, "transitions")))
            self.generator.trained_for, self.generator.config["init_args"]["trained_for"] = names, list(names)
        for dataset in (self.trainer.datamodule.train, self.trainer.datamodule.val):
            if isinstance(dataset, TokenCache) and dataset.tokenizer != pretrained.code_of(self.tokenizer):
                raise ValueError(
                    f"the tokens in {dataset.folder} are another tokenizer's: encode the data again with the one of "
                    "this run, python -m vq.encode --tokenizer ..."
                )
            if isinstance(dataset, TokenCache) and dataset.info.text not in (None, self.generator.text.config):
                raise ValueError(
                    f"the captions in {dataset.folder} are encoded by another text encoder: encode the data again with "
                    "--text as in this run"
                )
            if (
                self.generator.actions
                and tuple(getattr(dataset, "actions", None) or ()) != self.generator.actions.names
            ):
                raise ValueError(
                    f"the model is told the actions {', '.join(self.generator.actions.names)} and the clips have "
                    f"{', '.join(getattr(dataset, 'actions', None) or ()) or 'none'}: give --model.actions those"
                )

    def _tokens(self, batch: Batch) -> Tensor:
        return self.tokenizer.quantize(batch.video, batch.tails).tokens if batch.tokens is None else batch.tokens

    def _tails(self, batch: Batch, span: Span) -> Tensor | None:
        """Which latent frames of a span of clips are known ends, bool (b, t) on the CPU."""
        if batch.tails is None:
            return None
        known = torch.tensor([self.tokenizer.tail_length(frames) for frames in batch.tails.tolist()])
        return torch.arange(span.first, span.last) >= span.length - known[:, None]

    def _told(self, batch: Batch, drop: Tensor | None = None, span: Span | None = None) -> TextMemory:
        """The captions, or out of a cache what a text encoder has made of them, as the transformer sees them, and the
        actions that lead to a span of the clips; None: to all of them."""
        actions = None if self.generator.actions is None else batch.actions
        if actions is not None and span is not None:
            actions = actions[:, self.generator.actions.span(span.first, span.last)]
        told = {"actions": actions, "middle": span is not None and span.middle}
        if batch.words is None:
            return self.generator.read(batch.text, drop, **told)
        places = torch.arange(batch.words.shape[1], device=batch.words.device)
        return self.generator.read(Text(batch.words, places < batch.word_counts[:, None]), drop, **told)

    def _piece(self, grid: Tensor, rng: torch.Generator, axis: int) -> tuple[Tensor, Span]:
        """Of tokens or latents, whose latent frames lie along ``axis``: most often all of them, else the first, an
        image, or a piece from the middle; and which these are."""
        span = self._span(grid.shape[axis], rng)
        return grid.narrow(axis, span.first, span.last - span.first), span

    def _span(self, length: int, rng: torch.Generator) -> Span:
        drawn = torch.rand((), generator=rng)
        if drawn < self.image_share:
            return Span(0, 1, length)
        if drawn < self.image_share + self.middle_share and length > 1:
            lengths = [shorter - 1 for shorter in self._lengths() if 1 < shorter < length] + [length - 1]
            size = lengths[int(torch.randint(len(lengths), (), generator=rng)) if len(lengths) > 1 else 0]
            start = 1 + (int(torch.randint(length - size, (), generator=rng)) if size < length - 1 else 0)
            return Span(start, start + size, length)
        return Span.whole(length)

    def _lengths(self) -> list[int]:
        """Latent frames of the training clips, of the usual ones and of those that are longer."""
        usual = self.trainer.datamodule.clip["frames"]
        return sorted({self.tokenizer.latent_shape(*size)[0] for size in self._sizes() if size[0] >= usual})

    def _sizes(self) -> list[tuple[int, int, int]]:
        """Frames, height and width of the training clips, in pixels, of those in a cache too."""
        data = self.trainer.datamodule
        if isinstance(data.train, TokenCache):
            return [self.tokenizer.pixel_shape(*grid) for grid in data.train.sizes]
        return data.sizes

    @property
    def asked_share(self) -> float:
        """How often the heads are computed in a step, relative to its cells: 2 / pi with the cosine schedule."""
        return self.schedule((torch.arange(1000) + 0.5) / 1000).mean().item()

    def _report(self, stage: str, loss: Tensor, logs: dict[str, Tensor], clips: int | None = None) -> Tensor:
        options = {"batch_size": clips, "sync_dist": stage == "val"}  # of several processes each has the same clips
        self.log(f"{stage}/loss", loss, prog_bar=True, **options)
        self.log_dict({f"{stage}/{name}": value for name, value in logs.items()}, **options)
        return loss

    def _rng(self, batch_idx: int) -> torch.Generator:
        """A generator for this step and process alone."""
        step = self.global_step * 64 + batch_idx % 64  # batches that accumulate share a global step
        return torch.Generator().manual_seed((self.seed * 1_000_003 + step) * 1024 + self.global_rank)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["parts"] = {"tokenizer": self.tokenizer.config, "generator": self.generator.config}
        checkpoint["clip"] = self.clip
        checkpoint["tokenizer_fingerprint"] = pretrained.code_of(self.tokenizer)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        if checkpoint["tokenizer_fingerprint"] != pretrained.code_of(self.tokenizer):
            raise ValueError(
                "this checkpoint was trained with another tokenizer: give --model.tokenizer the one it was begun with"
            )


class LatentTraining(FrozenTokenizer):
    """Base of those that fit latents: a continuous tokenizer's, or the vectors that tokens stand for.

    Args:
        measured_clips: of the training set, the first ones, that the mean and deviation of each channel are taken of.
        common: see ``FrozenTokenizer``.
    """

    TIMES = (torch.arange(8) + 0.5) / 8  # of the validation clips, in turn

    def __init__(self, tokenizer: str, measured_clips: int = 512, **common) -> None:
        super().__init__(tokenizer, **common)
        self.measured_clips = measured_clips

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if (self.generator.std != 1).any():  # of the checkpoint that this run goes on from
            return
        data = self.trainer.datamodule.train
        examples = (data[i] for i in range(min(self.measured_clips, len(data))))
        self.generator.measure([self._latents(collate([example]).to(self.device)) for example in examples])

    @torch.no_grad()
    def _latents(self, batch: Batch) -> Tensor:
        if batch.latents is not None:
            return batch.latents
        if batch.tokens is None:
            return self.tokenizer.quantize(batch.video, batch.tails).latents
        return self.tokenizer.quantizer.lookup(batch.tokens)

"""VideoGenerator: prompts in, videos out. No Lightning inside.

generator = VideoGenerator.from_pretrained("out/demo/model")
videos = generator("a red circle moves right", num=4, seed=0)       # (4, 3, t, h, w) in [-1, 1]
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from generator import tasks
from generator.caching import Pass
from generator.guidance import Guidance, apart, guided, together
from generator.masked import MaskedGenerator
from generator.orders import Halton, Order
from generator.samplers import Predict, sample
from generator.tasks import Canvas
from vq import pretrained
from vq.tokenizer import Tokenizer


class VideoGenerator:
    """A tokenizer and a generator that fit each other.

    Args:
        clip: the size that the model was trained at, and its default: frames, height, width, fps.
        device: where to compute; everything is float32, so that a sample depends on its seed alone.
    """

    def __init__(self, tokenizer: Tokenizer, generator: MaskedGenerator, clip: dict, device: str = "cpu") -> None:
        if tokenizer.codebook_size != generator.codebook_size:
            raise ValueError(
                f"the generator speaks a codebook of {generator.codebook_size} tokens and the tokenizer has "
                f"{tokenizer.codebook_size}: use the tokenizer that the generator was trained with"
            )
        self.tokenizer, self.generator = tokenizer.to(device).eval(), generator.to(device).eval()
        self.clip, self.device = clip, torch.device(device)

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str = "cpu") -> "VideoGenerator":
        """From an exported folder, a hub id or a training checkpoint. Raises ``ValueError`` in words."""
        parts = [pretrained.load(source, part) for part in ("tokenizer", "generator")]
        return cls(*parts, clip=pretrained.clip(source), device=device)

    def save_pretrained(self, folder: str | Path) -> Path:
        return pretrained.save(folder, clip=self.clip, tokenizer=self.tokenizer, generator=self.generator)

    def __call__(
        self,
        prompt: str | list[str],
        num: int = 1,
        seed: int = 0,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        **sampling,
    ) -> Tensor:
        """Videos (prompts * num, 3, t, h, w) in [-1, 1], the samples of a prompt together.

        Args:
            prompt: one text, or several.
            num: samples a prompt; sample i of it has the seed ``seed + i``, whatever else is in the batch.
            frames, height, width: another size than the model was trained at. ``ValueError`` if it does not fit.
            sampling: see ``fill``.
        """
        size = {"frames": frames, "height": height, "width": width}
        size = {axis: self.clip[axis] if given is None else given for axis, given in size.items()}
        canvas = tasks.text2video(self.tokenizer.latent_shape(**size), self.generator.mask_id)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        texts = [text for text in prompts for _ in range(num)]
        seeds = [seed + i for _ in prompts for i in range(num)]
        return self.decode(self.fill(canvas.repeat(len(texts)), texts, seeds, **sampling))

    @torch.no_grad()
    def fill(
        self,
        canvas: Canvas,
        texts: list[str],
        seeds: list[int],
        steps: int = 16,
        guidance: float | Guidance = 2.0,
        order: Order | None = None,
        temperature: float | tuple[float, float] = 0.7,
        revisions: int = 12,
        refresh: int = 1,
        batch_size: int = 16,
        progress: Callable[[int], None] | None = None,
        **drawing,
    ) -> Tensor:
        """Tokens (b, t, h, w) for a canvas of b samples, their texts and seeds.

        Args:
            steps: calls of the network a sample (twice as many forward passes with guidance).
            guidance: scale of classifier-free guidance; 1 is none.
            order: which cells come first; None: Halton.
            temperature: of the tokens' distribution; below 1 because guesses made at once do not know each other. Two
                numbers: of the first step and of the last.
            revisions: calls after the last step, each of which makes a third of the frames anew, told the others.
            refresh: of so many calls one computes all positions, and the others only those that matter most; 1: every
                call, which is exact. See ``generator.caching``.
            batch_size: samples at a time.
            progress: called with the number of samples done after each batch.
            drawing: ``schedule``, ``top_k``, ``top_p``, ``remask`` and ``lean`` of ``generator.samplers.sample``.
        """
        order, filled = order or Halton(), []
        if refresh > 1 and not order.blind:
            raise ValueError(
                f"refresh is {refresh}, and {type(order).__name__} has to see all cells before it knows which come "
                "first: use the order halton or random, or refresh 1"
            )
        drawing = {"lean": refresh > 1} | drawing
        for start in range(0, len(texts), batch_size):
            rows = slice(start, start + batch_size)
            part = canvas[rows].to(self.device)
            predict = self.predictor(texts[rows], guidance, part.middle, refresh)
            filled.append(
                sample(
                    predict,
                    part,
                    seeds[rows],
                    order,
                    steps=steps,
                    temperature=temperature,
                    revisions=revisions,
                    **drawing,
                )
            )
            if progress:
                progress(len(filled[-1]))
        return torch.cat(filled)

    def predictor(
        self,
        texts: list[str],
        guidance: float | Guidance,
        middle: bool = False,
        refresh: int = 1,
        as_one_batch: bool | None = None,
    ) -> Predict:
        """The function that a sampler is given; the text is read once.

        ``as_one_batch``: both passes of guidance at once; None: wherever it pays, which is not on a CPU.
        """
        if not isinstance(guidance, Guidance):
            guidance = Guidance(guidance)
        if as_one_batch is None:
            as_one_batch = self.device.type != "cpu"
        ask = partial(Pass, self.generator, middle=middle, refresh=refresh)
        untold = torch.ones(len(texts), dtype=torch.bool)
        if guidance.scale == 1:
            return guided(guidance, ask(self.generator.read(texts)), None)
        if as_one_batch:
            both = self.generator.read(texts * 2, drop=torch.cat([~untold, untold]))
            return guided(guidance, ask(both[: len(texts)]), together(ask(both)))
        told = ask(self.generator.read(texts))
        return guided(guidance, told, apart(told, ask(self.generator.read(texts, drop=untold))))

    def compile(self) -> "VideoGenerator":
        """Compiles the backbone at its first call, on a GPU into CUDA graphs; returns itself. Worth it for many
        samples of one size: each new size is compiled anew."""
        if self.device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            raise ValueError("compiling for a CPU needs a C++ compiler: install g++, or do without compiling")
        self.generator.backbone.compile(mode="reduce-overhead" if self.device.type == "cuda" else "default")
        return self

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Video (b, 3, t, h, w) in [-1, 1] -> tokens (b, t', h', w')."""
        return self.tokenizer.encode(video.to(self.device))

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (b, t', h', w') -> video (b, 3, t, h, w) in [-1, 1], on the CPU.

        One by one: convolutions of another batch size may sum in another order, and a pixel in a million then rounds
        to another level.
        """
        return torch.cat([self.tokenizer.decode(clip).float().cpu() for clip in tokens.to(self.device).split(1)])

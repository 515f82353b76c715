"""VideoGenerator: prompts in, videos out. No Lightning inside.

generator = VideoGenerator.from_pretrained("out/demo/model")
videos = generator("a red circle moves right", num=4, seed=0)       # (4, 3, t, h, w) in [-1, 1]
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from generator import tasks
from generator.backbone import TextMemory
from generator.diffusion import DiffusionGenerator, Euler, Numbers, Solver, Velocity, integrate
from generator.guidance import guide
from generator.masked import MaskedGenerator
from generator.samplers import Halton, Order, Predict, sample
from generator.tasks import Canvas
from vq import pretrained
from vq.tokenizer import Tokenizer


class VideoGenerator:
    """A tokenizer and a generator of tokens or of latents that fit each other.

    Args:
        clip: the size that the model was trained at, and its default: frames, height, width, fps.
        device: where to compute; everything is float32, so that a sample depends on its seed alone.
    """

    def __init__(
        self, tokenizer: Tokenizer, generator: MaskedGenerator | DiffusionGenerator, clip: dict, device: str = "cpu"
    ) -> None:
        if isinstance(generator, DiffusionGenerator):
            if tokenizer.quantizer.dim != generator.channels:
                raise ValueError(
                    f"the generator speaks {generator.channels} channels of latents and the tokenizer has "
                    f"{tokenizer.quantizer.dim}: use the tokenizer that the generator was trained with"
                )
        elif tokenizer.codebook_size != generator.codebook_size:
            raise ValueError(
                f"the generator speaks a codebook of {generator.codebook_size} tokens and the tokenizer has "
                f"{tokenizer.codebook_size}: use the tokenizer that the generator was trained with"
            )
        self.tokenizer, self.generator = tokenizer.to(device).eval(), generator.to(device).eval()
        self.clip, self.device = clip, torch.device(device)
        # tokens to latents and back
        self.code = tokenizer.quantizer if tokenizer.codebook_size else Numbers(tokenizer.quantizer.dim, self.device)

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
        guidance: float = 2.0,
        order: Order | None = None,
        temperature: float = 0.7,
        revisions: int = 12,
        solver: Solver | None = None,
        batch_size: int = 16,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Tokens (b, t, h, w) for a canvas of b samples, their texts and seeds.

        Args:
            steps: calls of the network a sample (twice as many forward passes with guidance).
            guidance: scale of classifier-free guidance; 1 is none.
            order: which cells come first; None: Halton.
            temperature: of the tokens' distribution; below 1 because guesses made at once do not know each other.
            revisions: calls after the last step, each of which makes a third of the frames anew, told the others.
            solver: of a generator of latents, for which order, temperature and revisions mean nothing; None: Euler.
            batch_size: samples at a time.
            progress: called with the number of samples done after each batch.
        """
        filled = []
        for start in range(0, len(texts), batch_size):
            rows = slice(start, start + batch_size)
            part = canvas[rows].to(self.device)
            if isinstance(self.generator, DiffusionGenerator):
                latents = self.flow(part, texts[rows], seeds[rows], steps, guidance, solver or Euler())
                filled.append(torch.where(part.known, part.tokens, self.code.nearest(latents)))
            else:
                predict = self.predictor(texts[rows], guidance, part.middle)
                order = order or Halton()
                filled.append(sample(predict, part, seeds[rows], order, steps, None, temperature, revisions))
            if progress:
                progress(len(filled[-1]))
        return torch.cat(filled)

    def predictor(self, texts: list[str], guidance: float, middle: bool = False) -> Predict:
        """The function that a sampler is given; the text is read once."""
        memory = self.generator.read(texts)
        if guidance == 1:
            return lambda tokens, where: self.generator(tokens, where, memory, middle)
        null = self.generator.read(texts, drop=torch.ones(len(texts), dtype=torch.bool))

        def predict(tokens: Tensor, where: Tensor) -> list[Callable[[Tensor], Tensor]]:
            told, untold = (self.generator(tokens, where, m, middle) for m in (memory, null))
            pairs = zip(told, untold, strict=True)
            return [lambda before, c=c, u=u: guide(c(before), u(before), guidance) for c, u in pairs]

        return predict

    @torch.no_grad()
    def flow(
        self, canvas: Canvas, texts: list[str], seeds: list[int], steps: int, guidance: float, solver: Solver
    ) -> Tensor:
        """Latents (b, d, t, h, w) for a canvas, by a generator of latents; not yet the nearest codes."""
        clean = self.code.lookup(canvas.tokens.masked_fill(~canvas.known, 0))
        velocity = self.velocity(canvas, texts, guidance)
        x = integrate(
            velocity, self.generator.normalise(clean), canvas.known, seeds, solver, steps, self.generator.shift
        )
        return self.generator.denormalise(x)

    def velocity(self, canvas: Canvas, texts: list[str], guidance: float) -> Velocity:
        """The function that a solver is given; the text is read once."""

        def told(memory: TextMemory, x: Tensor, time: float) -> Tensor:
            times = torch.full((len(x),), time, device=x.device)
            return self.generator(x, canvas.known, times, memory, canvas.middle)

        memory = self.generator.read(texts)
        if guidance == 1:
            return partial(told, memory)
        null = self.generator.read(texts, drop=torch.ones(len(texts), dtype=torch.bool))
        return lambda x, time: guide(told(memory, x, time), told(null, x, time), guidance)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Video (b, 3, t, h, w) in [-1, 1] -> tokens (b, t', h', w')."""
        if not self.tokenizer.codebook_size:
            return self.code.nearest(self.tokenizer.latents(video.to(self.device)))
        return self.tokenizer.encode(video.to(self.device))

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (b, t', h', w') -> video (b, 3, t, h, w) in [-1, 1], on the CPU.

        One by one: convolutions of another batch size may sum in another order, and a pixel in a million then rounds
        to another level.
        """
        clips = (self.code.lookup(clip) for clip in tokens.to(self.device).split(1))
        return torch.cat([self.tokenizer.decoder(latents).clamp(-1, 1).float().cpu() for latents in clips])

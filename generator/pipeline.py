"""VideoGenerator: prompts in, videos out. No Lightning inside.

generator = VideoGenerator.from_pretrained("out/demo/model")
videos = generator("a red circle moves right", num=4, seed=0)       # (4, 3, t, h, w) in [-1, 1]
longer = generator("it turns blue", task="extend", inputs=[clip], frames=65)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from generator import editing, tasks
from generator.backbone import TextMemory
from generator.caching import Pass
from generator.diffusion import DiffusionGenerator, Euler, Numbers, Solver, Velocity, integrate
from generator.guidance import Guidance, Network, apart, guide, guided, together
from generator.jobs import Job, plan
from generator.masked import MaskedGenerator
from generator.masked_latents import MaskedLatentsGenerator, drawing
from generator.orders import Halton, Order, halton_ranks
from generator.samplers import Predict, sample
from generator.schedules import Schedule
from generator.tasks import Canvas
from generator.uniform import Denoiser, UniformGenerator, denoise
from vq import pretrained
from vq.hardware import check_compiler
from vq.layers import TemporalConv
from vq.quantizers import to_digits
from vq.tokenizer import Tokenizer

Generator = MaskedGenerator | UniformGenerator | MaskedLatentsGenerator | DiffusionGenerator


class VideoGenerator:
    """A tokenizer and a generator of tokens or of latents that fit each other.

    Args:
        clip: the size that the model was trained at, and its default: frames, height, width, fps.
        device: where to compute; everything is float32, so that a sample depends on its seed alone.
    """

    def __init__(self, tokenizer: Tokenizer, generator: Generator, clip: dict, device: str = "cpu") -> None:
        if generator.of_latents:
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
        self.clip, self.device, self.compiled = clip, torch.device(device), False
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
        prompt: str | list[str] = "",
        num: int = 1,
        seed: int = 0,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        task: str = "text2video",
        inputs: Sequence[Tensor] = (),
        mask: Tensor | None = None,
        strength: float = 0.5,
        forget: str | None = None,
        window: int | None = None,
        **sampling,
    ) -> Tensor:
        """Videos (prompts * num, 3, t, h, w) in [-1, 1], the samples of a prompt together; of a story ``num`` videos.

        Args:
            prompt: one text, or several.
            num: samples a prompt; sample i of it has the seed ``seed + i``, whatever else is in the batch.
            frames, height, width: another size than the model was trained at. ``ValueError`` if it does not fit.
            task: one of ``editing.TASKS``; docs/tasks.md shows them all.
            inputs: the clips (3, t, h, w) in [-1, 1] that the task takes.
            mask: of inpaint: bool (t, h, w) or (1, h, w) in pixels, True where to make anew.
            strength, forget: of edit: the share that is forgotten, and which: "unlikely" or "random";
                None: the unlikely ones, but random ones where the generator knows no likelihoods.
            window: frames that are made at once, of a longer video; None: what the task is best done with.
            sampling: see ``fill``.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        job = self.job(task, prompts, inputs, mask, strength, forget, frames, height, width, window)
        texts = [text for text in ([prompts[0]] if job.story else prompts) for _ in range(num)]
        seeds = [seed + i for _ in range(len(texts) // num) for i in range(num)]
        return self.decode(self.make(job, texts, seeds, **sampling), ring=job.ring)

    def upscale(self, videos: Tensor, prompt: str | list[str] = "", seed: int = 0, **given) -> Tensor:
        """Videos (b, 3, t, h, w) in [-1, 1], such as another generator has made, enlarged: the cascade.

        Args:
            prompt: one text for all, or one a video.
            seed: video i has the seed ``seed + i``.
            given: see ``__call__``.
        """
        texts = [prompt] * len(videos) if isinstance(prompt, str) else prompt
        rows = enumerate(zip(texts, videos, strict=True))
        return torch.cat([self(text, 1, seed + i, task="upscale", inputs=[clip], **given) for i, (text, clip) in rows])

    def job(self, *asked, **named) -> Job:
        """What ``make`` needs to know, checked; see ``generator.jobs.plan``. Raises ``ValueError`` in words."""
        return plan(self, *asked, **named)

    def make(self, job: Job, texts: list[str], seeds: list[int], **sampling) -> Tensor:
        """Tokens (b, t, h, w) of b samples of a job, their texts and seeds; see ``fill`` for the rest."""
        return job.task.run(self, job, editing.Fill(self, texts, seeds, job.window, sampling))

    def untrained(self, job: Job) -> list[str]:
        """What the job needs and the model was not trained for, if it tells what it was trained for."""
        trained = getattr(self.generator, "trained_for", None)
        return [] if trained is None else [name for name in job.needs if name not in trained]

    @property
    def mask_id(self) -> int:
        return self.generator.mask_id

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
        solver: Solver | None = None,
        batch_size: int = 16,
        progress: Callable[[int], None] | None = None,
        window: int | None = None,
        backwards: bool = False,
        fps: float | None = None,
        schedule: Schedule | None = None,
        top_k: int | None = None,
        top_p: float = 1.0,
        remask: float = 0.0,
        lean: bool = True,
        actions: Tensor | None = None,
    ) -> Tensor:
        """Tokens (b, t, h, w) for a canvas of b samples, their texts and seeds.

        Args:
            steps: calls of the network a sample (twice as many forward passes with guidance).
            guidance: scale of classifier-free guidance; 1 is none.
            order: which cells come first, of a generator that was trained with masks; None: Halton.
            temperature: of the tokens' distribution; below 1 because guesses made at once do not know each other. Two
                numbers: of the first step and of the last.
            revisions: calls after the last step, each of which makes a third of the frames anew, told the others; of
                a generator that was trained with masks.
            refresh: of so many calls one computes all positions, and the others only those that matter most; 1: every
                call, which is exact. See ``generator.caching``.
            solver: of a generator of latents, to which temperature, refresh and all from ``top_k`` on mean nothing;
                None: Euler.
            batch_size: samples at a time.
            progress: called with the number of samples done after each batch.
            window: latent frames at a time: a longer canvas is filled in windows that overlap by half, each told the
                tokens of the one before, at constant memory. None: all at once.
            backwards: the last window comes first.
            fps: frames a second, for a generator that is told of them; None: as trained.
            schedule, top_k, top_p, remask, lean: see ``generator.samplers.sample``.
            actions: of a game's model, int64 (b, t) or (t,), one a frame of the video; None: nothing is done.
        """
        actions = self.checked_actions(actions, canvas)
        guidance = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
        if guidance.rescale and self.generator.of_latents:
            raise ValueError("guidance is rescaled on logits, and a generator of latents has none: leave out rescale")
        spans = tasks.windows(canvas.tokens.shape[1], window, backwards, canvas.middle)
        order, solver, filled = order or Halton(), solver or Euler(), []
        if refresh > 1 and not order.blind:
            raise ValueError(
                f"refresh is {refresh}, and {type(order).__name__} has to see all cells before it knows which come "
                "first: use the order halton or random, or refresh 1"
            )
        if refresh > 1 and self.compiled:
            raise ValueError(f"refresh is {refresh}, and a compiled model computes all positions in every call: use 1")
        if isinstance(self.generator, MaskedLatentsGenerator) and not order.blind:
            raise ValueError(
                f"{type(order).__name__} asks how likely tokens are, and a generator of latents does not know: use the "
                "order halton or random"
            )
        for start in range(0, len(texts), batch_size):
            rows = slice(start, start + batch_size)
            part = canvas[rows].to(self.device)
            for first, last in spans:
                piece = part.span(first, last)
                if piece.known.all():
                    continue
                done = None
                if actions is not None:
                    done = actions[rows, self.generator.actions.span(first, last, canvas.middle)].to(self.device)
                draws = [seed + 1_000_003 * first for seed in seeds[rows]]  # a window has noise of its own
                if isinstance(self.generator, MaskedGenerator):
                    how = (guidance, piece.middle, refresh, fps)
                    predict = self.predictor(texts[rows], *how, actions=done, draft=piece.draft)
                    tokens = sample(
                        predict,
                        piece,
                        draws,
                        order,
                        steps,
                        schedule,
                        temperature,
                        revisions,
                        top_k,
                        top_p,
                        remask,
                        lean or refresh > 1,
                    )
                elif isinstance(self.generator, UniformGenerator):
                    predict = self.denoiser(piece, texts[rows], guidance, fps)
                    digits = self.generator.digits
                    tokens = denoise(predict, piece, draws, digits, steps, schedule, temperature, top_k, top_p)
                elif isinstance(self.generator, DiffusionGenerator):
                    latents = self.flow(piece, texts[rows], draws, steps, guidance, solver, fps, done)
                    tokens = torch.where(piece.known, piece.tokens, self.code.nearest(latents))
                else:
                    how = (steps, guidance, order, revisions, schedule, solver, fps)
                    latents = self.masked_latents(piece, texts[rows], draws, *how)
                    tokens = torch.where(piece.known, piece.tokens, self.code.nearest(latents))
                part = part.filled(first, tokens)
            filled.append(part.tokens.cpu())
            if progress:
                progress(len(filled[-1]))
        return torch.cat(filled)

    def predictor(
        self,
        texts: list[str],
        guidance: float | Guidance,
        middle: bool = False,
        refresh: int = 1,
        fps: float | None = None,
        as_one_batch: bool | None = None,
        actions: Tensor | None = None,
        draft: Tensor | None = None,
    ) -> Predict:
        """The function that a sampler is given; the text is read once.

        ``as_one_batch``: both passes of guidance at once; None: wherever it pays, which is not on a CPU. ``draft``
        (b, t, h, w): what an upscaler enlarges; it takes an empty text for none, as it has learnt to go by its draft
        alone.
        """
        if not isinstance(guidance, Guidance):
            guidance = Guidance(guidance)
        if as_one_batch is None:
            as_one_batch = self.device.type != "cpu"
        ask = partial(Pass, self.generator, middle=middle, refresh=refresh, fps=self._fps(fps), draft=draft)
        untold = torch.ones(len(texts), dtype=torch.bool)
        silent = torch.tensor([draft is not None and not text for text in texts])
        read = partial(self.generator.read, actions=actions, middle=middle)
        if guidance.scale == 1:
            return guided(guidance, ask(read(texts, drop=silent)), None)
        if as_one_batch:
            twice = [x if x is None else torch.cat([x, x]) for x in (actions, draft)]
            both = read(texts * 2, drop=torch.cat([silent, untold]), actions=twice[0])
            return guided(guidance, ask(both[: len(texts)]), together(ask(both, draft=twice[1])))
        told = ask(read(texts, drop=silent))
        return guided(guidance, told, apart(told, ask(read(texts, drop=untold))))

    def denoiser(self, canvas: Canvas, texts: list[str], guidance: Guidance, fps: float | None = None) -> Denoiser:
        """The function that ``denoise`` is given, of a generator of noisy tokens; the text is read once."""
        rate, memory, null = self._fps(fps), *self._memories(texts)

        def predict(tokens: Tensor, level: float, progress: float) -> list[Callable[[Tensor], Tensor]]:
            levels = torch.full((len(tokens),), level, device=tokens.device)

            def network(text: TextMemory) -> Network:
                return lambda tokens, where: self.generator(tokens, ~where, levels, text, canvas.middle, rate)

            told = network(memory)
            return guided(guidance, told, apart(told, network(null)))(tokens, ~canvas.known, progress)

        return predict

    def compile(self) -> "VideoGenerator":
        """Compiles the backbone at its first call, on a GPU into CUDA graphs; returns itself. Worth it for many
        samples of one size: each new size is compiled anew. Not with ``refresh``, whose sizes change from call to call.
        """
        check_compiler(self.device)
        self.compiled = True
        self.generator.backbone.compile(mode="reduce-overhead" if self.device.type == "cuda" else "default")
        return self

    def checked_actions(self, actions: Tensor | None, canvas: Canvas) -> Tensor | None:
        """Actions (b, t) or (t,) -> (b, t), as many as the canvas of b rows stands for. ``ValueError`` for others."""
        if actions is None:
            return None
        if self.generator.actions is None:
            raise ValueError("got actions, and this model was trained without: leave them out")
        b, t = canvas.tokens.shape[:2]
        frames = self.generator.actions.span(0, t, canvas.middle).stop
        if actions.shape[-1] != frames:
            raise ValueError(f"got {actions.shape[-1]} actions for {frames} frames: give one a frame, first noop")
        return actions.expand(b, -1)

    def _memories(
        self, texts: list[str], actions: Tensor | None = None, middle: bool = False
    ) -> tuple[TextMemory, TextMemory]:
        """What the transformer is told with the texts, and without."""
        read = partial(self.generator.read, texts, actions=actions, middle=middle)
        return read(), read(drop=torch.ones(len(texts), dtype=torch.bool))

    def _fps(self, given: float | None) -> Tensor:
        return torch.tensor([given or self.clip.get("fps") or 8.0], device=self.device)

    @torch.no_grad()
    def flow(
        self,
        canvas: Canvas,
        texts: list[str],
        seeds: list[int],
        steps: int,
        guidance: Guidance,
        solver: Solver,
        fps: float | None = None,
        actions: Tensor | None = None,
    ) -> Tensor:
        """Latents (b, d, t, h, w) for a canvas, by a generator of latents; not yet the nearest codes."""
        clean = self.code.lookup(canvas.tokens.masked_fill(~canvas.known, 0))
        velocity = self.velocity(canvas, texts, guidance, fps, actions)
        x = integrate(
            velocity, self.generator.normalise(clean), canvas.known, seeds, solver, steps, self.generator.shift
        )
        return self.generator.denormalise(x)

    def velocity(
        self,
        canvas: Canvas,
        texts: list[str],
        guidance: Guidance,
        fps: float | None = None,
        actions: Tensor | None = None,
    ) -> Velocity:
        """The function that a solver is given; the text is read once."""
        rate = self._fps(fps)

        def told(memory: TextMemory, x: Tensor, time: float) -> Tensor:
            times = torch.full((len(x),), time, device=x.device)
            return self.generator(x, canvas.known, times, memory, canvas.middle, rate)

        memory, null = self._memories(texts, actions, canvas.middle)

        def velocity(x: Tensor, time: float) -> Tensor:
            scale = guidance.at(1 - time)
            if scale == 1:
                return told(memory, x, time)
            return guide(told(memory, x, time), told(null, x, time), scale)

        return velocity

    @torch.no_grad()
    def masked_latents(
        self,
        canvas: Canvas,
        texts: list[str],
        seeds: list[int],
        steps: int,
        guidance: Guidance,
        order: Order,
        revisions: int,
        schedule: Schedule | None,
        solver: Solver,
        fps: float | None = None,
    ) -> Tensor:
        """Latents (b, d, t, h, w) for a canvas, by a generator of masked latents; not yet the nearest codes.

        The sampler is that of tokens; what it fills in are the numbers of the vectors that have been drawn.
        """
        numbers = Numbers(self.generator.channels, self.device)
        clean = self.code.lookup(canvas.tokens.masked_fill(~canvas.known, 0))
        canvas = replace(canvas, tokens=numbers.nearest(self.generator.normalise(clean)))
        rate, memory, null = self._fps(fps), *self._memories(texts)

        def predict(tokens: Tensor, where: Tensor, progress: float) -> Velocity:
            known = tokens != canvas.mask_id
            latents, scale = numbers.lookup(tokens.masked_fill(~known, 0)), guidance.at(progress)

            def velocity(text: TextMemory) -> Velocity:
                condition = self.generator(latents, known, where, text, canvas.middle, rate)
                return lambda x, time: self.generator.head(x, x.new_full((len(x),), time), condition)

            told = velocity(memory)
            if scale == 1:
                return told
            untold = velocity(null)
            return lambda x, time: guide(told(x, time), untold(x, time), scale)

        draw = drawing(numbers, solver)
        filled = sample(predict, canvas, seeds, order, steps, schedule, revisions=revisions, lean=True, draw=draw)
        return self.generator.denormalise(numbers.lookup(filled))

    @torch.no_grad()
    def likelihood(self, tokens: Tensor, text: str, parts: int = 4, fps: float | None = None) -> Tensor:
        """Log-probability (1, t, h, w) of each token of a clip (1, t, h, w), told the text and most other tokens.

        The cells are hidden in ``parts`` groups, one after the other, each spread evenly over the clip.
        """
        memory, fps = self.generator.read([text]), self._fps(fps)
        tokens = tokens.to(self.device)
        groups = (halton_ranks(tuple(tokens.shape[1:])) % parts).view(tokens.shape).to(self.device)
        scores = torch.zeros(tokens.shape, device=self.device)
        for group in range(parts):
            where = groups == group
            if where.any():
                digits = to_digits(tokens[where], self.generator.digits)
                heads = self.generator(tokens.masked_fill(where, self.mask_id), where, memory, fps=fps)
                logs = [head(digits[:, :i]).float().log_softmax(1) for i, head in enumerate(heads)]
                scores[where] = sum(log.gather(1, digits[:, i, None])[:, 0] for i, log in enumerate(logs))
        return scores.cpu()

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Video (b, 3, t, h, w) in [-1, 1] -> tokens (b, t', h', w'), on the CPU."""
        if not self.tokenizer.codebook_size:
            return self.code.nearest(self.tokenizer.latents(video.to(self.device))).cpu()
        return self.tokenizer.encode(video.to(self.device)).cpu()

    def encode_middle(self, video: Tensor) -> Tensor:
        """Video (b, 3, 1 + k * ft, h, w) -> tokens (b, k, h', w') of a piece that does not begin a video.

        They stand for all frames but the first, which is the one before the piece; of a still, for ft copies of it.
        """
        if video.shape[2] == 1:
            video = video.expand(-1, -1, 1 + self.tokenizer.time_compression, -1, -1)
        return self.encode(video)[:, 1:]

    def decode(self, tokens: Tensor, ring: bool = False) -> Tensor:
        """Tokens (b, t', h', w') -> video (b, 3, t, h, w) in [-1, 1], on the CPU.

        One by one: convolutions of another batch size may sum in another order, and a pixel in a million then rounds
        to another level.
        """
        return torch.stack([torch.cat(list(self.pieces(clip, ring)), dim=1) for clip in tokens])

    def pieces(self, tokens: Tensor, ring: bool = False, size: int = 16) -> Iterator[Tensor]:
        """The video of tokens (t', h', w') in pieces (3, t, h, w) in [-1, 1] on the CPU, at constant memory.

        Args:
            ring: the tokens are a loop, none of them a first latent frame: the decoder, which is causal, warms up on
                the last ones, and the video has t' * ft frames.
            size: latent frames at a time; no more than these are decoded at once.
        """
        stream = self.tokenizer.stream()
        if ring:
            before = -(-reach(self.tokenizer) // len(tokens)) * len(tokens)  # whole rounds: the ring ends at its seam
            for piece in tokens.repeat(before // len(tokens), 1, 1).split(size):
                stream.decode_latents(self.code.lookup(piece[None].to(self.device)))
        for piece in tokens.split(size):
            yield stream.decode_latents(self.code.lookup(piece[None].to(self.device)))[0].float().cpu()


def reach(tokenizer: Tokenizer) -> int:
    """How many latent frames back a frame of the decoder sees, at most: two for each convolution over time."""
    return 1 + 2 * sum(isinstance(layer, TemporalConv) for layer in tokenizer.decoder.modules())

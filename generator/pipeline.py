"""VideoGenerator: prompts in, videos out. No Lightning inside.

generator = VideoGenerator.from_pretrained("models/showcase")
videos = generator("a red circle moves right", num=4, seed=0)       # (4, 3, t, h, w) in [-1, 1]
longer = generator("it turns blue", task="extend", inputs=[clip], frames=65)
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from generator import editing, tasks
from generator.diffusion import Numbers
from generator.filling import Generator, Piece, Settings, fill, knobs
from generator.jobs import Job, plan
from generator.masked import MaskedGenerator
from generator.orders import halton_ranks
from generator.samplers import choose_tokens
from generator.tasks import Canvas
from vq import pretrained
from vq.hardware import check_compiler, check_convolutions, has_bf16, tf32
from vq.layers import TemporalConv
from vq.quantizers import to_digits
from vq.tokenizer import Tokenizer

AXES = ("frames", "height", "width", "fps")


class VideoGenerator:
    """A tokenizer and a generator of tokens or of latents that fit each other.

    Args:
        clip: the size that the model was trained at, and its default: frames, height, width, fps; where it knows
            longer clips, ``window`` are the frames of these, which is how much of a long video is made at once. A model
            keeps the two apart: ``trained_at`` is both.
        device: where to compute; everything is float32, of which a GPU multiplies as TF32, so that a sample depends on
            its seed alone, unless ``bfloat16`` is called.
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
        check_convolutions(torch.device(device))
        self.tokenizer, self.generator = tokenizer.to(device).eval(), generator.to(device).eval()
        self.clip, self.window = {axis: clip.get(axis) for axis in AXES}, clip.get("window", clip["frames"])
        self.device, self.compiled, self.in_bf16 = torch.device(device), False, False
        self.choose = choose_tokens
        # tokens to latents and back
        self.code = tokenizer.quantizer if tokenizer.codebook_size else Numbers(tokenizer.quantizer.dim, self.device)

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str = "cpu") -> "VideoGenerator":
        """From an exported folder, a hub id or a training checkpoint. Raises ``ValueError`` in words."""
        parts = [pretrained.load(source, part) for part in ("tokenizer", "generator")]
        return cls(*parts, clip=pretrained.clip(source), device=device)

    @property
    def trained_at(self) -> dict:
        """``clip``, and the ``window`` where that is another length."""
        return self.clip | ({"window": self.window} if self.window != self.clip["frames"] else {})

    def save_pretrained(self, folder: str | Path) -> Path:
        return pretrained.save(folder, clip=self.trained_at, tokenizer=self.tokenizer, generator=self.generator)

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
            frames, height, width: another size than the model was trained at, or than the input has. ``ValueError`` if
                it does not fit.
            task: one of ``editing.TASKS``; docs/tasks.md shows them all.
            inputs: the clips (3, t, h, w) in [-1, 1] that the task takes.
            mask: of inpaint: bool (t, h, w) or (1, h, w) in pixels, True where to make anew.
            strength, forget: of edit: the share that is forgotten, and which: "unlikely" or "random";
                None: the unlikely ones, but random ones where the generator knows no likelihoods.
            window: frames that are made at once, of a longer video; None: all, but of the tasks that are made in
                windows (``Task.windowed``) the model's.
            sampling: see ``generator.filling.Settings``, and ``fill``.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if num < 1:
            raise ValueError(f"got {num} samples a prompt, expected at least 1")
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
        sampling = self.sampling(job.task) | sampling
        return job.task.run(self, job, editing.Fill(self, texts, seeds, job.window, sampling))

    def sampling(self, task: editing.Task) -> dict:
        """How a task is sampled where nothing else is asked for, as far as that is not as usual: see ``Settings``."""
        meant, own = knobs(self.generator), {"guidance": Settings.guidance}
        if "remask" not in meant and "revisions" in meant:
            own |= editing.SMOOTH  # second thoughts of those that forget nothing
        if set(task.sampling) <= set(meant):
            own |= task.sampling
        if task.guidance and editing.knows_transitions(self):
            own["guidance"] = task.guidance
        own["guidance"] = min(own["guidance"], self.generator.backbone.most_guidance or math.inf)
        return {name: value for name, value in own.items() if name in meant}

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
        batch_size: int = 16,
        progress: Callable[[int], None] | None = None,
        window: int | None = None,
        backwards: bool = False,
        fps: float | None = None,
        actions: Tensor | None = None,
        **sampling,
    ) -> Tensor:
        """Tokens (b, t, h, w) for a canvas of b samples, their texts and seeds.

        Args:
            batch_size: samples at a time.
            progress: called with the number of samples done after each batch.
            window: latent frames at a time: a longer canvas is filled in windows that overlap by half, each told the
                tokens of the one before, at constant memory. None: all at once.
            backwards: the last window comes first.
            fps: frames a second, for a generator that is told of them; None: as trained.
            actions: of a game's model, int64 (b, t) or (t,), one a frame of the video; None: nothing is done.
            sampling: see ``generator.filling.Settings``.
        """
        if not len(texts) == len(seeds) == len(canvas.tokens):
            raise ValueError(
                f"got {len(texts)} texts and {len(seeds)} seeds for {len(canvas.tokens)} samples: give one a sample"
            )
        if not texts or batch_size < 1:
            raise ValueError(f"got {len(texts)} samples, {batch_size} at a time: expected at least 1")
        actions, rate, filled = self.checked_actions(actions, canvas), self._fps(fps), []
        how = Settings(**sampling).checked(self.generator)
        if how.refresh > 1 and self.compiled:
            raise ValueError(
                f"refresh is {how.refresh}, and a compiled model computes all positions in every call: use 1"
            )
        spans = tasks.windows(canvas.tokens.shape[1], window, backwards, canvas.middle)
        for start in range(0, len(texts), batch_size):
            rows = slice(start, start + batch_size)
            part = canvas[rows].to(self.device)
            for first, last in spans:
                span = part.span(first, last)
                if span.known.all():
                    continue
                done = None
                if actions is not None:
                    done = actions[rows, self.generator.actions.span(first, last, canvas.middle)].to(self.device)
                draws = [seed + 1_000_003 * first for seed in seeds[rows]]  # a window has noise of its own
                with tf32(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.in_bf16):
                    tokens = fill(
                        self.generator, self.code, Piece(span, texts[rows], rate, done), draws, how, self.choose
                    )
                part = part.filled(first, tokens)
            filled.append(part.tokens.cpu())
            if progress:
                progress(len(filled[-1]))
        return torch.cat(filled)

    def bfloat16(self) -> "VideoGenerator":
        """From now on the transformer computes in bfloat16, by autocast; returns itself. Faster, with other samples for
        a seed, which another batch size may tip; what is known stays, bit for bit. ``ValueError`` where it is emulated.
        """
        if not has_bf16(self.device):
            raise ValueError(
                "this CPU has no bfloat16 arithmetic and would emulate it, fifty times slower: use float32"
            )
        self.in_bf16 = True
        return self

    def compile(self) -> "VideoGenerator":
        """Compiles the transformer at its first call, on a GPU into CUDA graphs; returns itself. Worth it for many
        samples of one size: each new size is compiled anew. Not with ``refresh``, whose sizes change from call to call.

        Of masked tokens also what comes before and behind it, small calls for which a GPU would wait. Heads and draws
        are kept out of graphs: the number of asked cells changes from step to step, and each would have its own.
        """
        check_compiler(self.device)
        self.compiled = True
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        if isinstance(self.generator, MaskedGenerator):
            self.generator.hidden = torch.compile(self.generator.hidden, mode=mode)
            self.choose = torch.compile(choose_tokens, mode="default")
        else:
            self.generator.backbone.compile(mode=mode)
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

    def _fps(self, given: float | None) -> Tensor:
        if given is not None and not 0 < given < math.inf:
            raise ValueError(f"got {given} frames a second, expected more than 0")
        return torch.tensor([given or self.clip.get("fps") or 8.0], device=self.device)

    @torch.no_grad()
    def likelihood(self, tokens: Tensor, text: str, parts: int = 4, fps: float | None = None) -> Tensor:
        """Log-probability (1, t, h, w) of each token of a clip (1, t, h, w), told the text and most other tokens.

        The cells are hidden in ``parts`` groups, one after the other, each spread evenly over the clip.
        """
        memory, fps = self.generator.read([text], drop=torch.tensor([not text])), self._fps(fps)
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
        return self.encode(self.tokenizer.alone(video))[:, 1:]

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

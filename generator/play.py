"""Digital worlds, played step by step: ``python -m generator.play --model DIR --actions "right up" --out clip.mp4``.

    past latent frames, actions --MaskedGenerator--> the next latent frame --decoder, a stream--> its frames

A step is a latent frame: as many actions as it has frames. It is guessed from the latent frames before it, as many as
the model was trained on; they are integers and are never encoded again, so that nothing drifts but the world itself,
and memory does not grow with the length.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jsonargparse.typing import NonNegativeFloat, PositiveInt
from torch import Tensor
from tqdm import tqdm

from data.commands import Parser, find_device, run
from data.records import fingerprint, is_made, write_with_record
from data.video import probe, read_clip
from generator import tasks
from generator.draws import versions
from generator.filling import knobs
from generator.pipeline import VideoGenerator
from vq import pretrained

CERTAIN = {
    "steps": 4,
    "guidance": 1.0,
    "temperature": 0.5,
    "remask": 0.0,
    "revisions": 0,
}  # in a game little is left to chance


class Game:
    """A world in the hands of a player.

    game = Game(VideoGenerator.from_pretrained("out/world/generator/model"), still)
    frames = game.step(["right", "right"])  # (3, 2, h, w) in [-1, 1]

    Args:
        model: of a game, that is built with ``actions``.
        start: a clip (3, t, h, w) in [-1, 1], or with t = 1 a still; None: the model makes a still of the prompt.
            Before the start the world stood still.
        done: the names of the actions that led to the start's frames; None: nothing was done.
        prompt: what is said of the world.
        seed: the same one gives the same world.
        sampling: see ``generator.filling.Settings``; ``CERTAIN`` where nothing else is said.

    Attributes:
        opening: the start as the model sees it, (3, t, h, w) in [-1, 1], at most as long as its memory.

    ``ValueError`` for a model without actions or memory, and for a start that does not fit.
    """

    def __init__(
        self,
        model: VideoGenerator,
        start: Tensor | None = None,
        done: Sequence[str] | None = None,
        prompt: str = "",
        seed: int = 0,
        **sampling,
    ) -> None:
        frames = 1 + memory(model) * model.tokenizer.time_compression  # that it remembers, and one to begin with
        certain = {name: value for name, value in CERTAIN.items() if name in knobs(model.generator)}
        self.model, self.prompt, self.seed, self.sampling = model, prompt, seed, certain | sampling
        self.steps = 0
        if start is None:
            start = model(prompt, frames=1, seed=seed)[0]
        t = start.shape[1]
        done = model.generator.actions.numbers(done) if done else torch.zeros(t).long()
        if len(done) != t:
            raise ValueError(f"got {len(done)} actions that led to {t} frames: give one a frame, the first noop")
        still, rest = start[:, :1].expand(-1, max(0, frames - t), -1, -1), torch.zeros(max(0, frames - t)).long()
        tokens = model.encode(torch.cat([still, start], dim=1)[None, :, -frames:])
        self.past, self.done = tokens[:, 1:], torch.cat([rest, done])[1 - frames :]
        self.stream = model.tokenizer.stream()
        self.opening = self._decode(tokens)[:, -t:]

    def step(self, actions: Sequence[str]) -> Tensor:
        """What comes of it: a frame for each action, (3, t, h, w) in [-1, 1].

        ``ValueError`` for unknown actions, and for a number of them that does not fill latent frames.
        """
        return torch.cat([self._next(part) for part in parsed(self.model, actions)], dim=1)

    def _next(self, actions: Tensor) -> Tensor:
        """Actions (f,) -> the frames of a latent frame, (3, f, h, w)."""
        self.done = torch.cat([self.done, actions])
        grid = (self.past.shape[1] + 1, *self.past.shape[2:])
        canvas = replace(tasks.extend(self.past, grid, self.model.mask_id), middle=True)
        seed = self.seed + 1_000_003 * self.steps  # a step has noise of its own
        tokens = self.model.fill(canvas, [self.prompt], [seed], actions=self.done, **self.sampling)
        self.past, self.done, self.steps = tokens[:, 1:], self.done[len(actions) :], self.steps + 1
        return self._decode(tokens[:, -1:])

    def _decode(self, tokens: Tensor) -> Tensor:
        return self.stream.decode_latents(self.model.code.lookup(tokens.to(self.model.device)))[0].float().cpu()


def memory(model: VideoGenerator) -> int:
    """How many latent frames a step is told. ``ValueError`` for a model that cannot be played.

    It was trained on pieces from the middle of clips, a latent frame shorter than these; the last frame is the step.
    """
    if model.generator.actions is None:
        raise ValueError("this model was trained without actions: give one of a game, as configs/generator/world.yaml")
    frames = model.clip["frames"]
    past = (frames - 1) // model.tokenizer.time_compression - 1
    if past < 1:
        raise ValueError(f"this model was trained on clips of {frames} frames, too short to know what came before")
    return past


def parsed(model: VideoGenerator, actions: Sequence[str]) -> tuple[Tensor, ...]:
    """Names of actions -> their numbers, a tensor for each latent frame. ``ValueError`` in words."""
    numbers, ft = model.generator.actions.numbers(actions), model.tokenizer.time_compression
    if not len(numbers) or len(numbers) % ft:
        raise ValueError(
            f"got {len(numbers)} actions, and a step has {ft} frames: give a multiple of {ft}, such as "
            f"{max(1, -(-len(numbers) // ft)) * ft} with noop at the end"
        )
    return numbers.split(ft)


def main(args: list[str] | None = None) -> Path:
    """Runs the command line; returns the file."""
    parser = Parser(prog="python -m generator.play", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="exported folder, hub id or training checkpoint, of a game")
    parser.add_argument("--actions", required=True, help="names with blanks between them, one a frame")
    parser.add_argument("--out", type=Path, required=True, help="a file: .mp4, .gif, .webm or .png")
    parser.add_argument(
        "--input", type=Path | None, help="a still or a clip to begin with; default: the model makes one"
    )
    parser.add_argument("--done", default="", help="the actions that led to each frame of --input; default: noop")
    parser.add_argument("--prompt", default="", help="what is said of the world")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps", type=PositiveInt, default=CERTAIN["steps"], help="calls of the network a latent frame"
    )
    parser.add_argument("--temperature", type=NonNegativeFloat | None, help="of tokens; default: 0.5")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    given = parser.parse_args(args)
    model = VideoGenerator.from_pretrained(given.model, find_device(given.device))
    actions = parsed(model, given.actions.split())
    start = given.input and read_start(model, given.input)
    sampling = {name: given[name] for name in ("steps", "temperature") if given[name] is not None}
    game = Game(model, start, given.done.split(), given.prompt, given.seed, **sampling)
    _, frames, height, width = game.opening.shape
    record = {
        "prompt": given.prompt,
        "seed": given.seed,
        "size": {"frames": frames + sum(map(len, actions)), "height": height, "width": width},
        "fps": model.clip["fps"] or 8.0,
        "settings": {
            "task": "play",
            "actions": given.actions,
            "done": given.done,
            "input": given.input and str(given.input),
        }
        | game.sampling,
        "sources": {given.model: "-".join(map(pretrained.fingerprint, (model.tokenizer, model.generator)))}
        | ({str(given.input): fingerprint(given.input)} if given.input else {}),
        "versions": versions(model.device),
    }
    if not is_made(given.out, record):
        write_with_record(given.out, played(game, given.actions.split()), record)
    return given.out


def read_start(model: VideoGenerator, path: Path) -> Tensor:
    """A still, or as much of a clip's end as the model remembers, (3, t, h, w) in [-1, 1], at the model's size."""
    info, fps = probe(path), model.clip["fps"]
    frames = min(1 + memory(model) * model.tokenizer.time_compression, round(info.duration * (fps or info.fps)))
    size = {"height": model.clip["height"], "width": model.clip["width"]}
    frames = 1 if info.is_image else max(1, frames)
    return read_clip(path, frames, **size, fps=fps, start=lambda latest: latest)[0]


def played(game: Game, actions: Sequence[str]) -> Iterator[Tensor]:
    """The video in pieces (3, t, h, w): the opening, then a step at a time."""
    yield game.opening
    ft = game.model.tokenizer.time_compression
    for i in tqdm(range(0, len(actions), ft), unit="step", disable=not sys.stderr.isatty()):
        yield game.step(actions[i : i + ft])


if __name__ == "__main__":
    print(run(main))

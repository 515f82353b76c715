"""Does a played world follow the player, and remember who cannot be seen? Read back from pixels.

    python benchmarks/world.py --model out/world/generator/model [--clips 64 --frames 32 --walks 64]

Levels that training never showed, each played from a still of its first frame. Action following: of all steps whose
player was seen before, and ought to be seen after it, the share with the player where the law of the game puts it;
beside it the tokenizer's reconstructions of the real game, and the same played clips held against the actions of the
next clip. Then the share of frames that are the real game's, by time. Object permanence: the player walks under the
roof, waits, and walks out on the other side, or back; the share of walks that show the player where the law says, and
nobody while nobody is to be seen, in every frame. Shares with 95% intervals (Wilson); steps of one clip depend on each
other, so that theirs are somewhat too narrow.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))
from data.worlds import ACTIONS, Level, Place, World, draw_actions, find_player, render, step, walk
from evaluation.intervals import wilson
from evaluation.sheet import contact_sheet
from generator.pipeline import VideoGenerator
from generator.play import Game

NAMES = tuple(ACTIONS)
AWAY = {"right": "left", "left": "right", "up": "down", "down": "up"}


def followed(level: Level, seen: Sequence[Place], actions: Sequence[int], moves: bool = False) -> list[bool]:
    """Of each step that counts whether the player, seen at these places, went where the law says; (-1, -1): not seen.

    ``moves``: of steps that the law lets change the place only.
    """
    right = []
    for before, after, action in zip(seen, seen[1:], actions[1:], strict=False):
        if before == (-1, -1):
            continue
        lawful = step(level, before, action)
        if not level.covered(lawful) and (lawful != before or not moves):
            right.append(after == lawful)
    return right


def shown(level: Level, places: Sequence[Place]) -> list[Place]:
    """What a reader sees of a player at these places."""
    return [(-1, -1) if level.covered(place) else place for place in places]


def under_the_roof(level: Level, rng: np.random.Generator, wait: int, back: bool) -> tuple[Level, list[int]]:
    """The level with the player beside the roof, and the actions of a walk under it: in, a rest, and out again."""
    top, left, bottom, right = level.roof
    direction = list(AWAY)[int(rng.integers(4))]
    down, along = ACTIONS[direction]
    across = int(rng.integers(top, bottom) if along else rng.integers(left, right))
    start = (across, left - 1 if along > 0 else right) if along else (top - 1 if down > 0 else bottom, across)
    width = right - left if along else bottom - top
    inside = max(1, width // 2) if back else width // 2 + 1
    out = AWAY[direction] if back else direction
    steps = ["noop", "noop", *[direction] * inside, *["noop"] * wait, *[out] * (inside if back else width + 1 - inside)]
    return replace(level, start=start), [NAMES.index(name) for name in steps]


def play(model: VideoGenerator, level: Level, actions: Sequence[int], cell: int, seed: int) -> Tensor:
    """The clip (3, t, h, w) of these actions, played from a still; longer by what fills the last step up."""
    ft = model.tokenizer.time_compression
    names = [NAMES[action] for action in actions[1:]]
    names += ["noop"] * (-len(names) % ft)
    game = Game(model, render(level, [level.start], cell), seed=seed)
    return torch.cat([game.opening, game.step(names)], dim=1)


def read(clip: Tensor, cell: int) -> list[Place]:
    return [tuple(place) for place in find_player(clip, cell).tolist()]


def told(name: str, right: Sequence[bool]) -> str:
    share = wilson(sum(right), len(right))
    return f"| {name} | {share['mean']:.1%} ({share['low']:.1%} to {share['high']:.1%}) | {len(right)} |"


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--frames", type=int, default=33, help="of each clip")
    parser.add_argument("--walks", type=int, default=64, help="under the roof, of each kind")
    parser.add_argument("--waits", type=int, nargs="+", default=[0, 2, 4, 8], help="frames of rest under the roof")
    parser.add_argument("--cell", type=int, default=4, help="pixels a side of a cell of the board")
    parser.add_argument("--sheet", help="a picture of the first clips and walks")
    given = parser.parse_args(args)
    model, cell = VideoGenerator.from_pretrained(given.model), given.cell
    world = World("test", seed=1, height=model.clip["height"], width=model.clip["width"], cell=cell)

    arms = {"reconstruction of the real game": [], "played": [], "played, actions of the next clip": []}
    moves = {name: [] for name in arms}
    same = {"reconstruction": [], "played": []}
    pictures, captions, ft = [], [], model.tokenizer.time_compression
    levels = [world.level(index) for index in range(given.clips)]
    games = [(x, draw_actions(np.random.default_rng((2, i)), x, given.frames)) for i, x in enumerate(levels)]
    for index, (level, actions) in enumerate(tqdm(games, desc="playing")):
        places = walk(level, actions)
        real = render(level, places, cell)
        again, made = model.decode(model.encode(real[None]))[0], play(model, level, actions, cell, seed=index)
        seen = {"reconstruction": read(again, cell), "played": read(made, cell)}
        for name, clip in seen.items():
            same[name].append([a == b for a, b in zip(clip, shown(level, places), strict=False)])
        for counts, only in ((arms, False), (moves, True)):
            counts["reconstruction of the real game"] += followed(level, seen["reconstruction"], actions, only)
            counts["played"] += followed(level, seen["played"], actions, only)
            others = games[(index + 1) % len(games)][1]
            counts["played, actions of the next clip"] += followed(level, seen["played"], others, only)
        if index < 3:
            pictures += [real[:, :17], made[:, :17]]
            captions += [" ".join(NAMES[a] for a in actions[1:17]), "played"]
    print("| steps with the player where the law puts it | share | steps |\n|---|---|---|")
    for name in arms:
        print(told(name, arms[name]))
        print(told(f"{name}: moves alone", moves[name]), flush=True)
    print("\n| frames that are the real game's | share | frames |\n|---|---|---|")
    for name, rows in same.items():
        for begin in range(1, given.frames, 8):
            part = [right for row in rows for right in row[begin : begin + 8]]
            print(told(f"{name}, frames {begin} to {min(begin + 7, given.frames - 1)}", part))
    print("\n| walks under the roof | share | walks |\n|---|---|---|")
    for back in (False, True):
        for wait in given.waits:
            results = {"reconstruction": [], "played": []}
            for index in range(given.walks):
                rng = np.random.default_rng((3, index))
                level, actions = under_the_roof(world.level(index), rng, wait, back)
                due = shown(level, walk(level, actions))
                real = render(level, walk(level, actions), cell)
                real = torch.cat([real, real[:, -1:].expand(-1, -(len(actions) - 1) % ft, -1, -1)], dim=1)
                clips = {
                    "reconstruction": model.decode(model.encode(real[None]))[0],
                    "played": play(model, level, actions, cell, seed=index),
                }
                for name, clip in clips.items():
                    results[name].append(read(clip, cell)[: len(due)] == due)
                if index == 0 and wait == given.waits[-1]:
                    pictures += [clips["played"][:, :17]]
                    captions += [f"played: {'back' if back else 'through'}, {wait} frames of rest under the roof"]
            for name, right in results.items():
                print(told(f"{'back' if back else 'through'}, {wait} frames of rest: {name}", right), flush=True)
    if given.sheet:
        length = min(picture.shape[1] for picture in pictures)
        contact_sheet(given.sheet, torch.stack([p[:, :length] for p in pictures]), captions, frames=17, height=48)


if __name__ == "__main__":
    main()

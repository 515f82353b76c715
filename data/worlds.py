"""Small games with known actions: clips of somebody who plays, and which action led to each frame.

`World` is procedural, every clip a pure function of (seed, split, index): a player walks over a board a cell a frame,
is stopped by walls and by the border, and cannot be seen under a roof. `walk` is the law of the game, `render` its
picture, and `find_player` reads the player's place back from pixels. `MiniGrid` records games of that package.

The action of frame i leads from frame i - 1 to frame i; the first frame has "noop", which is number 0 in every game.
Places are (row, column) of cells, from the upper left one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from data.video import Example, to_float

ACTIONS = {"noop": (0, 0), "left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # rows and columns to go
PLAYERS = {"red": (0.95, 0.12, 0.10), "yellow": (1.00, 0.92, 0.10), "cyan": (0.10, 0.90, 0.95)}  # RGB in [0, 1]
BOARD = {"ground": (0.10, 0.33, 0.14), "wall": (0.55, 0.52, 0.50), "roof": (0.16, 0.14, 0.48)}
SPLITS = ("train", "test")
SMALLEST = 5  # cells a side: a roof of three, and room to come out from under it

Place = tuple[int, int]


@dataclass(frozen=True)
class Level:
    """A board of ``rows`` x ``columns`` cells; ``roof`` is (top, left, bottom, right), the last two beyond it."""

    rows: int
    columns: int
    walls: frozenset[Place]
    roof: tuple[int, int, int, int]
    start: Place
    player: str  # a key of `PLAYERS`

    def covered(self, place: Place) -> bool:
        """Whether the roof hides the place."""
        return under(self.roof, place)


def under(roof: tuple[int, int, int, int], place: Place) -> bool:
    top, left, bottom, right = roof
    return top <= place[0] < bottom and left <= place[1] < right


# ---- The law --------------------------------------------------------------------------------------------------------


def step(level: Level, place: Place, action: int) -> Place:
    """Where an action leads: one cell on, or nowhere if a wall or the border is in the way."""
    down, right = list(ACTIONS.values())[action]
    row, column = place[0] + down, place[1] + right
    free = 0 <= row < level.rows and 0 <= column < level.columns and (row, column) not in level.walls
    return (row, column) if free else place


def walk(level: Level, actions: Sequence[int]) -> list[Place]:
    """The place in each frame, told the action that leads to it; the first frame shows the start."""
    places = [level.start]
    for action in actions[1:]:
        places.append(step(level, places[-1], action))
    return places


# ---- Pixels, and back -----------------------------------------------------------------------------------------------


def render(level: Level, places: Sequence[Place], cell: int) -> torch.Tensor:
    """A clip (3, t, rows * cell, columns * cell) in [-1, 1] of the player at these places."""
    board = np.empty((level.rows, level.columns, 3))
    board[:] = BOARD["ground"]
    for place in level.walls:
        board[place] = BOARD["wall"]
    top, left, bottom, right = level.roof
    board[top:bottom, left:right] = BOARD["roof"]
    frames = np.repeat(board[None], len(places), axis=0)  # t rows columns 3
    for frame, place in zip(frames, places, strict=True):
        if not level.covered(place):
            frame[place] = PLAYERS[level.player]
    pixels = frames.repeat(cell, axis=1).repeat(cell, axis=2)
    return torch.from_numpy(2 * pixels.transpose(3, 0, 1, 2) - 1).float()


def find_player(clip: torch.Tensor, cell: int) -> torch.Tensor:
    """Where the player is in each frame of a clip (3, t, h, w): int64 (t, 2), (-1, -1) where none or several are seen.

    A cell shows whatever its mean colour is nearest to.
    """
    cells = F.avg_pool2d(clip.transpose(0, 1).float(), cell)  # t 3 rows columns
    colours = 2 * torch.tensor([*PLAYERS.values(), *BOARD.values()], device=clip.device) - 1  # k 3
    nearest = (cells[:, None] - colours[:, :, None, None]).square().sum(2).argmin(1)  # t rows columns
    seen = (nearest < len(PLAYERS)).flatten(1)
    index = seen.int().argmax(1)
    places = torch.stack([index // cells.shape[3], index % cells.shape[3]], dim=1)
    return places.where(seen.sum(1, keepdim=True) == 1, -1)


# ---- Drawing by lot -------------------------------------------------------------------------------------------------


def draw_level(rng: np.random.Generator, rows: int, columns: int) -> Level:
    """A board with a roof of two or three cells a side, at least one from the border, and walls that leave it open.

    Half of the players start right beside the roof.
    """
    height, width = rng.integers(2, 4, size=2).tolist()
    top, left = int(rng.integers(1, rows - height)), int(rng.integers(1, columns - width))
    roof = (top, left, top + height, left + width)
    around = {(r, c) for r in range(top - 1, roof[2] + 1) for c in range(left - 1, roof[3] + 1)}
    apart = [(r, c) for r in range(rows) for c in range(columns) if (r, c) not in around]
    count = min(len(apart), int(rng.integers(1, rows * columns // 9 + 1)))
    walls = frozenset(apart[i] for i in rng.permutation(len(apart))[:count])
    beside = sorted(place for place in around if not under(roof, place))
    free = [*beside, *(place for place in apart if place not in walls)] if rng.random() < 0.5 else beside
    return Level(rows, columns, walls, roof, start=_pick(rng, free), player=_pick(rng, tuple(PLAYERS)))


def draw_actions(rng: np.random.Generator, level: Level, frames: int) -> list[int]:
    """What somebody does who does not want anything: runs of one to four equal actions, seldom against a wall.

    A third of the clips begins with a rest.
    """
    rest = int(rng.integers(1, frames + 1)) if rng.random() < 1 / 3 else 1
    actions, place = [0] * rest, level.start
    while len(actions) < frames:
        action = int(rng.integers(len(ACTIONS)))
        if action and step(level, place, action) == place and rng.random() < 0.8:
            continue
        for _ in range(int(rng.integers(1, 5))):
            place = step(level, place, action)
            actions.append(action)
    return actions[:frames]


def _pick(rng: np.random.Generator, options: Sequence):
    return options[int(rng.integers(len(options)))]


class World(torch.utils.data.Dataset):
    """Clips of the procedural game with the action of each frame: every (seed, split, index) is a level and a walk.

    Args:
        split: "train" or "test", other draws of the same kind.
        frames, height, width, fps: of each clip.
        cell: pixels a side of a cell of the board. ``ValueError`` where it does not divide height and width.
        seed: another seed, other levels and walks.
        length: what `len` says. An index beyond it is another draw.
    """

    actions = tuple(ACTIONS)

    def __init__(
        self,
        split: str = "train",
        frames: int = 17,
        height: int = 32,
        width: int = 32,
        fps: float = 8.0,
        cell: int = 4,
        seed: int = 0,
        length: int = 1_000_000,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"got the split {split!r}, expected one of {', '.join(SPLITS)}")
        if frames < 1 or fps <= 0 or cell < 1:
            raise ValueError(f"got {frames} frames at {fps} fps and cells of {cell}, expected positive numbers")
        if height % cell or width % cell or min(height, width) < SMALLEST * cell:
            raise ValueError(
                f"got pictures of {height}x{width} pixels, expected multiples of the cells of {cell}, and at least "
                f"{SMALLEST} cells a side"
            )
        self.split, self.frames, self.height, self.width, self.fps = split, frames, height, width, fps
        self.cell, self.seed, self.length = cell, seed, length

    def __len__(self) -> int:
        return self.length

    def level(self, index: int) -> Level:
        """The level of a clip, without its walk."""
        return draw_level(self._rng(index), self.height // self.cell, self.width // self.cell)

    def __getitem__(self, index: int) -> Example:
        if index < 0:
            raise IndexError(f"got the index {index}, expected 0 or more")
        rng = self._rng(index)
        level = draw_level(rng, self.height // self.cell, self.width // self.cell)
        actions = draw_actions(rng, level, self.frames)
        places = walk(level, actions)
        return Example(
            clip=render(level, places, self.cell),
            text=f"a {level.player} player",
            fps=self.fps,
            attributes={
                "player": level.player,
                "places": [list(place) for place in places],
                "hidden": [level.covered(place) for place in places],
            },
            actions=torch.tensor(actions),
        )

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, SPLITS.index(self.split), index))


class MiniGrid(torch.utils.data.Dataset):
    """Games of the package minigrid, played at random from above: every (seed, split, index) is an episode's beginning.

    A game that ends before the clip does stays as it is, and what follows is "noop".

    Args:
        environment: an id of that package.
        split, frames, height, width, fps, seed, length: see ``World``.

    ``ValueError`` where minigrid is not installed, or has no such environment.
    """

    actions = ("noop", "left", "right", "forward", "pickup", "drop", "toggle")  # left and right turn on the spot
    odds = (0.1, 0.15, 0.15, 0.45, 0.05, 0.05, 0.05)
    numbers = (6, 0, 1, 2, 3, 4, 5)  # in minigrid, where "done" does nothing

    def __init__(
        self,
        environment: str = "MiniGrid-Empty-Random-6x6-v0",
        split: str = "train",
        frames: int = 17,
        height: int = 64,
        width: int = 64,
        fps: float = 8.0,
        seed: int = 0,
        length: int = 100_000,
    ) -> None:
        try:
            import gymnasium
            import minigrid  # noqa: F401, it registers its environments
        except ImportError as error:
            raise ValueError("games of minigrid need that package: pip install -e '.[worlds]'") from error
        if split not in SPLITS:
            raise ValueError(f"got the split {split!r}, expected one of {', '.join(SPLITS)}")
        try:
            self.game = gymnasium.make(environment, render_mode="rgb_array").unwrapped
        except gymnasium.error.Error as error:
            raise ValueError(f"minigrid has no {environment!r}: give the id of one of its environments") from error
        self.split, self.frames, self.height, self.width, self.fps = split, frames, height, width, fps
        self.seed, self.length = seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        rng = np.random.default_rng((self.seed, SPLITS.index(self.split), index))
        self.game.reset(seed=int(rng.integers(2**31)))
        actions, pictures, ended = [0], [self._picture()], False
        for drawn in rng.choice(len(self.actions), self.frames - 1, p=self.odds).tolist():
            actions.append(0 if ended else drawn)
            if not ended:
                ended = any(self.game.step(self.numbers[drawn])[2:4])
            pictures.append(self._picture())
        clip = F.interpolate(
            to_float(np.stack(pictures)).transpose(0, 1), (self.height, self.width), mode="bilinear", antialias=True
        )
        text = getattr(self.game, "mission", "a game")
        return Example(clip.transpose(0, 1).clamp(-1, 1), text, self.fps, actions=torch.tensor(actions))

    def _picture(self) -> np.ndarray:
        return self.game.get_frame(highlight=False, tile_size=16)

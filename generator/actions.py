"""What a player does, as the transformer is told it: a vector for each latent frame, added to all of its cells.

    an action a frame --embeddings--> joined over a latent frame's frames --linear--> (b, t', d)

So the actions that lead to a latent frame are known wherever a token of it is guessed (Genie, arXiv 2402.15391, adds
its latent actions alike). "noop" is number 0, whose embedding stays zero, and the linear map has no bias: where nothing
is done, nothing is added, and a model that is told no actions is one whose player stands still.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vq.config import Configurable


class Actions(Configurable, nn.Module):
    """Embeds the actions of a game.

    Args:
        names: of the actions, the first of which does nothing.
        frames: of a latent frame, but for the first one, which is a single frame.
        dim: width of the transformer.
    """

    def __init__(self, names: Sequence[str], frames: int, dim: int) -> None:
        super().__init__()
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"got the actions {list(names)}, expected two or more, each once")
        self.names, self.frames = tuple(names), frames
        self.table = nn.Embedding(len(names), dim, padding_idx=0)
        self.join = nn.Linear(frames * dim, dim, bias=False)
        nn.init.normal_(self.join.weight, std=0.02)

    def forward(self, actions: Tensor, middle: bool = False) -> Tensor:
        """int64 (b, t) -> (b, t', dim); with ``middle`` of a piece without the first latent frame."""
        vectors = self.table(actions)
        if not middle:
            vectors = F.pad(vectors, (0, 0, self.frames - 1, 0))
        return self.join(rearrange(vectors, "b (t f) d -> b t (f d)", f=self.frames))

    def numbers(self, names: Sequence[str]) -> Tensor:
        """Names -> int64 (t,). ``ValueError`` for unknown ones."""
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ValueError(f"unknown action {unknown[0]!r}: expected some of {', '.join(self.names)}")
        return torch.tensor([self.names.index(name) for name in names], dtype=torch.long)

    def span(self, first: int, last: int, middle: bool = False) -> slice:
        """The frames of the latent frames from ``first`` to ``last`` of a video, or of a piece from its middle."""
        late = 0 if middle else self.frames - 1  # what the first latent frame lacks
        return slice(*(max(0, i * self.frames - late) for i in (first, last)))

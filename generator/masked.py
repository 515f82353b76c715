"""MaskedGenerator: a transformer that fills in missing tokens, and the loss that teaches it to (MaskGIT, 2202.04200).

    tokens --embeddings, patches--> hidden --VideoTransformer--> hidden --patches--> the asked cells --heads--> logits

A large codebook is split into digits with a small head each: a softmax over a million codes costs many times the rest
of a small model, two over a thousand cost nothing visible. Each head is told the digits before its own, so that the
parts of a token belong together. What is known goes in by the quantizer's own parts (an FSQ level, a codebook): most of
a million codes are never seen in training, and each of their levels is.

Neighbouring cells may share a position of the transformer (``patch_size``), as pixels share a patch: each is still
masked, asked for and committed by itself, at a fraction of the cost.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import accumulate, combinations
from operator import mul

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from generator.actions import Actions
from generator.backbone import TextMemory, VideoTransformer
from generator.guidance import unguided
from generator.text import Text, TextEncoder
from vq.config import Configurable
from vq.hardware import moved
from vq.quantizers import to_digits


class TokenGenerator(Configurable, nn.Module):
    """Base of the generators of tokens: tokens into the transformer, and logits out of it.

    Attributes:
        marks: the name of the learned vector of a cell that is something else than its token.

    Args:
        backbone: the transformer; its ``text_dim`` must be the text encoder's ``dim``.
        text: encoder of the captions.
        codebook_size: K, of the tokenizer.
        digits: how a token splits, least significant first, and each digit into the sizes of its parts, as in
            ``((8, 5, 5, 5), (8, 5, 5, 5))``; the product of all is K. None: not at all.
        patch_size: p x p cells of a frame share a position of the transformer.
        trained_for: the conditionings (``generator.conditioning``) that it has seen in training, "middle" if it has
            seen pieces from the middle of a video, "transitions" if clips that become others (``data.transitions``).
            Kept for those who use it; nothing is computed from it.
        actions: of a game, that it is told; None: of no game.
        upscale: how many times as large as the clip that it is given is the one that an upscaler makes. It is told a
            draft, the tokens of the former enlarged (``generator.upscaling``). 1: no upscaler.
    """

    of_latents = False  # what is generated is codes, and no vectors
    marks: str

    def __init__(
        self,
        backbone: VideoTransformer,
        text: TextEncoder,
        codebook_size: int,
        digits: Sequence[Sequence[int]] | None = None,
        patch_size: int = 1,
        trained_for: Sequence[str] = ("text",),
        actions: Actions | None = None,
        upscale: int = 1,
    ) -> None:
        super().__init__()
        self.backbone, self.text, self.trained_for = backbone, text, tuple(trained_for)
        self.actions, self.upscale = actions, upscale
        self.codebook_size, self.mask_id = codebook_size, codebook_size
        parts = tuple(tuple(sizes) for sizes in digits or ((codebook_size,),))
        self.digits = tuple(math.prod(sizes) for sizes in parts)
        if math.prod(self.digits) != codebook_size:
            raise ValueError(f"digits {parts} do not multiply to the codebook of {codebook_size}")
        self.patch_size, cells = patch_size, patch_size**2
        width = backbone.dim if cells == 1 else backbone.dim // 2  # of a cell
        self.embeddings = nn.ModuleList(DigitEmbedding(sizes, width) for sizes in parts)
        self.register_parameter(self.marks, nn.Parameter(0.02 * torch.randn(width)))
        self.join = nn.Linear(cells * width, backbone.dim) if cells > 1 else nn.Identity()
        self.split = nn.Linear(backbone.dim, cells * width) if cells > 1 else nn.Identity()
        self.heads = nn.ModuleList(Head(width, sizes) for sizes in parts)
        self.previous = nn.ModuleList(DigitEmbedding(sizes, width) for sizes in parts[:-1])
        self.null_text = nn.Parameter(torch.zeros(text.dim))
        # as loud as the positions: a draft that is told ten times as softly is heeded after five times as many steps
        self.draft_embeddings = nn.ModuleList(DigitEmbedding(sizes, width, 0.2) for sizes in parts if upscale > 1)

    def read(
        self,
        texts: list[str] | Text,
        drop: Tensor | None = None,
        actions: Tensor | None = None,
        middle: bool = False,
    ) -> TextMemory:
        """Texts, or what the text encoder has made of them -> what the transformer is told.

        Rows where ``drop`` (b,) is True get the learned null text. ``actions`` (b, t) are those of the frames of the
        grid; None: nothing is done. ``middle``: see ``forward``.
        """
        text = texts if isinstance(texts, Text) else self.text(texts)
        tokens, mask = text.tokens, text.mask
        if drop is not None:
            drop = moved(drop, tokens.device)
            tokens = torch.where(drop[:, None, None], self.null_text.to(tokens.dtype), tokens)
            first = torch.arange(mask.shape[1], device=mask.device) == 0
            mask = torch.where(drop[:, None], first, mask)
        memory = self.backbone.read(tokens, mask)
        return memory if actions is None else replace(memory, actions=self.actions(actions, middle))

    def embed(self, tokens: Tensor, tables: nn.ModuleList | None = None) -> Tensor:
        """Tokens (b, t, h, w) in [0, K) -> (b, t, h, w, width), by the tables of their digits or by others."""
        digits = to_digits(tokens, self.digits)  # b t h w digits
        return sum(table(digits[..., i]) for i, table in enumerate(tables or self.embeddings))

    def transform(
        self, hidden: Tensor, level: Tensor, text: TextMemory, middle: bool, fps: Tensor | None, cache=None
    ) -> Tensor:
        """Cells (b, t, h, w, width) and how corrupted they are, (b,) in [0, 1], through the transformer: (b, t, h, w,
        width)."""
        t, h, w = hidden.shape[1:4]
        p = self.patch_size
        if h % p or w % p:
            raise ValueError(f"a grid of {h}x{w} tokens does not split into patches of {p}x{p}: use multiples of {p}")
        hidden = self.join(rearrange(hidden, "b t (h p) (w q) d -> b (t h w) (p q d)", p=p, q=p))
        hidden = self.split(self.backbone(hidden, (t, h // p, w // p), level, text, middle, fps, cache))
        return rearrange(hidden, "b (t h w) (p q d) -> b t (h p) (w q) d", t=t, h=h // p, p=p, q=p)

    def answers(self, cells: Tensor) -> list[Callable[[Tensor], Tensor]]:
        """Cells (m, width) -> for each digit of k values a function of the digits before it, int64 (m, number), that
        gives its logits (m, k)."""
        return [partial(self.logits, cells, i) for i in range(len(self.digits))]

    def logits(self, cells: Tensor, i: int, before: Tensor) -> Tensor:
        """Logits (m, k) of digit i of cells (m, width), given the digits before it, (m, i) or more of them."""
        for j in range(i):
            cells = cells + self.previous[j](before[:, j]).to(cells.dtype)
        return self.heads[i](cells)


class MaskedGenerator(TokenGenerator):
    """Predicts the tokens behind the masks of a grid from the others and from the text; see ``TokenGenerator``."""

    marks = "mask"

    def __getstate__(self) -> dict:
        """Without a compiled ``hidden``, in which a copy would find the weights of the original."""
        return {name: value for name, value in super().__getstate__().items() if name != "hidden"}

    def forward(
        self,
        tokens: Tensor,
        where: Tensor,
        text: TextMemory,
        middle: bool = False,
        fps: Tensor | None = None,
        cache=None,
        draft: Tensor | None = None,
    ) -> list[Callable[[Tensor], Tensor]]:
        """Logits at the asked positions, digit by digit.

        Args:
            tokens: int64 (b, t, h, w), ``mask_id`` where unknown.
            where: bool (b, t, h, w), the m positions to predict, here or on the CPU.
            middle: the grid is a piece from the middle of a video; see ``Canvas``.
            fps: frames a second (b,), for a backbone that is told of them.
            cache: for steps that compute some positions only; see ``generator.caching``.
            draft: int64 (b, t, h, w), for an upscaler, and for no other model.

        Returns: for each digit of k values a function of the digits before it, int64 (m, number), that gives its
            logits (m, k), in the order of ``where``'s True positions.
        """
        return self.answers(self.cells(tokens, where, text, middle, fps, cache, draft))

    def cells(
        self,
        tokens: Tensor,
        where: Tensor,
        text: TextMemory,
        middle: bool = False,
        fps: Tensor | None = None,
        cache=None,
        draft: Tensor | None = None,
    ) -> Tensor:
        """What the transformer makes of the asked positions, (m, width)."""
        places = places_of(where, tokens.device)  # before the transformer is begun, which it would wait for
        return self.hidden(tokens, text, middle, fps, cache, draft).flatten(0, 3).index_select(0, places)

    def hidden(
        self,
        tokens: Tensor,
        text: TextMemory,
        middle: bool,
        fps: Tensor | None,
        cache=None,
        draft: Tensor | None = None,
    ) -> Tensor:
        """The same of all of them, (b, t, h, w, width)."""
        assert (draft is None) == (self.upscale == 1), "an upscaler is told a draft, and no other model is"
        masked = tokens == self.mask_id
        hidden = self.embed(tokens.masked_fill(masked, 0))
        hidden = torch.where(masked[..., None], self.mask, hidden)
        if draft is not None:
            hidden = hidden + self.embed(draft, self.draft_embeddings)
        ratio = masked.flatten(1).float().mean(1)
        return self.transform(hidden, ratio, text, middle, fps, cache)


class DigitEmbedding(nn.Module):
    """A vector for a digit, the sum of one for each of its parts: int64 (...) below ``prod(sizes)`` -> (..., width)."""

    LOOK_UP = 128  # rows from which on a table is looked up

    def __init__(self, sizes: tuple[int, ...], width: int, std: float = 0.02) -> None:
        super().__init__()
        self.sizes = sizes
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        numbers = {
            "values": sizes,
            "starts": [0, *accumulate(sizes)][:-1],
            "strides": list(accumulate((1, *sizes[:-1]), mul)),
        }
        for name, of_each in numbers.items():
            self.register_buffer(name, torch.tensor(of_each), persistent=False)
        for table in self.tables:
            nn.init.normal_(table.weight, std=std)

    def forward(self, digit: Tensor) -> Tensor:
        parts = digit[..., None] // self.strides % self.values  # as ``to_digits``, in fewer calls
        if sum(self.sizes) > self.LOOK_UP:
            return sum(table(parts[..., i]) for i, table in enumerate(self.tables))
        # a handful of rows: as a product with ones and zeros the same in a quarter of the time, and its gradient does
        # not add up thousands of cells a row one after the other; in full precision, so that nothing is rounded
        rows = torch.cat([table.weight for table in self.tables])
        chosen = rows.new_zeros(*digit.shape, len(rows)).scatter_(-1, parts + self.starts, 1.0)
        with torch.autocast(digit.device.type, enabled=False) if digit.device.type != "meta" else nullcontext():
            return chosen @ rows


class Head(nn.Module):
    """Logits (m, k) of a digit from its cell and the digits before it, both summed in (m, width).

    The hidden layer lets the two speak to each other: a sum under a linear map could only shift the odds of a value by
    the same amount in every cell. A value's row of the output layer is the sum of one of its own and those of each of
    its parts and pairs of parts: what is learnt of a level holds for all values that have it, and most of a thousand
    values are seen rarely.
    """

    def __init__(self, width: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=False)
        self.up, self.down = nn.Linear(width, 256), nn.Linear(256, width)
        self.logits = nn.Linear(width, math.prod(sizes))
        self.grid = sizes[::-1]  # of the values, the least significant part last
        shared = [axes for r in (1, 2) if r < len(sizes) for axes in combinations(range(len(sizes)), r)]
        shapes = [[size if axis in chosen else 1 for axis, size in enumerate(self.grid)] for chosen in shared]
        self.shared_logits = nn.ParameterList(torch.zeros(*shape, width + 1) for shape in shapes)  # bias last
        for layer in (self.down, self.logits):  # the first guess is uniform
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, cells: Tensor) -> Tensor:
        weight, bias = self.logits.weight, self.logits.bias
        if self.shared_logits:
            rows = sum(self.shared_logits).flatten(0, -2)
            weight, bias = weight + rows[:, :-1], bias + rows[:, -1]
        return F.linear(cells + self.down(F.silu(self.up(self.norm(cells)))), weight, bias)


def at(values: Tensor, where: Tensor) -> Tensor:
    """Of values (b, t, h, w, ...) those where a mask (b, t, h, w) is True, (m, ...), in the order of a mask's index."""
    return values.flatten(0, 3).index_select(0, places_of(where, values.device))


def places_of(where: Tensor, device: torch.device) -> Tensor:
    """Where a mask is True, int64 (m,), counted along all of it.

    A mask on the CPU is counted there: a GPU that is asked how many they are is waited for.
    """
    return moved(where.flatten().nonzero()[:, 0], device)


def masked_loss(
    model: MaskedGenerator,
    tokens: Tensor,
    where: Tensor,
    text: TextMemory,
    label_smoothing: float = 0.0,
    shown: Tensor | None = None,
    weights: Tensor | None = None,
    middle: bool = False,
    fps: Tensor | None = None,
    draft: Tensor | None = None,
    untold: TextMemory | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the asked tokens in nats a token, summed over digits; computed where ``where`` is True only.

    Args:
        tokens: what is right, int64 (b, t, h, w). where: the asked cells, bool (b, t, h, w).
        shown: what the model is given, ``mask_id`` where hidden; None: the tokens, hidden where asked for.
        weights: (b, t, h, w), by which the asked cells are summed; None: their mean.
        middle, fps, draft: see ``MaskedGenerator.forward``.
        untold: the null text, for a model that is told a scale of guidance with ``text``: its answers are guided ones,
            and the loss is that of those behind them (``generator.guidance.unguided``), at a pass more.
    """
    shown = tokens.masked_fill(moved(where, tokens.device), model.mask_id) if shown is None else shown
    targets = to_digits(at(tokens, where), model.digits)  # m digits
    answers = model(shown, where, text, middle, fps, draft=draft)
    if untold is not None:
        scale = at(text.guidance.view(-1, 1, 1, 1).expand(where.shape), where)[:, None]
        with torch.no_grad():
            without = model(shown, where, untold, middle, fps, draft=draft)

        def behind(told: Callable[[Tensor], Tensor], untold: Callable[[Tensor], Tensor], before: Tensor) -> Tensor:
            guided = told(before)  # first, as autocast keeps the weights that it has cast, without gradients if it may
            with torch.no_grad():
                unconditional = untold(before)
            return unguided(guided, unconditional, scale)

        answers = [partial(behind, *pair) for pair in zip(answers, without, strict=True)]
    return digits_loss(answers, targets, label_smoothing, None if weights is None else at(weights, where))


def digits_loss(
    answers: list[Callable[[Tensor], Tensor]],
    targets: Tensor,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of what ``TokenGenerator.answers`` says, told the right digits (m, number) before each.

    In nats a token, summed over digits: the mean over tokens, or with ``weights`` (m,) the sum of them.
    """
    reduction = "mean" if weights is None else "none"
    loss, right = 0, True
    for i, logits in enumerate(answers):
        digit = logits(targets)
        loss = loss + F.cross_entropy(
            digit.float(), targets[:, i], label_smoothing=label_smoothing, reduction=reduction
        )
        right = right & (digit.max(1).indices == targets[:, i])  # argmax takes four times as long on CPUs in bf16
    if weights is not None:
        loss = (weights * loss).sum()
    return loss, {"accuracy": right.float().mean()}

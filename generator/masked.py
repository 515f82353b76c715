"""MaskedGenerator: a transformer that fills in missing tokens, and the loss that teaches it to (MaskGIT, 2202.04200).

    tokens --embeddings, patches--> hidden --VideoTransformer--> hidden --patches--> the asked cells --heads--> logits

A large codebook is split into digits with a small embedding table and head each: a softmax over 64,000 codes costs
several times the rest of a small model, one over 512 and one over 125 cost nothing visible. Each head is told the
digits before its own, so that the halves of a token belong together. The mask has its own row behind each table,
outside the codebook: ``mask_id = codebook_size``.

Neighbouring cells may share a position of the transformer (``patch_size``), as pixels share a patch: each is still
masked, asked for and committed by itself, at a fraction of the cost.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from generator.backbone import TextMemory, VideoTransformer
from generator.text import TextEncoder
from vq.config import Configurable
from vq.quantizers import to_digits


class MaskedGenerator(Configurable, nn.Module):
    """Predicts the tokens behind the masks of a grid from the others and from the text.

    Args:
        backbone: the transformer; its ``text_dim`` must be the text encoder's ``dim``.
        text: encoder of the captions.
        codebook_size: K, of the tokenizer.
        digits: how a token splits, least significant first; their product is K. None: not at all.
        patch_size: p x p cells of a frame share a position of the transformer.
    """

    def __init__(
        self,
        backbone: VideoTransformer,
        text: TextEncoder,
        codebook_size: int,
        digits: Sequence[int] | None = None,
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        self.backbone, self.text = backbone, text
        self.codebook_size, self.mask_id = codebook_size, codebook_size
        self.digits = tuple(digits or (codebook_size,))
        if torch.tensor(self.digits).prod() != codebook_size:
            raise ValueError(f"digits {self.digits} do not multiply to the codebook of {codebook_size}")
        self.patch_size, cells = patch_size, patch_size**2
        width = backbone.dim if cells == 1 else backbone.dim // 2  # of a cell
        self.embeddings = nn.ModuleList(nn.Embedding(k + 1, width) for k in self.digits)
        self.join = nn.Linear(cells * width, backbone.dim) if cells > 1 else nn.Identity()
        self.split = nn.Linear(backbone.dim, cells * width) if cells > 1 else nn.Identity()
        self.heads = nn.ModuleList(nn.Linear(width, k) for k in self.digits)
        self.previous = nn.ModuleList(nn.Embedding(k, width) for k in self.digits[:-1])
        self.null_text = nn.Parameter(torch.zeros(text.dim))
        for table in (*self.embeddings, *self.previous):
            nn.init.normal_(table.weight, std=0.02)
        for head in self.heads:  # the first guess is uniform
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def read(self, texts: list[str], drop: Tensor | None = None) -> TextMemory:
        """Texts -> what the transformer attends to; rows where ``drop`` (b,) is True get the learned null text."""
        text = self.text(texts)
        tokens, mask = text.tokens, text.mask
        if drop is not None:
            drop = drop.to(tokens.device)
            tokens = torch.where(drop[:, None, None], self.null_text.to(tokens.dtype), tokens)
            first = torch.arange(mask.shape[1], device=mask.device) == 0
            mask = torch.where(drop[:, None], first, mask)
        return self.backbone.read(tokens, mask)

    def forward(self, tokens: Tensor, where: Tensor, text: TextMemory) -> list[Callable[[Tensor], Tensor]]:
        """Logits at the asked positions, digit by digit.

        Args:
            tokens: int64 (b, t, h, w), ``mask_id`` where unknown.
            where: bool (b, t, h, w), the m positions to predict.

        Returns: for each digit of k values a function of the digits before it, int64 (m, number), that gives its
            logits (m, k), in the order of ``where``'s True positions.
        """
        cells = self.cells(tokens, where, text)
        return [partial(self.logits, cells, i) for i in range(len(self.digits))]

    def logits(self, cells: Tensor, i: int, before: Tensor) -> Tensor:
        """Logits (m, k) of digit i of cells (m, width), given the digits before it, (m, i) or more of them."""
        for j in range(i):
            cells = cells + self.previous[j](before[:, j]).to(cells.dtype)
        return self.heads[i](cells)

    def cells(self, tokens: Tensor, where: Tensor, text: TextMemory) -> Tensor:
        """What the transformer makes of the asked positions, (m, width)."""
        masked = tokens == self.mask_id
        digits = to_digits(tokens.masked_fill(masked, 0), self.digits)  # b t h w digits
        hidden = 0
        for i, table in enumerate(self.embeddings):
            hidden = hidden + table(digits[..., i].masked_fill(masked, self.digits[i]))
        t, h, w = tokens.shape[1:]
        p = self.patch_size
        if h % p or w % p:
            raise ValueError(f"a grid of {h}x{w} tokens does not split into patches of {p}x{p}: use multiples of {p}")
        hidden = self.join(rearrange(hidden, "b t (h p) (w q) d -> b (t h w) (p q d)", p=p, q=p))
        ratio = masked.flatten(1).float().mean(1)
        hidden = self.split(self.backbone(hidden, (t, h // p, w // p), ratio, text))
        return rearrange(hidden, "b (t h w) (p q d) -> b t (h p) (w q) d", t=t, h=h // p, p=p, q=p)[where]


def random_masks(shape: Sequence[int], ratios: Tensor, rng: torch.Generator) -> Tensor:
    """Masks (b, t, h, w), True where hidden: in each sample a share ``ratios`` (b,) of the positions, at least one."""
    b, n = shape[0], shape[1] * shape[2] * shape[3]
    order = torch.rand(b, n, generator=rng).argsort(1).argsort(1)
    hidden = (ratios * n).ceil().clamp(1, n)
    return (order < hidden[:, None]).view(*shape)


def masked_loss(
    model: MaskedGenerator, tokens: Tensor, mask: Tensor, text: TextMemory, label_smoothing: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the hidden tokens in nats a token, summed over digits; computed where ``mask`` is True only."""
    targets = to_digits(tokens[mask], model.digits)  # m digits
    loss, right = 0, True
    for i, logits in enumerate(model(tokens.masked_fill(mask, model.mask_id), mask, text)):
        digit = logits(targets)
        loss = loss + F.cross_entropy(digit.float(), targets[:, i], label_smoothing=label_smoothing)
        right = right & (digit.argmax(-1) == targets[:, i])
    return loss, {"accuracy": right.float().mean()}

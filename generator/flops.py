"""What a generator costs, in closed form: parameters, and floating-point operations of a forward pass.

A product and a sum are two operations; norms, rotations and softmaxes, which a matrix product hides, are not counted.
"""

from generator.backbone import VideoTransformer
from generator.masked import MaskedGenerator


def parameters(dim: int, depth: int, heads: int, text_dim: int, hidden: int) -> int:
    """Parameters of a ``VideoTransformer`` whose SwiGLU is ``hidden`` wide."""
    block = 6 * dim**2 + 3 * dim * hidden + 2 * text_dim * dim + 9 * dim + 4 * dim // heads
    return depth * block + 7 * dim**2 + 362 * dim + text_dim


def forward_flops(model: MaskedGenerator, grid: tuple[int, int, int], words: int, asked: int | None = None) -> int:
    """Operations of one clip's forward pass, its logits at ``asked`` cells included; None: at all.

    ``grid``: latent frames, height and width. ``words``: length of the text, read before (``read_flops``).
    """
    (t, h, w), p = grid, model.patch_size
    cells, positions = t * h * w, t * (h // p) * (w // p)
    width = model.heads[0].logits.in_features
    patches = 4 * cells * width * model.backbone.dim if p > 1 else 0  # joined before, split after
    head = sum(4 * width * 256 + 2 * width * k for k in model.digits)
    return backbone_flops(model.backbone, positions, words) + patches + head * (cells if asked is None else asked)


def backbone_flops(backbone: VideoTransformer, positions: int, words: int) -> int:
    d, depth, hidden = backbone.dim, len(backbone.blocks), backbone.blocks[0].mlp.down.in_features
    block = 2 * (6 * d**2 + 3 * d * hidden) + 4 * d * (positions + words)  # a position: weights, attention
    once = 2 * (256 * d + 7 * d**2) + (512 * d if backbone.conditions else 0)  # a clip: the modulation
    return positions * (depth * block + 192 * d) + once


def read_flops(backbone: VideoTransformer, words: int) -> int:
    """Operations of a text's keys and values, once a generation."""
    return 4 * words * len(backbone.blocks) * backbone.dim * backbone.text_norm.normalized_shape[0]

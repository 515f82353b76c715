"""What a generator costs, in closed form: parameters, and floating-point operations of passes and steps.

A product and a sum are two operations. Matrix products, attention and heads count; norms, activations, softmaxes and
look-ups, which those hide, do not: nor do look-ups as the products of ``DigitEmbedding``, .4% of the showcase's.
A backward pass costs twice the forward pass. Runs of both generators are made equal by this measure (as in Kilian et
al., arXiv 2405.13218); ``torch.utils.flop_counter`` agrees, but needs a step to be run, and takes fused attention on
CPUs for nothing.
"""

from generator.backbone import VideoTransformer
from generator.diffusion import DiffusionGenerator
from generator.masked import TokenGenerator
from generator.masked_latents import MaskedLatentsGenerator
from generator.text import ByteText, TextEncoder

Grid = tuple[int, int, int]
Generator = TokenGenerator | MaskedLatentsGenerator | DiffusionGenerator


def parameters(dim: int, depth: int, heads: int, text_dim: int, hidden: int) -> int:
    """Parameters of a ``VideoTransformer`` whose SwiGLU is ``hidden`` wide."""
    block = 6 * dim**2 + 3 * dim * hidden + 2 * text_dim * dim + 9 * dim + 4 * dim // heads
    return depth * block + 7 * dim**2 + 362 * dim + text_dim


def step_flops(model: Generator, batch: int, grid: Grid, words: int, asked: int = 0) -> int:
    """Of a training step, forward and backward.

    Args:
        grid: latent frames, height and width of ``batch`` clips. words: length of the texts, padding included.
        asked: cells of the whole batch that the heads are computed for; of masked latents a cell counts once for each
            of its times.
    """
    backbone = model.backbone
    clip = text_flops(model.text, words) + read_flops(backbone, words) + forward_flops(model, grid, words, asked=0)
    places = (batch - 1) * positions_of(model, grid) * 192 * backbone.dim  # the same in every clip: computed once
    passes = 4 if backbone.most_guidance else 3  # one without the text and without gradients
    return passes * (batch * clip - places + asked * head_flops(model))


def forward_flops(model: Generator, grid: Grid, words: int, asked: int | None = None) -> int:
    """Of a clip's forward pass, its heads at ``asked`` cells included; None: at all. The text was read before."""
    cells, positions = grid[0] * grid[1] * grid[2], positions_of(model, grid)
    inner = backbone_flops(model.backbone, positions, words)
    heads = head_flops(model) * (cells if asked is None else asked)
    if model.of_latents:
        layers = 1 if isinstance(model, MaskedLatentsGenerator) else 2  # the twin has one behind, too, and no heads
        return inner + 2 * layers * cells * model.channels * model.backbone.dim + heads
    width = model.heads[0].logits.in_features
    patches = 4 * cells * width * model.backbone.dim if model.patch_size > 1 else 0  # joined before, split after
    return inner + patches + heads


def positions_of(model: Generator, grid: Grid) -> int:
    """Length of the transformer's sequence."""
    p = getattr(model, "patch_size", 1)
    return grid[0] * (grid[1] // p) * (grid[2] // p)


def head_flops(model: Generator) -> int:
    """Of the logits of one cell; of masked latents, of one velocity of one cell."""
    if isinstance(model, DiffusionGenerator):
        return 0
    if isinstance(model, MaskedLatentsGenerator):
        d, blocks = model.backbone.dim, len(model.head.blocks)
        told, layers = 256 * d + 2 * d**2, 2 * model.channels * d + 2 * d**2  # first, last and its modulation
        return 2 * (told + layers + blocks * 5 * d**2)
    return sum(4 * head.logits.in_features * 256 + 2 * head.logits.weight.numel() for head in model.heads)


def backbone_flops(backbone: VideoTransformer, positions: int, words: int) -> int:
    d, depth, hidden = backbone.dim, len(backbone.blocks), backbone.blocks[0].mlp.down.in_features
    block = 2 * (6 * d**2 + 3 * d * hidden) + 4 * d * (positions + words)  # a position: weights, attention
    once = 2 * (256 * d + 7 * d**2)  # a clip: the modulation
    once += (512 * d if backbone.conditions else 0) + (128 * d if backbone.most_guidance else 0)
    return positions * (depth * block + 192 * d) + once


def read_flops(backbone: VideoTransformer, words: int) -> int:
    """Of a text's keys and values, once a generation."""
    return 4 * words * len(backbone.blocks) * backbone.dim * backbone.text_norm.normalized_shape[0]


def text_flops(text: TextEncoder, words: int) -> int:
    """Of encoding a text. A frozen encoder reads each caption once and keeps its vectors: it counts as nothing."""
    if not isinstance(text, ByteText):
        return 0
    total = 2 * words * text.spell.weight.numel()
    for layer in text.layers:
        own = layer.self_attn
        linear = (own.in_proj_weight, own.out_proj.weight, layer.linear1.weight, layer.linear2.weight)
        total += 2 * words * sum(weight.numel() for weight in linear) + 4 * words**2 * text.dim
    return total

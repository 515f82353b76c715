"""What a training step costs, counted from shapes: the measure by which runs of both generators are made equal.

A multiply-add counts as two. Matrix products, attention and the heads over the codebook count; norms, activations and
look-ups do not. The backward pass costs twice the forward pass. ``torch.utils.flop_counter`` needs a step to be run,
and takes fused attention on CPUs for nothing. (Kilian et al., arXiv 2405.13218, compare at equal counts like these.)
"""

from generator.backbone import VideoTransformer
from generator.diffusion import DiffusionGenerator
from generator.masked import MaskedGenerator
from generator.text import ByteText, TextEncoder


def step_flops(
    generator: MaskedGenerator | DiffusionGenerator, batch: int, grid: tuple[int, int, int], words: int, asked: int = 0
) -> int:
    """Of one training step, forward and backward.

    Args:
        batch: samples.
        grid: (t, h, w) of the latents.
        words: l, length of the encoded texts, padding included.
        asked: positions of the whole batch that a masked generator is asked for; its heads are computed there alone.
    """
    return 3 * (text_flops(generator.text, batch, words) + generator_flops(generator, batch, grid, words, asked))


def generator_flops(
    generator: MaskedGenerator | DiffusionGenerator, batch: int, grid: tuple[int, int, int], words: int, asked: int
) -> int:
    """Of one forward pass, told the encoded text."""
    cells, dim = grid[0] * grid[1] * grid[2], generator.backbone.dim
    if isinstance(generator, DiffusionGenerator):
        edges = 2 * batch * cells * 2 * generator.channels * dim
        return edges + transformer_flops(generator.backbone, batch, cells, words)
    patch = generator.patch_size**2
    positions = cells // patch
    edges = 0
    for head in generator.heads:
        edges += 2 * asked * sum(layer.weight.numel() for layer in (head.up, head.down, head.logits))
    if patch > 1:
        edges += 2 * batch * positions * (generator.join.weight.numel() + generator.split.weight.numel())
    return edges + transformer_flops(generator.backbone, batch, positions, words)


def transformer_flops(backbone: VideoTransformer, batch: int, positions: int, words: int) -> int:
    """Of one forward pass over a batch of sequences, the keys and values of the text included."""
    dim, total = backbone.dim, 0
    for block in backbone.blocks:
        own, text, mlp = block.attention, block.text, block.mlp
        linear = sum(layer.weight.numel() for layer in (own.qkv, own.out, text.q, text.out, mlp.up, mlp.down))
        total += 2 * positions * linear + 2 * words * text.kv.weight.numel()
        total += 4 * positions * (positions + words) * dim  # scores and values
    total += 2 * sum(layer.weight.numel() for layer in (backbone.level[0], backbone.level[2], backbone.modulation))
    return batch * total + 2 * positions * backbone.place.weight.numel()  # places are the same in every sample


def text_flops(text: TextEncoder, batch: int, words: int) -> int:
    """Of one forward pass. A frozen encoder reads each caption once and keeps its vectors: it counts as nothing."""
    if not isinstance(text, ByteText):
        return 0
    total = 2 * words * text.spell.weight.numel()
    for layer in text.layers:
        own = layer.self_attn
        linear = (own.in_proj_weight, own.out_proj.weight, layer.linear1.weight, layer.linear2.weight)
        total += 2 * words * sum(weight.numel() for weight in linear) + 4 * words**2 * text.dim
    return batch * total

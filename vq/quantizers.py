"""Latents to integer tokens and back: typed adapters over vector-quantize-pytorch.

Every quantizer takes ``dim`` channels and returns as many. Outside it a position is *one* integer in ``[0, K)``,
however many codebooks, groups or levels stand behind it. ``digits`` says how a large token may be taken apart, least
significant first, and which of those parts make up each digit: ``((8, 5, 5, 5), (8, 5, 5, 5))``, two of 1,000 values.

Shapes: b batch, d channels, t h w the latent grid, n = t * h * w, c the library's indices a position.
"""

import math
from dataclasses import dataclass
from itertools import combinations, pairwise

import torch
import vector_quantize_pytorch as library
from einops import rearrange
from torch import Tensor, distributed, nn

from vq.config import Configurable

EXACT = "donot_use_mm_for_euclid_dist"  # the quicker formula subtracts large squares: neighbouring codes would tie
LARGEST_DIGIT = 4096  # a softmax of this size is still cheap beside a small trunk; a 64k-way one is not


@dataclass(frozen=True)
class Quantized:
    """What a quantizer makes of latents.

    Attributes:
        latents: float32 (b, d, t, h, w), what the decoder is to see.
        tokens: int64 (b, t, h, w) in [0, K); None where nothing is rounded.
        loss: scalar to be added to the training loss, already weighted; 0 in eval mode.
    """

    latents: Tensor
    tokens: Tensor | None
    loss: Tensor


class Quantizer(Configurable, nn.Module):
    """Base of all quantizers: standardize, round, name the code by one integer.

    A subclass rounds flat vectors of zero mean and unit variance (``_quantize``) and finds codes again (``_codes``).
    All is float32 under any autocast: bf16 would move latents across the borders between codes. In eval mode the
    latents are looked up from the tokens, so that decoding stored tokens repeats the encoder's reconstruction bit for
    bit; no gradient passes then, and no codebook or statistic changes.

    Args:
        dim: channels d of the latents taken and returned.
        sizes: the library's codebooks behind one position, least significant first; their product is K.
    """

    dim: int
    codebook_size: int
    digits: tuple[tuple[int, ...], ...]

    def __init__(self, dim: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.dim = dim
        self.codebook_size = math.prod(sizes)
        self.digits = _digits(sizes)
        self._sizes = sizes
        self.standardize = Standardize(dim)

    def forward(self, latents: Tensor) -> Quantized:
        """Rounds latents, float (b, d, t, h, w) of any scale, to the nearest codes."""
        with torch.autocast(latents.device.type, enabled=False):
            codes, indices, loss = self._quantize(self._standardized(latents))
            if not self.training:
                codes, loss = self._codes(indices), codes.new_zeros(())
        t, h, w = latents.shape[2:]
        tokens = rearrange(from_digits(indices, self._sizes), "b (t h w) -> b t h w", t=t, h=h, w=w)
        return Quantized(rearrange(codes, "b (t h w) d -> b d t h w", t=t, h=h, w=w), tokens, loss)

    def lookup(self, tokens: Tensor) -> Tensor:
        """The latents, float32 (b, d, t, h, w), that tokens (b, t, h, w) stand for."""
        lowest, highest = tokens.min().item(), tokens.max().item()
        if lowest < 0 or highest >= self.codebook_size:
            raise ValueError(
                f"tokens must lie in [0, {self.codebook_size}), got {lowest} to {highest}: "
                "is a mask left in them, or do they come from another tokenizer?"
            )
        _, t, h, w = tokens.shape
        with torch.autocast(tokens.device.type, enabled=False):
            codes = self._codes(to_digits(tokens.flatten(1).long(), self._sizes))
        return rearrange(codes, "b (t h w) d -> b d t h w", t=t, h=h, w=w)

    @torch.no_grad()
    def nearest(self, latents: Tensor) -> Tensor:
        """The tokens (b, t, h, w) whose codes lie nearest to vectors (b, d, t, h, w) of the codes' own space.

        The inverse of ``lookup``, not of ``forward``, which standardizes first. A code is a sum of one vector for each
        of its parts (levels of a channel, groups of bits, codebooks in a row), and the parts are chosen one after the
        other: exact where they have channels of their own, and as greedy as the encoder itself for residual ones.
        """
        t, h, w = latents.shape[2:]
        left = rearrange(latents.float(), "b d t h w -> b (t h w) d")
        zero = torch.zeros(1, 1, len(self._sizes), dtype=torch.long, device=latents.device)
        parts, columns = [], []
        with torch.autocast(latents.device.type, enabled=False):
            base = self._codes(zero)
            for i, size in enumerate(self._sizes):
                indices = zero.repeat(1, size, 1)
                indices[..., i] = torch.arange(size, device=latents.device)
                parts.append((self._codes(indices) - base)[0])  # size d
        left = left - base - sum(part.mean(0) for part in parts)  # what is not yet chosen is at its mean
        for part in parts:
            part = part - part.mean(0)
            columns.append(torch.cdist(left, part.expand(len(left), -1, -1), compute_mode=EXACT).argmin(-1))
            left = left - part[columns[-1]]
        tokens = from_digits(torch.stack(columns, dim=-1), self._sizes)
        return rearrange(tokens, "b (t h w) -> b t h w", t=t, h=h, w=w)

    def _standardized(self, latents: Tensor) -> Tensor:
        """(b, d, t, h, w) of any scale and precision -> float32 (b, n, d) of unit variance."""
        if latents.ndim != 5 or latents.shape[1] != self.dim:
            raise ValueError(f"latents must be (b, {self.dim}, t, h, w), got {tuple(latents.shape)}")
        return self.standardize(rearrange(latents.float(), "b d t h w -> b (t h w) d"))

    def _quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """float32 (b, n, d) -> codes (b, n, d) with a gradient, indices (b, n, c), loss ()."""
        raise NotImplementedError

    def _codes(self, indices: Tensor) -> Tensor:
        """int64 (b, n, c) -> float32 (b, n, d)."""
        raise NotImplementedError


def to_digits(tokens: Tensor, digits: tuple[int, ...]) -> Tensor:
    """Takes tokens (...) apart into digits (..., len(digits)), least significant first."""
    columns = []
    for size in digits:
        columns.append(tokens % size)
        tokens = tokens // size
    return torch.stack(columns, dim=-1)


def from_digits(columns: Tensor, digits: tuple[int, ...]) -> Tensor:
    """The inverse of ``to_digits``: (..., len(digits)) -> int64 (...)."""
    tokens = torch.zeros_like(columns[..., 0], dtype=torch.long)
    for i in reversed(range(len(digits))):
        tokens = tokens * digits[i] + columns[..., i]
    return tokens


def _digits(sizes: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Joins neighbouring codebooks into the fewest digits of at most 4096 values, then the smallest in total.

    (8, 8, 8, 5, 5, 5) becomes ((8, 8, 8), (5, 5, 5)). One codebook is never cut: the parts of its index would mean
    nothing.
    """
    for count in range(1, len(sizes)):
        cuts = [(0, *inner, len(sizes)) for inner in combinations(range(1, len(sizes)), count - 1)]
        candidates = [tuple(sizes[i:j] for i, j in pairwise(cut)) for cut in cuts]
        candidates = [digits for digits in candidates if max(map(math.prod, digits)) <= LARGEST_DIGIT]
        if candidates:
            return min(candidates, key=lambda digits: sum(map(math.prod, digits)))
    return tuple((size,) for size in sizes)


class Standardize(nn.Module):
    """Brings each channel to zero mean and unit variance, with no way for the network to undo it.

    The values are those of running statistics, in training as in eval: with a batch's own, as in batch norm, a token
    would depend on its neighbours in the batch, and rounding turns the gap between training and eval into other
    tokens. The gradient is nevertheless that of batch norm: through constants the network would be rewarded for
    growing its activations without end (batch renormalization, arXiv 1702.03275). The statistics begin as a plain
    mean of the batches seen, so that they fit from the first step on, and go over into a moving one.
    """

    def __init__(self, dim: int, momentum: float = 0.02, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, vectors: Tensor) -> Tensor:
        """float32 (b, n, d) -> (b, n, d)."""
        if not self.training:
            return (vectors - self.mean) / (self.variance + self.eps).sqrt()
        variance, mean = torch.var_mean(vectors, dim=(0, 1), correction=0)
        std = (variance + self.eps).sqrt()
        with torch.no_grad():
            self._update(mean, variance)
            running_std = (self.variance + self.eps).sqrt()
            stretch, shift = std / running_std, (mean - self.mean) / running_std
        return (vectors - mean) / std * stretch + shift

    def _update(self, mean: Tensor, variance: Tensor) -> None:
        everywhere = _mean_over_processes(mean)
        variance = _mean_over_processes(variance + (mean - everywhere) ** 2)
        self.steps += 1
        weight = (1 / self.steps).clamp(min=self.momentum)
        self.mean.lerp_(everywhere, weight)
        self.variance.lerp_(variance, weight)


def _sum_over_processes(values: Tensor) -> None:
    """In place; nothing to do in a single process."""
    if distributed.is_initialized():
        distributed.all_reduce(values)


def _mean_over_processes(values: Tensor) -> Tensor:
    total = torch.cat([values, values.new_ones(1)])
    _sum_over_processes(total)
    return total[:-1] / total[-1]


class FSQ(Quantizer):
    """Finite scalar quantization (arXiv 2309.15505): each channel is squashed and rounded to a few levels.

    No codebook, so none to collapse; but plain FSQ wastes levels wherever the encoder's scale does not suit tanh.
    iFSQ's remedy (arXiv 2601.17124) is ``2 * sigmoid(1.6 x) - 1 = tanh(0.8 x)`` on activations of unit variance, which
    spreads a Gaussian almost evenly over (-1, 1). The unit variance is the content: a layer before it would absorb
    the 0.8. Measured on a Gaussian with 5 or 8 levels, 0.8 is within 3% of the least squared error and uses 93% of the
    levels (by perplexity); 1.0 would use 98% at 12% to 26% more error; a scale of 5 uses 51% to 65%.

    Args:
        levels: values a channel may take; their number is ``dim`` and their product the codebook size.
    """

    def __init__(self, levels: tuple[int, ...] = (8, 5, 5, 5)) -> None:
        if not levels or min(levels) < 2:
            raise ValueError(f"FSQ needs levels of at least 2, as in (8, 5, 5, 5), got {levels}")
        if math.prod(levels) >= 2**62:
            raise ValueError(
                f"{math.prod(levels)} codes do not fit an int64 token: use fewer than {len(levels)} channels"
            )
        super().__init__(dim=len(levels), sizes=tuple(levels))
        self.register_buffer("highest", torch.tensor(levels) - 1, persistent=False)
        self.scale = 0.8
        # return_indices=False: otherwise the library stores all K codes. Symmetric: an even number of levels reaches
        # from -1 to 1 as well, instead of -1 to 0.75.
        self.core = library.FSQ(list(levels), return_indices=False, preserve_symmetry=True)

    def _quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        codes, _ = self.core(self.scale * vectors)
        return codes, self._levels(codes.detach()), codes.new_zeros(())

    # The library counts codes in float32, which is exact for 2^24 of them at most; so levels are counted here.

    def _levels(self, codes: Tensor) -> Tensor:
        """Codes (b, n, d) from -1 to 1 -> levels int64 (b, n, d), each from 0 to its highest."""
        return ((codes + 1) / 2 * self.highest).round().long()

    def _codes(self, indices: Tensor) -> Tensor:
        return 2 * indices / self.highest - 1


# Arguments of every learned codebook. Any positive threshold switches the revival on; _before_step sets the real one.
LEARNED = {"kmeans_init": True, "threshold_ema_dead_code": 1, "sync_codebook": False}
DEAD = 0.1  # of the average code's share: with a decay of 0.99, some 230 steps without a single vector


def _begin(codebook: nn.Module) -> None:
    """Prepares one of the library's codebooks: usable from the start, k-means at the first training step.

    The library would run k-means on whatever comes first, be it validation data. And it asks at construction whether
    there are several processes, which under Lightning is before they have met; so the sums are handed to it here.
    K-means and revival stay local: DDP hands the first process's codebook to all at the next step.
    """
    nn.init.normal_(codebook.embed)
    codebook.embed.copy_(codebook.transform_input(codebook.embed))
    codebook.cluster_size.zero_()  # the mark of a codebook that has seen no vectors
    codebook.initted.fill_(True)
    codebook.all_reduce_fn = _sum_over_processes


def _before_step(codebook: nn.Module) -> None:
    """Starts k-means at the first step, and measures a dead code by the average one.

    The library's threshold is an absolute number of vectors a step: with fewer vectors than twice the codes, its
    customary 2 would replace the whole codebook at every step.
    """
    average = codebook.cluster_size.mean()
    codebook.initted.copy_(average > 0)
    codebook.threshold_ema_dead_code = DEAD * average
    codebook.reset_cluster_size = average


class VQ(Quantizer):
    """A learned codebook, compared by cosine similarity (ViT-VQGAN, arXiv 2110.04627).

    The codes begin as k-means of the first training batch and follow moving averages of the vectors they win; a code
    that wins little is revived as a vector of the current batch. Few channels keep the whole codebook in use.

    Args:
        codebook_size: number of codes K.
        dim: channels of the latents and of a code.
        decay: of the moving averages, a step.
        commitment: weight of the loss that holds the encoder near its codes.
    """

    def __init__(self, codebook_size: int = 1024, dim: int = 8, decay: float = 0.99, commitment: float = 0.25) -> None:
        super().__init__(dim, sizes=(codebook_size,))
        self.core = library.VectorQuantize(
            dim, codebook_size, decay=decay, commitment_weight=commitment, use_cosine_sim=True, **LEARNED
        )
        _begin(self.core._codebook)

    def _quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.training:
            _before_step(self.core._codebook)
        codes, indices, loss = self.core(vectors)
        return codes, indices[..., None], loss

    def _codes(self, indices: Tensor) -> Tensor:
        return self.core.codebook[indices[..., 0]]


class ResidualVQ(Quantizer):
    """Several small codebooks in a row, each coding what the ones before left over (arXiv 2107.03312).

    Args:
        codebook_size: codes of *one* codebook; outside, ``codebook_size ** num_quantizers`` tokens.
        num_quantizers: codebooks in a row.
        dim: channels of the latents and of a code.
        decay: of the moving averages, a step.
        commitment: weight of the loss that holds the encoder near its codes.
    """

    def __init__(
        self,
        codebook_size: int = 256,
        num_quantizers: int = 2,
        dim: int = 8,
        decay: float = 0.99,
        commitment: float = 0.25,
    ) -> None:
        super().__init__(dim, sizes=(codebook_size,) * num_quantizers)
        self.core = library.ResidualVQ(
            dim=dim,
            codebook_size=codebook_size,
            num_quantizers=num_quantizers,
            decay=decay,
            commitment_weight=commitment,
            rotation_trick=False,
            **LEARNED,
        )
        for layer in self.core.layers:
            _begin(layer._codebook)

    def _quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.training:
            for layer in self.core.layers:
                _before_step(layer._codebook)
        codes, indices, losses = self.core(vectors)
        # The library goes straight through every codebook, so that the encoder gets num_quantizers times the gradient.
        # Straight through their sum, it arrives once.
        return vectors + (codes - vectors).detach(), indices, losses.sum()

    def _codes(self, indices: Tensor) -> Tensor:
        return self.core.get_output_from_indices(indices)


class ResidualFSQ(Quantizer):
    """FSQ several times in a row, each codes what the ones before left over on a scale finer by the number of levels.

    Args:
        levels: values a channel may take in each; their number is ``dim``.
        num_quantizers: how many in a row; outside, ``prod(levels) ** num_quantizers`` tokens.
    """

    def __init__(self, levels: tuple[int, ...] = (8, 5, 5, 5), num_quantizers: int = 2) -> None:
        super().__init__(dim=len(levels), sizes=tuple(levels) * num_quantizers)
        self.levels, self.num_quantizers = tuple(levels), num_quantizers
        self.scale = 0.8  # as in FSQ
        self.core = library.ResidualFSQ(levels=list(levels), num_quantizers=num_quantizers)

    def _quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        codes, indices = self.core(self.scale * vectors)  # b n d, b n quantizers
        return codes, to_digits(indices.long(), self.levels).flatten(-2), codes.new_zeros(())

    def _codes(self, indices: Tensor) -> Tensor:
        parts = indices.unflatten(-1, (self.num_quantizers, len(self.levels)))
        return self.core.get_output_from_indices(from_digits(parts, self.levels))


class SimVQ(Quantizer):
    """A frozen random codebook seen through a learned linear map (arXiv 2411.02038): every code moves at every step.

    Args:
        codebook_size: number of codes K.
        dim: channels of the latents and of a code.
        commitment: weight of the loss between vectors and codes.
    """

    def __init__(self, codebook_size: int = 1024, dim: int = 8, commitment: float = 1.0) -> None:
        super().__init__(dim, sizes=(codebook_size,))
        # The library begins with codes of variance 1 / (3 dim), far inside the standardized latents. The identity on
        # a normal codebook begins with their distribution.
        transform = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(transform.weight)
        self.core = library.SimVQ(
            dim,
            codebook_size,
            codebook_transform=transform,
            init_fn=lambda codebook: codebook * dim**0.5,
            commitment_weight=commitment,
        )

    def _quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        codes, indices, loss = self.core(vectors)
        return codes, indices[..., None], loss

    def _codes(self, indices: Tensor) -> Tensor:
        return self.core.codebook[indices[..., 0]]  # the library's lookup maps the chosen rows: other last bits


class LFQ(Quantizer):
    """Lookup-free quantization (MAGVIT-v2, arXiv 2310.05737): each channel keeps its sign, a bit of the token.

    An entropy loss asks for sure bits and an evenly used codebook. Over all K codes it would need b * n * K numbers
    (10 GB for 10,000 positions and 2^18 codes); over groups of bits it needs b * n * groups * 2^(bits / groups).
    In several processes the library (1.32) drops the result of its all-reduce and divides all the same, so that the
    pull towards even use is weaker by their number.

    Args:
        bits: channels of the latents; the codebook size is ``2 ** bits``.
        groups: parts of equal size, at most 12 bits each, whose entropies are taken apart.
        spherical: project onto the sphere first: binary spherical quantization (arXiv 2406.07548).
        entropy: weight of the entropy loss.
        commitment: weight of the loss that holds the encoder near its codes.
    """

    def __init__(
        self,
        bits: int = 18,
        groups: int = 2,
        spherical: bool = False,
        entropy: float = 0.1,
        commitment: float = 0.25,
    ) -> None:
        if bits % groups or 2 ** (bits // groups) > LARGEST_DIGIT:
            raise ValueError(f"{bits} bits do not split into {groups} equal groups of at most 12: change groups")
        super().__init__(dim=bits, sizes=(2 ** (bits // groups),) * groups)
        self.core = library.LFQ(
            dim=bits,
            codebook_size=2 ** (bits // groups),
            num_codebooks=groups,
            keep_num_codebooks_dim=True,
            spherical=spherical,
            entropy_loss_weight=entropy,
            commitment_loss_weight=commitment,
        )

    def _quantize(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.core(vectors)

    def _codes(self, indices: Tensor) -> Tensor:
        return self.core.indices_to_codes(indices)


class Continuous(Quantizer):
    """The diffusion twin's: standardized, not rounded.

    Args:
        dim: channels of the latents.
    """

    def __init__(self, dim: int = 4) -> None:
        super().__init__(dim, sizes=())
        self.codebook_size = 0

    def forward(self, latents: Tensor) -> Quantized:
        """Standardizes latents (b, d, t, h, w); there are no tokens and there is no loss."""
        with torch.autocast(latents.device.type, enabled=False):
            vectors = self._standardized(latents)
        t, h, w = latents.shape[2:]
        latents = rearrange(vectors, "b (t h w) d -> b d t h w", t=t, h=h, w=w)
        return Quantized(latents, None, vectors.new_zeros(()))

    def lookup(self, tokens: Tensor) -> Tensor:
        raise ValueError("continuous latents have no tokens to look up: decode the latents themselves")

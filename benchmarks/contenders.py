"""Who is measured here: ours and the rivals, with random weights, as alike as they can be.

A generator has ``sample(texts) -> tokens`` and ``loss(tokens, texts)``, a tokenizer ``encode(video) -> tokens``,
``decode(tokens) -> video`` and ``loss(video)``; each of them a ``model`` and its ``optimizer``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from generator import tasks
from generator.backbone import VideoTransformer
from generator.masked import MaskedGenerator, masked_loss
from generator.pipeline import VideoGenerator
from generator.puzzles import draw_puzzle
from generator.schedules import Cosine
from generator.text import Text, TextEncoder
from vq.losses import reconstruction_loss
from vq.optimizer import Muon
from vq.quantizers import FSQ
from vq.tokenizer import Tokenizer

INSTALL = {
    "phenaki-pytorch": "pip install phenaki-pytorch==0.5.0",
    "magvit2-pytorch": "pip install magvit2-pytorch==0.5.1",
}
LEVELS = {"1k": [8, 8, 4, 4], "4k": [8, 8, 8, 8], "64k": [8, 8, 8, 5, 5, 5]}
TEXT = ["a small red circle moves slowly to the upper left on a light grey background"]


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def step(contender, *batch, clip: float = 1.0, bf16: bool = False) -> None:
    """A step on what the contender's ``loss`` takes, tensors first."""
    contender.model.train()
    with torch.autocast(batch[0].device.type, torch.bfloat16, enabled=bf16):
        loss = contender.loss(*batch)
    contender.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(contender.model.parameters(), clip)
    contender.optimizer.step()
    contender.model.eval()


# ---- Generators -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """What the generators share."""

    dim: int = 256
    depth: int = 6
    heads: int = 4
    grid: tuple[int, int, int] = (5, 8, 8)  # of 17 frames of 64 x 64
    steps: int = 16
    guidance: float = 3.0
    device: str = "cpu"


class Words(TextEncoder):
    """A random vector for each word plus one for its place: frozen, and the same for all contenders."""

    def __init__(self, dim: int = 256, length: int = 16) -> None:
        super().__init__()
        self.dim = dim
        vectors = torch.randn(4096 + length, dim, generator=torch.Generator().manual_seed(0))
        self.register_buffer("words", vectors[:4096])
        self.register_buffer("places", vectors[4096:])

    def forward(self, texts: list[str]) -> Text:
        n, device = len(self.places), self.places.device
        rows = [[hash_of(word) for word in text.split()][:n] or [0] for text in texts]
        ids = torch.tensor([row + [0] * (n - len(row)) for row in rows], device=device)
        mask = torch.tensor([[place < len(row) for place in range(n)] for row in rows], device=device)
        return Text((self.words[ids] + self.places) * mask[..., None], mask)


def hash_of(word: str) -> int:
    return int.from_bytes(word.encode(), "little") % 4093


class OurGenerator:
    """``text`` reads the captions; None: the vectors that the rival is given, too."""

    name = "ours"

    def __init__(
        self,
        setup: Setup,
        tokenizer: Tokenizer,
        clip: dict,
        network: type[MaskedGenerator] = MaskedGenerator,
        digits: bool = True,
        text: TextEncoder | None = None,
    ) -> None:
        quantizer, text = tokenizer.quantizer, text or Words(setup.dim)
        backbone = VideoTransformer(setup.dim, setup.depth, setup.heads, text_dim=text.dim)
        self.setup = setup
        self.model = network(backbone, text, quantizer.codebook_size, quantizer.digits if digits else None)
        self.videos = VideoGenerator(tokenizer, self.model, clip, setup.device)
        edges = ("embeddings", "previous", "logits", "offset", "text.letters", "text.positions")
        self.optimizer = Muon(self.model.named_parameters(), 3e-3, weight_decay=0.02, adamw=edges)
        self.rng = torch.Generator().manual_seed(0)

    def bfloat16(self) -> None:
        """Samples in bfloat16 from now on: ``fill`` has an autocast of its own. ``ValueError`` where it is emulated."""
        self.videos.bfloat16()

    def sample(self, texts: list[str], steps: int | None = None, **sampling) -> Tensor:
        """Tokens (b, t, h, w), in Halton order without second thoughts."""
        canvas = tasks.text2video(self.setup.grid, self.model.mask_id).repeat(len(texts))
        knobs = {"steps": steps or self.setup.steps, "guidance": self.setup.guidance, "remask": 0.0} | sampling
        return self.videos.fill(canvas, texts, list(range(len(texts))), batch_size=len(texts), **knobs)

    def loss(self, tokens: Tensor, texts: list[str]) -> Tensor:
        puzzle = draw_puzzle(tokens, self.model.mask_id, self.rng, Cosine())
        drop = torch.rand(len(texts), generator=self.rng) < 0.1
        return masked_loss(self.model, tokens, puzzle.asked, self.model.read(texts, drop), shown=puzzle.shown)[0]

    def trunk(self) -> int:
        return count(self.model.backbone)


def ours(setup: Setup, codebook: str, **variant) -> OurGenerator:
    """With a tokenizer that only has the right codebook: nothing is encoded or decoded here."""
    size = {"frames": 4 * setup.grid[0] - 3, "height": 8 * setup.grid[1], "width": 8 * setup.grid[2], "fps": 8.0}
    return OurGenerator(setup, Tokenizer(FSQ(LEVELS[codebook]), channels=[8, 8, 8]), size, **variant)


class Phenaki:
    """phenaki-pytorch's MaskGit in its ``Phenaki``, with our text vectors for T5's, and a tokenizer of tokens."""

    def __init__(self, setup: Setup, codebook_size: int, rate: float = 1e-4) -> None:
        from phenaki_pytorch import CViViT, MaskGit, phenaki_pytorch

        text = Words(setup.dim).to(setup.device)
        phenaki_pytorch.get_encoded_dim = lambda name: text.dim  # asks a hub for T5 otherwise
        cvivit = CViViT.__new__(CViViT)
        nn.Module.__init__(cvivit)
        cvivit.copy_for_eval = lambda: cvivit
        cvivit.num_tokens_per_frames = lambda *args, **kwargs: math.prod(setup.grid)
        cvivit.get_video_patch_shape = lambda *args, **kwargs: setup.grid
        cvivit.decode_from_codebook_indices = lambda tokens: tokens.view(-1, *setup.grid)
        self.setup, self.name = setup, f"phenaki-pytorch, {rate:g}"
        size = {"dim": setup.dim, "depth": setup.depth, "heads": setup.heads, "dim_head": setup.dim // setup.heads}
        self.model = MaskGit(num_tokens=codebook_size, max_seq_len=math.prod(setup.grid), **size)
        self.phenaki = phenaki_pytorch.Phenaki(maskgit=self.model, cvivit=cvivit, steps=setup.steps).to(setup.device)
        self.phenaki.encode_texts = lambda texts, output_device: text(texts).tokens
        self.read = text
        self.optimizer = torch.optim.Adam(self.model.parameters(), rate, betas=(0.9, 0.99))

    def sample(self, texts: list[str], steps: int | None = None, guidance: float | None = None) -> Tensor:
        self.phenaki.steps = steps or self.setup.steps
        return self.phenaki.sample(num_frames=17, texts=texts, cond_scale=guidance or self.setup.guidance)

    def loss(self, tokens: Tensor, texts: list[str]) -> Tensor:
        return self.phenaki(video_codebook_ids=tokens, text_embeds=self.read(texts).tokens)

    def trunk(self) -> int:
        return count(self.model.transformer) + count(self.model.continuous_pos_bias)


# ---- Tokenizers -----------------------------------------------------------------------------------------------------


LAYERS = ("residual", "compress_space", "residual", "compress_time", "compress_space", "residual", "compress_time")


class OurTokenizer:
    name = "ours"

    def __init__(self, channels: Sequence[int] = (96, 192), blocks: int = 1, patch_size: int = 4) -> None:
        self.model = Tokenizer(FSQ(LEVELS["4k"]), channels, blocks, patch_size)
        self.optimizer = Muon(self.model.named_parameters(), 3e-3, weight_decay=1e-4, adamw=("stem", "coder.out"))

    def loss(self, video: Tensor) -> Tensor:
        result = self.model(video)
        return reconstruction_loss(result.video, video)[0] + result.quantized.loss

    def encode(self, video: Tensor) -> Tensor:
        return self.model.encode(video)

    def decode(self, tokens: Tensor) -> Tensor:
        return self.model.decode(tokens)


class Magvit2:
    def __init__(self, rate: float, size: int) -> None:
        from magvit2_pytorch import VideoTokenizer

        self.name = f"magvit2-pytorch, {rate:g}"
        options = {"codebook_size": 4096, "init_dim": 16, "use_gan": False, "perceptual_loss_weight": 0.0}
        self.model = VideoTokenizer(image_size=size, layers=(*LAYERS, "compress_space"), **options)
        self.optimizer = torch.optim.Adam(self.model.parameters(), rate)

    def loss(self, video: Tensor) -> Tensor:
        return self.model(video, return_loss=True)[0]

    def encode(self, video: Tensor) -> Tensor:
        return self.model.tokenize(video)

    def decode(self, tokens: Tensor) -> Tensor:
        return self.model.decode_from_code_indices(tokens).clamp(-1, 1)

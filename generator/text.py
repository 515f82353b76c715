"""Prompts as vectors: what the generator's cross-attention reads.

    texts  list[str]  --TextEncoder-->  Text(tokens (b, l, d), mask (b, l))

``ByteText`` is small, needs no download and is trained along with the generator. ``PretrainedText`` is a frozen
encoder from ``transformers`` (T5, CLIP, MiniLM and their kin). Either way a text's vectors do not depend on the
other texts of the batch, and padding is zero.
"""

import re
import warnings
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from data import hub
from vq.config import Configurable
from vq.hardware import moved


@dataclass(frozen=True)
class Text:
    """Encoded texts.

    Attributes:
        tokens: (b, l, d) float, zero where there is no text.
        mask: (b, l) bool, True where there is text; at least one True a row.
    """

    tokens: torch.Tensor
    mask: torch.Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device | str) -> "Text":
        return Text(self.tokens.to(device), self.mask.to(device))


class TextEncoder(Configurable, nn.Module):
    """Base of the text encoders: ``encoder(["a red circle", ...]) -> Text``, on the encoder's own device.

    Attributes:
        dim: d, the width of the vectors.
    """

    dim: int

    def forward(self, texts: list[str]) -> Text:
        raise NotImplementedError


class ByteText(TextEncoder):
    """Words as patches of bytes, mixed by a small transformer that is trained along with the generator.

    What a patch embedding does to pixels is done here to letters: the bytes of a word, side by side, become one
    vector by one linear map. Any language can be written, nothing is out of vocabulary, and the transformer sees
    about a dozen words instead of sixty bytes, so that it costs little and need not first learn what a word is.

    Args:
        dim: d, the width of the vectors.
        depth: number of transformer layers.
        heads: attention heads in each.
        max_bytes: longer texts are cut here, with a warning.
    """

    WORD = 16  # bytes in a patch; longer words continue in the next one
    FILL, END = 0xFE, 0xFF  # bytes that UTF-8 never uses: after a word's last byte, and after a text's last word
    ROUND = 8  # lengths are rounded up to this: few shapes to compile for

    def __init__(self, dim: int = 256, depth: int = 2, heads: int = 4, max_bytes: int = 256) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim={dim} does not split into heads={heads}: use a multiple of the heads")
        self.dim, self.max_bytes = dim, max_bytes
        self.letters = nn.Embedding(256, dim // 4, padding_idx=self.FILL)
        self.spell = nn.Linear(self.WORD * (dim // 4), dim)
        self.positions = nn.Parameter(torch.empty(max_bytes + self.ROUND, dim))  # no word is shorter than a byte
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        # As large as the spelled words: with the usual 0.02, telling "red on blue" from "blue on red" takes 250
        # steps of a small task instead of 100.
        nn.init.normal_(self.positions, std=0.2)

    def forward(self, texts: list[str]) -> Text:
        letters = moved(self._write(texts), self.positions.device)  # (b, l, WORD)
        mask = letters[..., 0] != self.FILL  # (b, l)
        words = self.spell(self.letters(letters).flatten(2)) + self.positions[: mask.shape[1]]  # (b, l, d)
        # the fused kernel's backward pass is slow on CPUs for texts this short: a twentieth of a small model's step
        slow = not words.is_cuda and torch.is_grad_enabled()
        with sdpa_kernel(SDPBackend.MATH) if slow else nullcontext():
            for layer in self.layers:
                words = layer(words, src_key_padding_mask=~mask)
        return Text(self.norm(words) * mask[..., None], mask)

    def _write(self, texts: list[str]) -> torch.Tensor:
        """The words of each text as bytes: (b, l, WORD) int64."""
        fill, end = bytes([self.FILL]), bytes([self.END])
        rows = [[*self._words(text), end] for text in texts]
        length = -max(map(len, rows)) // self.ROUND * -self.ROUND
        written = [b"".join(word.ljust(self.WORD, fill) for word in row) for row in rows]
        written = bytearray(b"".join(row.ljust(length * self.WORD, fill) for row in written))
        return torch.frombuffer(written, dtype=torch.uint8).view(len(texts), length, self.WORD).long()

    def _words(self, text: str) -> list[bytes]:
        """A text's words and punctuation marks in UTF-8, the long ones in pieces: at least 1, at most WORD bytes."""
        encoded = text.encode(errors="replace")
        if len(encoded) > self.max_bytes:
            warnings.warn(f"texts are read up to {self.max_bytes} bytes, and a longer one was given", stacklevel=2)
            text = encoded[: self.max_bytes].decode(errors="ignore")
        words = [word.encode(errors="replace") for word in re.findall(r"\w+|[^\w\s]", text)]
        return [word[i : i + self.WORD] for word in words for i in range(0, len(word), self.WORD)]


class PretrainedText(TextEncoder):
    """A frozen text encoder from ``transformers``: T5, mT5, UMT5, ByT5 (encoder only), CLIP text, BERT-like ones.

    Its weights are no part of the model that holds it: they stand in no ``state_dict``, optimizer or parameter
    count, ``train()`` and ``apply()`` do not reach them, and an exported model names them only. They follow
    ``.to(device)`` when there is a text to encode: a generator that trains on encoded captions (``python -m vq.encode
    --text``) leaves them in main memory.

    Args:
        model: a folder or a hub id, such as "google/flan-t5-base". Only safetensors are read.
        max_length: longer texts are cut at so many tokens, with a warning; never more than the model can take.
        cache: number of texts whose vectors are kept in main memory, (l, d) float32 each, so that a fixed set of
            captions is encoded once and not once an epoch.
    """

    def __init__(self, model: str, max_length: int = 128, cache: int = 4096) -> None:
        super().__init__()
        self.tokenizer, encoder = _load(model)
        self._held = (encoder.eval().requires_grad_(False),)  # in a tuple nn.Module does not see it
        self.register_buffer("place", torch.empty(0), persistent=False)  # follows .to(device)
        self.dim = encoder.config.hidden_size
        positions = getattr(encoder.config, "max_position_embeddings", max_length)  # T5's are relative: any length
        self.max_length = min(max_length, positions, self.tokenizer.model_max_length)
        self.cache = cache
        self._known: dict[str, torch.Tensor] = {}

    def forward(self, texts: list[str]) -> Text:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._encode(new), strict=True))
        rows = [self._known[text] for text in texts]
        while len(self._known) > self.cache:
            self._known.pop(next(iter(self._known)))  # the oldest
        lengths = torch.tensor([len(row) for row in rows])
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (b, l, d)
        return Text(tokens, torch.arange(tokens.shape[1]) < lengths[:, None]).to(self.place.device)

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> list[torch.Tensor]:
        """One (l, d) float32 a text, without padding, in main memory."""
        encoder = self._held[0].to(self.place.device)
        inputs = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(encoder.device)
        mask = inputs["attention_mask"].bool()
        if (mask.sum(1) >= self.max_length).any():
            warnings.warn(f"texts are read up to {self.max_length} tokens, and one reaches that", stacklevel=3)
        hidden = encoder(input_ids=inputs["input_ids"], attention_mask=mask.long()).last_hidden_state
        return [row[real].float().cpu() for row, real in zip(hidden, mask, strict=True)]


def _load(model: str) -> tuple:
    """The tokenizer and the text encoder of a folder or hub id."""
    expected = (
        "a folder with config.json, model.safetensors and a tokenizer, or a hub id such as 'google/flan-t5-base', "
        "which must have been downloaded before where HF_HUB_OFFLINE=1 is set or there is no network"
    )
    with hub.loading("frozen text encoder", model, expected) as transformers:
        config = transformers.AutoConfig.from_pretrained(model)
        if config.model_type == "clip":  # two towers in one checkpoint
            cls = transformers.CLIPTextModel
        elif config.model_type in ("t5", "mt5", "umt5"):  # encoder and decoder in one checkpoint
            cls = transformers.AutoModelForTextEncoding
        else:
            cls = transformers.AutoModel
        encoder = cls.from_pretrained(model, dtype=hub.dtype(config), use_safetensors=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(model, padding_side="right")
        # Where a folder has no tokenizer, transformers 5 makes one up that knows no words at all
        if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) < 2:
            raise ValueError("no tokenizer is with it")
        return tokenizer, encoder

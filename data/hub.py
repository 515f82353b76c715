"""Models of ``transformers``, out of a folder or from the hub; what goes wrong with them is one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch

from data.writers import one_line


@contextmanager
def loading(kind: str, model: str, expected: str) -> Iterator[ModuleType]:
    """Gives ``transformers`` to those who load a ``model`` of a kind, such as "language model", with it.

    Raises ``ValueError`` with what was ``expected``, whatever goes wrong, and with the extra to install where there is
    no ``transformers``.
    """
    try:
        import transformers
    except ImportError as error:
        raise ValueError(f"{kind}s need transformers: pip install -e '.[text]'") from error
    try:
        yield transformers
    except Exception as error:  # OSError, ValueError, SafetensorError, bare ones from Rust: files fail in many ways
        raise ValueError(f"{kind} {model!r} cannot be loaded ({one_line(error)}): expected {expected}") from error


def dtype(config) -> torch.dtype:
    """bfloat16 for checkpoints in it, which stay as small as they are, and float32 for others: T5 overflows in fp16."""
    return torch.bfloat16 if config.dtype == torch.bfloat16 else torch.float32

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need the network

import pytest
import torch

from generator.backbone import VideoTransformer
from generator.masked import MaskedGenerator
from generator.text import ByteText
from vq.quantizers import FSQ
from vq.tokenizer import Tokenizer

torch.set_num_threads(1)  # tiny models: a second thread costs more than it brings, and on a busy machine far more

CLIP = {"frames": 9, "height": 16, "width": 24, "fps": 8.0}


@pytest.fixture
def tokenizer() -> Tokenizer:
    """A tiny tokenizer, 4x8x8, whose running statistics have seen some data."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(FSQ(levels=[5, 5, 5]), channels=[8, 16, 16])
    for _ in range(3):
        tokenizer(torch.rand(2, 3, 9, 16, 24) * 2 - 1)
    return tokenizer.eval()


@pytest.fixture
def generator() -> MaskedGenerator:
    """A tiny generator over 125 tokens with random weights everywhere, so that nothing is accidentally zero."""
    torch.manual_seed(0)
    model = MaskedGenerator(VideoTransformer(dim=32, depth=2, heads=2, text_dim=16), ByteText(dim=16, depth=1), 125)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()

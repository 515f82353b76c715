import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need the network

import pytest
import torch
from safetensors.torch import save_file

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


@pytest.fixture
def upscaler() -> MaskedGenerator:
    """The same that is told drafts, of clips half as large."""
    torch.manual_seed(0)
    parts = VideoTransformer(dim=32, depth=2, heads=2, text_dim=16), ByteText(dim=16, depth=1)
    model = MaskedGenerator(*parts, 125, trained_for=["draft"], upscale=2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture
def lpips_weights(tmp_path) -> str:
    """A random AlexNet in the form that users store."""
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    state = {f"features.{i}.weight": 0.02 * torch.randn(o, c, k, k) for i, (o, c, k) in shapes.items()}
    state |= {f"features.{i}.bias": torch.zeros(o) for i, (o, _, _) in shapes.items()}
    state |= {f"lin{n}.weight": torch.rand(1, o, 1, 1) for n, (o, _, _) in enumerate(shapes.values())}
    save_file(state, tmp_path / "lpips.safetensors")
    return str(tmp_path / "lpips.safetensors")

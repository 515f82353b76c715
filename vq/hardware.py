"""What a device can be trusted with: bfloat16 arithmetic, 3-D convolutions that are right; how not to wait for it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16. CPUs that do not (most laptops) emulate it, fifty times slower."""
    if device.type != "cpu":
        return True
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16"))


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """On another device, or as it is; a program that moves it to a GPU goes on at once, while the GPU has work left."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@contextmanager
def tf32() -> Iterator[None]:
    """Within it a GPU multiplies float32 matrices as TF32, on the cores that are made for matrices."""
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def check_compiler(device: torch.device) -> None:
    """``ValueError`` where torch.compile would fail for want of a C++ compiler."""
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise ValueError("compiling for a CPU needs a C++ compiler: install g++, or do without compiling")


@cache
def check_convolutions(device: torch.device) -> None:
    """Refuses a build whose 3-D convolutions are wrong: it would train without any error, on nonsense.

    cuDNN 9.8 to 9.14 are known for it, in bfloat16 and TF32 and on large clips only (pytorch issue 163539, pull request
    167024). Lists of bad versions are never complete: besides this compares one convolution in space and one in time,
    in float32 and where there is one in bfloat16, with float64 on the CPU, which takes milliseconds. ``ValueError``
    with what to install.
    """
    cudnn = torch.backends.cudnn.version() if device.type == "cuda" and torch.version.cuda else None
    if cudnn is not None and 90800 <= cudnn < 91500:
        raise ValueError(
            f"cuDNN {cudnn // 10000}.{cudnn // 100 % 100} computes wrong 3-D convolutions of large clips: install 9.15 "
            f"or newer, pip install -U nvidia-cudnn-cu{torch.version.cuda.partition('.')[0]}"
        )
    rng = torch.Generator().manual_seed(0)
    for kernel in ((1, 3, 3), (3, 1, 1)):
        x = torch.randn(1, 32, 5, 16, 16, generator=rng, dtype=torch.float64)
        weight = torch.randn(32, 32, *kernel, generator=rng, dtype=torch.float64) / 10
        exact = F.conv3d(x, weight)
        for dtype in (torch.float32, torch.bfloat16) if has_bf16(device) else (torch.float32,):
            there = [v.to(device, dtype).contiguous(memory_format=torch.channels_last_3d) for v in (x, weight)]
            error = (F.conv3d(*there).cpu().double() - exact).std() / exact.std()
            if not error < 0.02:  # float32 with TF32: 0.0005; bfloat16: 0.004
                build = f"torch {torch.__version__} (cuDNN {torch.backends.cudnn.version()})"
                raise ValueError(
                    f"3-D convolutions of {build} are wrong on {device}, by {error:.0%} in "
                    f"{str(dtype).removeprefix('torch.')}: install another build of torch"
                )

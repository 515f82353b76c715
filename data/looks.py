"""What can be measured in a clip, in words: colours, brightness, and where and how much the picture changes.

Plain tensor operations and no model, so it names no object, no motion of a thing and nothing else that a difference of
pixels cannot know. Every bound below is a share of the picture or of the full range of brightness.
"""

import torch
from torch import Tensor

HUES = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
HUE_ENDS = (15, 43, 70, 165, 195, 255, 290, 345)  # degrees: where each of them ends, red begins again behind the last
NEUTRALS = ("black", "grey", "white")
COLOURS = (*HUES, *NEUTRALS, "brown")
PALE = 0.18  # chroma, the span of the three channels, below which a colour is a grey
COLOURED = 0.02  # of the picture: what has less of a colour is not named, edges and noise have some of many
MOSTLY = 0.5

CHANGED = 0.1  # of the full range: a pixel that differs by more from one frame to the next has changed
NOTICED = 0.03  # the same, for pale things before pale grounds; compression alone stays below it
STILL, PART, MOST = 0.002, 0.15, 0.6  # of the picture
TRAVELS = 0.08  # of a side: how far the centre of what changes must get for its direction to be named
DARK, BRIGHT, FADES = 0.25, 0.7, 0.12


def describe(clip: Tensor) -> str:
    """A sentence on a clip (3, t, h, w) in [-1, 1], of some frames in their order."""
    rgb = (clip.float() + 1) / 2
    light = rgb.mean((0, 2, 3))  # (t,)
    looks = f"{_brightness(light.mean().item())}{_colours(rgb)}"
    if rgb.shape[1] == 1:
        return f"{looks}."
    return f"{looks}; {_change(rgb)}{_fading((light[-1] - light[0]).item())}."


def colours(rgb: Tensor) -> dict[str, float]:
    """The share of each colour in (3, ...) of [0, 1], the largest first."""
    high, low = rgb.max(0).values, rgb.min(0).values
    chroma = high - low
    r, g, b = rgb
    sector = torch.where(
        high == r, (g - b) / chroma % 6, torch.where(high == g, (b - r) / chroma + 2, (r - g) / chroma + 4)
    )
    hue = torch.bucketize(60 * sector.nan_to_num(), torch.tensor(HUE_ENDS, dtype=torch.float32)) % len(HUES)
    grey = len(HUES) + (high > 0.2).long() + (high > 0.8).long()
    dull = (hue == HUES.index("orange")) & (high < 0.65)  # dark orange is what is called brown
    index = torch.where(chroma < PALE, grey, torch.where(dull, COLOURS.index("brown"), hue))
    shares = torch.bincount(index.flatten(), minlength=len(COLOURS)) / index.numel()
    order = shares.argsort(descending=True, stable=True).tolist()
    return {COLOURS[i]: shares[i].item() for i in order if shares[i] > 0}


def _brightness(light: float) -> str:
    return "dark, " if light < DARK else "bright, " if light > BRIGHT else ""


def _colours(rgb: Tensor) -> str:
    shares = {name: share for name, share in colours(rgb).items() if share >= COLOURED}
    first, *others = list(shares)[:4]
    if not others:
        return f"almost all {first}"
    some = " and ".join([", ".join(others[:-1]), others[-1]] if len(others) > 1 else others)
    return f"mostly {first}, with some {some}" if shares[first] >= MOSTLY else f"{first}, {some}"


def _change(rgb: Tensor) -> str:
    steps = rgb.diff(dim=1).abs().max(0).values  # (t - 1, h, w)
    changed = (steps > CHANGED).float()
    share = changed.mean().item()
    if share < STILL:
        return "the picture hardly changes" if (steps > NOTICED).float().mean() > STILL else "the picture stands still"
    if share > MOST:
        return "most of the picture changes"
    if share > PART:
        return "much of the picture changes"
    return f"a part of the picture changes{_towards(changed)}"


def _towards(changed: Tensor) -> str:
    """Where the centre of what changes (t, h, w) travels, where that is plain; "" where it is not."""
    moving = changed[changed.mean((1, 2)) > STILL]
    if len(moving) < 2:
        return ""
    path = []
    for axis in (2, 1):  # over the rows there is left of x, over the columns of y
        weight = moving.mean(axis=3 - axis)  # (t, side)
        place = torch.linspace(0, 1, weight.shape[1])
        path.append((weight * place).sum(1) / weight.sum(1))
    words = [_side(steps, names) for steps, names in zip(path, (("left", "right"), ("up", "down")), strict=True)]
    words = [word for word in reversed(words) if word]
    return f", and the change travels {' and '.join(words)}" if words else ""


def _side(path: Tensor, names: tuple[str, str]) -> str:
    """The name of the way that a path (t,) in [0, 1] goes steadily; "" for one that goes to and fro, or not far."""
    way = (path[-1] - path[0]).item()
    steady = abs(way) > 0.7 * path.diff().abs().sum().item()
    return names[way > 0] if steady and abs(way) > TRAVELS else ""


def _fading(by: float) -> str:
    return ", growing brighter" if by > FADES else ", growing darker" if by < -FADES else ""

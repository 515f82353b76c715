"""The contact sheet: a row a prompt, its frames from left to right, the prompt above."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from data.video import to_uint8


def contact_sheet(
    path: str | Path, videos: Tensor | Sequence[Tensor], captions: list[str], frames: int = 9, height: int = 96
) -> None:
    """Writes a PNG.

    Args:
        videos: b of (3, t, h, w) in [-1, 1], a row each; up to ``frames`` of the t, evenly spaced, are shown.
        captions: b texts.
        height: of a frame in the picture, in pixels; smaller frames are enlarged without smoothing.
    """
    columns = max(min(frames, video.shape[1]) for video in videos)
    widest = max(round(height * video.shape[3] / video.shape[2]) for video in videos)
    gap, line = 4, 22
    sheet = Image.new("RGB", (columns * (widest + gap) + gap, len(videos) * (height + line + gap)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for row, (video, caption) in enumerate(zip(videos, captions, strict=True)):
        top = row * (height + line + gap)
        draw.text((gap, top + 3), caption, fill="black", font=font)
        _, t, h, w = video.shape
        shown = [round(i * (t - 1) / max(1, min(frames, t) - 1)) for i in range(min(frames, t))]
        pixels, width = to_uint8(video), round(height * w / h)
        for column, frame in enumerate(shown):
            picture = Image.fromarray(pixels[frame]).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (gap + column * (width + gap), top + line))
            left = gap + column * (width + gap)
            draw.rectangle((left - 1, top + line - 1, left + width, top + line + height), outline="lightgrey")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)

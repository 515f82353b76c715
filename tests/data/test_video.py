"""Files in every suffix, at every rate, broken in every way."""

import random
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from data.video import VideoError, probe, read_clip, read_frames, to_float, to_uint8
from data.writing import write_clip, write_pieces


def smooth_clip(frames=9, height=32, width=48, seed=0):
    """A coloured blur that moves: what codecs are made for."""
    noise = torch.randn(1, 3, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    clip = torch.nn.functional.interpolate(noise, (frames, height, width), mode="trilinear", align_corners=True)[0]
    return (0.4 * clip).clamp(-1, 1)


def psnr(a, b):
    return 10 * torch.log10(4 / (a - b).square().mean()).item()


def numbered(path, times, codec="libx264", tick=Fraction(1, 1000), size=32, options=None, format=None):
    """A video whose frame k is shown at times[k] seconds and is grey of level 4 * k: it carries its own number."""
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "1", "g": "10", "bf": "2", **(options or {})})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = tick
        for k, time in enumerate(times):
            frame = VideoFrame.from_ndarray(np.full((size, size, 3), 4 * k, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time / tick), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbers(clip):
    """The inverse of `numbered`: which frame of the file each frame of a clip is."""
    return (to_uint8(clip).mean(axis=(1, 2, 3)) / 4).round().astype(int).tolist()


def test_convention():
    frames = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    clip = to_float(frames)
    assert clip.shape == (3, 1, 16, 16) and clip.dtype == torch.float32
    assert clip.min() == -1 and clip.max() == 1
    assert (to_uint8(clip) == frames).all()
    assert (to_uint8(clip.bfloat16() * 9) <= 255).all()


@pytest.mark.parametrize("suffix, bound", [(".mp4", 40), (".webm", 40), (".gif", 34), (".MP4", 40)])
@pytest.mark.parametrize("fps", [8, 12, 24, 29.97])
def test_round_trip(tmp_path, suffix, bound, fps):
    clip = smooth_clip()
    path = tmp_path / "made" / f"clip{suffix}"
    write_clip(path, clip, fps)
    again, rate = read_clip(path)
    assert again.shape == clip.shape
    assert rate == pytest.approx(fps, rel=0.05 if suffix == ".gif" else 1e-3)
    assert psnr(clip, again) > bound
    assert read_clip(path, frames=9)[0].equal(again)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_round_trip_of_a_still(tmp_path):
    """No writer drops repeated frames."""
    clip = smooth_clip(1).expand(-1, 9, -1, -1)
    for suffix in (".mp4", ".webm", ".gif"):
        write_clip(tmp_path / f"still{suffix}", clip, 8)
        assert read_clip(tmp_path / f"still{suffix}")[0].shape == clip.shape


def test_png(tmp_path):
    image, clip = smooth_clip(1), smooth_clip(3)
    write_clip(tmp_path / "one.png", image, 8)
    write_clip(tmp_path / "strip.png", clip, 8)
    assert psnr(image, read_clip(tmp_path / "one.png")[0]) > 50
    strip, _ = read_clip(tmp_path / "strip.png")
    assert strip.shape == (3, 1, 32, 3 * 48)
    assert psnr(clip[:, 1], strip[:, 0, :, 48:96]) > 50


def test_odd_sizes(tmp_path):
    clip = smooth_clip(5, 33, 47)
    for suffix, shape in ((".mp4", (34, 48)), (".webm", (33, 47)), (".gif", (33, 47))):
        write_clip(tmp_path / f"odd{suffix}", clip, 8)
        again, _ = read_clip(tmp_path / f"odd{suffix}")
        assert again.shape == (3, 5, *shape)
        assert psnr(clip, again[..., :33, :47]) > 34
        assert read_clip(tmp_path / f"odd{suffix}", height=21, width=13)[0].shape == (3, 5, 21, 13)


# ---- Time -----------------------------------------------------------------------------------------------------------


def test_resampling_takes_the_last_frame_at_or_before(tmp_path):
    path = numbered(tmp_path / "a.mp4", [k / 25 for k in range(51)])
    clip, fps = read_clip(path, frames=17, fps=8)
    assert fps == 8
    assert numbers(clip) == [int(k * 25 / 8) for k in range(17)]
    assert numbers(read_clip(path, fps=8)[0]) == [int(k * 25 / 8) for k in range(17)]
    assert numbers(read_clip(path, frames=9, fps=50)[0]) == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert numbers(read_clip(path, frames=3, fps=8, start=1.0)[0]) == [25, 28, 31]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_frame_rate(tmp_path, suffix):
    times = [0, 0.04, 0.08, 0.5, 0.54, 1.2, 1.24, 1.28, 2.0]
    # Without B-frames: with them FFmpeg writes too short a duration into such an mp4.
    path = numbered(tmp_path / f"a{suffix}", times, options={"bf": "0"})
    clip, _ = read_clip(path, frames=8, fps=4)
    expected = [max(k for k, time in enumerate(times) if time <= i / 4 + 1e-3) for i in range(8)]
    assert numbers(clip) == expected


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_timestamps_that_do_not_start_at_zero(tmp_path, suffix):
    tick = Fraction(1, 90000) if suffix == ".ts" else Fraction(1, 1000)
    path = numbered(tmp_path / f"a{suffix}", [7 + k / 25 for k in range(30)], tick=tick)
    assert numbers(read_clip(path, frames=5, fps=5)[0]) == [0, 5, 10, 15, 20]
    assert numbers(read_clip(path, frames=5, fps=25, start=0.6)[0]) == [15, 16, 17, 18, 19]
    assert probe(path).duration == pytest.approx(1.2, abs=0.05)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".ts", ".gif"])
def test_random_access_equals_sequential(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix in (".webm", ".gif"):
        write_clip(path, smooth_clip(40), 25)
    else:
        codec = "mpeg4" if suffix == ".avi" else "libx264"
        tick = Fraction(1, 90000) if suffix == ".ts" else Fraction(1, 25)
        numbered(
            path, [k / 25 for k in range(40)], codec=codec, tick=tick, options={"bf": "0"} if codec == "mpeg4" else {}
        )
    everything, _ = read_clip(path)
    assert everything.shape[1] == 40
    for k in (0, 1, 9, 10, 11, 25, 37):
        clip, _ = read_clip(path, frames=3, fps=25, start=k / 25)
        assert clip.equal(everything[:, k : k + 3]), k


def test_raw_stream_without_timestamps(tmp_path):
    path = numbered(tmp_path / "a.h264", [k / 25 for k in range(40)], format="h264")
    assert numbers(read_clip(path)[0]) == list(range(40))
    assert numbers(read_clip(path, frames=3, fps=25, start=0.8)[0]) == [20, 21, 22]


def test_start_may_be_a_function_of_the_latest_start(tmp_path):
    path = numbered(tmp_path / "a.mp4", [k / 25 for k in range(40)])
    clip, _ = read_clip(path, frames=5, start=lambda latest: latest)
    assert numbers(clip) == [35, 36, 37, 38, 39]
    assert numbers(read_clip(path, frames=5, start=lambda latest: 0.0)[0]) == [0, 1, 2, 3, 4]
    assert numbers(read_clip(path, frames=40, start=lambda latest: latest)[0]) == list(range(40))


def test_probe(tmp_path):
    info = probe(numbered(tmp_path / "a.mp4", [k / 25 for k in range(50)]))
    assert (info.duration, info.fps, info.frames, info.is_image) == (pytest.approx(2), pytest.approx(25), 50, False)
    assert (info.height, info.width) == (32, 32)
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    info = probe(tmp_path / "a.png")
    assert (info.height, info.width, info.frames, info.is_image) == (10, 20, 1, True)


# ---- Space ----------------------------------------------------------------------------------------------------------


def test_covers_and_crops(tmp_path):
    """Left half black, right half white, twice as wide as high."""
    clip = torch.ones(3, 5, 32, 64)
    clip[..., :32] = -1
    write_clip(tmp_path / "a.mp4", clip, 8)
    left, _ = read_clip(tmp_path / "a.mp4", height=16, width=16, crop=(0.5, 0.0))
    right, _ = read_clip(tmp_path / "a.mp4", height=16, width=16, crop=(0.5, 1.0))
    centre, _ = read_clip(tmp_path / "a.mp4", height=16, width=16)
    assert left.shape == (3, 5, 16, 16)
    assert left[..., :14].max() < -0.9 and right[..., 2:].min() > 0.9
    assert centre[..., :6].max() < -0.9 and centre[..., 10:].min() > 0.9


def test_antialiased(tmp_path):
    """A chequered board of single pixels becomes grey, in videos and in images."""
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 2.0 - 1).expand(3, 5, 64, 64)
    for name in ("a.mp4", "a.png"):
        write_clip(tmp_path / name, board if name == "a.mp4" else board[:, :1], 8)
        small, _ = read_clip(tmp_path / name, height=16, width=16)
        assert small[..., 4:-4, 4:-4].abs().max() < 0.15


def test_rotation(tmp_path):
    clip = smooth_clip(5, 32, 48)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.set_display_rotation(90)
        for picture in to_uint8(clip):
            container.mux(stream.encode(VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    upright = clip.rot90(1, (2, 3))
    again, _ = read_clip(tmp_path / "a.mp4")
    assert again.shape == upright.shape == (3, 5, 48, 32)
    assert psnr(upright, again) > 35
    info = probe(tmp_path / "a.mp4")
    assert (info.height, info.width) == (48, 32)
    small, _ = read_clip(tmp_path / "a.mp4", height=24, width=16)
    assert psnr(torch.nn.functional.avg_pool3d(upright, (1, 2, 2)), small) > 35


@pytest.mark.parametrize("mode, suffix", [("RGB", "jpg"), ("RGB", "webp"), ("L", "png"), ("I;16", "png"), ("1", "png")])
def test_image_modes(tmp_path, mode, suffix):
    path = tmp_path / f"a.{suffix}"
    if mode == "I;16":
        Image.fromarray(np.full((30, 21), 65535, np.uint16)).save(path)
    else:
        Image.new(mode, (21, 30), "white").save(path)
    clip, _ = read_clip(path)
    assert clip.shape == (3, 1, 30, 21)
    assert clip.min() > 0.97
    assert read_clip(path, frames=1, height=16, width=16)[0].shape == (3, 1, 16, 16)
    with pytest.raises(VideoError, match="one frame, not 9"):
        read_clip(path, frames=9)


def test_transparency_is_white(tmp_path):
    """Whatever colour hides under transparent pixels: here black."""
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[:, 16:] = (255, 0, 0, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    Image.fromarray(rgba).save(tmp_path / "a.gif", save_all=True, append_images=[Image.fromarray(rgba[:, ::-1])])
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "bgra"
        container.mux(stream.encode(VideoFrame.from_ndarray(rgba, format="rgba").reformat(format="bgra")))
        container.mux(stream.encode())
    for name in ("a.png", "a.gif", "a.mkv"):
        clip, _ = read_clip(tmp_path / name, frames=1)
        assert clip[:, 0, 16, 4].tolist() == [1, 1, 1], name
        assert clip[:, 0, 16, 28].tolist() == [1, -1, -1], name


# ---- Broken files ---------------------------------------------------------------------------------------------------


def message(path, **options):
    """The one line of the error of reading a file."""
    with pytest.raises(VideoError) as error:
        read_clip(path, **options)
    line = str(error.value)
    assert "\n" not in line and str(path) in line
    return line


def test_broken_files(tmp_path):
    assert "no such file" in message(tmp_path / "none.mp4")
    (tmp_path / "empty.mp4").touch()
    assert "0 bytes" in message(tmp_path / "empty.mp4")
    for suffix in ("mp4", "mkv", "webm", "gif", "avi", "png", "jpg"):
        (tmp_path / f"text.{suffix}").write_text("this is not a video\n" * 50)
        assert "not a readable" in message(tmp_path / f"text.{suffix}")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert "no video stream" in message(tmp_path / "sound.mp4")
    write_clip(tmp_path / "codec.mp4", smooth_clip(), 8)
    (tmp_path / "codec.mp4").write_bytes((tmp_path / "codec.mp4").read_bytes().replace(b"avc1", b"zzzz"))
    assert "codec is not known" in message(tmp_path / "codec.mp4")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:5000])
    assert "not a readable image" in message(tmp_path / "cut.png")
    notes = PngInfo()
    notes.add_text("comment", "x" * 2_000_000, zip=True)  # a bomb, to Pillow, which raises ValueError
    Image.new("RGB", (16, 16)).save(tmp_path / "notes.png", pnginfo=notes)
    assert "not a readable image" in message(tmp_path / "notes.png")


@pytest.mark.parametrize("name", ["index_last.mp4", "index_first.mp4", "a.mkv", "a.webm", "a.gif", "a.ts"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7, 0.95])
def test_truncated(tmp_path, name, kept):
    """A cut file gives its first frames, or an error of one line: never a crash, never a shorter clip."""
    path = tmp_path / name
    noise = torch.rand(3, 30, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    if name in ("index_last.mp4", "a.mkv", "a.ts"):
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "20"})
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for picture in to_uint8(noise):
                container.mux(stream.encode(VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    else:
        write_clip(path := tmp_path / name.replace("index_first", "a"), noise, 25)
    whole, _ = read_clip(path)
    assert whole.shape[1] == 30
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])

    for options in ({"frames": 30}, {"frames": 4, "start": 0.95}, {"frames": 4}, {}):
        try:
            clip, _ = read_clip(path, fps=25, **options)
        except VideoError as error:
            assert "\n" not in str(error)
        else:
            # Formats without an index (ts, gif) cannot know what is missing; nor can headers that count a frame more.
            complete = options.get("frames", 30) - (not options)
            assert clip.shape[1] >= complete or (name in ("a.ts", "a.gif") and not options)
            if options == {"frames": 4} and kept > 0.02:
                assert psnr(clip, whole[:, :4]) > 40


def test_damaged_timestamp_does_not_fill_the_memory(tmp_path):
    path = numbered(tmp_path / "a.mkv", [0, 0.04, 0.08, 90_000])
    assert "one picture stands until 90000 s" in message(path, fps=25)
    assert numbers(read_clip(path, frames=4, fps=25)[0]) == [0, 1, 2, 2]


def test_too_short(tmp_path):
    path = numbered(tmp_path / "a.mp4", [k / 25 for k in range(20)])
    line = message(path, frames=17, fps=8)
    assert (
        "has 0.80 s" in line and "17 frames at 8 fps need more than 2.00 s" in line and "ask for fewer frames" in line
    )
    assert "start between" in message(path, start=3.0)
    assert "from 0.50 s" in message(path, frames=17, start=0.5)
    with pytest.raises(VideoError, match="give both"):
        read_clip(path, height=32)


# ---- Writing fails --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".png"])
@pytest.mark.parametrize(
    "clip, fps, reason",
    [
        (torch.zeros(1, 5, 8, 8), 8, r"\(1, 5, 8, 8\): expected \(3, t, h, w\)"),
        (torch.zeros(3, 0, 8, 8), 8, "expected"),
        (torch.full((3, 5, 8, 8), 1.1), 8, "1.1: expected"),
        (torch.full((3, 5, 8, 8), torch.nan), 8, "nan"),
        (torch.zeros(3, 5, 8, 8), 0, "frames a second"),
    ],
)
def test_refuses_before_writing(tmp_path, suffix, clip, fps, reason):
    with pytest.raises(VideoError, match=reason):
        write_clip(tmp_path / "folder" / f"a{suffix}", clip, fps)
    assert not list(tmp_path.iterdir())


def test_tolerates_rounding(tmp_path):
    write_clip(tmp_path / "a.png", torch.full((3, 1, 8, 8), 1.0005), 8)
    assert read_clip(tmp_path / "a.png")[0].max() == 1


def test_unknown_suffix(tmp_path):
    for name in ("a.xyz", "a"):
        with pytest.raises(VideoError, match=r"\.mp4, \.webm, \.gif, \.png"):
            write_clip(tmp_path / name, smooth_clip(), 8)


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(VideoError, match="could not be written"):
        write_clip(tmp_path / "file" / "a.mp4", smooth_clip(), 8)


def test_never_a_half_written_file(tmp_path, monkeypatch):
    """The encoder dies in the middle: the old file stands, and nothing lies beside it."""
    write_clip(tmp_path / "a.mp4", smooth_clip(), 8)
    before = (tmp_path / "a.mp4").read_bytes()
    calls = iter(range(3))

    def dies(*arguments, **options):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return VideoFrame.from_ndarray(*arguments, **options)

    monkeypatch.setattr("data.writing.VideoFrame", type("Dies", (), {"from_ndarray": staticmethod(dies)}))
    with pytest.raises(KeyboardInterrupt):
        write_clip(tmp_path / "a.mp4", smooth_clip(), 8)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_errors_are_silent_elsewhere(tmp_path, capfd):
    """FFmpeg's own complaints stay off the terminal."""
    write_clip(tmp_path / "a.mp4", smooth_clip(), 8)
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(content[: int(0.8 * len(content))])
    message(tmp_path / "a.mp4")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".png"])
def test_pieces_make_the_same_file(tmp_path, suffix):
    clip = smooth_clip()
    write_clip(tmp_path / f"whole{suffix}", clip, 8)
    write_pieces(tmp_path / f"pieces{suffix}", iter(clip.split(2, dim=1)), 8)
    whole, pieces = (read_clip(tmp_path / f"{name}{suffix}")[0] for name in ("whole", "pieces"))
    assert torch.equal(whole, pieces)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_clip_makes_the_same_file_whatever_memory_held_before(tmp_path, suffix):
    clip, garbage, files = smooth_clip(height=64, width=64), random.Random(0), set()
    for _ in range(12):
        held = [garbage.randbytes(garbage.randrange(1_000, 1_000_000)) for _ in range(8)]
        write_clip(tmp_path / f"clip{suffix}", clip, 8)
        files.add((tmp_path / f"clip{suffix}").read_bytes())
        del held
    assert len(files) == 1


def test_frames_one_by_one_are_the_clip(tmp_path):
    write_clip(tmp_path / "a.mp4", smooth_clip(), 8)
    clip, _ = read_clip(tmp_path / "a.mp4", height=16, width=16, fps=5)
    assert torch.equal(to_float(np.stack(list(read_frames(tmp_path / "a.mp4", 16, 16, 5)))), clip)


def test_pieces_that_fail_leave_no_file(tmp_path):
    def pieces():
        yield smooth_clip()
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"):
        write_pieces(tmp_path / "a.mp4", pieces(), 8)
    with pytest.raises(VideoError, match="no frame to write"):
        write_pieces(tmp_path / "a.mp4", iter([]), 8)
    assert not list(tmp_path.iterdir())

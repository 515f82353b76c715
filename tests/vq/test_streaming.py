"""Long and large videos in pieces are what they are in one."""

import pytest
import torch

from data.shapes import Shapes
from data.video import VideoError, read_clip
from data.writing import write_clip
from vq import pretrained, reconstruct
from vq.quantizers import FSQ, Continuous
from vq.streaming import Tiles
from vq.tokenizer import Tokenizer


def busy(time=4, space=8, **options) -> Tokenizer:
    """A tokenizer in which every branch adds something."""
    torch.manual_seed(0)
    options = {"channels": [8, 16, 16], "time_compression": time, "space_compression": space} | options
    tokenizer = Tokenizer(FSQ(levels=[5, 5, 5]), **options)
    for parameter in tokenizer.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    for _ in range(3):
        tokenizer(torch.rand(2, 3, 1 + 2 * time, 16, 16) * 2 - 1)
    return tokenizer.eval()


@pytest.mark.parametrize(("time", "space"), [(1, 2), (2, 4), (4, 8), (8, 8), (4, 16)])
@pytest.mark.parametrize("pieces", [(0, 1, 1, 1, 1), (1, 3), (2, 1, 1), (0, 4)])
def test_a_stream_is_the_whole_at_once(time, space, pieces):
    tokenizer = busy(time, space)
    video = torch.rand(2, 3, 1 + 4 * time, 32, 16) * 2 - 1
    tokens = tokenizer.encode(video)
    stream, frames = tokenizer.stream(), [1 + pieces[0] * time, *(p * time for p in pieces[1:])]
    streamed = [stream.encode(piece) for piece in video.split(frames, dim=2)]
    assert torch.equal(torch.cat(streamed, dim=1), tokens)
    decoded = torch.cat([stream.decode(piece) for piece in streamed], dim=2)
    # float32 is summed in another order for another number of frames; a step of 8 bits is 8e-3
    assert (decoded - tokenizer.decode(tokens)).abs().max() < 1e-5


def test_thousands_of_frames_take_no_more_memory_than_a_few():
    tokenizer = busy()
    stream, sizes = tokenizer.stream(), []
    for frames in (41, *[40] * 50):
        stream.decode(stream.encode(torch.rand(1, 3, frames, 16, 16) * 2 - 1))
        pasts = [*stream.encoder.pasts.values(), *stream.decoder.pasts.values()]
        sizes.append(sum(past.untyped_storage().nbytes() for past in pasts))
    assert len(set(sizes)) == 1 and sizes[0] < 1e6


def test_streams_do_not_know_each_other():
    tokenizer = busy()
    videos = torch.rand(2, 1, 3, 9, 16, 16) * 2 - 1
    streams = [tokenizer.stream(), tokenizer.stream()]
    first = [stream.encode(video[:, :, :5]) for stream, video in zip(streams, videos, strict=True)]
    assert torch.equal(tokenizer.encode(videos[0]), tokenizer.encode(videos[0]))  # nor does what is not a stream
    second = [stream.encode(video[:, :, 5:]) for stream, video in zip(streams, videos, strict=True)]
    for video, a, b in zip(videos, first, second, strict=True):
        assert torch.equal(torch.cat([a, b], dim=1), tokenizer.encode(video))


def test_a_stream_refuses_what_does_not_continue_it(tokenizer):
    stream = tokenizer.stream()
    with pytest.raises(ValueError, match="4 frames do not fit 4x compression in time: use 1 or 5"):
        stream.encode(torch.zeros(1, 3, 4, 16, 16))
    stream.encode(torch.zeros(1, 3, 5, 16, 16))
    with pytest.raises(ValueError, match="5 frames do not continue a stream at 4x compression: use multiples of 4"):
        stream.encode(torch.zeros(1, 3, 5, 16, 16))
    with pytest.raises(ValueError, match="tiles of 40 pixels do not fit 8x compression: use a multiple of 32"):
        tokenizer.stream(tile=40)


@pytest.mark.parametrize("size", [(40, 72), (64, 64), (8, 24), (33, 70)])
def test_tiles_of_what_needs_no_surroundings_are_the_whole(size):
    x = torch.randn(1, 2, 3, *size)
    same = Tiles(lambda: torch.nn.Identity(), size=32, overlap=8, scale=1)
    torch.testing.assert_close(same(x), x)
    larger = Tiles(lambda: lambda tile: tile.repeat_interleave(2, 3).repeat_interleave(2, 4), 32, 8, scale=2)
    torch.testing.assert_close(larger(x), x.repeat_interleave(2, 3).repeat_interleave(2, 4))


def test_tiles_of_a_local_encoder_give_the_same_tokens_and_a_decoder_differs_at_seams_only():
    tokenizer = busy(channels=[16, 16], patch_size=4, encoder_kernel=1)
    torch.nn.init.zeros_(tokenizer.decoder.bottleneck[1].out.weight)  # its attention spans the frame
    torch.nn.init.zeros_(tokenizer.decoder.bottleneck[1].out.bias)
    video = torch.rand(1, 3, 9, 64, 320) * 2 - 1
    stream, tokens = tokenizer.stream(tile=128), tokenizer.encode(video)
    assert torch.equal(torch.cat([stream.encode(p) for p in video.split([5, 4], dim=2)], dim=1), tokens)
    whole = tokenizer.decode(tokens)
    tiled = torch.cat([stream.decode(p) for p in tokens.split([2, 1], dim=1)], dim=2)
    error = (
        (tiled - whole).abs().amax((0, 1, 2, 3))
    )  # by column; tiles begin at 0, 96 and 192, overlap by 32, and the decoder sees 40 pixels far
    assert error[:56].max() < 1e-5 and error[-56:].max() < 1e-5 and error[136:184].max() < 1e-5
    seam, spread = error[96:128].max(), (whole - whole.mean()).square().mean().sqrt()
    assert seam > 1e-4 and (tiled - whole).square().mean().sqrt() < 0.3 * spread


@pytest.fixture
def saved(tokenizer, tmp_path):
    return str(
        pretrained.save(tmp_path / "model", {"frames": 9, "height": 16, "width": 24, "fps": 8}, tokenizer=tokenizer)
    )


def test_a_file_goes_through_whatever_its_size_and_however_it_is_cut(saved, tmp_path, capsys):
    clip = Shapes("train", frames=30, height=44, width=60, objects=[1])[0].clip
    write_clip(tmp_path / "in.mp4", clip, 8)
    for frames, name in ((4, "short.mp4"), (64, "long.mp4")):
        report = reconstruct.main(
            [str(tmp_path / "in.mp4"), str(tmp_path / name), "--tokenizer", saved, "--frames", str(frames)]
        )
        assert report.frames == 30 and report.tokens == (1 + 8) * 6 * 8
        assert report.bits == pytest.approx(report.tokens * 6.966, rel=1e-3) and report.pixels == 30 * 44 * 60
    read = [read_clip(tmp_path / name)[0] for name in ("short.mp4", "long.mp4")]
    assert read[0].shape == clip.shape and (read[0] - read[1]).abs().max() < 0.02
    assert "30 frames: PSNR" in capsys.readouterr().out


def test_the_original_stands_beside_it_on_request(saved, tmp_path):
    write_clip(tmp_path / "in.png", Shapes("train", frames=1, height=40, width=40, objects=[1])[0].clip, 8)
    report = reconstruct.reconstruct(tmp_path / "in.png", tmp_path / "out.png", saved, beside=True)
    both, _ = read_clip(tmp_path / "out.png")
    original, _ = read_clip(tmp_path / "in.png")
    assert both.shape == (3, 1, 40, 80) and torch.equal(both[..., :40], original) and report.frames == 1
    error = (both[..., 40:] - original).square().mean()
    assert report.psnr == pytest.approx(10 * torch.log10(4 / error).item(), abs=0.01)
    assert report.ssim < 0.9  # of an untrained tokenizer


def test_what_cannot_be_reconstructed_is_said_and_leaves_no_file(saved, tmp_path):
    write_clip(tmp_path / "in.mp4", torch.zeros(3, 9, 16, 16), 8)
    with pytest.raises(ValueError, match="give both"):
        reconstruct.reconstruct(tmp_path / "in.mp4", tmp_path / "out.mp4", saved, height=16)
    with pytest.raises(VideoError, match="no such file"):
        reconstruct.reconstruct(tmp_path / "nothing.mp4", tmp_path / "out.mp4", saved)
    plain = pretrained.save(tmp_path / "plain", {}, tokenizer=Tokenizer(Continuous(4), channels=[8, 8, 8]))
    with pytest.raises(ValueError, match="is continuous: it makes no tokens"):
        reconstruct.reconstruct(tmp_path / "in.mp4", tmp_path / "out.mp4", str(plain))
    assert not (tmp_path / "out.mp4").exists()

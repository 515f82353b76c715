import pytest
import torch

from vq import layers, pretrained
from vq.config import build
from vq.quantizers import FSQ, Continuous
from vq.tokenizer import Tokenizer


def test_shapes_and_ranges(tokenizer):
    video = torch.rand(2, 3, 9, 16, 24) * 2 - 1
    tokens = tokenizer.encode(video)
    assert tokens.shape == (2, *tokenizer.latent_shape(9, 16, 24)) == (2, 3, 2, 3)
    assert tokens.dtype == torch.int64 and tokens.min() >= 0 and tokens.max() < tokenizer.codebook_size
    decoded = tokenizer.decode(tokens)
    assert decoded.shape == video.shape and decoded.abs().max() <= 1
    assert tokenizer.pixel_shape(3, 2, 3) == (9, 16, 24)


@pytest.mark.parametrize(("time", "space"), [(1, 2), (2, 4), (4, 8), (8, 8), (4, 16), (8, 16)])
def test_every_compression_is_causal_and_keeps_the_size(time, space):
    torch.manual_seed(0)
    tokenizer = Tokenizer(Continuous(4), channels=[8, 8, 8], time_compression=time, space_compression=space).eval()
    frames = 1 + 2 * time
    video = torch.rand(1, 3, frames, 2 * space, space)
    with torch.no_grad():
        latents = tokenizer.encoder(video)
        assert latents.shape[2:] == tokenizer.latent_shape(*video.shape[2:])
        assert tokenizer.decoder(latents).shape == video.shape
        changed = video.clone()
        changed[:, :, 1 + time :] = torch.rand_like(changed[:, :, 1 + time :])  # pixels of the last latent frame
        torch.testing.assert_close(tokenizer.encoder(changed)[:, :, :2], latents[:, :, :2], rtol=0, atol=0)
        assert (tokenizer.encoder(changed)[:, :, 2] - latents[:, :, 2]).abs().max() > 1e-4
        later = latents.clone()
        later[:, :, 2] += 1
        decoded, expected = tokenizer.decoder(later), tokenizer.decoder(latents)
        torch.testing.assert_close(decoded[:, :, : 1 + time], expected[:, :, : 1 + time], rtol=0, atol=0)


@pytest.mark.parametrize(
    "layer",
    [
        layers.SpatialConv(8, 8),
        layers.TemporalConv(8, 8),
        layers.ChannelNorm(8),
        layers.ResidualBlock(8),
        layers.FrameAttention(8),
        layers.TimeDown(8),
        layers.TimeUp(8),
        layers.SpaceDown(8, 8),
        layers.SpaceUp(8, 8),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_every_layer_is_causal(layer):
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(1, 8, 9, 4, 6)
    with torch.no_grad():
        before = layer(x)
        until = 1 + 4 * (before.shape[2] - 1) // 8  # the frames of the output that the first five of the input make
        x[:, :, 5:] = torch.randn_like(x[:, :, 5:])
        after = layer(x)
    assert torch.equal(after[:, :, :until], before[:, :, :until])
    assert (after[:, :, -1] - before[:, :, -1]).abs().max() > 1e-3


def test_a_local_encoder_gives_equal_squares_equal_tokens_wherever_they_stand():
    torch.manual_seed(0)
    encoder = Tokenizer(Continuous(4), channels=[8, 16], patch_size=4, encoder_kernel=1).eval().encoder
    video = torch.rand(1, 3, 5, 1, 1).expand(1, 3, 5, 24, 32).clone()
    with torch.no_grad():
        plain = encoder(video)
        assert (plain - plain[..., :1, :1]).abs().max() < 1e-6  # borders included
        video[..., 8:16, 16:24] = torch.rand(8, 8)
        changed = (encoder(video) - plain).abs().amax((0, 1, 2)) > 1e-5
    assert changed.nonzero().tolist() == [[1, 2]]


def test_an_image_is_the_first_frame_of_a_video(tokenizer):
    video = torch.rand(1, 3, 9, 16, 24) * 2 - 1
    assert torch.equal(tokenizer.encode(video[:, :, :1]), tokenizer.encode(video)[:, :1])


def test_gradients_reach_every_parameter():
    tokenizer = Tokenizer(FSQ(levels=[5, 5, 5]), channels=[8, 16, 16])
    for parameter in tokenizer.parameters():  # residual branches begin at zero and pass nothing on
        parameter.data += 0.1 * torch.randn_like(parameter)
    tokenizer(torch.rand(2, 3, 9, 16, 16)).video.square().mean().backward()
    missing = [n for n, p in tokenizer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # a bias in front of the standardisation is taken out again by it, and keys' biases cancel in the softmax
    assert all(n == "encoder.out.2.bias" for n in missing), missing


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((16, 16, 16), "16 frames do not fit 4x compression in time: use 13 or 17"),
        ((0, 16, 16), "use 1 or 5"),
        ((9, 20, 16), "height 20 does not fit 8x compression: use 16 or 24"),
        ((9, 16, 4), "width 4 does not fit 8x compression: use 8"),
    ],
)
def test_wrong_sizes_name_the_nearest_right_ones(tokenizer, shape, words):
    with pytest.raises(ValueError, match=words):
        tokenizer.latent_shape(*shape)


def test_wrong_videos_are_refused(tokenizer):
    with pytest.raises(ValueError, match=r"divide 8-bit pixels by 127\.5"):
        tokenizer.encode(torch.rand(1, 3, 9, 16, 16) * 255)
    with pytest.raises(ValueError, match="from nan"):
        tokenizer.encode(torch.full((1, 3, 9, 16, 16), float("nan")))
    with pytest.raises(ValueError, match="expected \\(batch, 3"):
        tokenizer.encode(torch.rand(3, 9, 16, 16))
    with pytest.raises(ValueError, match="tokens must lie in"):
        tokenizer.decode(torch.full((1, 1, 2, 2), tokenizer.codebook_size))


def test_wrong_compressions_are_refused():
    with pytest.raises(ValueError, match="time_compression is 3, expected a power of two up to 8 for 3 stages"):
        Tokenizer(FSQ(), time_compression=3)


def test_saved_and_loaded_gives_bit_equal_tokens_and_pixels(tokenizer, tmp_path):
    pretrained.save(tmp_path / "model", {"frames": 9}, tokenizer=tokenizer)
    loaded = pretrained.load(tmp_path / "model", "tokenizer")
    video = torch.rand(1, 3, 9, 16, 24) * 2 - 1
    assert torch.equal(loaded.encode(video), tokenizer.encode(video))
    assert torch.equal(loaded.decode(tokenizer.encode(video)), tokenizer.decode(tokenizer.encode(video)))
    assert pretrained.fingerprint(loaded) == pretrained.fingerprint(tokenizer)
    assert build(loaded.config).config == tokenizer.config


def test_wrong_sources_are_one_line(tokenizer, tmp_path):
    pretrained.save(tmp_path / "model", {"frames": 9}, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="holds no generator: it has tokenizer"):
        pretrained.load(tmp_path / "model", "generator")
    with pytest.raises(ValueError, match="expected an exported folder, a training checkpoint or a hub id"):
        pretrained.load(tmp_path / "nowhere", "tokenizer")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no config\.yaml"):
        pretrained.load(tmp_path / "empty", "tokenizer")
    (tmp_path / "wrong.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="not a readable training checkpoint"):
        pretrained.load(tmp_path / "wrong.ckpt", "tokenizer")
    with pytest.raises(ValueError, match="not a part of a model"):
        build({"class_path": "os.path.join"})

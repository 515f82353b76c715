"""Encoders from a folder, on tiny random models of the families that are accepted."""

import json
import string

import pytest
import torch
import torch.nn.functional as F

from evaluation.features import FrameEncoder, TextVideo, VideoEncoder, evenly

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SHOWN = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}
TEXTS = ["a red circle", "a bird flies over the water", "a"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("encoders")
    letters = string.ascii_lowercase
    vocab = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    bpe = transformers.CLIPTokenizer(dict(zip(vocab, range(99), strict=False)), merges=[])
    ends = {"bos_token_id": bpe.bos_token_id, "eos_token_id": bpe.eos_token_id, "pad_token_id": bpe.pad_token_id}
    text = {**TOWER, **ends, "vocab_size": len(vocab), "max_position_embeddings": 24}
    vision = {**TOWER, "image_size": 32, "patch_size": 16}
    video = {"num_frames": 8, "mit_hidden_size": 32, "mit_intermediate_size": 64, "mit_num_attention_heads": 2}
    small = {**TOWER, "image_size": 32, "patch_size": 16}
    jepa = {
        "crop_size": 32,
        "patch_size": 16,
        "frames_per_clip": 4,
        "pred_hidden_size": 24,
        "pred_num_attention_heads": 2,
    }
    t = transformers
    models = {
        "videomae": t.VideoMAEModel(t.VideoMAEConfig(**small, num_frames=4)),
        "vjepa2": t.VJEPA2Model(t.VJEPA2Config(**TOWER, **jepa, pred_num_hidden_layers=1, mlp_ratio=2)),
        "dinov2": t.Dinov2Model(t.Dinov2Config(**TOWER, image_size=64, patch_size=16)),
        "clip": t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)),
        "siglip": t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=vision)),
        "xclip": t.XCLIPModel(
            t.XCLIPConfig(
                text_config=text,
                vision_config=vision | video,
                projection_dim=32,
                prompt_num_attention_heads=2,
                prompt_layers=1,
            )
        ),
        "bert": t.BertModel(t.BertConfig(**TOWER, vocab_size=9)),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
        bpe.save_pretrained(root / name)
        shown = SHOWN | ({"crop_size": {"height": 32, "width": 32}} if name == "dinov2" else {})
        file = "video_preprocessor_config.json" if name == "vjepa2" else "preprocessor_config.json"
        (root / name / file).write_text(json.dumps(shown))
    return {name: str(root / name) for name in models}


def clips(frames: int = 9) -> torch.Tensor:
    return torch.rand(3, 3, frames, 24, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("kind", ["videomae", "vjepa2"])
def test_videos_become_features_that_mind_the_order_of_frames(folders, kind):
    encoder, video = VideoEncoder(folders[kind]), clips()
    features = encoder(video)
    assert features.shape == (3, 32) and encoder.kind == kind
    assert torch.allclose(encoder(video[1:2]), features[1:2], atol=1e-5)
    assert (encoder(video.flip(2)) - features).abs().max() > 1e-4
    assert VideoEncoder(folders[kind]).identity == encoder.identity


@pytest.mark.parametrize(("kind", "width"), [("clip", 16), ("siglip", 32), ("dinov2", 32)])
def test_a_middle_frame_becomes_features(folders, kind, width):
    encoder, video = FrameEncoder(folders[kind]), clips()
    features = encoder(video)
    assert features.shape == (3, width) and encoder.side == 32
    assert torch.equal(encoder(video[:, :, 4:5]), features)
    assert not torch.equal(encoder(video[:, :, :1]), features)


@pytest.mark.parametrize("kind", ["clip", "siglip", "xclip"])
def test_each_clip_is_compared_with_its_own_text(folders, kind):
    encoder, video = TextVideo(folders[kind]), clips()
    scores = encoder(video, TEXTS)
    assert scores.shape == (3,) and scores.abs().max() <= 1
    assert torch.allclose(encoder(video[2:], TEXTS[2:]), scores[2:], atol=1e-5)
    assert not torch.allclose(encoder(video, TEXTS[1:] + TEXTS[:1]), scores, atol=1e-5)
    assert torch.isfinite(encoder(video, ["long " * 99] * 3)).all()


def test_the_score_of_clip_is_the_mean_cosine_of_its_frames(folders):
    encoder, video = TextVideo(folders["clip"]), clips()
    words = encoder.read(TEXTS)
    text = encoder.network.get_text_features(**words).pooler_output
    frames = [encoder.network.get_image_features(encoder.show(video[:, :, i])).pooler_output for i in range(9)]
    expected = sum(F.cosine_similarity(frame, text) for frame in frames) / 9
    assert torch.allclose(encoder(video, TEXTS), expected, atol=1e-5)


def test_frames_are_shown_as_in_training(folders):
    encoder = FrameEncoder(folders["clip"])
    white = encoder.show(torch.ones(1, 3, 8, 8))
    assert torch.allclose(white[0, :, 0, 0], torch.tensor([2.5, 2.4, 7 / 3])) and white.shape == (1, 3, 32, 32)


def test_frames_are_chosen_evenly():
    video = torch.arange(9.0).view(1, 1, 9, 1, 1).expand(1, 3, 9, 1, 1)
    assert evenly(video, 4)[0, 0].flatten().tolist() == [0, 3, 5, 8]
    assert evenly(video, 17)[0, 0].flatten().tolist()[-3:] == [7, 8, 8]


def test_other_networks_are_refused_in_words(folders, tmp_path):
    with pytest.raises(ValueError, match=r"it is a bert.*expected a folder or hub id of clip, siglip, xclip"):
        TextVideo(folders["bert"])
    with pytest.raises(ValueError, match="cannot be loaded"):
        VideoEncoder(str(tmp_path / "nothing"))

"""Tails: the ends that training knows have the tokens that a user's clip will have."""

import json
import pickle

import lightning as L
import pytest
import torch

from data.crops import Crops
from data.module import First, VideoData, collate, groups
from data.shapes import Shapes
from data.tails import Tails
from generator.backbone import VideoTransformer
from generator.bridges import MaskedLatentsTraining, UniformTraining
from generator.editing import whole
from generator.pipeline import VideoGenerator
from generator.text import ByteText
from generator.training import DiffusionTraining, GeneratorTraining
from vq import encode, pretrained

SIZE = {"frames": 17, "height": 16, "width": 24, "fps": 8}


def shapes(**given):
    return Shapes("train", objects=[1], **SIZE | given)


def test_the_share_the_lengths_and_the_stills_that_were_asked_for():
    tails = [Tails(shapes(), share=0.5)[i].tail for i in range(400)]
    assert set(tails) == {0, 1, 5, 9, 13, 17}
    assert 0.4 < sum(tail > 0 for tail in tails) / 400 < 0.6
    assert tails == [Tails(shapes(), share=0.5)[i].tail for i in range(400)]
    assert tails != [Tails(shapes(), share=0.5, seed=1)[i].tail for i in range(400)]
    assert not any(Tails(shapes(frames=1), share=1.0)[i].tail for i in range(8))


def test_all_else_is_that_of_the_clips():
    buckets = shapes(buckets=[[17, 16, 24], [9, 24, 16]])
    data = pickle.loads(pickle.dumps(Tails(buckets)))
    assert groups(data)[:4] == groups(buckets)[:4] and data.fps == 8 and len(data) == len(buckets)
    assert torch.equal(data[3].clip, buckets[3].clip) and data[3].text == buckets[3].text
    assert VideoData(Tails(Crops(shapes(), 9, 16, 16)), shapes()).clip == {
        "frames": 17,
        "height": 16,
        "width": 24,
        "fps": 8,
    }
    assert not any(Crops(Tails(shapes(), share=1.0), 9, 16, 16)[i].tail for i in range(4))  # a window has no end
    with pytest.raises(ValueError, match="share 2"):
        Tails(shapes(), share=2)
    with pytest.raises(ValueError, match="compression of 0"):
        Tails(shapes(), compression=0)


def test_a_tail_is_encoded_as_the_clip_of_a_user_is(tokenizer, generator):
    data, model = Tails(shapes(), share=1.0), VideoGenerator(tokenizer, generator, SIZE)
    batch = collate([data[i] for i in range(24)])
    found, plain = tokenizer.quantize(batch.video, batch.tails), tokenizer.quantize(batch.video)
    assert {1, 5, 17} <= set(batch.tails.tolist())
    for i, tail in enumerate(batch.tails.tolist()):
        length = tokenizer.tail_length(tail)
        known = model.encode_middle(whole(model, batch.video[i, :, -tail:], end=True))
        assert known.shape[1] == length and torch.equal(found.tokens[i, -length:], known[0])
        assert torch.equal(found.tokens[i, :-length], plain.tokens[i, :-length])
    assert torch.equal(found.latents, tokenizer.quantizer.lookup(found.tokens))
    assert not torch.equal(found.tokens, plain.tokens)  # it makes a difference


def test_tails_of_another_compression_are_refused(tokenizer):
    video = shapes()[0].clip[None]
    with pytest.raises(ValueError, match="6 frames do not fit 4x compression in time: use 5 or 9"):
        tokenizer.quantize(video, torch.tensor([6]))


def test_a_cache_keeps_them(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "SHARD", 4)
    saved = pretrained.save(tmp_path / "model", SIZE, tokenizer=tokenizer)
    data = VideoData(First(Tails(shapes(), share=0.3), 64), shapes(), batch_size=3, num_workers=0)
    cache = encode.encode(str(saved), data, tmp_path / "cache", clips=10)
    direct, cached = (collate([clips[i] for i in range(10)]) for clips in (data.train, cache))
    assert torch.equal(cached.tails, direct.tails) and 0 < sum(direct.tails > 0) < 10
    assert torch.equal(cached.tokens, tokenizer.quantize(direct.video, direct.tails).tokens)
    plain = encode.encode(str(saved), VideoData(shapes(), shapes(), num_workers=0), tmp_path / "plain", clips=10)
    assert collate([plain[i] for i in range(10)]).tails is None
    with pytest.raises(ValueError, match="give the clips"):
        Tails(plain)
    data.train = Tails(shapes(), share=0.3)
    encode.encode(str(saved), data, tmp_path / "tails", clips=10)
    data.train = Tails(shapes(), share=0.4)
    with pytest.raises(ValueError, match="token cache of another tails"):
        encode.encode(str(saved), data, tmp_path / "tails", clips=10)


def test_older_caches_have_none(tokenizer, tmp_path):
    saved = pretrained.save(tmp_path / "model", SIZE, tokenizer=tokenizer)
    data, folder = VideoData(shapes(), shapes(), num_workers=0), tmp_path / "cache"
    encode.encode(str(saved), data, folder, clips=3)
    header = json.loads((folder / "cache.json").read_text())
    assert header.pop("tails") is None
    (folder / "cache.json").write_text(json.dumps(header))
    lines = [json.loads(line)[:2] for line in (folder / "00000.jsonl").read_text().splitlines()]
    (folder / "00000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    cache = encode.encode(str(saved), data, folder, clips=3)
    assert len(cache) == 3 and cache[1].tail == 0 and cache[1].text == data.train[1].text


@pytest.mark.parametrize("kind", ["masked", "diffusion", "uniform", "masked latents"])
def test_every_kind_of_generator_trains_with_them(kind, tokenizer, tmp_path):
    """Whole clips, images and pieces of the middle; of the latter the longest tails leave nothing to make."""
    saved = pretrained.save(tmp_path / "model", SIZE, tokenizer=tokenizer)
    parts = VideoTransformer(dim=32, depth=1, heads=2, text_dim=16), ByteText(dim=16, depth=1)
    make = {
        "masked": GeneratorTraining,
        "diffusion": DiffusionTraining,
        "uniform": UniformTraining,
        "masked latents": MaskedLatentsTraining,
    }[kind]
    training = make(str(saved), *parts, image_share=0.3, middle_share=0.4, mixture={"text": 0.5, "prefix": 0.5})
    size = SIZE | {"frames": 9}
    data = VideoData(Tails(shapes(**size), share=1.0), Tails(shapes(**size), share=1.0), 1, val_clips=4, num_workers=0)
    trainer = L.Trainer(
        max_steps=16, accelerator="cpu", logger=False, enable_checkpointing=False, use_distributed_sampler=False,
        enable_progress_bar=False, enable_model_summary=False, check_val_every_n_epoch=None, val_check_interval=16,
    )  # fmt: skip
    trainer.fit(training, data)
    assert trainer.global_step == 16 and torch.isfinite(trainer.callback_metrics["val/loss"])
    assert all(torch.isfinite(parameter).all() for parameter in training.generator.parameters())

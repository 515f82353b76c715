"""The token cache: what it holds is what the tokenizer says, and only a whole one is read."""

from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from data.buckets import StepBatches
from data.folder import Folder
from data.module import VideoData, collate, groups
from data.shapes import Shapes
from data.tokens import TokenCache
from data.video import VideoError
from data.worlds import World
from data.writing import write_clip
from generator.frozen import FrozenTokenizer
from generator.text import ByteText
from vq import encode, pretrained
from vq.quantizers import FSQ, Continuous
from vq.tokenizer import Tokenizer

SIZE = {"frames": 9, "height": 16, "width": 24, "fps": 8}


@pytest.fixture
def saved(tokenizer, tmp_path):
    return pretrained.save(tmp_path / "model", SIZE, tokenizer=tokenizer)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(encode, "SHARD", 4)


def shapes() -> VideoData:
    return VideoData(Shapes("train", objects=[1], **SIZE), Shapes("test", **SIZE), batch_size=3, num_workers=0)


def test_a_cache_holds_what_the_tokenizer_says(saved, tokenizer, tmp_path):
    data = shapes()
    cache = encode.encode(str(saved), data, tmp_path / "cache", clips=10)
    assert len(cache) == 10 and (cache.frames, cache.height, cache.width, cache.fps) == (9, 16, 24, 8)
    for i in (0, 3, 4, 9):
        assert torch.equal(cache[i].tokens, tokenizer.encode(data.train[i].clip[None])[0])
        assert (cache[i].text, cache[i].fps, cache[i].clip) == (data.train[i].text, 8, None)
    assert torch.equal(cache[13].tokens, cache[3].tokens)  # a second epoch
    assert np.load(tmp_path / "cache" / "00000.npy").dtype == np.uint8  # 125 codes
    batch = collate([cache[0], cache[1]]).to("cpu")
    assert batch.video is None and batch.tokens.shape == (2, 3, 2, 3) and batch.tokens.dtype == torch.int64


def test_a_game_keeps_its_actions(saved, tmp_path):
    size = {"frames": 9, "height": 24, "width": 24}
    data = VideoData(World("train", **size), World("test", **size), batch_size=3, num_workers=0)
    cache = encode.encode(str(saved), data, tmp_path / "cache", clips=6)
    assert tuple(cache.actions) == data.train.actions and TokenCache(str(tmp_path / "cache")).info == cache.info
    for i in (0, 5):
        assert torch.equal(cache[i].actions, data.train[i].actions) and cache[i].actions.dtype == torch.int64
    assert collate([cache[0], cache[1]]).actions.shape == (2, 9)
    with pytest.raises(VideoError, match="token cache of another actions"):
        data.train.actions = None
        encode.encode(str(saved), data, tmp_path / "cache", clips=6)


def test_an_interrupted_cache_goes_on_behind_its_last_whole_shard(saved, tmp_path, monkeypatch):
    data, out = shapes(), tmp_path / "cache"
    whole = encode.encode(str(saved), data, tmp_path / "whole", clips=10)
    write = encode.write_shard
    monkeypatch.setattr(
        encode, "write_shard", lambda out, number, *args, **parts: number == 2 or write(out, number, *args, **parts)
    )
    with pytest.raises(VideoError, match="holds the tokens of 8 of 10 clips: run the same"):
        encode.encode(str(saved), data, out, clips=10)
    written = []
    monkeypatch.setattr(
        encode,
        "write_shard",
        lambda out, number, *args, **parts: [written.append(number), write(out, number, *args, **parts)],
    )
    cache = encode.encode(str(saved), data, out, clips=10)
    assert written == [2]
    assert all(torch.equal(cache[i].tokens, whole[i].tokens) and cache[i].text == whole[i].text for i in range(10))


def test_processes_share_the_shards_out(saved, tmp_path):
    data, out = shapes(), tmp_path / "cache"
    alone = encode.encode(str(saved), data, tmp_path / "alone", clips=10)
    assert encode.encode(str(saved), data, out, clips=10, rank=1, world=2) is None
    assert sorted(file.name for file in out.glob("*.jsonl")) == ["00001.jsonl"]
    both = encode.encode(str(saved), data, out, clips=10, rank=0, world=2)
    assert all(torch.equal(both[i].tokens, alone[i].tokens) and both[i].text == alone[i].text for i in range(10))


def test_clips_of_one_shape_share_shards_and_batches(saved, tmp_path):
    for i in range(3):
        write_clip(tmp_path / "videos" / f"clip{i}.mp4", torch.rand(3, 12, 16, 24) * 2 - 1, 8)
        write_clip(tmp_path / "videos" / f"image{i}.png", torch.rand(3, 1, 16, 24) * 2 - 1, 8)
    data = VideoData(*[Folder(str(tmp_path / "videos"), **SIZE)] * 2, batch_size=2, num_workers=0)
    cache = encode.encode(str(saved), data, tmp_path / "cache", clips=12)  # each file twice
    assert sorted(groups(cache)) == [(1, 2, 3)] * 6 + [(3, 2, 3)] * 6
    for batch, _ in zip(StepBatches(groups(cache), 2), range(8), strict=False):
        assert len({tuple(cache[i].tokens.shape) for i in batch}) == 1


def test_a_model_knows_the_longest_clips_that_are_as_large_as_the_usual_ones(saved, tmp_path):
    """Of clips and of their cache alike: its windows are as long."""
    size = {"buckets": [[5, 16, 24], [17, 8, 8], [9, 16, 32], [1, 32, 32]], "fps": 8, "objects": [1]}
    data = VideoData(Shapes("train", **size), Shapes("test", **size), num_workers=0)
    cached = VideoData(encode.encode(str(saved), data, tmp_path / "cache", clips=4), data.val, num_workers=0)
    training = FrozenTokenizer(str(saved))
    for one in (data, cached):
        training.trainer = trainer = SimpleNamespace(datamodule=one)  # which it refers to weakly
        assert training.clip == {"frames": 5, "height": 16, "width": 24, "fps": 8, "window": 9}
    trainer.datamodule = shapes()
    assert "window" not in training.clip


def test_what_is_no_cache_of_this_tokenizer_is_refused(saved, tmp_path):
    data, out = shapes(), tmp_path / "cache"
    encode.encode(str(saved), data, out, clips=4)
    torch.manual_seed(1)
    other = pretrained.save(tmp_path / "other", SIZE, tokenizer=Tokenizer(FSQ((5, 5, 5)), channels=[8, 16, 16]))
    with pytest.raises(VideoError, match="holds a token cache of another tokenizer: delete it or give another --out"):
        encode.encode(str(other), data, out, clips=4)
    with pytest.raises(VideoError, match="cache of another clips"):
        encode.encode(str(saved), data, out, clips=8)
    with pytest.raises(VideoError, match=r"holds no cache\.json: expected a folder that python -m vq\.encode"):
        TokenCache(str(tmp_path))
    (out / "cache.json").write_text("{}")
    with pytest.raises(VideoError, match="is not the header of a token cache"):
        TokenCache(str(out))


class Letters(nn.Module):
    """A frozen text encoder: a vector a letter, its place in the alphabet."""

    config: ClassVar = {"class_path": "Letters", "init_args": {}}

    def forward(self, texts):
        rows = [torch.tensor([[float(ord(letter)), 1] for letter in text]) for text in texts]
        mask = nn.utils.rnn.pad_sequence([row[:, 1] > 0 for row in rows], batch_first=True)
        return SimpleNamespace(tokens=nn.utils.rnn.pad_sequence(rows, batch_first=True), mask=mask)


def test_latents_and_encoded_captions_on_request(saved, tokenizer, tmp_path):
    data = shapes()
    cache = encode.encode(str(saved), data, tmp_path / "cache", clips=6, latents=True, text=Letters())
    for i in (0, 3, 5):
        codes = tokenizer.quantizer.lookup(cache[i].tokens[None])[0]
        torch.testing.assert_close(cache[i].latents, codes, rtol=1e-3, atol=1e-3)  # half precision
        assert [chr(int(letter)) for letter in cache[i].words[:, 0]] == list(cache[i].text)
    batch = collate([cache[0], cache[4]])
    assert batch.latents.shape == (2, 3, 3, 2, 3)
    assert batch.word_counts.tolist() == [len(cache[0].text), len(cache[4].text)]
    with pytest.raises(VideoError, match="token cache of another latents, text"):
        encode.encode(str(saved), data, tmp_path / "cache", clips=6)
    with pytest.raises(ValueError, match="ByteText is trained along with the generator"):
        encode.encode(str(saved), data, tmp_path / "bytes", clips=6, text=ByteText(dim=16))


def test_a_continuous_tokenizer_has_latents_alone(tmp_path):
    torch.manual_seed(0)
    tokenizer = Tokenizer(Continuous(6), channels=[8, 16, 16]).eval()
    saved = pretrained.save(tmp_path / "model", SIZE, tokenizer=tokenizer)
    data = shapes()
    cache = encode.encode(str(saved), data, tmp_path / "cache", clips=5)
    assert cache[0].tokens is None and cache.shape_of(4) == (3, 2, 3)
    exact = tokenizer.quantizer(tokenizer.encoder(data.train[4].clip[None])).latents[0]
    torch.testing.assert_close(cache[4].latents, exact, rtol=1e-3, atol=1e-3)


def test_a_folder_goes_on_with_its_own_data_set_alone(saved, tmp_path):
    encode.encode(str(saved), shapes(), tmp_path / "cache", clips=5)
    encode.encode(str(saved), shapes(), tmp_path / "cache", clips=5)
    with pytest.raises(VideoError, match="holds a token cache of another data: delete it or give another --out"):
        encode.encode(str(saved), shapes(), tmp_path / "cache", split="val", clips=5)


def test_the_command_line(saved, tmp_path, capsys):
    config = tmp_path / "data.yaml"
    shapes = "class_path: data.shapes.Shapes\n  init_args: {frames: 9, height: 16, width: 24}\n"
    config.write_text(f"train:\n  {shapes}val:\n  {shapes}batch_size: 2\nnum_workers: 0\n")
    args = ["--tokenizer", str(saved), "--data", str(config), "--clips", "3", "--out"]
    assert len(encode.main([*args, str(tmp_path / "cache"), "--split", "val"])) == 3
    with pytest.raises(ValueError, match="height 20 does not fit 8x compression: use 16 or 24"):
        encode.main([*args, str(tmp_path / "other"), "--data.train.height", "20"])
    with pytest.raises(SystemExit):
        encode.main([*args, str(tmp_path / "other"), "--splt", "val"])

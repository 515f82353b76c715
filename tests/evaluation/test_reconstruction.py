"""Scores of tokenizers whose losses are known."""

import json

import pytest
import torch

from data.shapes import Shapes
from data.writing import write_clip
from evaluation import __main__ as program
from evaluation.extractor import Extractor
from evaluation.reconstruction import evaluate
from vq import pretrained
from vq.losses import psnr, ssim

SIZE = {"frames": 17, "height": 16, "width": 24, "fps": 8}


def look(video):
    """Three features of a clip, in the place of I3D's: brightness, contrast and how much it moves."""
    moves = 100 * video.diff(dim=2).abs().flatten(1).mean(1)
    return torch.stack([video.flatten(1).mean(1), video.flatten(1).std(1), moves], dim=1)


AVERAGES = Extractor("i3d", look, "averages")


class Perfect(torch.nn.Module):
    """Remembers the pixels, and makes tokens of nothing."""

    codebook_size = 16

    def encode(self, video):
        self.video = video
        return torch.zeros(len(video), *self.latent_shape(*video.shape[2:]), dtype=torch.long)

    def decode(self, tokens):
        return self.video

    def latent_shape(self, frames, height, width):
        return 1 + (frames - 1) // 4, height // 8, width // 8


def test_a_perfect_tokenizer_loses_nothing():
    result = evaluate(Perfect(), Shapes("test", **SIZE), clips=20, i3d=AVERAGES, batch_size=7)
    scores = result["scores"]
    assert scores["psnr"]["mean"] > 90 and scores["ssim"]["mean"] > 0.999
    assert scores["rfvd"]["mean"] == pytest.approx(0, abs=1e-4)
    assert abs(scores["rkvd"]["mean"]) < 0.01 < scores["kvd of their first frames"]["mean"]
    assert scores["fvd of their first frames"]["mean"] > scores["fvd of further real clips"]["mean"] > 0.01
    assert scores["fvd of the same clips, shuffled"]["mean"] > 0.01
    assert scores["bits a pixel"]["mean"] == pytest.approx(4 * 5 * 2 * 3 / (17 * 16 * 24))
    assert scores["share of tokens unlike all others"]["mean"] == pytest.approx(1 / (20 * 30))


def test_scores_do_not_depend_on_the_batch_and_belong_to_their_protocol(tokenizer):
    runs = [evaluate(tokenizer, Shapes("test", **SIZE), clips=6, batch_size=b) for b in (2, 6)]
    for name, score in runs[0]["scores"].items():
        assert score["mean"] == pytest.approx(runs[1]["scores"][name]["mean"], rel=1e-4), name
    assert runs[0]["protocol"] == runs[1]["protocol"]
    other = evaluate(tokenizer, Shapes("test", **SIZE, seed=1), clips=6)
    assert other["protocol"]["reference"] != runs[0]["protocol"]["reference"]
    real = torch.stack([Shapes("test", **SIZE)[i].clip for i in range(6)])
    fake = tokenizer.decode(tokenizer.encode(real))
    assert runs[0]["scores"]["psnr"]["mean"] == pytest.approx(psnr(fake, real).mean().item(), abs=0.05)
    assert runs[0]["scores"]["ssim"]["mean"] == pytest.approx(ssim(fake, real).mean().item(), abs=0.01)


def test_a_frechet_distance_of_too_few_clips_is_refused_and_a_kernel_distance_is_not(tokenizer):
    result = evaluate(tokenizer, Shapes("test", **SIZE), clips=3, i3d=AVERAGES)
    assert "rfvd" not in result["scores"] and "rkvd" in result["scores"]
    assert result["refused"] == ["rfvd: a Frechet distance of 3 features needs more than 3 samples a side, got 3"]


def test_what_the_network_saw_is_kept_for_the_next_tokenizer(tokenizer, tmp_path):
    seen = []
    network = Extractor("i3d", lambda video: (seen.extend(video), look(video))[1], "averages", folder=tmp_path)
    plain = evaluate(tokenizer, Shapes("test", **SIZE), clips=6, i3d=AVERAGES)
    first = evaluate(tokenizer, Shapes("test", **SIZE), clips=6, i3d=network, batch_size=3)
    assert len(seen) == 5 * 6
    assert first["scores"].keys() == plain["scores"].keys()
    for name in ("rfvd", "rkvd", "fvd of the same clips, shuffled"):
        assert first["scores"][name]["mean"] == pytest.approx(plain["scores"][name]["mean"], rel=1e-3), name
    evaluate(Perfect(), Shapes("test", **SIZE), clips=6, i3d=network)  # its reconstructions are the real clips
    assert len(seen) == 5 * 6


class Repeating(Shapes):
    """Twenty clips, again and again, as of a folder whose videos have no other moment."""

    def __getitem__(self, index):
        return super().__getitem__(index % 20)


def test_no_clip_counts_twice():
    result = evaluate(Perfect(), Repeating("test", **SIZE), clips=12, i3d=AVERAGES)
    assert "fvd of further real clips" not in result["scores"] and "rfvd" in result["scores"]
    assert result["refused"] == ["further real clips: the data set has fewer than 24 different clips, so no floor"]
    with pytest.raises(ValueError, match="20 different clips: expected --clips 20 or less"):
        evaluate(Perfect(), Repeating("test", **SIZE), clips=21)


def test_the_program_scores_folders_and_recipes(tokenizer, tmp_path, capsys):
    model = str(pretrained.save(tmp_path / "model", SIZE, tokenizer=tokenizer))
    for i in range(3):
        write_clip(tmp_path / f"videos/{i}.mp4", Shapes("train", frames=25, height=32, width=48)[i].clip, 12)
    flags = ["reconstruction", "--model", model, "--out", str(tmp_path / "out/metrics.json"), "--videos"]
    with pytest.warns(UserWarning, match="no caption"):
        result = program.main([*flags, str(tmp_path / "videos"), "--height", "32"])
    assert result["protocol"]["clips"] == 3 and result["protocol"]["height"] == 32
    assert json.loads((tmp_path / "out/metrics.json").read_text())["scores"] == result["scores"]
    assert "psnr: " in capsys.readouterr().out
    recipe = tmp_path / "data.yaml"
    shapes = "{class_path: data.shapes.Shapes, init_args: {split: test, frames: 9, height: 16, width: 16}}"
    recipe.write_text(f"train: {shapes}\nval: {shapes}\n")
    assert program.main([*flags, str(recipe), "--clips", "4"])["protocol"]["frames"] == 9
    capsys.readouterr()
    program.main(["reconstruction", "--model", model, "--videos", str(recipe), "--clips", "2"])  # no --out: told alone
    assert "psnr: " in capsys.readouterr().out and len(list((tmp_path / "out").iterdir())) == 1
    with pytest.raises(ValueError, match="no recipe at"):
        program.main([*flags, str(tmp_path / "nothing.yaml")])
    with pytest.raises(ValueError, match="18 frames do not fit"):
        program.main([*flags, str(tmp_path / "videos"), "--frames", "18"])

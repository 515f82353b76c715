"""The sampling program, as a user types it."""

import json

import pytest
import torch
from conftest import CLIP

import sample
from data.video import read_clip
from data.writing import write_clip
from generator.pipeline import VideoGenerator


@pytest.fixture
def model(tokenizer, generator, tmp_path):
    VideoGenerator(tokenizer, generator, CLIP).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def clip(tmp_path):
    ramp = torch.linspace(-1, 1, 24).expand(3, 9, 16, 24) * torch.linspace(1, 0.2, 9).view(1, 9, 1, 1)
    write_clip(tmp_path / "clip.mp4", ramp, 8)
    write_clip(tmp_path / "still.png", ramp[:, :1], 8)
    return tmp_path


def run(model, out, *args):
    return sample.main(["--model", model, "--out", str(out), "--steps", "3", *args])


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webm"])
def test_a_prompt_becomes_a_file_and_a_record(model, tmp_path, suffix):
    (path,) = run(model, tmp_path / f"a{suffix}", "--prompt", "a red circle", "--seed", "5")
    video, fps = read_clip(path)
    assert video.shape == (3, 9, 16, 24) and fps == pytest.approx(8, rel=0.05)
    record = json.loads(path.with_suffix(".json").read_text())
    assert (record["prompt"], record["seed"], record["settings"]["steps"]) == ("a red circle", 5, 3)
    assert record["versions"]["torch"] == torch.__version__


def test_a_folder_gets_a_file_a_sample_and_seeds_belong_to_samples(model, tmp_path):
    paths = run(model, tmp_path / "many", "--prompt", "a", "--prompt", "b", "--num", "3", "--seed", "1")
    assert len(paths) == 6 and all(p.is_file() for p in paths)
    (alone,) = run(model, tmp_path / "one.mp4", "--prompt", "b", "--seed", "2", "--batch-size", "1")
    assert torch.equal(read_clip(alone)[0], read_clip(paths[4])[0])


def test_sizes_images_and_samplers(model, tmp_path):
    (path,) = run(model, tmp_path / "a.mp4", "--prompt", "a", "--frames", "5", "--height", "32", "--width", "16")
    assert read_clip(path)[0].shape == (3, 5, 32, 16)
    (path,) = run(model, tmp_path / "a.png", "--prompt", "a", "--task", "text2image")
    assert read_clip(path)[0].shape == (3, 1, 16, 24)
    for sampler in ("confidence", "random", "margin", "entropy", "threshold"):
        run(model, tmp_path / f"{sampler}.mp4", "--prompt", "a", "--sampler", sampler, "--guidance", "1")


def test_knobs_of_the_sampler(model, tmp_path):
    def video(*args):
        (path,) = run(model, tmp_path / "a.gif", "--prompt", "a red circle", *args)
        return read_clip(path)[0], json.loads(path.with_suffix(".json").read_text())["settings"]

    default, _ = video()
    same = ("--temperature", "0.7", "0.7", "--top-p", "1", "--guidance-interval", "0", "1", "--refresh", "1")
    assert torch.equal(video(*same)[0], default)
    for knob in ("--temperature 2 0.1", "--top-k 1", "--top-p 0.1", "--guidance-interval 0.5 0.9", "--remask 0.5"):
        other, settings = video(*knob.split())
        assert not torch.equal(other, default)
        assert [settings[knob.split()[0][2:].replace("-", "_")]] in ([[2, 0.1]], [1], [0.1], [[0.5, 0.9]], [0.5])
    video("--refresh", "2", "--sampler", "random")


def test_compiling_needs_a_compiler(model, tmp_path, monkeypatch):
    monkeypatch.setattr("generator.pipeline.shutil.which", lambda name: None)
    with pytest.raises(ValueError, match="compiling for a CPU needs a C"):
        run(model, tmp_path / "a.gif", "--prompt", "a", "--compile", "--device", "cpu")
    assert not list(tmp_path.glob("a.*"))


def test_compiled_the_video_is_the_same(model, tmp_path, monkeypatch):
    """But for rounding. Inductor's minutes are spared: what is compiled is traced, and then run as it is."""
    compiled, compile_ = [], torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda module, mode: compiled.append((module, mode)) or compile_(module, backend="aot_eager"),
    )
    args = ("--prompt", "a", "--device", "cpu")
    (plain,) = run(model, tmp_path / "plain.gif", *args)
    (path,) = run(model, tmp_path / "compiled.gif", *args, "--compile")
    assert [(type(module).__name__, mode) for module, mode in compiled] == [("VideoTransformer", "default")]
    assert (read_clip(path)[0] - read_clip(plain)[0]).abs().mean() < 0.02


def test_known_parts_come_back_as_their_reconstruction(model, clip, tmp_path):
    generator = VideoGenerator.from_pretrained(model)
    still, _ = read_clip(clip / "still.png")
    (path,) = run(model, tmp_path / "moving.gif", "--task", "image2video", "--input", str(clip / "still.png"))
    assert read_clip(path)[0].shape == (3, 9, 16, 24)
    args = ["--model", model, "--out", "x", "--task", "image2video", "--input", str(clip / "still.png")]
    canvas, _ = sample.prepare(sample.parser().parse_args(args), generator, 8.0)
    assert torch.equal(canvas.tokens[:, :1], generator.encode(still[None])) and canvas.known.sum() == 6
    filled = generator.fill(canvas, [""], [0], steps=3)
    first = generator.decode(filled)[:, :, :1]
    torch.testing.assert_close(first, generator.decode(generator.encode(still[None])), rtol=1e-4, atol=1e-4)


def test_extend_inpaint_and_edit(model, clip, tmp_path):
    video = str(clip / "clip.mp4")
    (path,) = run(model, tmp_path / "long.mp4", "--task", "extend", "--input", video, "--frames", "17")
    assert read_clip(path)[0].shape == (3, 17, 16, 24)
    run(model, tmp_path / "in.mp4", "--task", "inpaint", "--input", video, "--mask", "0,0,8,8")
    run(model, tmp_path / "ed.mp4", "--task", "edit", "--input", video, "--prompt", "b", "--strength", "0.3")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--task", "dance"], "unknown task 'dance': expected text2video"),
        (["--sampler", "best"], "unknown sampler 'best': expected halton"),
        (["--frames", "10"], "10 frames do not fit 4x compression in time: use 9 or 13"),
        (["--height", "30"], "height 30 does not fit 8x compression: use 24 or 32"),
        (["--num", "0"], "--num is 0, expected at least 1"),
        (["--top-k", "0"], "--top-k is 0, expected at least 1"),
        (["--top-p", "1.5"], "--top-p is 1.5, expected a share"),
        (["--remask", "-1"], "--remask is -1.0, expected a share"),
        (["--temperature", "1", "-1"], r"--temperature is \[1.0, -1.0\], expected one or two numbers"),
        (["--temperature", "1", "1", "1"], "expected one or two numbers"),
        (["--guidance-interval", "0.9", "0.1"], "guidance from 0.9 to 0.1: expected shares of the steps"),
        (["--refresh", "0"], "--refresh is 0, expected at least 1"),
        (["--refresh", "2", "--sampler", "margin"], "refresh is 2, and Margin has to see all cells"),
        (["--refresh", "2", "--compile"], "--compile and --refresh do not go together"),
        (["--num", "2"], "2 samples do not fit one file"),
        (["--task", "image2video"], "image2video needs one --input, got 0"),
        (["--task", "image2video", "--input", "nowhere.png"], "nowhere.png"),
        (["--task", "inpaint", "--input", "x.mp4"], "inpaint needs a --mask"),
        (["--strength", "2"], "--strength is 2.0, expected a share"),
        (["--input", "x.mp4"], "text2video takes no --input"),
        (["--model", "nowhere"], "no model at 'nowhere'"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(model, tmp_path, args, words):
    with pytest.raises(ValueError, match=words) as caught:
        run(model, tmp_path / "a.mp4", "--prompt", "a", *args)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("a.*"))


def test_a_wrong_flag_is_one_line_and_exit_status_2(model, tmp_path, capsys):
    for args, words in ((["--framse", "9"], "unrecognized arguments: --framse"), (["--frames", "many"], "invalid int")):
        with pytest.raises(SystemExit) as caught:
            run(model, tmp_path / "a.mp4", "--prompt", "a", *args)
        said = capsys.readouterr().err
        assert caught.value.code == 2 and words in said and said.count("\n") == 1


def test_out_of_a_wrong_kind_and_an_empty_prompt(model, tmp_path):
    with pytest.raises(ValueError, match=r"--out ends in .avi, expected .mp4"):
        run(model, tmp_path / "a.avi", "--prompt", "a")
    with pytest.raises(ValueError, match="text2video needs a --prompt"):
        run(model, tmp_path / "a.mp4")

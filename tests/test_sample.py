"""The sampling program, as a user types it."""

import json
import shutil

import pytest
import torch
import yaml
from conftest import CLIP

import sample
from data.shapes import Shapes
from data.video import read_clip
from data.writing import write_clip
from generator import pipeline
from generator.backbone import VideoTransformer
from generator.diffusion import DiffusionGenerator
from generator.masked_latents import MaskedLatentsGenerator
from generator.pipeline import VideoGenerator
from generator.text import ByteText
from generator.uniform import UniformGenerator


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
    (alone,) = run(model, tmp_path / "one.mp4", "--prompt", "b", "--seed", "2", "--batch_size", "1")
    assert torch.equal(read_clip(alone)[0], read_clip(paths[4])[0])


def test_sizes_images_and_samplers(model, tmp_path):
    (path,) = run(model, tmp_path / "a.mp4", "--prompt", "a", "--frames", "5", "--height", "32", "--width", "16")
    assert read_clip(path)[0].shape == (3, 5, 32, 16)
    (path,) = run(model, tmp_path / "b.png", "--prompt", "a", "--task", "text2image")
    assert read_clip(path)[0].shape == (3, 1, 16, 24)
    for sampler in ("confidence", "random", "margin", "entropy", "threshold"):
        run(model, tmp_path / f"{sampler}.mp4", "--prompt", "a", "--sampler", sampler, "--guidance", "1")


def test_knobs_of_the_sampler(model, tmp_path):
    def video(*args):
        out = tmp_path / f"{len(list(tmp_path.glob('*.gif')))}.gif"
        (path,) = run(model, out, "--prompt", "a red circle", "--revisions", "0", *args)
        return read_clip(path)[0], json.loads(path.with_suffix(".json").read_text())["settings"]

    default, _ = video()
    same = ("--temperature", "0.7", "0.7", "--top_p", "1", "--guidance-interval", "0", "1", "--refresh", "1")
    assert torch.equal(video(*same)[0], default)
    for knob in ("--temperature 2 0.1", "--top_k 1", "--top_p 0.1", "--guidance_interval 0.5 0.9", "--remask 0.5"):
        other, settings = video(*knob.split())
        assert not torch.equal(other, default)
        assert [settings[knob.split()[0][2:].replace("-", "_")]] in ([[2, 0.1]], [1], [0.1], [[0.5, 0.9]], [0.5])
    video("--refresh", "2", "--sampler", "random")


def test_a_record_of_another_device_is_told_apart(model, tmp_path):
    run(model, tmp_path / "a.gif", "--prompt", "a")
    record = json.loads((tmp_path / "a.json").read_text())
    record["versions"]["device"] = "cuda"
    (tmp_path / "a.json").write_text(json.dumps(record))
    with pytest.warns(UserWarning, match="made on cuda, and cpu rounds otherwise"):
        run(model, tmp_path / "b.gif", "--from", str(tmp_path / "a.json"), "--device", "cpu")
    del record["versions"]["draws"]
    (tmp_path / "a.json").write_text(json.dumps(record))
    with pytest.warns(UserWarning, match="of a version that drew other numbers"):
        run(model, tmp_path / "c.gif", "--from", str(tmp_path / "a.json"), "--device", "cpu")
    record["settings"] = {"task": "play"}
    (tmp_path / "a.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="tells of a game"):
        run(model, tmp_path / "c.gif", "--from", str(tmp_path / "a.json"))


def test_edits_are_as_long_as_what_is_edited(model, clip, tmp_path):
    write_clip(tmp_path / "long.mp4", Shapes("test", 17, 16, 24)[0].clip, 8)
    args = ("--task", "edit", "--prompt", "a", "--input", str(tmp_path / "long.mp4"))
    assert read_clip(run(model, tmp_path / "a.gif", *args)[0])[0].shape == (3, 17, 16, 24)
    assert read_clip(run(model, tmp_path / "b.gif", *args, "--frames", "5")[0])[0].shape == (3, 5, 16, 24)
    with pytest.raises(ValueError, match="reaches beyond the 24x16 picture"):
        run(model, tmp_path / "c.gif", "--task", "inpaint", *args[4:], "--mask", "8,8,32,16")


def test_in_bfloat16_the_video_is_nearly_the_same_and_known_parts_are(model, clip, tmp_path, monkeypatch):
    args = ("--task", "image2video", "--input", str(clip / "still.png"), "--prompt", "a", "--device", "cpu")
    monkeypatch.setattr(pipeline, "has_bf16", lambda device: False)
    with pytest.raises(ValueError, match="no bfloat16 arithmetic"):
        run(model, tmp_path / "half.gif", *args, "--bf16")
    monkeypatch.setattr(pipeline, "has_bf16", lambda device: True)
    (plain,), (half,) = run(model, tmp_path / "plain.gif", *args), run(model, tmp_path / "half.gif", *args, "--bf16")
    one, other = (read_clip(path)[0] for path in (plain, half))
    assert torch.equal(one[:, 0], other[:, 0]) and (one - other).abs().mean() < 0.2
    assert json.loads((tmp_path / "half.json").read_text())["settings"]["bf16"] is True
    (again,) = sample.main(["--from", str(tmp_path / "half.json"), "--out", str(tmp_path / "again.gif")])
    assert again.read_bytes() == half.read_bytes()


def test_compiling_needs_a_compiler(model, tmp_path, monkeypatch):
    monkeypatch.setattr("vq.hardware.shutil.which", lambda name: None)
    with pytest.raises(ValueError, match="compiling for a CPU needs a C"):
        run(model, tmp_path / "a.gif", "--prompt", "a", "--compile", "--device", "cpu")
    assert not list(tmp_path.glob("a.*"))


def test_compiled_the_video_is_the_same(model, tmp_path, monkeypatch):
    """But for rounding. Inductor's minutes are spared: what is compiled is traced, and then run as it is."""
    compiled, compile_ = [], torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda call, mode: compiled.append((call.__name__, mode)) or compile_(call, backend="aot_eager"),
    )
    args = ("--prompt", "a", "--device", "cpu")
    (plain,) = run(model, tmp_path / "plain.gif", *args)
    (path,) = run(model, tmp_path / "compiled.gif", *args, "--compile")
    assert compiled == [("hidden", "default"), ("choose_tokens", "default")]
    assert (read_clip(path)[0] - read_clip(plain)[0]).abs().mean() < 0.02


def test_known_parts_come_back_as_their_reconstruction(model, clip, tmp_path):
    generator = VideoGenerator.from_pretrained(model)
    still, _ = read_clip(clip / "still.png")
    (path,) = run(model, tmp_path / "moving.gif", "--task", "image2video", "--input", str(clip / "still.png"))
    assert read_clip(path)[0].shape == (3, 9, 16, 24)
    args = ["--model", model, "--out", "x", "--task", "image2video", "--input", str(clip / "still.png")]
    job = sample.prepare(sample.read_options(args), generator, 8.0)
    filled = generator.make(job, [""], [0], steps=3)
    assert torch.equal(filled[:, :1], generator.encode(still[None]))
    first = generator.decode(filled)[:, :, :1]
    torch.testing.assert_close(first, generator.decode(generator.encode(still[None])), rtol=1e-4, atol=1e-4)


TASK_LINES = {
    "extend": ("--input clip.mp4 --frames 29", (29, 16, 24)),
    "extend-back": ("--input clip.mp4", (17, 16, 24)),
    "loop": ("--prompt a", (16, 16, 24)),
    "interpolate": ("--input still.png --input clip.mp4 --frames 21", (21, 16, 24)),
    "connect": ("--input clip.mp4 --input clip.mp4", (13, 16, 24)),
    "inpaint": ("--input clip.mp4 --mask 0,0,8,8", (9, 16, 24)),
    "outpaint": ("--input clip.mp4 --height 32 --width 40", (9, 32, 40)),
    "edit": ("--input clip.mp4 --prompt b --strength 0.3 --forget random", (9, 16, 24)),
    "story": ("--prompt a --prompt b", (17, 16, 24)),
}


@pytest.mark.parametrize("task", TASK_LINES)
def test_every_task_and_its_record_makes_the_same_file_again(model, clip, tmp_path, task, monkeypatch):
    monkeypatch.chdir(clip)
    line, shape = TASK_LINES[task]
    (path,) = run(model, tmp_path / "a.mp4", "--task", task, "--seed", "7", *line.split())
    assert read_clip(path)[0].shape == (3, *shape)
    (again,) = sample.main(["--from", str(path.with_suffix(".json")), "--out", str(tmp_path / "again.mp4")])
    assert again.read_bytes() == path.read_bytes()
    record, copy = (json.loads(p.with_suffix(".json").read_text()) for p in (path, again))
    assert record == copy


def test_upscale_keeps_the_rate_and_its_record_makes_the_same_file_again(tokenizer, upscaler, tmp_path):
    VideoGenerator(tokenizer, upscaler, CLIP).save_pretrained(tmp_path / "upscaler")
    write_clip(tmp_path / "small.mp4", torch.linspace(-1, 1, 16).expand(3, 9, 16, 16), 12)
    args = ("--task", "upscale", "--input", str(tmp_path / "small.mp4"))
    (path,) = run(str(tmp_path / "upscaler"), tmp_path / "large.mp4", *args)
    video, fps = read_clip(path)
    assert video.shape == (3, 9, 32, 32) and fps == 12
    (again,) = sample.main(["--from", str(tmp_path / "large.json"), "--out", str(tmp_path / "again.mp4")])
    assert again.read_bytes() == path.read_bytes()
    size = ("--height", "64", "--width", "64", "--frames", "5", "--fps", "8", "--prompt", "a red circle")
    (larger,) = run(str(tmp_path / "upscaler"), tmp_path / "larger.mp4", *args, *size)
    assert read_clip(larger)[0].shape == (3, 5, 64, 64)
    with pytest.raises(ValueError, match="enlarges clips and does nothing else"):
        run(str(tmp_path / "upscaler"), tmp_path / "a.mp4", "--prompt", "a")
    with pytest.raises(ValueError, match="no such file"):
        run(str(tmp_path / "upscaler"), tmp_path / "a.mp4", *args[:3], "nowhere.mp4")


def test_long_videos_are_made_in_windows_of_the_longest_training_clips(tokenizer, generator, clip, tmp_path):
    """And records say so; those of before did not, and their windows had the length of a clip."""
    model = VideoGenerator(tokenizer, generator, CLIP | {"window": 17})
    model.save_pretrained(tmp_path / "model")
    again = VideoGenerator.from_pretrained(tmp_path / "model")
    assert again.window == 17 and again.clip == CLIP and again.trained_at == model.trained_at
    asked = ["--task", "extend", "--input", str(clip / "clip.mp4"), "--frames", "17"]
    (path,) = run(str(tmp_path / "model"), tmp_path / "a.mp4", *asked)
    (short,) = run(str(tmp_path / "model"), tmp_path / "short.mp4", *asked, "--window", "9")
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["settings"]["window"] == 17 and path.read_bytes() != short.read_bytes()
    (same,) = sample.main(["--from", str(tmp_path / "a.json"), "--out", str(tmp_path / "b.mp4")])
    assert same.read_bytes() == path.read_bytes()
    assert json.loads((tmp_path / "short.json").read_text())["settings"]["window"] is None
    record["settings"]["window"] = None
    (tmp_path / "old.json").write_text(json.dumps(record))
    (old,) = sample.main(["--from", str(tmp_path / "old.json"), "--out", str(tmp_path / "c.mp4")])
    assert old.read_bytes() == short.read_bytes()
    run(str(tmp_path / "model"), tmp_path / "text.mp4", "--prompt", "")
    again = ["--from", str(tmp_path / "text.json"), "--out", str(tmp_path / "d.mp4"), *asked]
    (other,) = sample.main(again)
    assert other.read_bytes() == path.read_bytes()  # another task's record says nothing of windows


def test_other_flags_override_a_record(model, tmp_path):
    (path,) = run(model, tmp_path / "a.mp4", "--prompt", "a", "--seed", "7")
    beside = str(path.with_suffix(".json"))
    (other,) = sample.main(["--from", beside, "--prompt", "b", "--seed", "8", "--out", str(tmp_path / "b.mp4")])
    record = json.loads(other.with_suffix(".json").read_text())
    assert (record["prompt"], record["seed"], record["settings"]["steps"]) == ("b", 8, 3)


def test_inputs_that_changed_since_the_record_are_refused(model, clip, tmp_path):
    (path,) = run(model, tmp_path / "a.mp4", "--task", "image2video", "--input", str(clip / "still.png"))
    write_clip(clip / "still.png", torch.zeros(3, 1, 16, 24), 8)
    with pytest.raises(ValueError, match=r"still.png is not what it was"):
        sample.main(["--from", str(path.with_suffix(".json")), "--out", str(tmp_path / "b.mp4")])
    with pytest.raises(ValueError, match="is no record of a sample"):
        sample.main(["--from", str(clip / "still.png"), "--out", str(tmp_path / "b.mp4")])


def test_a_list_of_prompts_goes_on_where_it_was_and_overwrites_nothing(model, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\n\nb\n")
    args = (model, tmp_path / "many", "--prompt", f"@{tmp_path}/prompts.txt", "--prompt", "c", "--num", "2")
    paths = run(*args, "--batch-size", "2")
    assert len(paths) == 6 and json.loads(paths[2].with_suffix(".json").read_text())["prompt"] == "b"
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    paths[3].unlink()
    assert run(*args) == paths
    for path, (content, written) in before.items():
        assert path.read_bytes() == content and (path.stat().st_mtime_ns == written) == (path != paths[3])
    with pytest.raises(ValueError, match=r"tells of another video \(not the same steps\): give another --out"):
        run(*args, "--steps", "4")
    (tmp_path / "mine.mp4").write_text("mine")
    with pytest.raises(ValueError, match=r"exists, and no mine.json tells how it was made"):
        run(model, tmp_path / "mine.mp4", "--prompt", "a")
    assert (tmp_path / "mine.mp4").read_text() == "mine"


def test_prompts_that_a_writer_says_otherwise_each_time_go_on_where_they_were(model, tmp_path, monkeypatch):
    calls = iter(range(100))
    monkeypatch.setattr(sample, "expand", lambda prompts, *_: [f"{prompt} {next(calls)}" for prompt in prompts])
    args = (model, tmp_path / "many", "--prompt", "a", "--prompt", "b", "--expand", "http://somebody/v1")
    paths = run(*args)
    before = paths[0].read_bytes()
    paths[1].unlink()
    paths[1].with_suffix(".json").unlink()
    assert run(*args) == paths and paths[0].read_bytes() == before
    prompts = [json.loads(path.with_suffix(".json").read_text())["prompt"] for path in paths]
    assert prompts == ["a 0", "b 3"]


def test_what_fails_takes_no_other_videos_record_with_it(model, tmp_path, monkeypatch):
    (path,) = run(model, tmp_path / "a.mp4", "--prompt", "a")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("data.records.write_pieces", interrupted)
        run(model, tmp_path / "a.gif", "--prompt", "a")
    assert run(model, tmp_path / "a.mp4", "--prompt", "a") == [path]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("data.records.write_pieces", interrupted)
        run(model, tmp_path / "b.mp4", "--prompt", "a")
    assert not list(tmp_path.glob("b.*"))


def test_prompts_are_read_as_utf_8_a_line_each(model, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa red\u2028circle\r\nb\n".encode())
    assert sample.read_prompts([f"@{file}"]) == ["a red\u2028circle", "b"]
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"prompts.txt is not text in UTF-8: expected a prompt a line"):
        sample.read_prompts([f"@{file}"])


def test_damaged_models_are_named(model, tmp_path):
    weights = tmp_path / "model" / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"^[^\n]*generator.safetensors is damaged or no safetensors file"):
        run(model, tmp_path / "a.mp4", "--prompt", "a")
    (tmp_path / "model" / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"config.yaml is not a model's configuration of format"):
        run(model, tmp_path / "a.mp4", "--prompt", "a")


@pytest.mark.filterwarnings("ignore:this model was trained for")
def test_stills_are_connected_and_outpaint_keeps_the_side_that_is_not_named(model, clip, tmp_path):
    still, moving = str(clip / "still.png"), str(clip / "clip.mp4")
    for i, inputs in enumerate([(still, still), (moving, still), (still, moving), (moving, moving)]):
        (path,) = run(model, tmp_path / f"{i}.gif", "--task", "connect", *(f"--input={file}" for file in inputs))
        assert read_clip(path)[0].shape[1] == (9, 17, 13, 13)[i]
    (path,) = run(model, tmp_path / "wide.gif", "--task", "outpaint", "--input", moving, "--height", "32")
    assert read_clip(path)[0].shape == (3, 9, 32, 24)


def test_masks_are_boxes_pictures_videos_and_folders(model, clip, tmp_path):
    white = torch.full((3, 9, 16, 24), -1.0)
    white[:, :, :8, :8] = 1
    write_clip(tmp_path / "mask.gif", white, 8)
    for i in range(9):
        write_clip(tmp_path / f"masks/{i}.png", white[:, i : i + 1], 8)
    (tmp_path / "masks" / "more").mkdir()
    files = []
    for mask in ("0,0,8,8", "mask.gif", "masks", "masks/0.png"):
        mask = mask if "," in mask else str(tmp_path / mask)
        out = tmp_path / f"in{len(files)}.gif"
        files += run(model, out, "--task", "inpaint", "--input", str(clip / "clip.mp4"), "--mask", mask)
    assert len({file.read_bytes() for file in files}) == 1
    (tmp_path / "masks/0.png").unlink()
    with pytest.raises(ValueError, match="holds 8 pictures, expected one for each of 9 frames"):
        args = ("--task", "inpaint", "--input", str(clip / "clip.mp4"), "--mask", str(tmp_path / "masks"))
        run(model, tmp_path / "x.gif", *args)


def test_a_model_that_was_not_trained_for_a_task_says_so(model, clip, tmp_path, recwarn):
    still = ("--task", "image2video", "--input", str(clip / "still.png"))
    run(model, tmp_path / "b.mp4", *still)
    (said,) = [str(warning.message) for warning in recwarn if "trained" in str(warning.message)]
    assert "was trained for text, not for first, which image2video asks for" in said
    recwarn.clear()
    told = shutil.copytree(model, tmp_path / "told") / "config.yaml"
    config = yaml.safe_load(told.read_text())
    config["generator"]["init_args"]["trained_for"] = ["text", "first"]
    told.write_text(yaml.safe_dump(config))
    run(str(told.parent), tmp_path / "c.mp4", *still)
    assert not [warning for warning in recwarn if "trained" in str(warning.message)]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--task", "dance"], "unknown task 'dance': expected text2video"),
        (["--sampler", "best"], "unknown sampler 'best': expected halton"),
        (["--frames", "10"], "10 frames do not fit 4x compression in time: use 9 or 13"),
        (["--height", "30"], "height 30 does not fit 8x compression: use 24 or 32"),
        (["--height", "0"], "height 0 does not fit 8x compression: use 8"),
        (["--frames", "0"], "0 frames do not fit 4x compression in time: use 1 or 5"),
        (["--num", "0"], "--num is 0, expected at least 1"),
        (["--top_k", "0"], "top_k is 0, expected 1 or more"),
        (["--top_p", "1.5"], "top_p is 1.5, expected 0 to 1"),
        (["--remask", "-1"], "remask is -1.0, expected 0 to 1"),
        (["--temperature", "1", "-1"], r"temperature is \[1.0, -1.0\], expected one or two finite numbers"),
        (["--temperature", "nan"], "expected one or two finite numbers"),
        (["--temperature", "1", "1", "1"], "expected one or two finite numbers"),
        (["--guidance_interval", "0.9", "0.1"], "guidance from 0.9 to 0.1: expected shares of the steps"),
        (["--refresh", "0"], "refresh is 0, expected 1 or more"),
        (["--refresh", "2", "--sampler", "margin"], "refresh is 2, and Margin has to see all cells"),
        (["--refresh", "2", "--compile"], "--compile and --refresh do not go together"),
        (["--num", "2"], "2 samples do not fit one file"),
        (["--task", "image2video"], "image2video needs one --input, got 0"),
        (["--task", "image2video", "--input", "nowhere.png"], "nowhere.png"),
        (["--task", "inpaint", "--input", "x.mp4"], "inpaint needs a --mask"),
        (["--strength", "2"], "--strength is 2.0, expected a share"),
        (["--strength", "0.3"], "text2video forgets no tokens: leave out --strength and --forget, which are edit's"),
        (["--task", "text2image", "--frames", "9"], "text2image makes one frame, not 9: use text2video"),
        (["--prompt", "@nowhere.txt"], "nowhere.txt"),
        (["--input", "x.mp4"], "text2video takes no --input"),
        (["--model", "nowhere"], "no model at 'nowhere'"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(model, tmp_path, args, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
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
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"--out is a file, expected .mp4"):
        run(model, tmp_path / "file", "--prompt", "a")
    (tmp_path / "run-0.7").mkdir()
    assert run(model, tmp_path / "run-0.7", "--prompt", "a")[0].parent == tmp_path / "run-0.7"
    with pytest.raises(ValueError, match="text2video needs a --prompt"):
        run(model, tmp_path / "a.mp4")


@pytest.fixture
def twin(tokenizer, tmp_path):
    parts = (VideoTransformer(dim=32, depth=1, heads=2, text_dim=16), ByteText(dim=16, depth=1))
    VideoGenerator(tokenizer, DiffusionGenerator(*parts, channels=3), CLIP).save_pretrained(tmp_path / "twin")
    return str(tmp_path / "twin")


@pytest.mark.parametrize("task", TASK_LINES)
def test_the_continuous_twin_takes_every_task(twin, clip, tmp_path, task):
    words, shape = TASK_LINES[task]
    args = [str(clip / word) if word.endswith((".mp4", ".png")) else word for word in words.split()]
    args += [] if "--prompt" in args else ["--prompt", "a"]
    (path,) = run(twin, tmp_path / "a.gif", "--task", task, *args)
    assert read_clip(path)[0].shape == (3, *shape)
    assert json.loads((tmp_path / "a.json").read_text())["settings"]["sampler"] == "euler"


def test_the_twin_has_solvers_of_its_own_and_goes_on_from_stills(twin, clip, tmp_path):
    still = ["--task", "image2video", "--input", str(clip / "still.png")]
    for i, args in enumerate((["--sampler", "heun"], ["--sampler", "sde"], ["--task", "text2image"], still)):
        (path,) = run(twin, tmp_path / f"{i}.gif", "--prompt", "a", *args)
        assert read_clip(path)[0].shape[2:] == (16, 24)


@pytest.fixture
def bridges(tokenizer, tmp_path) -> list[str]:
    """Models of noisy tokens and of masked latents."""
    parts = (VideoTransformer(dim=32, depth=1, heads=2, text_dim=16), ByteText(dim=16, depth=1))
    models = {"noisy": UniformGenerator(*parts, 125), "masked": MaskedLatentsGenerator(*parts, channels=3)}
    for name, generator in models.items():
        VideoGenerator(tokenizer, generator, CLIP).save_pretrained(tmp_path / name)
    return [str(tmp_path / name) for name in models]


def test_the_bridges_take_tasks_and_what_they_understand(bridges, clip, tmp_path):
    video, still = str(clip / "clip.mp4"), str(clip / "still.png")
    noisy, masked = bridges
    for i, (source, args) in enumerate(
        (
            (noisy, ["--temperature", "1", "0.5", "--top_k", "9", "--top_p", "0.9"]),
            (noisy, ["--task", "image2video", "--input", still]),
            (noisy, ["--task", "loop", "--frames", "12", "--guidance", "1"]),
            (noisy, ["--task", "edit", "--input", video]),
            (masked, ["--sampler", "random", "--revisions", "1"]),
            (masked, ["--task", "extend-back", "--input", video, "--frames", "17", "--revisions", "0"]),
            (masked, ["--task", "inpaint", "--input", video, "--mask", "0,0,8,8", "--revisions", "0"]),
        )
    ):
        (path,) = run(source, tmp_path / f"{i}.gif", "--prompt", "a", *args)
        assert read_clip(path)[0].shape[2:] == (16, 24)


def test_flags_of_the_other_generator_are_refused(twin, model, bridges, clip, tmp_path):
    noisy, masked = bridges
    for source, args, words in (
        (noisy, ["--sampler", "halton"], "generates tokens out of noise: --sampler halton is none of euler"),
        (noisy, ["--remask", "0.1"], "generates tokens out of noise: --remask means nothing to it, leave it out"),
        (masked, ["--sampler", "margin"], "generates latents behind masks: --sampler margin is none of halton, random"),
        (masked, ["--top_k", "3"], "generates latents behind masks: --top_k means nothing to it, leave it out"),
        (masked, ["--task", "edit", "--input", str(clip / "clip.mp4"), "--forget", "unlikely"], "forget random ones"),
        (twin, ["--sampler", "halton"], "generates latents: --sampler halton is none of euler, heun, sde"),
        (twin, ["--task", "edit", "--input", str(clip / "clip.mp4"), "--forget", "unlikely"], "forget random ones"),
        (twin, ["--revisions", "3"], "generates latents: --revisions means nothing to it, leave it out"),
        (twin, ["--temperature", "1"], "generates latents: --temperature means nothing to it, leave it out"),
        (model, ["--sampler", "heun"], "generates tokens: --sampler heun is none of halton, confidence, random"),
    ):
        with pytest.raises(ValueError, match=words):
            run(source, tmp_path / "b.mp4", "--prompt", "a", *args)
    assert not list(tmp_path.glob("b.*"))


def test_expanded_prompts_are_in_the_record_beside_what_was_typed(model, tmp_path):
    (path,) = run(model, tmp_path / "a.gif", "--prompt", "red circle", "--expand", "template")
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["raw_prompt"] == "red circle" and record["prompt"] != "red circle" and "circle" in record["prompt"]
    again = sample.main(["--from", str(tmp_path / "a.json"), "--out", str(tmp_path / "b.gif")])
    assert again[0].read_bytes() == path.read_bytes()
    run(
        model, tmp_path / "c.gif", "--prompt", "circle", "--prompt", "square", "--task", "story", "--expand", "template"
    )
    record = json.loads((tmp_path / "c.json").read_text())
    assert record["raw_prompt"] == ["circle", "square"] and len(record["prompt"]) == 2


def test_odd_numbers_are_refused_before_anything_is_made(model, tmp_path):
    for args, words in (
        (["--fps", "0"], "--fps is 0, expected at least 0.01"),
        (["--window", "0"], "0 frames do not fit"),
        (["--window", "0", "--task", "loop"], "0 frames do not fit"),
        (["--fps", "60"], "of a .gif 50"),
        (["--guidance", "nan"], "expected a finite number"),
        (["--seed", "9" * 20], "62 bits"),
        (["--device", "abacus"], "cannot be used here"),
    ):
        with pytest.raises(ValueError, match=words):
            run(model, tmp_path / "a.gif", "--prompt", "a", *args)
    run(model, tmp_path / "a.gif", "--prompt", "circle", "--seed", "-1", "--expand", "template")


def test_what_is_cut_off_an_input_is_said(model, tmp_path):
    write_clip(tmp_path / "seven.mp4", torch.zeros(3, 7, 16, 24), 8)
    with pytest.warns(UserWarning, match="of 7 frames the first 5 are used"):
        run(model, tmp_path / "a.gif", "--task", "extend", "--input", str(tmp_path / "seven.mp4"))
    with pytest.warns(UserWarning, match="of 7 frames the last 5 are used"):
        run(model, tmp_path / "b.gif", "--task", "extend-back", "--input", str(tmp_path / "seven.mp4"))


def test_another_task_than_the_record_s_has_its_own_settings_where_none_were_asked_for(model, tmp_path):
    settings = {"steps": 28, "guidance": 2.0, "temperature": [0.7], "remask": 0.3, "revisions": 0}
    (path,) = run(model, tmp_path / "a.mp4", "--prompt", "a")
    record = json.loads(path.with_suffix(".json").read_text())
    for changed, steps in (({}, None), ({"steps": 5}, 5)):
        record["settings"] |= settings | changed
        path.with_suffix(".json").write_text(json.dumps(record))
        again = ["--from", str(path.with_suffix(".json")), "--out", "b.mp4"]
        same, loop = (sample.read_options([*again, *more]) for more in ([], ["--task", "loop"]))
        assert same.steps == (steps or 28) and same.temperature == [0.7]
        assert loop.steps == steps and loop.revisions is loop.temperature is None

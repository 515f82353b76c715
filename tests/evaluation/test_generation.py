"""Scores of samples whose worth is known, and the program from a tiny model to a table."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import CLIP

import sample
from data.folder import Folder
from data.shapes import Shapes, held_out
from data.video import to_uint8
from data.writing import write_clip
from evaluation import __main__ as program
from evaluation.clips import read, read_reference
from evaluation.extractor import Extractor
from evaluation.generation import evaluate, seed_range
from evaluation.samples import Drawn, records, stored
from generator.pipeline import VideoGenerator

SHAPES = Shapes("test", 9, 32, 32, objects=[1])
N, ROOT = 32, Path(__file__).parents[2]


def averages(video):
    """Three features of a clip, in the place of I3D: brightness, contrast and how much it moves."""
    moves = 100 * video.diff(dim=2).abs().flatten(1).mean(1)
    return torch.stack([video.flatten(1).mean(1), video.flatten(1).std(1), moves], dim=1)


class Samples:
    """Clips in the place of samples."""

    def __init__(self, clips, texts):
        self.clips, self.texts, self.seeds, self.sampling = clips, texts, list(range(len(texts))), {"steps": 1}

    def __call__(self, rows):
        return torch.cat(
            [
                self.clips.video(slice(i % len(self.clips), i % len(self.clips) + 1))
                for i in range(len(self.texts))[rows]
            ]
        )


@pytest.fixture(scope="module")
def reference():
    return read_reference(SHAPES, N)


def scores(reference, clips, texts=None, **further) -> dict:
    real, more = reference
    extractor = Extractor("i3d", averages, "averages")
    return evaluate(SHAPES, real, more, Samples(clips, texts or real.texts), extractors=[extractor], **further)


def test_samples_that_are_the_real_clips_are_perfect(reference):
    real, _ = reference
    found = scores(reference, real, reconstruct=lambda video: video * 0.5, train=real)["scores"]
    assert found["fvd i3d"]["samples"]["mean"] == pytest.approx(0, abs=1e-6)
    assert found["kvd i3d"]["samples"]["mean"] == 0 and found["motion, off the real"]["samples"]["mean"] == 0
    assert found["directions, off the real"]["samples"]["mean"] == 0
    assert found["all right"]["samples"] == found["all right"]["real"]
    assert found["all right"]["samples"]["low"] > 0.85 and found["all right"]["other captions"]["mean"] < 0.2
    assert (
        found["nearest of the training"]["samples"]["mean"]
        == 0
        < found["nearest of the training"]["further real"]["mean"]
    )
    named = found["the nearest has the caption"]
    assert named["samples"]["mean"] == 1 and named["other captions"]["mean"] < 0.2
    assert found["motion"]["reconstructed"]["mean"] == pytest.approx(found["motion"]["real"]["mean"] / 2, rel=0.02)
    assert found["diversity, different prompts"]["samples"] == found["diversity, different prompts"]["real"]


def test_distances_see_what_is_wrong_and_floors_are_below_ceilings(reference):
    found = scores(reference, reference[1])["scores"]
    for name in ("fvd i3d", "fvd i3d at infinity", "kvd i3d", "motion, off the real"):
        row = {kind: cell["mean"] for kind, cell in found[name].items()}
        assert row["samples"] == row["further real"], name
        assert row["noise"] > row["frames shuffled"] > row["further real"], name
        assert row["first frame"] > row["further real"], name
    assert found["all right"]["samples"]["mean"] < 0.3  # other captions' clips


def test_samples_of_one_prompt_are_as_diverse_as_they_are(reference):
    real, _ = reference
    found = scores(reference, real, texts=real.texts + real.texts[:5])[
        "scores"
    ]  # the further ones equal the first ones
    assert (
        found["diversity, the same prompt"]["samples"]["mean"]
        == 0
        < found["diversity, different prompts"]["samples"]["mean"]
    )


def test_too_few_clips_for_a_frechet_distance():
    real, further = read_reference(SHAPES, 3)
    network = Extractor("i3d", averages, "averages")
    result = evaluate(SHAPES, real, further, Samples(real, real.texts), extractors=[network])
    assert [line.split(":")[0] for line in result["refused"]] == ["fvd i3d", "fvd i3d at infinity"]
    assert "fvd i3d" not in result["scores"] and "kvd i3d" in result["scores"]


def test_batches_and_caches_do_not_change_a_score(reference, tmp_path):
    real, more = reference
    looked = []

    def network(video):
        looked.append(len(video))
        return averages(video)

    def run(batch_size, folder):
        extractor = Extractor("i3d", network, "averages", folder=folder)
        return evaluate(SHAPES, real, more, Samples(more, real.texts), extractors=[extractor], batch_size=batch_size)

    first = run(8, tmp_path)
    once = sum(looked)
    assert once <= 5 * N  # of 6 sets, as the samples are the further clips, which are looked at once
    assert run(8, tmp_path) == first and sum(looked) == once
    alone = run(7, None)
    assert alone["protocol"] == first["protocol"] and alone["scores"].keys() == first["scores"].keys()
    for name, score in first["scores"].items():
        for kind, cell in score.items():
            assert alone["scores"][name][kind]["mean"] == pytest.approx(cell["mean"], rel=1e-4, abs=1e-6), (name, kind)


@pytest.fixture
def folder(tmp_path):
    """Videos of two labels, the second of which is brighter."""
    lines = []
    for i in range(6):
        label = "light" if i % 2 else "dark"
        write_clip(tmp_path / f"videos/{i}.mp4", torch.rand(3, 60, 32, 32) / 2 + (0.5 if i % 2 else -1), 8)
        lines.append(json.dumps({"file_name": f"{i}.mp4", "text": f"something {label}", "label": label}))
    (tmp_path / "videos/metadata.jsonl").write_text("\n".join(lines))
    return tmp_path / "videos"


def test_labels_are_read_by_the_classifier(folder):
    dataset = Folder(str(folder), 9, 32, 32, 8.0)
    real, further = read_reference(dataset, 6)

    def bright(video):
        logits = torch.zeros(len(video), 400)
        logits[:, 3] = 100 * video.flatten(1).mean(1)
        return logits

    classes = {"light": [3], "dark": [4, 5]}
    network = Extractor("i3d", bright, "bright")
    made = Samples(real, real.texts)
    found = evaluate(dataset, real, further, made, extractors=[network], classes=classes)["scores"]["class right"]
    assert found["real"]["mean"] == found["samples"]["mean"] == 1 and found["samples"]["n"] == 6
    with pytest.raises(ValueError, match="give its weights"):
        evaluate(dataset, real, further, made, classes=classes)


def test_no_clip_counts_twice(folder):
    first = Folder(str(folder), 9, 32, 32, 8.0, random=False)
    assert read_reference(first, 3)[1] is not None
    assert read_reference(first, 6)[1] is None
    with pytest.raises(ValueError, match="has 6 different clips: expected --clips 6 or less"):
        read_reference(first, 7)
    assert read_reference(Folder(str(folder), 9, 32, 32, 8.0), 7)[1] is not None  # other moments
    (folder / "1.mp4").write_bytes(b"broken")
    with pytest.warns(UserWarning, match=r"passed over .*1\.mp4"):  # and the clip after it does not count twice
        real, further = read_reference(Folder(str(folder), 9, 32, 32, 8.0), 5)
    assert len({*real.hashes(), *further.hashes()}) == 10
    whole = Folder(str(folder), 9, 32, 32, 8.0)
    stand_in = to_uint8(whole[1].clip)  # of 2.mp4, where 1.mp4 was asked for
    assert not any((pixels == stand_in).all() for pixels in real.pixels)
    for name in "2345":
        (folder / f"{name}.mp4").write_bytes(b"broken")
    with pytest.warns(UserWarning, match="passed over"):  # a single whole one has many moments
        assert len(read(Folder(str(folder), 9, 32, 32, 8.0), 0, 4, "reading")) == 4


@pytest.fixture
def place(tokenizer, generator, tmp_path):
    VideoGenerator(tokenizer, generator, CLIP).save_pretrained(tmp_path / "model")
    shapes = "{class_path: data.shapes.Shapes, init_args: {split: SPLIT, frames: 9, height: 16, width: 24}}"
    sets = [f"{name}: {shapes.replace('SPLIT', split)}\n" for name, split in (("train", "train"), ("val", "test"))]
    (tmp_path / "data.yaml").write_text("".join(sets))
    return tmp_path


def run(place, out: str, *flags) -> dict:
    known = ["--videos", str(place / "data.yaml"), "--out", str(place / out), "--clips", "4"]
    return program.main(["generation", *known, *flags])


FAST = ("--sampling.steps", "2", "--sampling.revisions", "0")


def test_the_program_scores_a_model_and_compares(place, capsys):
    model = ("--model", str(place / "model"))
    result = run(place, "a.json", *model, *FAST, "--train", str(place / "data.yaml"), "--train_clips", "8")
    printed = capsys.readouterr().out
    assert "all right" in printed and "further real" in printed and "nearest of the training" in printed
    saved = json.loads((place / "a.json").read_text())
    assert saved["scores"] == result["scores"] and saved["weights"].keys() == {"tokenizer", "generator"}
    assert saved["protocol"]["sampling"]["steps"] == 2 and saved["protocol"]["seeds"] == "0 to 7"
    assert (
        run(place, "b.json", *model, *FAST, "--batch_size", "3")["scores"]["all right"] == result["scores"]["all right"]
    )
    names = [str(place / name) for name in ("a.json", "b.json")]
    with pytest.raises(ValueError, match=r"different protocols: train .* against None"):
        program.main(["compare", *names])
    rows = program.main(["compare", *names, "--across", "train"])
    assert rows["motion, samples"]["a"] == rows["motion, samples"]["b"]
    assert "difference" in capsys.readouterr().out
    run(place, "c.json", *model, *FAST, "--sampling.order", "Random", "--seed", "7")
    with pytest.raises(ValueError, match=r"seeds 0 to 7 against 7 to 14; sampling\.order None against .*Random"):
        program.main(["compare", names[1], str(place / "c.json")])
    with pytest.raises(ValueError, match="is no result"):
        program.main(["compare", names[0], str(place / "data.yaml")])


def test_seeds_belong_to_captions(place):
    model = VideoGenerator.from_pretrained(place / "model")
    size = {axis: CLIP[axis] for axis in ("frames", "height", "width")}
    drawn = Drawn(model, size, ["a", "b", "c"], [3, 4, 5], {"steps": 2, "revisions": 0}, {})
    assert torch.equal(drawn(slice(1, 3)), torch.cat([drawn(slice(1, 2)), drawn(slice(2, 3))]))
    assert torch.equal(drawn(slice(1, 2)), model("b", seed=4, steps=2, revisions=0))


def test_a_folder_of_samples(place):
    captions = [Shapes("test", 9, 16, 24)[i].text for i in range(4)]
    prompts = [flag for caption in captions for flag in ("--prompt", caption)]
    out = place / "samples"
    flags = ["--model", str(place / "model"), "--out", str(out), "--steps", "2", "--revisions", "0", *prompts]
    sample.main([*flags, "--num", "2"])
    result = run(place, "stored.json", "--samples", str(out))
    assert result["protocol"]["sampling"]["steps"] == 2 and result["protocol"]["sampling"]["guidance"] == 2.0
    assert (
        "reconstructed" not in result["scores"]["motion"] and result["scores"]["diversity, the same prompt"]["samples"]
    )
    found, size = records(out), {"frames": 9, "height": 16, "width": 24}
    assert [found[file]["prompt"] for file in stored(found, captions, size, 8.0).files[:4]] == captions
    with pytest.raises(ValueError, match="no further sample of"):
        stored(found, captions[:1] * 3, size, 8.0)
    with pytest.raises(ValueError, match="no sample of 'else'"):
        stored(found, ["else"], size, 8.0)
    with pytest.raises(ValueError, match="has 8 frames a second, the real clips 12"):
        stored(found, captions, size, 12.0)
    with pytest.raises(ValueError, match="is 9x16x24, the real clips are 9x32x32"):
        stored(found, captions, {"frames": 9, "height": 32, "width": 32}, 8.0)(slice(0, 1))
    next(iter(found.values()))["settings"]["steps"] = 9
    with pytest.raises(ValueError, match=r"steps is 2 in .* and 9 in"):
        stored(found, captions, size, 8.0)
    next(out.glob("*.json")).unlink()
    with pytest.raises(ValueError, match="has no record beside it"):
        records(out)


def test_what_is_wrong_is_said_before_anything_is_read(place):
    with pytest.raises(ValueError, match="nothing to score"):
        run(place, "a.json")
    with pytest.raises(ValueError, match=r"ends in \.json"):
        run(place, "a.txt", "--model", str(place / "model"))
    with pytest.raises(ValueError, match="no I3D weights"):
        run(place, "a.json", "--model", str(place / "model"), "--i3d", str(place / "none"))


def test_seeds_seed_range():
    assert seed_range([4, 5, 6]) == "4 to 6" and seed_range([4, 4]) == "4 4" and seed_range([1, None]) == "not known"
    assert len(seed_range(list(range(0, 999, 2)))) == 16


@pytest.mark.parametrize(("name", "split", "things"), [("one-object", 0, 1), ("held-out", 1, 1), ("two-objects", 0, 2)])
def test_the_recipes_that_shapes_are_scored_by(name, split, things):
    clips = program.open_videos(ROOT / f"configs/evaluation/{name}.yaml", {})
    for i in range(3):
        shown = clips[i].attributes["things"]
        assert (
            len(shown) == things
            and held_out(SimpleNamespace(**shown[0])) == bool(split)
            and clips[i].clip.shape == (3, 17, 64, 64)
        )

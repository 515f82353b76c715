"""Videos for some prompts, and how many of some fresh ones come out right.

``make demo`` shows the models that come with the repository, of shapes that move (``models/showcase``) and of animated
emoji (``models/emoji``). ``make train-demo`` first trains a small tokenizer and generator of shapes from nothing, which
takes a quarter of an hour; interrupted and run again, it goes on where it was.
"""

import argparse
import time
import warnings
from pathlib import Path

from tqdm import tqdm

import train
from data.commands import run
from data.shapes import Shapes
from data.writing import write_clip
from evaluation.detector import score
from evaluation.sheet import contact_sheet
from generator.pipeline import VideoGenerator
from vq import encode

MODELS = Path(__file__).parent / "models"
SHOWN, TRAINED = Path("out/demo"), Path("out/train-demo")
STAGES = {
    "tokenizer": "train.py fit -c configs/vq/demo.yaml",
    "tokens": f"-m vq.encode --tokenizer {TRAINED}/tokenizer/model --data configs/data/demo.yaml --clips 24576 "
    f"--out {TRAINED}/tokens",
    "generator": "train.py fit -c configs/generator/demo.yaml",
}
PROMPTS = [
    "a red circle moves right",
    "a green triangle spins on a black background",
    "a small blue square moving slowly to the lower left",
    "a large yellow ring grows on a navy background",
    "an orange cross bounces",
    "a purple circle moves quickly upwards on a white background",
    "a cyan square circles around",
    "a pink triangle stays still",
]
MORE = [  # of what the small model is not trained for
    "a yellow circle moves to the upper right on a navy background",  # training shows no yellow circle
    "a cyan cross spins in place on a white background",  # nor a cyan cross
    "a red square moves left and a blue ring stays still on a white background",
    "a small green circle moves right and passes behind a still pink square",
]
EMOJI = [
    "grinning face",
    "rocket",
    "dog face",
    "man golfing with dark skin tone",
    "woman running with light skin tone",
    "waving hand with medium skin tone",
]


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", action="store_true", help="train a small model from nothing, and show that")
    given = parser.parse_args(args)
    began = time.time()
    warnings.filterwarnings("ignore", module="lightning")
    out = TRAINED if given.train else SHOWN
    if given.train:
        train_stages()
        show(TRAINED / "generator" / "model", PROMPTS, out, fresh=256)
    else:
        draw(VideoGenerator.from_pretrained(MODELS / "emoji"), EMOJI, out, "emoji.png")
        show(MODELS / "showcase", PROMPTS + MORE, out, fresh=64)
    print(f"after {(time.time() - began) / 60:.1f} minutes; look at the pictures and clips in {out}")
    print(f'then: python sample.py --model {out / "model"} --prompt "a red circle moves right" --out clip.mp4')


def train_stages() -> None:
    """Trains what is not trained yet."""
    for number, (stage, command) in enumerate(STAGES.items(), start=1):
        print(f"\n[{number}/{len(STAGES)}] {stage}: python {command}", flush=True)
        if stage == "tokens":
            encode.main(command.split()[2:])
        elif (TRAINED / stage / "model" / "config.yaml").is_file():
            print("already trained")
        else:
            train.main([*command.split()[1:], "--ckpt_path", "last"])


def show(source: Path, prompts: list[str], out: Path, fresh: int) -> None:
    """Writes the model, a clip a prompt and a picture of all, and says how many of ``fresh`` prompts come out right."""
    model = VideoGenerator.from_pretrained(source)
    model.save_pretrained(out / "model")
    draw(model, prompts, out, "samples.png")
    size = {axis: model.clip[axis] for axis in ("frames", "height", "width", "fps")}
    examples = [Shapes("test", objects=[1], seed=1, **size)[i] for i in range(fresh)]
    with tqdm(total=fresh, unit="clip", desc="measuring") as bar:
        videos = model([example.text for example in examples], progress=bar.update)
    right = score(videos, [example.attributes for example in examples])
    contact_sheet(out / "fresh.png", videos[:16], [example.text for example in examples[:16]])
    print(
        f"\nof {fresh} fresh prompts, shape came out right in {right['shape']:.0%}, colour in {right['colour']:.0%}, "
        f"motion in {right['motion']:.0%}, all three in {right['all']:.0%}"
    )


def draw(model: VideoGenerator, prompts: list[str], out: Path, picture: str) -> None:
    """A clip a prompt, and all in one picture."""
    with tqdm(total=len(prompts), unit="clip", desc="sampling") as bar:
        videos = model(prompts, progress=bar.update, batch_size=4)
    out.mkdir(parents=True, exist_ok=True)
    for prompt, video in zip(prompts, videos, strict=True):
        write_clip(out / f"{prompt.replace(' ', '-')}.mp4", video, model.clip["fps"])
    contact_sheet(out / picture, videos, prompts)


if __name__ == "__main__":
    run(main)

"""The main job on the embedded default, from nothing: trains a tokenizer and a generator, samples, and measures.

``make demo`` runs it. Interrupted and run again, it goes on where it was.
"""

import sys
import time
import warnings
from pathlib import Path

from tqdm import tqdm

import train
from data.shapes import Shapes
from data.writing import write_clip
from evaluation.detector import score
from evaluation.sheet import contact_sheet
from generator.pipeline import VideoGenerator
from vq import encode

OUT = Path("out/demo")
STAGES = {
    "tokenizer": "train.py fit -c configs/vq/demo.yaml",
    "tokens": "-m vq.encode --tokenizer out/demo/tokenizer/model --data configs/data/demo.yaml --clips 24576 "
    "--out out/demo/tokens",
    "generator": "train.py fit -c configs/generator/demo.yaml",
}
PROMPTS = [
    "a red circle moves right",
    "a green triangle spins on a black background",
    "a small blue square moving slowly to the lower left",
    "a large yellow ring grows on a navy background",
    "an orange cross bounces",
    "a purple circle moves quickly upwards on a white background",
    "a cyan square circles round",
    "a pink triangle stays still",
]
FRESH = 256  # prompts that the score is measured on: a standard error of 3%


def main() -> None:
    began = time.time()
    warnings.filterwarnings("ignore", module="lightning")
    for number, (stage, command) in enumerate(STAGES.items(), start=1):
        print(f"\n[{number}/4] {stage}: python {command}", flush=True)
        if stage == "tokens":
            encode.main(command.split()[2:])
        elif (OUT / stage / "model" / "config.yaml").is_file():
            print("already trained")
        else:
            train.main([*command.split()[1:], "--ckpt_path", "last"])
    print("\n[4/4] samples", flush=True)
    model = VideoGenerator.from_pretrained(OUT / "generator" / "model")
    folder = model.save_pretrained(OUT / "model")
    videos = model(PROMPTS)
    for prompt, video in zip(PROMPTS, videos, strict=True):
        write_clip(OUT / f"{prompt.replace(' ', '-')}.mp4", video, model.clip["fps"])
    contact_sheet(OUT / "samples.png", videos, PROMPTS)
    size = {axis: model.clip[axis] for axis in ("frames", "height", "width", "fps")}
    fresh = [Shapes("test", objects=[1], seed=1, **size)[i] for i in range(FRESH)]
    with tqdm(total=FRESH, unit="clip", desc="measuring") as bar:
        videos = model([example.text for example in fresh], progress=bar.update)
    right = score(videos, [example.attributes for example in fresh])
    contact_sheet(OUT / "fresh.png", videos[:16], [example.text for example in fresh[:16]])
    print(
        f"\nof {FRESH} fresh prompts, shape came out right in {right['shape']:.0%}, colour in {right['colour']:.0%}, "
        f"motion in {right['motion']:.0%}, all three in {right['all']:.0%}"
    )
    print(f"after {(time.time() - began) / 60:.1f} minutes; look at {OUT / 'samples.png'} and the mp4 files beside it")
    print(f'then: python sample.py --model {folder} --prompt "a red circle moves right" --out clip.mp4')


if __name__ == "__main__":
    sys.exit(main())

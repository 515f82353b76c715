"""Does a generator make use of a known end that was encoded by itself, as a user's clip is (``data/tails.py``)?

    python benchmarks/tails.py --model models/showcase [--clips 48]

All of a clip is hidden but its last latent frames, whose tokens are once those of the whole clip and once those of the
end alone. Printed are the losses of the hidden tokens, in nats a token, and their difference with its standard error:
what it costs that the end does not know its past. Of a still (1 frame) less is known in any case.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from data.shapes import Shapes
from generator.masked import masked_loss
from generator.pipeline import VideoGenerator


@torch.no_grad()
def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--clips", type=int, default=48)
    options = parser.parse_args(args)
    model = VideoGenerator.from_pretrained(options.model)
    shapes = Shapes("test", objects=[1], seed=3, **model.clip)
    examples = [shapes[i] for i in range(options.clips)]
    video, texts = torch.stack([example.clip for example in examples]), [example.text for example in examples]
    whole, ft = model.tokenizer.encode(video), model.tokenizer.time_compression

    def losses(tokens: Tensor, hidden: Tensor) -> Tensor:
        shown, rows = tokens.masked_fill(hidden, model.mask_id), [slice(i, i + 1) for i in range(len(tokens))]
        told = [(tokens[r], hidden[r], model.generator.read(texts[r])) for r in rows]
        return torch.stack(
            [masked_loss(model.generator, *t, shown=shown[r])[0] for t, r in zip(told, rows, strict=True)]
        )

    print("| frames known | the same tokens | with their past | alone | difference |\n|---|---|---|---|---|")
    for frames in (1, *range(1 + ft, video.shape[2] - ft + 1, ft)):
        length = model.tokenizer.tail_length(frames)
        alone = model.tokenizer.quantize(video, torch.full((len(video),), frames)).tokens
        hidden = torch.ones_like(whole, dtype=torch.bool)
        hidden[:, -length:] = False
        past, own = losses(whole, hidden), losses(alone, hidden)
        error = (own - past).std().item() / len(own) ** 0.5
        same = (alone[:, -length:] == whole[:, -length:]).float().mean().item()
        told = f"{past.mean():.2f} | {own.mean():.2f} | {(own - past).mean():+.2f} ± {error:.2f}"
        print(f"| {frames} | {same:.0%} | {told} |", flush=True)


if __name__ == "__main__":
    main()

"""How good a generator's samples are, with floors and ceilings in the same table.

samples             one a caption
reconstructed       the real clips through the tokenizer: no generator that speaks its tokens does better
real                the clips that all others are compared with
further real        as many more real clips: the floor of every distance
frames shuffled, first frame, noise
                    of the real clips: what a distance can see at all
other captions      the real clips with each other's captions: chance
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from evaluation.clips import Clips, eight_bits, sets
from evaluation.detector import detect
from evaluation.diversity import diversity, nearest, thumbnails
from evaluation.extractor import Extractor
from evaluation.fidelity import attributes_right, classes_right
from evaluation.frechet import frechet_at_infinity, frechet_distance
from evaluation.intervals import mean_and_error, wilson
from evaluation.kernel import kernel_distance
from evaluation.motion import apart, directions, flicker, magnitude, velocity
from evaluation.protocol import Protocol, code_version, fingerprint
from evaluation.samples import Drawn, Stored

SPOKEN = ("samples", "reconstructed", "real")  # sets of which is asked whether they show their captions
OTHERS = "other captions"


@dataclass(frozen=True)
class Generated(Protocol):
    """What scores of samples depend on beside the model: as many samples as real clips, one a caption.

    Attributes:
        captions: hash of them.
        seeds: one a sample, and then those of the further samples that only diversity asks for.
        sampling: settings of the sampler.
        train: hash of the training clips among which the nearest is looked for.
    """

    captions: str = ""
    seeds: str = ""
    sampling: dict = field(default_factory=dict)
    train: str | None = None


class Seen:
    """What was measured of one set of clips, batch by batch."""

    def __init__(self) -> None:
        self.tensors: dict[str, list[Tensor]] = {}
        self.detected: list[dict] = []

    def add(self, name: str, values: Tensor) -> None:
        self.tensors.setdefault(name, []).append(values)

    def __getitem__(self, name: str) -> Tensor:
        return torch.cat(self.tensors[name])

    def __contains__(self, name: str) -> bool:
        return name in self.tensors


@torch.no_grad()
def evaluate(
    dataset: Dataset,
    real: Clips,
    further: Clips | None,
    samples: Drawn | Stored,
    reconstruct: Callable[[Tensor], Tensor] | None = None,
    extractors: Sequence[Extractor] = (),
    text_score: Extractor | None = None,
    classes: dict[str, list[int]] | None = None,
    train: Clips | None = None,
    batch_size: int = 8,
    device: str = "cpu",
) -> dict:
    """Scores of samples: {"protocol", "scores": {score: {set: {"mean", "error" or "low" and "high"}}}, "refused"}.

    Args:
        dataset: where the real clips come from; its size and frame rate are part of the protocol.
        real, further: of ``clips.read_reference``.
        samples: one a caption of ``real``, and perhaps further ones of the same captions, for diversity.
        reconstruct: videos through the tokenizer; None leaves them out.
        extractors: networks whose features are compared.
        text_score: a network that gives videos and texts a number each.
        classes: I3D's classes for each ``label`` among the attributes; asks for an extractor named "i3d".
        train: clips of the training, to look for the nearest in.
    """
    if classes is not None and "i3d" not in [extractor.name for extractor in extractors]:
        raise ValueError("--classes are those of I3D: give its weights, too, with --i3d")
    n, more = len(real), len(samples.texts) - len(real)
    count = 5 + (reconstruct is not None) + (further is not None)
    seen: dict[str, Seen] = {}
    with tqdm(total=count * n + more, unit="clip", desc="sampling and measuring") as bar:
        for start in range(0, n, batch_size):
            rows = slice(start, min(start + batch_size, n))
            for name, video in sets(real, further, samples, reconstruct, rows):
                part = seen.setdefault(name, Seen())
                measure(part, video, torch.tensor(real.fps[rows]))
                look(part, video.to(device), extractors)
                if name in SPOKEN:
                    listen(part, name, video.to(device), real, rows, text_score)
                bar.update(len(video))
        again = []
        for start in range(n, n + more, batch_size):
            again.append(thumbnails(eight_bits(samples(slice(start, min(start + batch_size, n + more))))))
            bar.update(len(again[-1]))

    scores: dict[str, dict[str, dict]] = {}
    refused: list[str] = []
    for extractor in extractors:
        found, notes = distances({name: part[extractor.name] for name, part in seen.items()}, extractor)
        scores |= found
        refused += notes
    scores |= fidelity(seen, real, classes) | movement(seen)
    drawn = {"samples": (torch.cat([seen["samples"]["thumbnails"], *again]), samples.texts)}
    for name, (small, texts) in (drawn | {"real": (seen["real"]["thumbnails"], real.texts)}).items():
        for kind, cell in diversity(small, texts).items():
            scores.setdefault(f"diversity, {kind}", {})[name] = cell
    if train is not None:
        scores |= remembered(seen, real, train)
    protocol = Generated(
        n,
        min(n, len(dataset)),
        **{axis: getattr(dataset, axis) for axis in ("frames", "height", "width", "fps")},
        reference=fingerprint(real.hashes()),
        code=code_version(),
        features={e.name: e.identity for e in extractors} | ({"text": text_score.identity} if text_score else {}),
        captions=fingerprint(text.encode() + b"\0" for text in real.texts),
        seeds=seed_range(samples.seeds),
        sampling=samples.sampling,
        train=None if train is None else fingerprint(train.hashes()),
    )
    return {"protocol": asdict(protocol), "scores": scores, "refused": refused}


def measure(seen: Seen, video: Tensor, fps: Tensor) -> None:
    """What pixels say of every set."""
    seen.add("thumbnails", thumbnails(video))
    if video.shape[2] > 1:
        seen.add("magnitude", magnitude(video))
        seen.add("velocity", velocity(video, fps))
    if video.shape[2] > 2:
        seen.add("flicker", flicker(video))


def look(seen: Seen, video: Tensor, extractors: Sequence[Extractor]) -> None:
    for extractor in extractors:
        seen.add(extractor.name, extractor(video))


def listen(seen: Seen, name: str, video: Tensor, real: Clips, rows: slice, text_score: Extractor | None) -> None:
    """What compares a clip with its caption."""
    if text_score is not None:
        seen.add("text", text_score(video, real.texts[rows]))
        if name == "real":
            seen.add(OTHERS, text_score(video, others(real.texts)[rows]))
    if is_shapes(real):
        seen.detected += [detect(clip, fps) for clip, fps in zip(video, real.fps[rows], strict=True)]


def distances(features: dict[str, Tensor], extractor: Extractor) -> tuple[dict[str, dict], list[str]]:
    """Each set against the real clips; and which distances are refused, and why."""
    frechet, kernel = (f"{distance} {extractor.name}" for distance in extractor.distance)
    ways = {
        frechet: lambda a, b: {"mean": frechet_distance(a, b)},
        f"{frechet} at infinity": lambda a, b: dict(zip(("mean", "error"), frechet_at_infinity(a, b), strict=True)),
        kernel: lambda a, b: dict(zip(("mean", "error"), kernel_distance(a, b), strict=True)),
    }
    scores, refused = {}, []
    for name, distance in ways.items():
        try:
            scores[name] = {o: distance(features["real"], x) for o, x in features.items() if o != "real"}
        except ValueError as error:  # too few samples
            refused.append(f"{name}: {error}")
    return scores, refused


def fidelity(seen: dict[str, Seen], real: Clips, classes: dict[str, list[int]] | None) -> dict[str, dict]:
    """What the captions ask for: likeness to the text, attributes of shapes, labels that I3D can tell."""
    scores: dict[str, dict[str, dict]] = {}
    asked = {name: seen[name] for name in SPOKEN if name in seen}
    if "text" in seen["real"]:
        told = {name: mean_and_error(part["text"]) for name, part in asked.items()}
        scores["text to video"] = told | {OTHERS: mean_and_error(seen["real"][OTHERS])}
    if is_shapes(real):
        own, foreign = (real.texts, real.attributes), (others(real.texts), others(real.attributes))
        pairs = [(name, part, own) for name, part in asked.items()] + [(OTHERS, seen["real"], foreign)]
        for name, part, wanted in pairs:
            for attribute, cell in attributes_right(part.detected, *wanted).items():
                scores.setdefault(f"{attribute} right", {})[name] = cell
    if classes is not None:
        labels = [(told or {}).get("label") for told in real.attributes]
        if None in labels:
            raise ValueError('--classes needs a "label" of every real clip, in the metadata.jsonl of --videos')
        right = {name: classes_right(part["i3d"], labels, classes) for name, part in asked.items()}
        scores["class right"] = right | {OTHERS: classes_right(seen["real"]["i3d"], others(labels), classes)}
    return scores


def movement(seen: dict[str, Seen]) -> dict[str, dict]:
    """How much each set moves and flickers; how far amounts and directions of motion are off the real clips'."""
    real, scores = seen["real"], {}
    for name, kind in (("motion", "magnitude"), ("flicker", "flicker")):
        if kind in real:
            scores[name] = {other: mean_and_error(part[kind]) for other, part in seen.items()}
    if "velocity" in real:
        compared = {name: part for name, part in seen.items() if part is not real}
        scores["motion, off the real"] = {
            name: {"mean": apart(part["magnitude"], real["magnitude"])} for name, part in compared.items()
        }
        headings = {name: directions(part["velocity"]) for name, part in seen.items()}
        scores["directions, off the real"] = {  # total variation: 0 is alike, 1 has nothing in common
            name: {"mean": (headings[name] - headings["real"]).abs().sum().item() / 2} for name in compared
        }
    return scores


def remembered(seen: dict[str, Seen], real: Clips, train: Clips) -> dict[str, dict]:
    """How near the nearest clip of the training is; of captions that the training has, whether it is of that one."""
    known, captions = torch.cat([thumbnails(train.video(slice(i, i + 1))) for i in range(len(train))]), set(train.texts)
    near = {name: nearest(seen[name]["thumbnails"], known) for name in (*SPOKEN, "further real") if name in seen}
    scores = {"nearest of the training": {name: mean_and_error(far) for name, (far, _) in near.items()}}
    found = {name: [train.texts[i] for i in near[name][1]] for name in SPOKEN if name in near}

    def share(texts: list[str], wanted: list[str]) -> dict[str, float]:
        right = [text == caption for text, caption in zip(texts, wanted, strict=True) if caption in captions]
        return wilson(sum(right), len(right))

    if captions & set(real.texts):
        same = {name: share(texts, real.texts) for name, texts in found.items()}
        scores["the nearest has the caption"] = same | {OTHERS: share(found["real"], others(real.texts))}
    return scores


def is_shapes(clips: Clips) -> bool:
    """Whether these are the procedural shapes, which the detector can read."""
    return all(told is not None and "things" in told for told in clips.attributes)


def others(items: list) -> list:
    """Each other's items, in an order that is always the same: none gets its own."""
    ring = torch.randperm(len(items), generator=torch.Generator().manual_seed(0))
    return [items[i] for _, i in sorted(zip(ring.tolist(), ring.roll(1).tolist(), strict=True))]


def seed_range(seeds: Sequence[int | None]) -> str:
    """``0 to 63`` of neighbours; otherwise all of them, or the hash of many."""
    if None in seeds:
        return "not known"
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    words = " ".join(map(str, seeds))
    return words if len(words) < 80 else fingerprint([words.encode()])

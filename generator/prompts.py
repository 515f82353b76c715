"""Longer prompts out of short ones, for models that were trained on long captions (``sample.py --expand``).

    prompts  list[str]  --expand-->  list[str]

Whoever writes (a template, a language model, a server: see ``data.writers``), no content word of a prompt is lost: a
text that misses one, or that repeats itself as small models do, is thrown away, and the prompt stays as it is.
"""

import importlib.util
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from data import hub, shapes
from data.writers import Endpoint, Guarded, Request, Writer

INSTRUCTION = (
    "You lengthen short captions of videos to one longer sentence. Repeat the caption word for word: its subjects, "
    "colours, numbers, directions and motions stay. Then add how it looks: light, texture, surroundings, camera. Add "
    "no other subject and no other motion. Answer with the sentence alone."
)
EXAMPLES = (
    (
        "a brown horse gallops left",
        "a brown horse gallops left, its mane flying, across a wide meadow in warm evening light, seen from the side.",
    ),
    (
        "a blue ball rolls down",
        "a blue ball rolls down, smooth and evenly lit, in front of a plain background, filmed by a still camera.",
    ),
)
# Words that say nothing of their own; all others must come back.
FUNCTION_WORDS = re.compile(
    r"an?|and|are|as|at|be|by|for|from|has|have|he|her|his|in|into|is|its?|of|on|onto|or|she|that|the|their|there|they|"
    r"this|to|was|while|who|with"
)


def expand(prompts: Sequence[str], backend: str, seed: int = 0, device: str = "cpu") -> list[str]:
    """Longer prompts; one that cannot be made longer stays as it is, with one warning for all, and so does "".

    Args:
        backend: "template", the URL of a server ("http://localhost:8000/v1#MODEL"), or a language model: a folder, a
            hub id, or a .gguf file in either. ``ValueError`` for a model that cannot be loaded.
        seed: of what the template draws.
    """
    write = Guarded(writer(backend, seed, device), lost)
    given = list(dict.fromkeys(prompt for prompt in prompts if prompt.strip()))
    longer = dict(zip(given, write([Request(prompt) for prompt in given]), strict=True)) if given else {}
    return [longer[prompt].text if prompt in longer else prompt for prompt in prompts]


def writer(backend: str, seed: int = 0, device: str = "cpu") -> Writer:
    """The writer of prompts that a user names."""
    if backend == "template":
        return Template(seed)
    if backend.startswith(("http://", "https://")):
        return Endpoint(backend, messages)
    return LanguageModel(backend, device)


def messages(request: Request) -> list[dict]:
    """A request as a chat, with examples before it."""
    turns = [turn for short, long in EXAMPLES for turn in (("user", short), ("assistant", long))]
    chat = [("system", INSTRUCTION), *turns, ("user", request.text)]
    return [{"role": role, "content": content} for role, content in chat]


# ---- What is wrong with a text --------------------------------------------------------------------------------------


def lost(request: Request, text: str) -> str | None:
    """Which content words of a prompt a longer text has lost, or what it says over and over; None where all is well."""
    missing = Counter(content_words(request.text)) - Counter(content_words(text))
    if missing:
        return f"the longer text loses {', '.join(word for word in _words(request.text) if _stem(word) in missing)}"
    phrases = _phrases(text) - _phrases(request.text)
    again = [phrase for phrase, times in phrases.items() if times > 1]
    return f"the longer text repeats {' '.join(again[0])!r}" if again else None


def content_words(text: str) -> list[str]:
    """The words that carry meaning, without their endings: "moves" and "moving" are one."""
    return [_stem(word) for word in _words(text) if not FUNCTION_WORDS.fullmatch(word)]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _stem(word: str) -> str:
    """Without the endings of English verbs and plurals, and the letter doubled before them."""
    root = re.sub(r"(?<=[^\W_]{2})(ing|es|ed|s|e)$", "", word)
    return re.sub(r"([^aeiou\W_])\1$", r"\1", root)


def _phrases(text: str) -> Counter:
    words = _words(text)
    return Counter(zip(words, words[1:], words[2:], strict=False))


# ---- Template -------------------------------------------------------------------------------------------------------


def _one_of(*words: str) -> str:
    return f"(?:{'|'.join(sorted(words, key=len, reverse=True))})"  # "up and right" before "up"


_SIDES = [way for way in shapes.DIRECTIONS if way not in ("up", "down")]
_WAY = _one_of(*shapes.DIRECTIONS, *(f"to the {side}" for side in _SIDES), "(?:up|down) and (?:left|right)")
_PACE = _one_of(*shapes.ADVERBS.values())
_MOVES = f"(?:{_PACE} )?(?:moves|moving)(?: {_PACE})? {_WAY}(?: {_PACE})?"
_PHRASE = _one_of(*(phrase for pairs in shapes.PHRASES.values() for pair in pairs for phrase in pair))
_THING = re.compile(
    r"(?:(?P<article>an?|the) )?"
    rf"(?P<size>{_one_of(*shapes.SIZES, 'medium-sized')} )?"
    rf"(?P<colour>{_one_of(*shapes.COLOURS)} )?"
    rf"(?P<shape>{_one_of(*shapes.SHAPES)})"
    rf"(?: (?P<motion>{_MOVES}|(?P<bare>{_WAY})|{_PHRASE}))?(?![\w-])"
)
_PLACE = _one_of(*shapes.BACKGROUNDS)
_BEFORE = re.compile(rf"on {_PLACE}, ")
_BETWEEN = re.compile(r",? (?:and|while) |, ")
_AFTER = re.compile(rf"(?: on an? {_PLACE} background)?[.]?")


class Template(Writer):
    """Prompts about shapes as the captions of `data.shapes` put them; others stay as they are.

    Those captions always say colour and motion: where a prompt says none, the template draws one by (seed, prompt).
    They mostly leave size, speed and background open, and so does the template. It puts words in and changes none:
    "red circle" becomes "a red circle moves up". A prompt that it does not understand to the last word stays.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def write(self, request: Request) -> str:
        text = " ".join(request.text.split())
        text = text[:1].lower() + text[1:]
        if (parts := _parse(text)) is None:
            return request.text
        rng = np.random.default_rng([self.seed % 2**63, zlib.crc32(text.encode())])
        taken = {part["colour"].strip() for part in parts if isinstance(part, re.Match) and part["colour"]}
        participle = re.search(r"\b\w+ing\b(?<!\bring)", text) is not None  # as the rest of the prompt puts it
        words = []
        for part in parts:
            if isinstance(part, re.Match):
                colour = part["colour"] or f"{self._colour(rng, part['shape'], taken)} "
                words.append(self._thing(part, colour, participle, rng))
            else:
                words.append(part)
        return "".join(words)

    def _thing(self, thing: re.Match, colour: str, participle: bool, rng: np.random.Generator) -> str:
        noun = f"{thing['size'] or ''}{colour}{thing['shape']}"
        article = thing["article"] if thing["article"] == "the" else "an" if noun[0] in "aeiou" else "a"
        moves = "moving" if participle else "moves"
        motion = thing["motion"] or f"{moves} {('right', 'left', 'up', 'down')[rng.integers(4)]}"
        return f"{article} {noun} {f'{moves} {motion}' if thing['bare'] else motion}"

    def _colour(self, rng: np.random.Generator, shape: str, taken: set[str]) -> str:
        """A colour that no other thing has and that training shows this shape in."""
        still = shapes.Motion("still")
        free = [
            colour
            for colour in shapes.COLOURS
            if colour not in taken and not shapes.held_out(shapes.Thing(shape, colour, "small", still))
        ]
        colour = free[rng.integers(len(free))]
        taken.add(colour)
        return colour


def _parse(text: str) -> list[str | re.Match] | None:
    """A prompt as its things and the words between them; None where not every word is understood."""
    before = _BEFORE.match(text)
    parts: list[str | re.Match] = [before[0]] if before else []
    at = before.end() if before else 0
    while thing := _THING.match(text, at):
        parts.append(thing)
        if _AFTER.fullmatch(text, thing.end()):
            return [*parts, text[thing.end() :]]
        if not (between := _BETWEEN.match(text, thing.end())):
            return None
        parts.append(between[0])
        at = between.end()
    return None


# ---- Language model -------------------------------------------------------------------------------------------------


class LanguageModel(Writer):
    """A causal language model of ``transformers`` that goes on where the prompt ends, greedily.

    The prompt is put into its mouth: the answer begins with it, word for word, so that even a model of 135M parameters
    keeps subjects, colours and motions.

    Args:
        model: a folder or a hub id, of which only safetensors are read; or a .gguf file in either.
        max_tokens: added to a prompt.
    """

    def __init__(self, model: str, device: str = "cpu", max_tokens: int = 40) -> None:
        self.tokenizer, network = _load(model)
        self.model, self.max_tokens = network.to(device).eval(), max_tokens

    @torch.inference_mode()
    def write(self, request: Request) -> str:
        chat, text = messages(request), request.text.strip().rstrip(".,;:")
        if self.tokenizer.chat_template:
            before = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        else:  # a model that only continues sees the same, line by line
            before = "".join(f"{message['content']}\n" for message in chat)
        inputs = self.tokenizer(
            f"{before}{text},", return_tensors="pt", add_special_tokens=not self.tokenizer.chat_template
        ).to(self.model.device)
        tokens = self.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=self.max_tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id or 0,
        )
        more = self.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        said = news(more, text)
        return f"{text}, {said}" if said else ""


def news(more: str, text: str) -> str:
    """The first sentence of ``more``: whole parts between commas, and of them those that say something new, or ""."""
    line = more.strip().partition("\n")[0]
    ended = re.match(r".*?[.!?](?=\s|$)", line)
    parts = (ended[0].rstrip(".!?") if ended else line.rpartition(",")[0]).split(",")
    said, new = set(content_words(text)), []
    for part in map(str.strip, parts):
        if words := set(content_words(part)) - said:
            new.append(part)
            said |= words
    return f"{', '.join(new)}." if new else ""


def _load(model: str) -> tuple:
    """The tokenizer and the language model of a folder, a hub id or a .gguf file."""
    place, file = model, {}
    if model.endswith(".gguf"):
        if not all(importlib.util.find_spec(package) for package in ("gguf", "accelerate")):
            raise ValueError(f"{model}: .gguf files need gguf and accelerate: pip install -e '.[gguf]'")
        place, file = str(Path(model).parent), {"gguf_file": Path(model).name}
    expected = (
        "'template', the URL of a server, a folder with config.json, model.safetensors and a tokenizer, a .gguf file, "
        "or a hub id such as 'HuggingFaceTB/SmolLM2-360M-Instruct'"
    )
    with hub.loading("language model", model, expected) as transformers:
        config = transformers.AutoConfig.from_pretrained(place, **file)
        safe = file or {"use_safetensors": True}
        network = transformers.AutoModelForCausalLM.from_pretrained(place, dtype=hub.dtype(config), **safe)
        return transformers.AutoTokenizer.from_pretrained(place, **file), network

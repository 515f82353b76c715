"""Other words for the same things, so that a model reads more of them than captions of shapes are made of."""

import re
from collections.abc import Callable

import numpy as np

OTHER_WORDS = {  # what else people say; nothing: the phrase stays as it is, and so do its words
    "does not move": ("is motionless",),
    "not moving": ("resting",),
    "stays still": ("rests", "is still", "stays put"),
    "grows larger": ("gets bigger", "becomes larger"),
    "growing larger": ("getting bigger", "becoming larger"),
    "upper right": ("top right",),
    "upper left": ("top left",),
    "lower right": ("bottom right",),
    "lower left": ("bottom left",),
    "to the right": ("rightwards", "towards the right"),
    "to the left": ("leftwards", "towards the left"),
    "up and down": (),
    "up and left": (),
    "up and right": (),
    "down and left": (),
    "down and right": (),
    "moves in a circle": ("goes in a circle", "goes round and round"),
    "moving in a circle": ("going in a circle", "going round and round"),
    "up": ("upwards", "upward"),
    "down": ("downwards", "downward"),
    "moves": ("goes", "travels", "slides", "drifts"),
    "moving": ("going", "travelling", "sliding", "drifting"),
    "bounces": ("hops", "jumps"),
    "bouncing": ("hopping", "jumping"),
    "spins": ("rotates", "turns"),
    "spinning": ("rotating", "turning"),
    "grows": ("expands", "swells"),
    "growing": ("expanding", "swelling"),
    "slowly": ("gently",),
    "quickly": ("rapidly", "swiftly"),
    "small": ("little", "tiny"),
    "large": ("big", "huge"),
    "circle": ("disc", "ball", "dot"),
    "square": ("box", "block"),
    "cross": ("plus",),
    "ring": ("hoop", "doughnut"),
    "purple": ("violet",),
    "cyan": ("turquoise",),
    "grey": ("gray",),
    "navy": ("dark blue",),
    "background": ("backdrop",),
    "while": ("as",),
}
PLAIN_WORDS = {other: word for word, others in OTHER_WORDS.items() for other in others}


def in_other_words(text: str, rng: np.random.Generator) -> str:
    """Half of what can be said otherwise is: "a blue disc goes upwards" of "a blue circle moves up"."""

    def other(word: str, others: tuple[str, ...]) -> str:
        return others[int(rng.integers(len(others)))] if others and rng.random() < 0.5 else word

    return _exchanged(text, OTHER_WORDS, other)


def in_plain_words(text: str) -> str:
    """The caption that a caption of other words was made of."""
    return _exchanged(text, PLAIN_WORDS, lambda _, word: word)


def _exchanged(text: str, words: dict, other: Callable) -> str:
    """A text with each phrase of ``words`` exchanged for ``other(phrase, words[phrase])``, longer phrases first."""
    longest_first = "|".join(sorted(words, key=len, reverse=True))
    return re.sub(rf"\b({longest_first})\b", lambda match: other(match[0], words[match[0]]), text)

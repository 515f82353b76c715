"""Command lines whose complaints are one sentence."""

from typing import NoReturn

from jsonargparse import ArgumentParser

# what jsonargparse says of the types that it tried, around what was wrong
AROUND = ("Does not validate", "Subtypes:", "Errors:", "Given value", "Problem with given")


class OneSentence:
    """A mixin of jsonargparse's parsers: what is wrong with an argument is one line and exit status 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # jsonargparse asks itself
            super().error(message, ex)
        self.exit(2, f"error: {in_words(message)}; --help lists what there is\n")


class Parser(OneSentence, ArgumentParser):
    """The parser of this project's programs."""


def in_words(error: object) -> str:
    """The part of an error of several lines that says what is wrong, in one line."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    lines = [line.partition('":')[2].strip() if line.startswith("Parser key") else line for line in lines]
    lines = [line for line in lines if "Got value" in line or not line.startswith("Expected a <class")]
    telling = [line for line in lines if line and not line.startswith(AROUND)]
    return "; ".join(dict.fromkeys(telling or filter(None, lines)))

"""Command lines whose complaints are one sentence."""

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import torch
import yaml
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


def run(main: Callable[[], Any]) -> Any:
    """Runs a program: what its user gets wrong is one line and exit status 2. TESSERA_DEBUG=1 shows where it arose."""
    try:
        return main()
    except (ValueError, OSError, yaml.YAMLError) as error:
        if os.environ.get("TESSERA_DEBUG"):
            raise
        print(f"error: {in_words(error)}", file=sys.stderr)
        sys.exit(2)


def find_device(name: str) -> str:
    """A device by its name, if it works; "auto" is a GPU where there is one, under torchrun one of each process.

    ``ValueError`` for others.
    """
    if name == "auto" and not torch.cuda.is_available():
        return "cpu"
    if name == "auto":
        name = f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} cannot be used here: expected auto, cpu, cuda, ...") from error
    return name


def in_words(error: object) -> str:
    """The part of an error of several lines that says what is wrong, in one line."""
    text = str(error)
    if "Original Traceback" in text:  # as a worker process of a data loader hands it on
        text = text.strip().splitlines()[-1].partition(": ")[2]
    lines = [line.strip(" -") for line in text.splitlines()]
    lines = [line.partition('":')[2].strip() if line.startswith("Parser key") else line for line in lines]
    types = [line for line in lines if line.startswith("Expected a <class") and "Got value" not in line]
    telling = [line for line in lines if line and line not in types and not line.startswith(AROUND)]
    meant = [line for line in types if "NoneType" not in line]
    return "; ".join(dict.fromkeys(telling or meant + [line for line in lines if line.startswith("Given value:")]))

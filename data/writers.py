"""Who puts prompts and clips into words: one small interface, whoever does the writing.

    Request(text, clip)  --Writer.write-->  str                  fails as it likes
    list[Request]        --Guarded------->  list[Written]        never fails: a request keeps its own text

The writers of captions stand in ``data.captions``, those of prompts in ``generator.prompts``: a template, which needs
nothing, and a model of ``transformers`` each. ``Endpoint``, a server that speaks the chat protocol of OpenAI (vLLM,
llama.cpp, Ollama and their kin), serves both.
"""

import http.client
import json
import os
import re
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Request:
    """What is to be put into words: a prompt or caption that there is already, "" for none, and what it is about.

    Attributes:
        text: the raw prompt, or the original caption.
        clip: some frames of a video, in their order, float (3, t, h, w) in [-1, 1]; None for a prompt.
    """

    text: str
    clip: Tensor | None = None


@dataclass(frozen=True)
class Written:
    """A longer text; or the request's own, and ``error`` says in one line why."""

    text: str
    error: str | None = None


class Writer:
    """Base of the writers: a longer text for a request. What goes wrong is an exception, of any kind.

    Attributes:
        parallel: how many requests may be under way at once, in threads.
    """

    parallel = 1

    def write(self, request: Request) -> str:
        raise NotImplementedError


class Guarded:
    """A writer that never fails: what it cannot write keeps the request's own text, with one warning for all.

    Args:
        writer: who writes.
        objection: what is wrong with a text for a request, in words; None where it will do.
    """

    def __init__(self, writer: Writer, objection: Callable[[Request, str], str | None] = lambda request, text: None):
        self.writer, self.objection, self.warned = writer, objection, False

    def __call__(self, requests: Sequence[Request]) -> list[Written]:
        if self.writer.parallel == 1:
            written = [self._write(request) for request in requests]
        else:
            with ThreadPoolExecutor(self.writer.parallel) as pool:
                written = list(pool.map(self._write, requests))
        failed = next((result for result in written if result.error), None)
        if failed and not self.warned:
            self.warned = True
            warnings.warn(
                f"{failed.text!r} stays as it is ({failed.error}); others may too, without a warning", stacklevel=2
            )
        return written

    def _write(self, request: Request) -> Written:
        try:
            text = tidy(self.writer.write(request))
        except Exception as error:  # a model, a server, a driver: they fail in many ways
            return Written(request.text, f"{type(error).__name__}: {one_line(error)}")
        if not text:
            return Written(request.text, "it wrote nothing")
        wrong = self.objection(request, text)
        return Written(request.text, f"{wrong}: {text!r}") if wrong else Written(text)


def tidy(text: str) -> str:
    """A model's answer as one line: without what it thought before, quotation marks and line breaks."""
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    return " ".join(text.split()).strip("\"'“”").strip()


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


class Endpoint(Writer):
    """A server that speaks the chat protocol of OpenAI, at ``base_url/chat/completions``.

    Args:
        url: its address up to and with the version, and the model's name behind a #: "http://localhost:8000/v1#qwen".
            Without a name the server must have one model only.
        messages: a request -> the chat messages to send.
        key: name of the environment variable that holds the key; where it is not set, none is sent.
        timeout: seconds to wait for an answer.
        parallel: requests under way at once.
    """

    def __init__(
        self,
        url: str,
        messages: Callable[[Request], list[dict]],
        key: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        parallel: int = 8,
    ) -> None:
        self.base_url, _, self.model = url.partition("#")
        self.messages, self.key, self.timeout, self.parallel = messages, key, timeout, parallel

    def write(self, request: Request) -> str:
        self.model = self.model or self._only_model()
        answer = self._call("chat/completions", {"model": self.model, "messages": self.messages(request)})
        try:
            choice = answer["choices"][0]
            if choice.get("finish_reason") == "length":
                raise ValueError("the answer was cut off")
            return choice["message"]["content"] or ""
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.base_url} answered {json.dumps(answer)[:200]}, expected choices") from error

    def _only_model(self) -> str:
        names = [model["id"] for model in self._call("models")["data"]]
        if len(names) != 1:
            raise ValueError(f"{self.base_url} has {', '.join(names) or 'no model'}: name one, {self.base_url}#MODEL")
        return names[0]

    def _call(self, path: str, body: dict | None = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base_url.rstrip('/')}/{path}", data)
        request.add_header("Content-Type", "application/json")
        if key := os.environ.get(self.key):
            request.add_unredirected_header("Authorization", f"Bearer {key}")  # for this host, and no other
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            said = one_line(Exception(error.read(300).decode(errors="replace")))
            raise ValueError(f"{request.full_url} answered {error.code} {error.reason}: {said}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ValueError(f"{request.full_url} could not be asked ({one_line(error)})") from error

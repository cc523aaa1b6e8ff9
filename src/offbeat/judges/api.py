"""A judge on a server: any that speaks OpenAI's chat completions API.

What fails is said in the verdict, whose answer is then ``unknown``, and in ``problems``; a search
goes on without it. The key comes from the environment and is in no name, file or message.
"""

from __future__ import annotations

import base64
import io
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
from PIL import Image
from torch import Tensor

from offbeat.errors import ConfigError, JudgeError
from offbeat.judges import answers, rule
from offbeat.judges.http import OPENAI, REFUSED, Budget, Client, Unanswered
from offbeat.types import Verdict

MAX_SIDE = 768
"""Pixels of the longer side of a picture that is sent."""
MAX_BYTES = 4 * 2**20
"""Of the picture as PNG; noise compresses badly, and servers refuse what is large."""
NUM_TOP = 20
"""Alternatives of a token that are asked for, the most that the form allows."""


class ApiJudge:
    """Asks a vision model on a server about pictures, one at a time."""

    def __init__(
        self, model: str, url: str, *, budget: Budget | None = None, seed: int = 0
    ) -> None:
        """Store the address; nothing is sent yet.

        Args:
            model: As the server names it.
            url: With or without ``/v1`` and ``/chat/completions``; no user, password or query.
            budget: How long and how often it is asked.
            seed: Of the waits between tries.

        Raises:
            ConfigError: If the address could hold a secret, or would carry the key in the clear.
        """
        if not model.strip():
            raise ConfigError("judge: expected api:MODEL@ADDRESS, got no model")
        self.model = model
        self._client = Client(_base_of(url), budget or Budget(), seed=seed)
        self._form = 0
        """Which of ``_FORMS`` the server takes; it grows when one is refused."""
        self.problems: list[str] = []
        """What failed, each once, for a run to tell."""

    @classmethod
    def load(cls, source: str | None = None, *, budget: Budget | None = None) -> ApiJudge:
        """Return the judge of ``MODEL@ADDRESS``; a model's name may hold an ``@`` itself.

        Without ``@ADDRESS`` it is ``OFFBEAT_API_URL``, else ``OPENAI_BASE_URL``, else OpenAI's own.

        Raises:
            ConfigError: If there is no model, or the address is not one.
        """
        model, mark, url = (source or "").rpartition("@")
        if not mark or not (re.search(r"[:/.]", url) or url == "localhost"):
            model, url = source or "", ""  # the @ is part of the model's name
        known = (os.environ.get(name) for name in ("OFFBEAT_API_URL", "OPENAI_BASE_URL"))
        return cls(model, url or next(filter(None, known), OPENAI), budget=budget)

    @property
    def name(self) -> str:
        """The model and its host."""
        return f"api:{self.model}@{self._client.parts.netloc}"

    def __repr__(self) -> str:
        return f"ApiJudge({self.name!r})"

    def ask(self, images: Tensor, question: str, *, max_new_tokens: int = 20) -> list[str]:
        """Return the answer in words about each of ``images``, ``[B, 3, H, W]``, 0 to 1.

        Empty where none came; ``problems`` says why.
        """
        answers = []
        for picture in _pictures(images):
            try:
                answers.append(self._answer(picture, question, max_new_tokens)[0])
            except Unanswered as error:
                self._note(str(error))
                answers.append("")
        return answers

    def probability_of_yes(self, images: Tensor, question: str) -> Tensor:
        """Return P(yes) for each of ``images``, ``[B]``, 0 to 1.

        From the probabilities of the answer's token, if the server gives them; else 1 for yes and 0
        for no.

        Raises:
            JudgeError: If a picture got no answer.
        """
        readings = [self._yes(picture, question) for picture in _pictures(images)]
        for answer, _, note in readings:
            if answer == "unknown":
                raise JudgeError(f"{self.name}: {note}")
        return torch.tensor([value for _, value, _ in readings])

    def still_a(self, images: Tensor, subject: str) -> list[Verdict]:
        """Return one verdict for each of ``images``, ``[B, 3, H, W]``, 0 to 1.

        Its answer is ``unknown`` where the server gave none that says yes or no.
        """
        question = answers.still_a_question(subject)
        readings = [self._yes(picture, question) for picture in _pictures(images)]
        return [
            Verdict(answer, value, self.name, f"Asked: {question} {note}".strip())
            for answer, value, note in readings
        ]

    def name_it(self, image: Tensor, subject: str) -> str:
        """Return what kind of ``subject`` one picture, ``[3, H, W]``, 0 to 1, shows.

        A ``subject`` that ends in a question mark is asked as it is. Empty if no answer came.
        """
        question = answers.kind_question(subject) + answers.BRIEFLY
        return answers.thing_named(self.ask(image[None], question)[0])

    # --- parts -----------------------------------------------------------------------------------

    def _yes(
        self, picture: Image.Image, question: str
    ) -> tuple[Literal["yes", "no", "unknown"], float, str]:
        """Return an answer, the probability of yes, and a note for the reader."""
        try:
            text, tokens = self._answer(picture, question, 8, until=answers.yes_or_no)
        except Unanswered as error:
            self._note(str(error))
            return "unknown", 0.5, f"No answer: {error}."
        answer = answers.yes_or_no(text)
        if answer is None:
            why = f"The answer says neither yes nor no: {text[:80]!r}."
            self._note(why)
            return "unknown", 0.5, why
        # of a sentence, or after thinking, the first token that says yes or no is not the answer
        is_word = len(text.split()) == 1
        if is_word and (value := _from_tokens(tokens)) is not None:
            return "yes" if value >= 0.5 else "no", value, ""
        note = "The server gives no probabilities: yes counts as 1 and no as 0."
        return answer, float(answer == "yes"), note

    def _answer(
        self,
        picture: Image.Image,
        question: str,
        max_new_tokens: int,
        until: Callable[[str], object] = bool,
    ) -> tuple[str, list[Any]]:
        """Return the text of an answer, and its tokens' alternatives if the server gives them.

        An answer that was cut off before ``until`` can read it is asked for with more tokens:
        a model that thinks needs them.
        """
        for limit in (max_new_tokens, *_LONGER):
            text, tokens, is_cut = self._ask(picture, question, limit)
            if not is_cut or until(text):
                break
        if not text:
            raise Unanswered("the answer is empty")
        return text, tokens

    def _ask(
        self, picture: Image.Image, question: str, max_new_tokens: int
    ) -> tuple[str, list[Any], bool]:
        """Return text, tokens, and whether it was cut off, in a form that the server takes."""
        try:
            return self._post(picture, question, max_new_tokens)
        except Unanswered as error:
            if self._form > 0 or error.status not in _ODD:
                raise
        # some servers fail in odd ways where they do not know logprobs: once without them
        self._form = 1
        try:
            return self._post(picture, question, max_new_tokens)
        except Unanswered:
            self._form = 0
            raise

    def _post(
        self, picture: Image.Image, question: str, max_new_tokens: int
    ) -> tuple[str, list[Any], bool]:
        while True:
            body = self._body(picture, question, max_new_tokens)
            negotiable, uncounted = (REFUSED, ()) if self._form else ((*REFUSED, 403, 404), _ODD)
            try:
                reply: tuple[str, list[Any], bool] = self._client.post(
                    "/chat/completions", body, _read, negotiable=negotiable, uncounted=uncounted
                )
            except Unanswered as error:
                if error.status not in REFUSED or self._form == len(_FORMS) - 1:
                    raise
                self._form += 1
            else:
                return reply

    def _body(self, picture: Image.Image, question: str, max_new_tokens: int) -> dict[str, Any]:
        content = [
            {"type": "text", "text": question},
            {"type": "image_url", "image_url": {"url": data_url(picture)}},
        ]
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            **_FORMS[self._form](max_new_tokens),
        }

    def _note(self, why: str) -> None:
        if why not in self.problems:
            self.problems.append(why)


_FORMS: tuple[Callable[[int], dict[str, Any]], ...] = (
    lambda num: {
        "max_tokens": num,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": NUM_TOP,
    },
    lambda num: {"max_tokens": num, "temperature": 0},
    lambda num: {"max_completion_tokens": num},
    lambda num: {},
)
"""What a request says beside the question; a server that refuses one form is asked in the next."""
_ODD = (403, 404, 500, 501)
"""Statuses of servers that do not say that they lack logprobs."""
_LONGER = (512, 4096)
"""Tokens of an answer that was cut off, when it is asked for again."""


def _base_of(url: str) -> str:
    """Return an address up to ``/v1``, whichever end of it a user copied.

    >>> _base_of("http://localhost:8000"), _base_of("https://a.example/api/v1/chat/completions")
    ('http://localhost:8000/v1', 'https://a.example/api/v1')
    """
    base = url.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return base if urlsplit(base).path else f"{base}/v1"


def data_url(picture: Image.Image) -> str:
    """Return a picture as a PNG data URL, made smaller if it is large."""
    sent = picture.convert("RGB")
    sent.thumbnail((MAX_SIDE, MAX_SIDE))
    while True:
        buffer = io.BytesIO()
        sent.save(buffer, "PNG")
        if buffer.tell() <= MAX_BYTES or min(sent.size) < 2:
            return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        sent = sent.resize((sent.width // 2, sent.height // 2))


def _pictures(images: Tensor) -> list[Image.Image]:
    rule.check_images(images)
    pixels = (images.float() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(each) for each in pixels]


def _read(answer: Any) -> tuple[str, list[Any], bool]:
    """Return text and tokens of a chat completion, and whether it was cut off.

    Raises:
        Unanswered: If it is not one, the model refuses, or it is empty though not cut off.
    """
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        text = message.get("content")
        if isinstance(text, list):  # parts, as some servers give them
            text = "".join(part.get("text", "") for part in text)
        tokens = (choice.get("logprobs") or {}).get("content") or []
        refusal, reason = message.get("refusal"), choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Unanswered("the answer is no chat completion") from None
    if isinstance(refusal, str) and refusal.strip():
        raise Unanswered(f"the model refuses: {' '.join(refusal.split())[:200]}")
    if reason == "content_filter":
        raise Unanswered("the server's filter removed the answer")
    is_cut = reason == "length"
    if text is None and is_cut:
        text = ""
    if not isinstance(text, str) or not (text.strip() or is_cut):
        raise Unanswered("the answer is empty")
    return text.strip(), tokens if isinstance(tokens, list) else [], is_cut


def _from_tokens(tokens: list[Any]) -> float | None:
    """Return P(yes) at the first token that says yes or no; None if there are no probabilities."""
    for token in tokens:
        if not isinstance(token, Mapping) or _word(token) not in ("yes", "no"):
            continue
        mass = {"yes": 0.0, "no": 0.0}
        others = token.get("top_logprobs")
        for other in others if isinstance(others, list) and others else [token]:
            if isinstance(other, Mapping) and (word := _word(other)) in mass:
                value = other.get("logprob")
                # a probability is at most 1: what is more is no logarithm of one
                if isinstance(value, int | float) and value <= 1e-3:
                    mass[word] += math.exp(value)
        total = mass["yes"] + mass["no"]
        return mass["yes"] / total if 0 < total < math.inf else None
    return None


def _word(token: Mapping[str, Any]) -> str:
    return str(token.get("token", "")).strip(" \t\n.,!*\"'").lower()

"""A judge behind an address: any server that speaks OpenAI's chat completions.

What fails is said in the verdict, whose answer is then ``unknown``, and in ``problems``; a search
goes on without it. The key comes from the environment and is in no name, file or message.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

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
    """Asks a model on a server about pictures, one at a time."""

    def __init__(
        self, model: str, url: str, *, budget: Budget | None = None, seed: int = 0
    ) -> None:
        """Hold an address; nothing is sent yet.

        Args:
            model: As the server names it.
            url: Up to ``/v1``, without user, password or query.
            budget: How long and how often it is asked.
            seed: Of the waits between tries.

        Raises:
            ConfigError: If the address could hold a secret, or would carry the key in the clear.
        """
        if not model.strip():
            raise ConfigError("judge: expected api:MODEL@ADDRESS, got no model")
        self.model = model
        self._client = Client(url, budget or Budget(), seed=seed)
        self._plain = 0
        """How much of a request the server was found to refuse: logprobs, then settings."""
        self.problems: list[str] = []
        """What failed, each once, for a run to tell."""

    @classmethod
    def load(cls, source: str | None = None, *, budget: Budget | None = None) -> ApiJudge:
        """Return the judge of ``MODEL@ADDRESS``.

        Without ``@ADDRESS`` it is ``OFFBEAT_API_URL``, else ``OPENAI_BASE_URL``, else OpenAI's own.

        Raises:
            ConfigError: If there is no model, or the address is none.
        """
        model, _, url = (source or "").partition("@")
        known = (os.environ.get(name) for name in ("OFFBEAT_API_URL", "OPENAI_BASE_URL"))
        return cls(model, url or next(filter(None, known), OPENAI), budget=budget)

    @property
    def name(self) -> str:
        """The model and the host that it is asked at."""
        return f"api:{self.model}@{self._client.parts.netloc}"

    def __repr__(self) -> str:
        return f"ApiJudge({self.name!r})"

    def ask(self, images: Tensor, question: str, *, max_new_tokens: int = 20) -> list[str]:
        """Return the answer in words about each of ``images``, ``[B, 3, H, W]``, 0 to 1.

        Empty where none came; ``problems`` says why.
        """
        found = []
        for picture in _pictures(images):
            try:
                found.append(self._answer(picture, question, max_new_tokens)[0])
            except Unanswered as error:
                self._note(str(error))
                found.append("")
        return found

    def probability_of_yes(self, images: Tensor, question: str) -> Tensor:
        """Return P(yes) for each of ``images``, ``[B]``, 0 to 1.

        From the probabilities of the answer's token, if the server gives them; else 1 for yes and 0
        for no.

        Raises:
            JudgeError: If a picture got no answer.
        """
        found = [self._yes(picture, question) for picture in _pictures(images)]
        for answer, _, note in found:
            if answer == "unknown":
                raise JudgeError(f"{self.name}: {note}")
        return torch.tensor([value for _, value, _ in found])

    def still_a(self, images: Tensor, subject: str) -> list[Verdict]:
        """Return one verdict for each of ``images``, ``[B, 3, H, W]``, 0 to 1.

        Its answer is ``unknown`` where the server gave none that says yes or no.
        """
        question = answers.still_a_question(subject)
        found = [self._yes(picture, question) for picture in _pictures(images)]
        return [
            Verdict(answer, value, self.name, f"Asked: {question} {note}".strip())
            for answer, value, note in found
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
        """Return an answer, the probability of yes, and what a reader must know."""
        try:
            text, tokens = self._answer(picture, question, 8)
        except Unanswered as error:
            self._note(str(error))
            return "unknown", 0.5, f"No answer: {error}."
        if (value := _from_tokens(tokens)) is not None:
            return "yes" if value >= 0.5 else "no", value, ""
        answer = answers.yes_or_no(text)
        if answer is None:
            why = f"The answer says neither yes nor no: {text[:80]!r}."
            self._note(why)
            return "unknown", 0.5, why
        note = "The server gives no probabilities: yes counts as 1 and no as 0."
        return answer, float(answer == "yes"), note

    def _answer(
        self, picture: Image.Image, question: str, max_new_tokens: int
    ) -> tuple[str, list[Any]]:
        """Return the text of an answer, and its tokens' alternatives if the server gives them."""
        while True:
            body = self._body(picture, question, max_new_tokens)
            try:
                found: tuple[str, list[Any]] = self._client.post("/chat/completions", body, _read)
            except Unanswered as error:
                if error.status not in REFUSED or self._plain == len(_OPTIONS):
                    raise
                self._plain += 1  # servers refuse what they do not know; ask for less
            else:
                return found

    def _body(self, picture: Image.Image, question: str, max_new_tokens: int) -> dict[str, Any]:
        content = [
            {"type": "text", "text": question},
            {"type": "image_url", "image_url": {"url": data_url(picture)}},
        ]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
        }
        for option in _OPTIONS[self._plain :]:
            body |= option(max_new_tokens)
        return body

    def _note(self, why: str) -> None:
        if why not in self.problems:
            self.problems.append(why)


_OPTIONS: tuple[Callable[[int], dict[str, Any]], ...] = (
    lambda num: {"logprobs": True, "top_logprobs": NUM_TOP},
    lambda num: {"max_tokens": num, "temperature": 0},
)
"""What a request asks for beside the answer, the least known first."""


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


def _read(answer: Any) -> tuple[str, list[Any]]:
    """Return text and tokens of a chat completion.

    Raises:
        Unanswered: If it is none, or empty.
    """
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        if isinstance(text, list):  # parts, as some servers give them
            text = "".join(part.get("text", "") for part in text)
        tokens = (choice.get("logprobs") or {}).get("content") or []
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Unanswered("the answer is no chat completion") from None
    if not isinstance(text, str) or not text.strip():
        raise Unanswered("the answer is empty")
    return text.strip(), tokens if isinstance(tokens, list) else []


def _from_tokens(tokens: list[Any]) -> float | None:
    """Return P(yes) at the first token that says yes or no; None if there are no probabilities."""
    for token in tokens:
        if not isinstance(token, Mapping) or _word(token) not in ("yes", "no"):
            continue
        mass = {"yes": 0.0, "no": 0.0}
        for other in token.get("top_logprobs") or [token]:
            if isinstance(other, Mapping) and (word := _word(other)) in mass:
                value = other.get("logprob")
                mass[word] += math.exp(value) if isinstance(value, int | float) else 0.0
        total = mass["yes"] + mass["no"]
        return mass["yes"] / total if 0 < total < math.inf else None
    return None


def _word(token: Mapping[str, Any]) -> str:
    return str(token.get("token", "")).strip(" \t\n.,!*\"'").lower()

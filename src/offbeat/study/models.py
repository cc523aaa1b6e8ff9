"""Vision models as raters: asked the study's own question, kept in a column of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from offbeat.errors import ConfigError, JudgeError
from offbeat.files.pictures import read_whole
from offbeat.protocols import AnswersQuestions
from offbeat.study.design import Study
from offbeat.study.schedule import Trial
from offbeat.study.storage import Storage

GAP = 16
"""Pixels of white between two pictures of a pair."""
SIDE = 512


def rate_with(
    study: Study,
    storage: Storage,
    judge: AnswersQuestions,
    *,
    on_answer: Callable[[int, int], None],
) -> int:
    """Let a model take part as one rater.

    Pictures of a trial stand side by side in one picture. An answer that names none of the choices
    is asked once more, and then ends the model's part: nothing is guessed.

    Args:
        study: The study.
        storage: Where its answers go, as kind ``model``.
        judge: Who is asked.
        on_answer: Told how many answers there are, and of how many.

    Returns:
        The rater's number.

    Raises:
        JudgeError: If the model gave no usable answer twice.
    """
    token = storage.join(kind="model", name=judge.name)
    rater = storage.rater(token)
    while not rater.is_finished:
        trial = rater.trials[rater.position]
        picture, question = _beside(study, trial), _question(study, trial)
        for _ in range(2):
            text = judge.ask(picture[None], question)[0]
            value = _value(study, trial, text)
            if value is not None:
                break
        else:
            raise JudgeError(f"{judge.name}: expected one of the answers, got {text[:80]!r}")
        rater = storage.answer(
            token, key=f"model/{rater.position:06d}", position=rater.position, value=value,
            seconds=study.design.min_seconds,
        )  # fmt: skip
        on_answer(rater.position, len(rater.trials))
    return rater.number


def _beside(study: Study, trial: Trial) -> Tensor:
    """Return the pictures of a trial beside each other, ``[3, H, W]``."""
    pictures = [read_whole(study.file(name), longest=SIDE) for name in trial.pictures]
    height = max(picture.shape[1] for picture in pictures)
    parts: list[Tensor] = []
    for picture in pictures:
        below = torch.ones(3, height - picture.shape[1], picture.shape[2])
        parts += [torch.cat([picture, below], dim=1), torch.ones(3, height, GAP)]
    return torch.cat(parts[:-1], dim=2)


def _question(study: Study, trial: Trial) -> str:
    design = study.design
    question = design.question.get("en") or next(iter(design.question.values()))
    text = question.format(item=trial.item)
    if design.kind == "pairs":
        choices = "left, right or equal" if design.ties else "left or right"
    elif design.kind == "yes-no":
        choices = "yes or no"
    elif design.kind == "scale":
        anchors = design.scale.anchors.get("en", {})
        scale = "; ".join(f"{number} is {word}" for number, word in sorted(anchors.items()))
        choices = f"a whole number from {design.scale.low} to {design.scale.high}" + (
            f" ({scale})" if scale else ""
        )
    else:
        raise ConfigError("ranking: models are asked pairs, scales and yes or no only")
    if trial.expected is not None:
        return f"This is a check. Answer exactly: {trial.expected}"
    return f"{text} Answer with {choices}, and nothing else."


def _value(study: Study, trial: Trial, text: str) -> Any:
    """Return the answer that a text names, if it names exactly one."""
    design = study.design
    if design.kind == "scale":
        numbers = [int(each) for each in re.findall(r"-?\d+", text)]
        inside = [n for n in numbers if design.scale.low <= n <= design.scale.high]
        return inside[0] if len(set(numbers)) == 1 and inside else None
    choices = ("yes", "no") if design.kind == "yes-no" else ("left", "right", "equal")
    named = {word for word in re.findall(r"[a-z]+", text.lower()) if word in choices}
    value = named.pop() if len(named) == 1 else None
    return None if value == "equal" and not design.ties else value

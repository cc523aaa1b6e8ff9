"""A rubric for judges that read and write: 0 to 10 for integration, alignment, originality, looks.

The criteria are those that CreTok (arXiv:2410.24160) and DisTok (arXiv:2505.03667) name; their
prompts are not published, so the words are ours. A judge sees a picture and what it should show,
and nothing of how it was made; each repeat asks of the pictures and of the criteria in another
order, the same for all judges.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offbeat.core.rng import stream
from offbeat.errors import ConfigError, JudgeError
from offbeat.metrics.agreement import krippendorff_alpha
from offbeat.metrics.common import pictures, summarise, texts_for
from offbeat.metrics.mixtures import parts_of
from offbeat.protocols import AnswersQuestions, Need
from offbeat.types import Better, Scores

if TYPE_CHECKING:
    from typing_extensions import Self

CRITERIA = {
    "integration": "it is one coherent thing, not a collage and not several things side by side",
    "alignment": "everything that was asked for can be seen in it, in the shares asked for",
    "originality": "it is new and surprising, unlike what everyone has seen",
    "aesthetics": "it is pleasing to look at and well made",
}
"""What is rated, and what a 10 means."""
NUM_TOKENS = 96
"""Of an answer, at most."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """What judges gave: NaN where an answer was none."""

    values: Tensor
    """``[J, R, B, 4]``: judges, repeats, pictures, criteria; 0 to 10."""
    judges: tuple[str, ...]

    def per_image(self) -> Tensor:
        """Return the overall of each picture, ``[B]``: the mean of the four; NaN if never rated.

        Of complete answers; each judge counts the same, however many of its answers were.
        """
        return self.values.mean(dim=-1).nanmean(dim=1).nanmean(dim=0)

    def means(self) -> dict[str, float]:
        """Return the mean of each criterion over all answers."""
        return dict(zip(CRITERIA, self.values.flatten(0, 2).nanmean(dim=0).tolist(), strict=True))

    def spread(self) -> float:
        """Return the standard deviation of a picture's overall between a judge's repeats.

        Over all judges and pictures with two complete answers or more; NaN if there are none.
        """
        overall = self.values.mean(dim=-1)  # [J, R, B]
        count = (~overall.isnan()).sum(dim=1)
        squares = (overall - overall.nanmean(dim=1, keepdim=True)).square().nansum(dim=1)
        degrees = (count - 1).clamp(min=0).sum()
        return math.sqrt(float(squares.sum() / degrees)) if degrees > 0 else math.nan

    def agreement(self) -> dict[str, float]:
        """Return Krippendorff's alpha of each criterion, of numbers whose differences count.

        Between judges, each by its mean over repeats; of a single one, between its repeats.
        """
        raters = self.values.nanmean(dim=1) if len(self.judges) > 1 else self.values[0]
        return {
            name: krippendorff_alpha(raters[..., column]) for column, name in enumerate(CRITERIA)
        }

    @property
    def num_failed(self) -> int:
        """How many answers lacked a rating."""
        return int(self.values.isnan().any(dim=-1).sum())


class Rubric:
    """The overall of four criteria, 0 to 10, by one or several judges.

    The texts are what a picture should show: words, or shares as ``pig=0.55 + sheep=0.45``.
    """

    stem = "rubric"
    reads = "weights"
    better: Better = "higher"
    needs: tuple[Need, ...] = ("texts", "judge")

    def __init__(self, judges: Sequence[Any], *, num_repeats: int = 3, seed: int = 0) -> None:
        """Ask these judges.

        Args:
            judges: Each ``AnswersQuestions``.
            num_repeats: Answers of each judge to each picture.
            seed: Of the orders.

        Raises:
            ConfigError: If there is no judge, two are the same, or one does not answer in words.
        """
        for judge in judges:
            if not isinstance(judge, AnswersQuestions):
                name = str(getattr(judge, "name", type(judge).__name__))
                raise ConfigError(
                    f"{self.stem}: expected judges that answer in words, such as qwen2.5-vl, "
                    f"smolvlm or api:MODEL@ADDRESS, and {name} does not"
                )
        self.judges, self.num_repeats, self.seed = tuple(judges), num_repeats, seed
        names = [judge.name for judge in self.judges]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"{self.stem}: expected different judges, got {names or 'none'}")
        if num_repeats < 1:
            raise ConfigError(f"num_repeats: expected 1 or more, got {num_repeats}")
        self.checkpoint = ", ".join(names)
        labels = ", ".join(name.partition("@")[0] for name in names)
        self.name = f"{self.stem}[{labels}]"
        """With whom was asked in brackets."""

    @classmethod
    def load(
        cls,
        source: str | Path | None = None,
        *,
        backbone: Any | None = None,
        judge: Any | None = None,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Ask one judge or several that are loaded already; the rest is of no use here.

        Raises:
            ConfigError: If there is none, or one does not answer in words.
        """
        if judge is None:
            raise ConfigError(f"{cls.stem}: expected a judge to ask; name one with --judge")
        return cls(judge if isinstance(judge, list | tuple) else [judge])

    def rate(self, images: Sequence[Tensor] | Tensor, texts: Sequence[str] | None) -> Ratings:
        """Ask every judge about every picture, and return what each answered.

        Args:
            images: ``[3, H, W]`` each, 0 to 1, 1 or more, of any sizes.
            texts: What they should show: one for all, or one for each.
        """
        shown = pictures(images)
        prompts = texts_for(texts, len(shown))
        values = torch.full(
            (len(self.judges), self.num_repeats, len(shown), len(CRITERIA)), torch.nan
        )
        for repeat in range(self.num_repeats):
            orders = stream(self.seed, "rubric", "pictures", repeat)
            order = torch.randperm(len(shown), generator=orders).tolist()
            noise = stream(self.seed, "rubric", "criteria", repeat)
            criteria = [list(CRITERIA)[at] for at in torch.randperm(4, generator=noise).tolist()]
            for number, judge in enumerate(self.judges):
                for index in order:
                    question = question_about(prompts[index], criteria)
                    answer = judge.ask(shown[index][None], question, max_new_tokens=NUM_TOKENS)[0]
                    rating = read_ratings(answer)
                    row = [rating.get(name, math.nan) for name in CRITERIA]
                    values[number, repeat, index] = torch.tensor(row)
        return Ratings(values, tuple(judge.name for judge in self.judges))

    def score(
        self,
        images: Sequence[Tensor] | Tensor,
        *,
        texts: Sequence[str] | None = None,
        references: Sequence[Tensor] | Tensor | None = None,
    ) -> Scores:
        """Return the overall of each picture; ``note`` has the criteria, spread and agreement.

        Raises:
            JudgeError: If a picture got no complete answer from any judge.
        """
        ratings = self.rate(images, texts)
        values = ratings.per_image()
        if missing := values.isnan().nonzero().flatten().tolist():
            raise JudgeError(
                f"{self.name}: {len(missing)} of {len(values)} pictures got no complete answer, "
                f"the first of them number {missing[0]}; {self._why()}"
            )
        return summarise(
            self.name,
            values,
            better=self.better,
            checkpoint=self.checkpoint,
            note=_note(ratings),
        )

    def _why(self) -> str:
        problems = [text for judge in self.judges for text in getattr(judge, "problems", ())]
        return "; ".join(problems) or "the judges do not write the JSON that is asked for"


def question_about(text: str, criteria: Sequence[str]) -> str:
    """Return what a judge is asked of one picture.

    Args:
        text: What it should show.
        criteria: Names of ``CRITERIA``, in the order in which they are asked for.
    """
    rules = "\n".join(f"- {name}: {CRITERIA[name]}" for name in criteria)
    form = ", ".join(f'"{name}": N' for name in criteria)
    return (
        f"This picture should show {described(text)}. Rate it by whole numbers from 0 (not at all) "
        f"to 10 (wholly) for how far this is true:\n{rules}\n"
        f"Answer by JSON alone, with a number for each N: {{{form}}}"
    )


def described(text: str) -> str:
    """Return in words what a picture should show.

    >>> described("pig + owl"), described("a red castle")
    ('one thing that mixes pig and owl in equal parts', 'a red castle')
    >>> described("pig=0.55 + sheep=0.25 + snake=0.2")
    'one thing that mixes 55 % pig, 25 % sheep and 20 % snake'
    """
    if "+" not in text:
        return text
    parts = parts_of(text)
    equal = len({share for _, share in parts}) == 1
    names = [word if equal else f"{share * 100:.0f} % {word}" for word, share in parts]
    joined = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"one thing that mixes {joined}{' in equal parts' if equal else ''}"


def read_ratings(answer: str) -> dict[str, float]:
    r"""Return the ratings in an answer, those of ``CRITERIA`` that are there and 0 to 10.

    JSON with whatever is around it, else the first number after each name.

    >>> read_ratings('```json\n{"Originality": "8/10", "alignment": 11, "integration": 7}\n```')
    {'integration': 7.0, 'originality': 8.0}
    >>> read_ratings("**Aesthetics**: 6 - nice. Integration = 3.5")
    {'integration': 3.5, 'aesthetics': 6.0}
    """
    numbers = _from_json(answer)
    rows = {}
    for name in CRITERIA:
        value = numbers.get(name)
        if not numbers and (said := re.search(rf"(?i){name}\W{{1,12}}?(\d+(?:\.\d+)?)\b", answer)):
            value = said[1]
        if (number := _number(value)) is not None:
            rows[name] = number
    return rows


def _from_json(answer: str) -> dict[str, Any]:
    """Return the first JSON object that names a criterion, its keys in lower case; else none."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", answer):
        try:
            value, _ = decoder.raw_decode(answer, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, Mapping):
            numbers = {str(key).strip().lower(): number for key, number in value.items()}
            if numbers.keys() & CRITERIA.keys():
                return numbers
    return {}


def _number(value: Any) -> float | None:
    """Return a rating of 0 to 10; ``8`` and ``8/10`` may be text."""
    if isinstance(value, str):
        said = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*10)?\s*", value)
        value = float(said[1]) if said else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= 10 else None


def _note(ratings: Ratings) -> str:
    means = ", ".join(f"{name} {value:.2f}" for name, value in ratings.means().items())
    between = "judges" if len(ratings.judges) > 1 else "repeats"
    alphas = ", ".join(
        f"{name} {'undefined' if math.isnan(value) else f'{value:.2f}'}"
        for name, value in ratings.agreement().items()
    )
    spread = ratings.spread()
    text = f"Means: {means}. Krippendorff's alpha between {between}: {alphas}."
    if not math.isnan(spread):
        text += f" Standard deviation of a picture's overall between repeats: {spread:.2f}."
    if ratings.num_failed:
        total = ratings.values[..., 0].numel()
        text += f" {ratings.num_failed} of {total} answers lacked a rating and are left out."
    return text

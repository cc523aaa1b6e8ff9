"""Hold metrics against people: which may stand in for them."""

from __future__ import annotations

from collections.abc import Sequence

from offbeat.errors import ConfigError
from offbeat.study.analyse import StandIn, stand_in
from offbeat.study.design import Study
from offbeat.study.storage import RaterState
from offbeat.verbs.score import score


def stand_ins(study: Study, raters: Sequence[RaterState], names: Sequence[str]) -> list[StandIn]:
    """Score the study's pictures and return how far each metric agrees with the raters.

    The text of a picture is its item's name.

    Raises:
        ConfigError: If a metric gives no value for each picture, or nobody has answered.
    """
    if not any(rater.given for rater in raters):
        raise ConfigError("--metric: expected answers of people, and there are none yet")
    pictures = study.pictures
    table = score(
        [study.file(picture.id) for picture in pictures],
        text=[f"a picture of {picture.item}" for picture in pictures],
        metrics=list(names),
    )
    held = []
    for scores in table.scores:
        if not scores.per_image:
            raise ConfigError(f"{scores.name}: expected a value for each picture, it gives one")
        sign = -1.0 if scores.better == "lower" else 1.0
        values = {
            picture.id: sign * float(value)
            for picture, value in zip(pictures, scores.values, strict=True)
        }
        held.append(stand_in(study, raters, scores.name, values))
    return held

"""Turn the answers of a study into preferences that steer ``explore --taste``."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from offbeat.errors import ConfigError
from offbeat.files.pictures import read_picture
from offbeat.files.preferences import SIDE, Preferences
from offbeat.study.answers import preferred_pictures
from offbeat.study.design import Study
from offbeat.study.storage import RaterState


def preferences_of(study: Study, raters: Sequence[RaterState]) -> Preferences:
    """Return which pictures were preferred to which, by raters whom no rule leaves out.

    Raises:
        ConfigError: If nobody preferred one picture to another.
    """
    pairs = preferred_pictures(study, raters)
    if not pairs:
        raise ConfigError("answers: expected that pictures were preferred to others, none was")
    codes = {picture.id: number for number, picture in enumerate(study.pictures)}
    images = [read_picture(study.file(picture.id), size=SIDE) for picture in study.pictures]
    return Preferences(
        torch.stack(images),
        torch.tensor([codes[better] for better, _ in pairs]),
        torch.tensor([codes[worse] for _, worse in pairs]),
    )

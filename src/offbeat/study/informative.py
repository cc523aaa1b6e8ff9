"""Choose the next pair: the one whose answer would tell most about a rater's taste.

Source: Houlsby et al., Bayesian active learning for classification and preference learning,
arXiv:1112.5745.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from offbeat.core.taste import Taste
from offbeat.files.pictures import read_picture
from offbeat.files.preferences import SIDE
from offbeat.metrics.seen import PlainEye
from offbeat.study.design import Study
from offbeat.study.schedule import Trial, all_trials
from offbeat.study.storage import RaterState


class InformativeOrder:
    """Puts the most informative pair at the next place of a rater."""

    def __init__(self, study: Study) -> None:
        """Read the study's pictures once."""
        self._pool = all_trials(study)
        self._codes = {picture.id: at for at, picture in enumerate(study.pictures)}
        images = [read_picture(study.file(picture.id), size=SIDE) for picture in study.pictures]
        self._features = PlainEye().image_embeds(images)

    def __call__(self, rater: RaterState) -> Sequence[Trial]:
        """Return the rater's trials, the next one chosen if it is a pair of the main part.

        A pair that is shown again later for self-agreement keeps its place.
        """
        trials, place = list(rater.trials), rater.position
        repeated = {trial.key for trial in trials if trial.purpose == "repeat"}
        if rater.is_finished or trials[place].purpose != "main" or trials[place].key in repeated:
            return trials
        seen = {trial.key for trial in trials[:place]} | repeated
        choices = [trial for trial in self._pool if trial.key not in seen]
        best = choices[int(self._information(rater, choices).argmax())]
        later = [at for at in range(place, len(trials)) if trials[at].key == best.key]
        if later:
            trials[place], trials[later[0]] = trials[later[0]], trials[place]
        else:  # sides alternate from place to place and from rater to rater
            ids = best.pictures[:: 1 if (place + rater.number) % 2 else -1]
            trials[place] = best.model_copy(update={"pictures": ids})
        return trials

    def _information(self, rater: RaterState, choices: Sequence[Trial]) -> torch.Tensor:
        """Return how much an answer about each pair would tell, ``[B]``, nats."""
        preferred = [
            pictures if given.value == "left" else pictures[::-1]
            for given in rater.given
            if (trial := rater.trials[given.position]).purpose == "main"
            and given.value in ("left", "right")
            and (pictures := self._rows(trial))
        ]
        answers = torch.tensor(preferred, dtype=torch.long).reshape(-1, 2)
        taste = Taste.guess(self._features, answers[:, 0], answers[:, 1])
        pairs = torch.tensor([self._rows(trial) for trial in choices])
        return taste.information(self._features[pairs[:, 0]], self._features[pairs[:, 1]])

    def _rows(self, trial: Trial) -> tuple[int, int]:
        first, second = (self._codes[name] for name in trial.pictures)
        return first, second


def order_of(study: Study) -> InformativeOrder | None:
    """Return what chooses the next pair in a study that asks for it."""
    return InformativeOrder(study) if study.design.order == "informative" else None

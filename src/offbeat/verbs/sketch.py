"""Draw one picture in few steps, without saving it: the preview of a slider."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from offbeat.checkpoints.open import loaded
from offbeat.checkpoints.placement import Where
from offbeat.core import vocab
from offbeat.core.checks import check_range
from offbeat.core.drawing import draw, plain_concept_of
from offbeat.core.threads import few_threads
from offbeat.errors import ConfigError
from offbeat.files.png import to_pil
from offbeat.methods.settings import make_method, verbs_of
from offbeat.protocols import TextBackbone
from offbeat.runs.result import Source, learned_of
from offbeat.runs.trained import find_trained
from offbeat.types import Concept, Request
from offbeat.verbs.session import check_template, in_prompt
from offbeat.verbs.walk import between

if TYPE_CHECKING:
    from PIL import Image

METHOD = "distok"


def sketch(
    concept: Concept,
    *,
    prompt: str | None = None,
    num_inference_steps: int = 6,
    seed: int = 0,
    backbone: str | Path | TextBackbone = "pocket",
    device: Where = "auto",
) -> Image.Image:
    """Draw one picture of a concept in few steps.

    Args:
        concept: From ``mixture``, ``dreamt``, ``between``, or a run.
        prompt: With ``{concept}``; None is the concept's own.
        num_inference_steps: Denoising steps, 1 or more.
        seed: Same seed, same picture.
        backbone: Name, folder, hub id, or a loaded one.
        device: Where to run, or a ``Placement``: see ``load_backbone``.
    """
    check_template(prompt)
    check_range("num_inference_steps", num_inference_steps, 1, 1000)
    model = loaded(backbone, device)
    with few_threads(model):
        images = draw(
            model,
            in_prompt(concept, prompt),
            seed=seed,
            num=1,
            decoding={"num_inference_steps": num_inference_steps},
        )
    return to_pil(images)[0]


def mixture(
    weights: Mapping[str, float],
    *,
    method: str = METHOD,
    backbone: str | Path | TextBackbone = "pocket",
    device: Where = "auto",
) -> Concept:
    """Return one concept of several words, by a method that was trained once.

    Args:
        weights: Words with their shares, which are scaled to sum to 1; a word alone is itself.
        method: Name of the method.
        backbone: The checkpoint; what the method learned must come with it.
        device: Where to run.

    Raises:
        ConfigError: If the method searches anew each time, which takes longer than a sketch.
        VocabularyError: If a word is unknown to the method, or the weights cannot be used.
    """
    parts = [(word, share) for word, share in weights.items() if share > 0]
    model = loaded(backbone, device)
    if len(parts) == 1:
        return plain_concept_of(parts[0][0], model)
    chosen = make_method(method, model, None)
    space, _ = find_trained(chosen, model, None)
    if space is None or "fuse" not in verbs_of(chosen):
        raise ConfigError(f"method: {method} searches anew each time; choose {METHOD}")
    point = vocab.shares(parts)
    request = Request(subject=" + ".join(word for word, _ in point), weights=point)
    made: Concept = chosen.fuse(model, request, trained=space)
    return made


def dreamt(
    *,
    law: str | None = None,
    seed: int = 0,
    method: str = METHOD,
    backbone: str | Path | TextBackbone = "pocket",
    device: Where = "auto",
) -> Concept:
    """Return the first concept that ``dream`` with this law and seed makes.

    Args:
        law: ``gaussian``, ``laplace`` or ``cauchy``; None is the method's own.
        seed: Same seed, same concept.
        method: Name of the method.
        backbone: The checkpoint.
        device: Where to run.
    """
    model = loaded(backbone, device)
    chosen = make_method(method, model, None if law is None else {"law": law})
    space, _ = find_trained(chosen, model, None)
    if space is None or "dream" not in verbs_of(chosen):
        raise ConfigError(f"method: {method} searches anew each time; choose {METHOD}")
    made: Concept = chosen.dream(model, Request(subject="dream", seed=seed), index=0, trained=space)
    return made


def concept_of(source: Source) -> Concept:
    """Return the concept that a run learned; ``source`` is as in ``render``."""
    return learned_of(source).concept


__all__ = ["between", "concept_of", "dreamt", "mixture", "sketch"]

"""Prompt templates of ConceptLab: each step draws one and uses it for all words.

Wording of ours; kinds and shares as in the published lists: half of the draws are plain photos.
The prompts of the pictures are those of the official code.
Source: Richardson et al., ConceptLab, arXiv:2308.02669.
"""

from __future__ import annotations

from offbeat.core.templates import article, fill
from offbeat.errors import PromptError

ARTICLES = ("a", "the", "my")

_PHOTOS = (
    "Professional photo of {article} {word}, in sharp detail",
    "{article} {word} photographed in daylight, high quality",
    "a detailed photograph that shows {article} {word}",
)
_EDITS = (
    "a painting of {article} {word}",
    "a soft watercolour of {article} {word}",
    "{article} {word} as Claude Monet would paint it",
    "{article} {word} sprayed on a wall as graffiti",
    "a line drawing of {article} {word}",
    "an oil painting that shows {article} {word}",
    "a cartoon of {article} {word}",
    "a photo of {article} {word} seen from very near",
    "a work of art that shows {article} {word}",
)
OBJECTS = (*_PHOTOS * 3, *_EDITS)
"""Each is drawn as often as it is there."""

_CLAUSE = " in the style of {word}"
_SCENES = (
    "a picture", "a painting", "a drawing", "an illustration", "a portrait of a woman",
    "a portrait of an old man", "a landscape", "a village by the sea", "a city street at night",
    "a forest in autumn", "a mountain lake", "a bowl of fruit", "a vase with flowers",
    "a sleeping cat", "a dog in a park", "a sailing ship", "a bridge over a river",
    "a busy market", "an empty room", "a group of dancers",
)  # fmt: skip
STYLES = tuple(scene + _CLAUSE for scene in _SCENES)

PICTURE_PROMPT = "Professional high-quality art of a {subject}. photorealistic, 4k, HQ"
"""Of the pictures of a thing, and of that which a judge is shown."""
STYLE_SCENE = "a painting of a horse and a barn in a valley in the style of {concept}"
"""What a judge is shown: with the scene given, its answer can hold only the style."""
STYLE_QUESTION = "art style"


def check_template(template: str, *, style: bool) -> None:
    """Refuse a template that cannot be filled.

    Raises:
        PromptError: If it lacks ``{word}``, or a style's does not end in its clause.
    """
    fill(template, **_words(template, "the", "x"))
    if style and not template.endswith(_CLAUSE):
        raise PromptError(f"templates: expected a style's to end in {_CLAUSE!r}, got {template!r}")


def filled(template: str, the: str, word: str) -> str:
    """Return the template with a word and its article: a, the or my; ``a`` becomes ``an``.

    >>> filled("a drawing of {article} {word}", "a", "owl")
    'a drawing of an owl'
    """
    return fill(template, **_words(template, article(word) if the == "a" else the, word))


def without_style(template: str) -> str:
    """Return a style's template with the clause that names the style removed."""
    return template.removesuffix(_CLAUSE)


def _words(template: str, the: str, word: str) -> dict[str, str]:
    return {"word": word} | ({"article": the} if "{article}" in template else {})

"""Prompt templates: placeholders and articles."""

from __future__ import annotations

from offbeat.errors import PromptError

PAPER_TEMPLATE = "Professional high-quality photo of a {subject}. photorealistic, 4k, HQ"
"""The low-probability paper's positive prompt (arXiv:2601.22125), for full-size checkpoints."""

_UNI = ("unic", "unif", "unio", "uniq", "unis", "unit", "univ")
_YOU = (*_UNI, "usa", "use", "usu", "uten", "util", "utop", "uk", "ufo", "uran")
_LIKE_CONSONANTS = (*_YOU, "eu", "ew", "one")
_LIKE_VOWELS = ("hour", "honest", "honour", "honor", "heir")


def article(noun: str) -> str:
    """Return ``a`` or ``an``, by the first sound of ``noun`` as spelling suggests it.

    >>> article("alien"), article("unicorn"), article("handbag")
    ('an', 'a', 'a')
    """
    word = noun.strip().lower()
    vowel = word.startswith((*"aeiou", *_LIKE_VOWELS)) and not word.startswith(_LIKE_CONSONANTS)
    return "an" if vowel else "a"


def fill(template: str, **words: str) -> str:
    """Replace each ``{name}`` of ``template``.

    Raises:
        PromptError: If a placeholder has no word, or a word has no placeholder.

    >>> fill("a picture of a {subject}", subject="pig")
    'a picture of a pig'
    """
    for name in words:
        if "{" + name + "}" not in template:
            raise PromptError(f"prompt: expected {{{name}}} somewhere in {template!r}")
    try:
        return template.format(**words)
    except (KeyError, IndexError, ValueError) as error:
        raise PromptError(
            f"prompt: cannot fill {template!r} ({error}); it may hold only "
            + " and ".join(f"{{{name}}}" for name in words)
        ) from error

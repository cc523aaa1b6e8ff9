"""Prompt templates: placeholders and articles."""

from __future__ import annotations

from string import Formatter

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


def check_text(name: str, text: str) -> None:
    """Refuse a text that cannot be written or encoded.

    Raises:
        PromptError: If it is no text, or holds half a character: a lone surrogate, as bytes that
            are not UTF-8 become on a command line.
    """
    if not isinstance(text, str):
        raise PromptError(f"{name}: expected a text, got {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{name}: expected UTF-8 text, got {text!a}; type it again, or set the terminal "
            "to UTF-8"
        ) from error


def fill(template: str, **words: str) -> str:
    """Replace each ``{name}`` of ``template``; ``{{`` and ``}}`` stand for braces.

    Raises:
        PromptError: If a placeholder has no word, a word has no placeholder, a placeholder is more
            than a name, or a text is not UTF-8.

    >>> fill("a picture of a {subject}", subject="pig")
    'a picture of a pig'
    """
    for name, text in {"prompt": template, **words}.items():
        check_text(name, text)
    may = "it may hold only " + " and ".join(f"{{{name}}}" for name in words)
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise PromptError(f"prompt: cannot fill {template!r} ({error}); {may}") from error
    for _, place, spec, conversion in parts:
        if place is not None and (place not in words or spec or conversion):
            raise PromptError(f"prompt: cannot fill {{{place}}} in {template!r}; {may}")
    for missing in words.keys() - {place for _, place, _, _ in parts}:
        raise PromptError(f"prompt: expected {{{missing}}} somewhere in {template!r}")
    # str.format would follow attributes and items of what it fills in
    return "".join(text + (words[place] if place else "") for text, place, _, _ in parts)

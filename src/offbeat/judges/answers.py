"""What is asked about pictures, and how answers in words are read."""

from __future__ import annotations

import re
from typing import Any, Literal

from offbeat.core.templates import article, check_text
from offbeat.errors import CheckpointError, PromptError

WHAT = "What is in the photo?"
"""What class probabilities are read from; DisTok asks "What animal is in the photo?"."""
BRIEFLY = " Answer with its name alone."
"""Added for models that answer in sentences."""
_SPELLINGS = tuple(space + "{}" for space in ("", " "))


def still_a_question(subject: str) -> str:
    """Return the question of the low-probability search, with the right article.

    Raises:
        PromptError: If the subject is empty or not UTF-8.

    >>> still_a_question("alien")
    'Is this still an alien? Yes or no.'
    """
    word = _checked(subject)
    return f"Is this still {article(word)} {word}? Yes or no."


def kind_question(subject: str) -> str:
    """Return ConceptLab's question; what is a question already stays as it is.

    >>> kind_question("pet")
    'What kind of pet is in this photo?'
    """
    word = _checked(subject)
    return word if word.endswith("?") else f"What kind of {word} is in this photo?"


def yes_or_no(answer: str) -> Literal["yes", "no"] | None:
    """Return the first yes or no of an answer in words; None if it has neither.

    >>> yes_or_no("Well... no, yes?"), yes_or_no("**YES.**"), yes_or_no("Nobody knows")
    ('no', 'yes', None)
    """
    found = re.search(r"(?<![^\W_])(yes|no)(?![^\W_])", answer.lower())
    return None if found is None else ("yes" if found[1] == "yes" else "no")


def thing_named(answer: str) -> str:
    r"""Return what an answer names: its first words, in lower case, without article.

    >>> thing_named("A Siamese cat.\nIt sits."), thing_named("**Dog**"), thing_named("...")
    ('siamese cat', 'dog', '')
    """
    lines = [part.strip(" \t*_\"'`") for part in re.split(r"[.,;:!?\n]", answer)]
    words = next((line.lower() for line in lines if line), "").split()
    return " ".join(words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words)


def yes_no_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that say yes and those that say no.

    Both words in lower case, capitalised and in capitals, with and without a space before; a
    spelling counts where it is one token.

    Raises:
        CheckpointError: If the tokenizer has no single token for one of the two.
    """
    found = []
    for word in ("yes", "no"):
        texts = [f.format(w) for w in (word, word.title(), word.upper()) for f in _SPELLINGS]
        ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        single = {row[0] for row in ids if len(row) == 1} - {tokenizer.unk_token_id}
        if not single:
            raise CheckpointError(f"tokenizer: expected a single token for {word!r}, found none")
        found.append(sorted(single))
    return found[0], found[1]


def _checked(subject: str) -> str:
    check_text("subject", subject)
    if not subject.strip():
        raise PromptError(f"subject: expected a word, got {subject!r}")
    return " ".join(subject.split())

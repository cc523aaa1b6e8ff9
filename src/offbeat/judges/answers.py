"""Questions about pictures, and how to read answers in words."""

from __future__ import annotations

import json
import re
from contextlib import suppress
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
    """Return what an answer in words says: yes or no; None if it says neither.

    Thinking is no answer, nor are a refusal, a hedge ("there is no way to tell") and an echo of
    the question. Answers in JSON, in tags and in sentences are read.

    >>> yes_or_no("**YES.**"), yes_or_no("Well... no, yes?"), yes_or_no("Nobody knows")
    ('yes', 'no', None)
    >>> yes_or_no("<think>Yes?</think> The answer is no."), yes_or_no("I can't say yes or no.")
    ('no', None)
    """
    text = _spoken(answer).lower()
    if direct := re.match(r"(yes|no)\s*([.,;:!)\n-]|$)", text):
        return _yes_no(direct[1])
    text = re.sub(r"\b(yes|no)\s*(or|/)\s*(yes|no)\b|\bno (doubt|question|problem)\b", " ", text)
    if _REFUSAL.search(text):
        return None
    stated = re.findall(r"\banswer(?: is|:|=)\s*\W*(yes|no)\b", text)
    # "no" before a noun is no answer: "there is no alien"
    said = re.findall(
        r"(?<![^\W_])(yes)(?![^\W_])|(?<![^\W_])(no)(?=\s*(?:[^\w\s]|$|it\b|this\b|i\b|not\b))",
        text,
    )
    words = stated[-1:] or ["yes" if pair[0] else "no" for pair in said[:1]]
    return _yes_no(words[0]) if words else None


def thing_named(answer: str) -> str:
    r"""Return what an answer names, in lower case, without article; empty if it names nothing.

    >>> thing_named("It is a Siamese cat.\nIt sits."), thing_named("**Dog**"), thing_named("...")
    ('siamese cat', 'dog', '')
    >>> thing_named("I'm sorry, I can't identify that.")
    ''
    """
    text = _spoken(answer)
    if _REFUSAL.search(text.lower()):
        return ""
    lines = [part.strip(" \t*_\"'`()[]{}<>#") for part in re.split(r"[.,;!?\n]", text)]
    lines = [re.sub(r"^(?:\d+[.)]?|[-*•])\s*", "", line).lower() for line in lines]
    name = next((line for line in lines if re.search(r"[^\W\d_]", line)), "")
    name = _LEAD.sub("", name.rsplit(":", 1)[-1].strip(" *_\"'`"))
    return " ".join(re.sub(r"^(?:a|an|the)\s+", "", name.strip()).split())


_THINKING = re.compile(
    r"<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)|\[think\].*?(?:\[/think\]|\Z)",
    re.S | re.I,
)
"""What a reasoning model says to itself; one that was cut off has no end."""
_MARKS = re.compile(r"<answer>(.*?)(?:</answer>|\Z)|\\boxed\{([^{}]*)\}", re.S | re.I)
_REFUSAL = re.compile(
    r"\b(?:sorry|apologi[sz]e|(?:can ?not|can'?t|could(?: not|n't)|unable to|not able to|"
    r"impossible to|no way to|difficult to|hard to)\s+(?:\w+\s+)?"
    r"(?:tell|say|answer|help|assist|determine|identify|see|know|view|judge|assess|be sure)|"
    r"not sure|unsure|uncertain|unclear|(?:do not|don't) know|as an ai)\b"
)
_LEAD = re.compile(
    r"^(?:(?:it|this|that|there|he|she)(?:'s| is| appears to be| looks like| seems to be)|"
    r"(?:the|this) (?:picture|photo|image|drawing|animal|object|thing)(?: in (?:the|this) \w+)?"
    r"(?: is| shows| depicts| contains)|i (?:can )?see|answer is)\s+"
)


def _spoken(answer: str) -> str:
    """Return the answer itself: without thinking, tags, code fences and JSON around it."""
    text = _THINKING.sub(" ", answer).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    if marked := _MARKS.findall(text):
        text = " ".join(part for part in marked[-1] if part)
    text = re.sub(r"```\w*", " ", text).strip()
    if text[:1] in ("{", "["):
        with suppress(ValueError, RecursionError):  # not JSON after all: read it as words
            text = _first_text(json.loads(text))
    return re.sub(r"^[\s*_#>\"'`(]*(?:answer\s*[:=])?[\s*_\"'`(]*", "", text, flags=re.I)


def _first_text(value: Any) -> str:
    """Return the first text in a JSON value, that of ``answer`` before others."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        value = [value["answer"]] if "answer" in value else list(value.values())
    if isinstance(value, list):
        return next((text for each in value if (text := _first_text(each))), "")
    return value if isinstance(value, str) else ""


def _yes_no(word: str) -> Literal["yes", "no"]:
    return "yes" if word == "yes" else "no"


def yes_no_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that say yes and those that say no.

    Both words in lower case, capitalised and in capitals, with and without a space before; a
    spelling counts where it is one token.

    Raises:
        CheckpointError: If the tokenizer has no single token for one of the two.
    """
    pairs = []
    for word in ("yes", "no"):
        texts = [f.format(w) for w in (word, word.title(), word.upper()) for f in _SPELLINGS]
        ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        single = {row[0] for row in ids if len(row) == 1} - {tokenizer.unk_token_id}
        if not single:
            raise CheckpointError(f"tokenizer: expected a single token for {word!r}, found none")
        pairs.append(sorted(single))
    return pairs[0], pairs[1]


def _checked(subject: str) -> str:
    check_text("subject", subject)
    if not subject.strip():
        raise PromptError(f"subject: expected a word, got {subject!r}")
    return " ".join(subject.split())

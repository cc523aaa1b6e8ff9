import pytest

from offbeat.core.templates import PAPER_TEMPLATE, article, fill
from offbeat.errors import PromptError


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("handbag", "a"),
        ("alien", "an"),
        ("unicorn", "a"),
        ("umbrella", "an"),
        ("UFO", "a"),
        ("Owl", "an"),
        ("one-man band", "a"),
        ("onion", "an"),
        ("uninteresting hat", "an"),
        ("hourglass", "an"),
    ],
)
def test_article_follows_the_sound(noun, expected):
    assert article(noun) == expected


def test_fill_replaces_every_place():
    assert "photo of a pig." in fill(PAPER_TEMPLATE, subject="pig")
    assert fill("{subject} on {subject}", subject="pig") == "pig on pig"


@pytest.mark.parametrize(
    "template",
    [
        "a picture", "a {subject} {style}", "a {subject} {", "a {subject} }", "a {subject} {0}",
        "a {subject} {}", "a {subject.x}", "a {subject} {subject.x}", "a {subject} {subject[a]}",
        "a {subject} {subject[0]}", "a {subject} {subject.__class__}", "a {subject!x}",
        "a {subject!r}", "a {subject:>9}", "a {subject:{x}}", "a {{subject}}", "a {subject} \udcff",
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_filled_is_refused(template):
    with pytest.raises(PromptError):
        fill(template, subject="pig")


def test_a_subject_with_braces_is_taken_as_it_is():
    assert fill("a {subject}", subject="{pig}") == "a {pig}"


def test_doubled_braces_stand_for_braces():
    assert fill("{{a}} {subject}", subject="pig") == "{a} pig"


def test_a_subject_that_is_not_utf_8_is_refused():
    with pytest.raises(PromptError, match=r"subject: expected UTF-8 text, got 'hand\\udcffbag'"):
        fill("a {subject}", subject="hand\udcffbag")

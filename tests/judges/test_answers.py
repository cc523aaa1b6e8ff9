"""Answers in words, as models give them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offbeat.judges.answers import thing_named, yes_or_no

# (answer, what it says): None is neither yes nor no
ANSWERS = [
    ("yes.", "yes"),
    ("No", "no"),
    ("**Answer:** Yes", "yes"),
    ('```json\n{"answer": "Yes"}\n```', "yes"),
    ('{"reason": "a bag", "answer": false}', "no"),
    ("<answer>No</answer>", "no"),
    (r"\boxed{Yes}", "yes"),
    (
        "<think>It is about an alien. No obvious face, but big eyes. So yes.</think>\n\nYes",
        "yes",
    ),
    ("<think>Yes or no? Green skin, yes, but it is a frog.</think>No.", "no"),
    ("[THINK]maybe yes[/THINK]No", "no"),
    ("<think>\nThe question wants a yes or no answer", None),
    ("There is no way to tell from this picture.", None),
    ("I'm sorry, but I can't help with that; there is no alien I can identify.", None),
    ("I cannot answer with a simple yes or no.", None),
    ("No doubt about it: yes, this is an alien.", "yes"),
    ("Yes or no? The answer is no.", "no"),
    ("Is this still a handbag? Yes or no.", None),
    ("Yes, but it looks more like a frog.", "yes"),
    ("No, I can't see a handbag.", "no"),
    ("No it isn't", "no"),
    ("This is not a handbag, no.", "no"),
    ("There is no handbag in the picture", None),
    ("", None),
]
NAMES = [
    ("It is a Siamese cat.", "siamese cat"),
    ('```json\n{"animal": "cat"}\n```', "cat"),
    ("1. Cat", "cat"),
    ("Answer: Cat", "cat"),
    ("- cat", "cat"),
    ("I'm sorry, I can't identify that.", ""),
    ("<think>hmm, a dog?</think>A red panda", "red panda"),
    ("The image shows a purple handbag.", "purple handbag"),
    ("This is the Eiffel Tower", "eiffel tower"),
    ("", ""),
]


@pytest.mark.parametrize(("answer", "said"), ANSWERS)
def test_yes_and_no_are_read_as_a_person_would(answer, said):
    assert yes_or_no(answer) == said


@pytest.mark.parametrize(("answer", "name"), NAMES)
def test_a_name_is_taken_out_of_what_surrounds_it(answer, name):
    assert thing_named(answer) == name


@given(st.text(max_size=200))
def test_any_text_is_read_without_an_error(text):
    assert yes_or_no(text) in ("yes", "no", None)
    assert thing_named(text) == thing_named(text).strip()
    assert yes_or_no(f"<think>{text.replace('<', '')}</think>") is None


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=20))
def test_any_json_is_read_without_an_error(value):
    yes_or_no(json.dumps(value))
    thing_named(json.dumps({"kind": value}))

"""Designs: what is refused, what is copied, who sees what."""

import contextlib
from collections import Counter

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from studies import draw, make, planned, raw_design

from offbeat.errors import ConfigError, OffbeatError, StoreError
from offbeat.study.design import DESIGNS, create, design_of, open_study, read_design
from offbeat.study.schedule import counts, is_answer, schedule

KINDS = ("pairs", "ranking", "scale", "yes-no")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sead": 3}, "sead"),
        ({"study": 2}, "study"),
        ({"kind": "votes"}, "kind"),
        ({"trials": 0}, "trials"),
        ({"trials": "many"}, "trials"),
        ({"question": {"en": "Which {picture}?"}}, "{item}"),
        ({"question": {"en": "Which {item?"}}, "question"),
        ({"consent": {"fr": "Oui"}}, "'fr'"),
        ({"conditions": {"a": {"owl": "x"}}}, "two conditions"),
        ({"conditions": {"a": {"owl": "x"}, "b": {"cat": "x"}}}, "same items"),
        ({"primary": ["explored", "best"]}, "primary"),
        ({"scale": {"low": 5, "high": 0}}, "low below high"),
    ],
)
def test_what_does_not_fit_is_named(change, told):
    with pytest.raises(ConfigError, match="design: ") as error:
        design_of({**raw_design(), **change})
    assert told in str(error.value)


WORDS = st.text(max_size=9)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
)


@given(VALUES)
def test_any_value_is_a_design_or_a_clear_error(value):
    for raw in (value, {**raw_design(), "scale": value}, {**raw_design(), "conditions": value}):
        with contextlib.suppress(OffbeatError):
            design_of(raw)


def test_the_study_s_pictures_tell_nothing(tmp_path):
    study = make(tmp_path)
    files = sorted((tmp_path / "study" / "pictures").iterdir())
    assert len(files) == 16
    for file in files:
        data = file.read_bytes()
        assert not any(word in data for word in (b"explored", b"ordinary", b"made this"))
        assert not any(word in file.name for word in ("explored", "ordinary", "owl", "castle"))
        with Image.open(file) as picture:
            assert picture.info == {}
    assert open_study(tmp_path / "study").digest == study.digest


def test_a_design_that_was_changed_afterwards_is_refused(tmp_path):
    make(tmp_path)
    file = tmp_path / "study" / "study.json"
    file.write_text(file.read_text().replace('"max_failed_checks": 0', '"max_failed_checks": 1'))
    with pytest.raises(StoreError, match="was changed"):
        open_study(tmp_path / "study")


def test_conditions_with_unequal_pictures_are_refused(tmp_path):
    draw(tmp_path)
    (tmp_path / "explored" / "owl" / "3.png").unlink()
    with pytest.raises(ConfigError, match="lower `pictures`"):
        create(design_of(raw_design()), tmp_path / "study", base=tmp_path)
    create(design_of(raw_design(pictures=3)), tmp_path / "other", base=tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_comparison_is_shown_about_as_often_on_both_sides(kind):
    study = planned(kind, ("a", "b", "c"), trials=7)
    shown, lefts, given = Counter(), Counter(), []
    for number in range(48):
        trials = schedule(study, number, shown)
        given.append(trials)
        shown = counts(given)
        for trial in trials:
            if trial.purpose == "main":
                lefts[trial.key, trial.pictures[0]] += 1
        purposes = Counter(trial.purpose for trial in trials)
        assert purposes == {"main": 7, "practice": 1, "repeat": 2, "check": 2}
        keys = [trial.key for trial in trials if trial.purpose == "main"]
        assert len(set(keys)) == 7
    assert max(shown.values()) - min(shown.values()) <= 1
    if kind == "pairs":
        for key in shown:
            sides = [count for (of, _), count in lefts.items() if of == key]
            assert len(sides) == 2
            assert max(sides) - min(sides) <= 2


def test_repeats_come_later_with_sides_swapped():
    study = planned(trials=6, repeats=3)
    trials = schedule(study, 0, {})
    for at, trial in enumerate(trials):
        if trial.purpose == "repeat":
            first = next(n for n, t in enumerate(trials) if t.key == trial.key
                         and t.purpose == "main")  # fmt: skip
            assert first < at
            assert trial.pictures == trials[first].pictures[::-1]


def test_a_latin_square_gives_each_trial_each_place_once():
    study = planned(trials=8, order="latin", repeats=0, checks=0, practice=0)
    places = Counter()
    for number in range(8):
        for place, trial in enumerate(schedule(study, number, {})):
            places[trial.key, place] += 1
    assert set(places.values()) == {1}


def test_a_schedule_depends_on_the_seed_and_the_number_alone():
    study = planned()
    assert schedule(study, 3, {}) == schedule(study, 3, {})
    assert schedule(study, 3, {}) != schedule(study, 4, {})


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("pairs", ["left", "right", "equal"], ["up", 0, None, ["left"]]),
        ("yes-no", ["yes", "no"], ["left", 1, True]),
        ("scale", [0, 5], [-1, 6, 2.5, True, "3"]),
        ("ranking", [[0, 1], [1, 0]], [[0], [0, 0], [0, 2], [0, True], "01", None]),
    ],
)
def test_answers_are_checked(kind, good, bad):
    study = planned(kind)
    trial = schedule(study, 0, {})[0]
    assert all(is_answer(study.design, trial, value) for value in good)
    assert not any(is_answer(study.design, trial, value) for value in bad)


@pytest.mark.parametrize("file", sorted(DESIGNS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_designs_that_come_along_are_designs(file):
    design, _ = read_design(file.stem)
    assert yaml.safe_load(file.read_text())["title"] == design.title

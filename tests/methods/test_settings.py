"""Settings and methods that declare themselves, those of a plug-in too."""

from dataclasses import dataclass, field, fields

import pytest

from offbeat import registry
from offbeat.errors import ConfigError, OffbeatError, RangeError
from offbeat.methods.settings import (
    VERBS,
    Method,
    Settings,
    result_of,
    rule_of,
    schema_of,
    setting,
    verbs_of,
)

METHODS = registry.names("method")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mine(Settings):
    method = "mine"

    num_steps: int = setting(10, 1, 100, help="Steps.")
    share: float | None = setting(None, above=0, below=1)
    law: str = setting("a", choices=("a", "b"))
    words: tuple[str, ...] = setting(())
    loud: bool = setting(False)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"num_steps": 0}, RangeError, r"num_steps: expected a number in \[1, 100\], got 0"),
        ({"num_steps": 101}, RangeError, "num_steps"),
        ({"num_steps": 1.5}, ConfigError, "num_steps: expected a whole number, got 1.5"),
        ({"num_steps": True}, ConfigError, "whole number"),
        ({"num_steps": None}, ConfigError, "whole number"),
        ({"share": 0}, RangeError, r"\(0, 1\)"),
        ({"share": 1}, RangeError, r"\(0, 1\)"),
        ({"share": float("nan")}, RangeError, "share"),
        ({"share": "half"}, ConfigError, "share: expected a number"),
        ({"law": "c"}, ConfigError, "law: expected one of a, b, got 'c'"),
        ({"words": 3}, ConfigError, "words: expected a list of texts"),
        ({"words": [3]}, ConfigError, "words: expected a list of texts"),
        ({"loud": 1}, ConfigError, "loud: expected true or false"),
        ({"stepz": 1}, ConfigError, "stepz: expected a setting of mine"),
    ],
)
def test_a_setting_is_checked_by_what_it_declares(given, error, said):
    with pytest.raises(error, match=said):
        Mine.of(given)


def test_lists_and_cards():
    assert Mine.of({"words": ["a"]}).words == ("a",)
    card = {"methods": {"mine": {"num_steps": 7, "law": "b"}}}
    assert Mine.for_card(card, law="a") == Mine(num_steps=7)


def test_the_schema_reads_the_fields():
    about = schema_of(Mine, {})["properties"]
    assert about["num_steps"] == {
        "type": "integer", "minimum": 1, "maximum": 100, "default": 10, "description": "Steps.",
    }  # fmt: skip
    assert about["law"]["enum"] == ["a", "b"]
    number, null = about["share"]["anyOf"]
    assert number == {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    assert null == {"type": "null"}
    assert about["words"] == {"type": "array", "default": ()}


def test_a_plug_in_of_plain_dataclasses_still_works():
    @dataclass(frozen=True)
    class Plain:
        size: int = field(default=3)

    class Fuses:
        takes_weights = True

        def fuse(self):
            pass

    assert schema_of(Plain, {})["properties"]["size"] == {"type": "integer", "default": 3}
    assert verbs_of(Fuses) == {"fuse", "sweep", "grid"}
    assert result_of(Fuses) == "concept"


def test_plug_ins_may_still_derive_from_the_protocols_of_before():
    from offbeat.protocols import FusesConcepts, SamplesPrior
    from offbeat.protocols.methods import DrawsSubject

    class Mine(FusesConcepts):
        def fuse(self):
            pass

    assert verbs_of(Mine) == {"fuse"}
    assert issubclass(Mine, DrawsSubject)
    assert hasattr(SamplesPrior, "sample_prior")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_declares_what_it_can(name):
    method = registry.find("method", name)
    assert issubclass(method, Method)
    assert method.name == method.config_class.method == name
    assert method.verbs
    assert method.verbs <= set(VERBS)
    functions = {
        "train": "train", "dream": "dream", "evolve": "evolve", "paint": "paint",
    }  # fmt: skip
    for verb, function in functions.items():
        assert (verb in method.verbs) == hasattr(method, function)
    assert ("fuse" in method.verbs) == (hasattr(method, "fuse") or hasattr(method, "mix"))
    pictures = hasattr(method, "draw") or hasattr(method, "mix") or hasattr(method, "paint")
    assert method.result == ("pictures" if pictures else "concept")


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_has_help_and_holds_its_range(name):
    config = registry.find("method", name).config_class
    for item in fields(config):
        rule = rule_of(item)
        assert rule.help, item.name
        assert rule.help[-1] in ".)", rule.help
        if rule.at_most is not None:
            with pytest.raises(OffbeatError, match=item.name):
                config(**{item.name: rule.at_most * 2 + 1})
        with pytest.raises(OffbeatError):
            config(**{item.name: object()})

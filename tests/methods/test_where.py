"""docs/where.md names where each equation is: every function named is there."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")]
    for line in (ROOT / "docs/where.md").read_text().splitlines()
    if line.startswith("|") and "`" in line and "function | in" not in line
]
FUNCTIONS = [
    (name, re.search("`(.+)`", row[-1]).group(1))
    for row in ROWS
    for name in re.findall("`([^`]+)`", row[-2])
]


@pytest.mark.parametrize(("name", "file"), FUNCTIONS)
def test_a_function_of_the_table_is_where_it_says(name, file):
    assert (ROOT / "src/offbeat" / file).is_file()
    target = importlib.import_module("offbeat." + file.removesuffix(".py").replace("/", "."))
    for part in name.split("."):
        target = getattr(target, part)
    assert callable(target)
    assert target.__doc__


def test_every_loss_of_the_four_papers_is_in_the_table():
    named = set(FUNCTIONS)
    for method in ("cretok", "low_probability", "distok", "creativesynth"):
        for kind in ("losses", "equations"):
            file = f"methods/{method}/{kind}.py"
            if not (ROOT / "src/offbeat" / file).is_file():
                continue
            module = importlib.import_module(f"offbeat.methods.{method}.{kind}")
            own = {
                name for name, one in vars(module).items()
                if callable(one) and getattr(one, "__module__", "") == module.__name__
            }  # fmt: skip
            assert {(name, file) for name in own} <= named


def test_numbers_are_those_of_the_paper():
    from offbeat.methods.low_probability import losses

    for name, number in {
        "creative_loss": 5, "anchor_loss": 6, "avoid_loss": 7, "total_loss": 8,
    }.items():  # fmt: skip
        assert f"(eq. {number})" in getattr(losses, name).__doc__

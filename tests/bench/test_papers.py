"""A table is computed once, the same each time, and says what its cells say."""

import json
import os
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from offbeat import registry
from offbeat.bench import papers
from offbeat.bench.cells import Item
from offbeat.bench.lab import Outcome
from offbeat.bench.spec import bundled, read_table
from offbeat.cli import app
from offbeat.errors import ConfigError, OffbeatError

SMALL = """
title: Small
source: nobody
program: fuse
items: [{pig: 1, owl: 1}, {frog: 3, teapot: 1}]
num_images: 1
ways:
  words: {label: words}
  prompt: {label: prompt, prompt: "a mixture of {words}", items: 1}
readings: {kl: KL, sum: sum}
claims:
  - {says: prompts mix, way: prompt, reading: sum, over: words}
quick: {items: [{pig: 1, owl: 1}]}
"""


class Counting:
    """A program of another package: it draws nothing and remembers what it was asked."""

    asked: list = []  # noqa: RUF012

    def __init__(self, table, lab):
        self.table = table

    def items(self):
        return [Item(str(number), number) for number in range(self.table.items)]

    def key(self, way):
        return {"set": dict(way.set)}

    def cell(self, way, item, seed):
        self.asked.append((way.name, item.name, seed))
        gain = way.set.get("gain", 0.0)
        readings = {"value": gain + item.value, "broken": float("nan")}
        return Outcome(readings=readings, images=torch.zeros(0, 3, 4, 4), evaluations=2)


COUNTING = f"""
title: Counting
source: nobody
program: {__name__}:Counting
items: 6
seeds: 2
ways: {{low: {{label: low}}, high: {{label: high, set: {{gain: 1.0}}, seeds: 1}}}}
readings: {{value: value, broken: broken}}
claims:
  - {{says: high is higher, way: high, reading: value, over: low}}
  - {{says: high is lower, way: high, reading: value, over: low, direction: lower}}
  - {{says: nothing is read, way: high, reading: broken, over: low}}
"""


@pytest.fixture
def counting(tmp_path):
    file = tmp_path / "counting.yaml"
    file.write_text(COUNTING)
    Counting.asked = []
    return file


def test_cells_are_kept_and_those_that_changed_are_made_anew(counting, tmp_path):
    (folder,) = papers.run([str(counting)], tmp_path / "out", tell=str)
    assert len(Counting.asked) == 12 + 6
    papers.run([str(counting)], tmp_path / "out", tell=str)
    assert len(Counting.asked) == 18
    counting.write_text(COUNTING.replace("gain: 1.0", "gain: 2.0"))
    papers.run([str(counting)], tmp_path / "out", tell=str)
    assert Counting.asked[18:] == [("high", str(at), 0) for at in range(6)]
    (folder / "low" / "0-0.json").write_text("{cut")
    papers.run([str(counting)], tmp_path / "out", tell=str)
    assert Counting.asked[24:] == [("low", "0", 0)]


def test_parts_make_the_whole(counting, tmp_path):
    assert papers.run([str(counting)], tmp_path / "out", part=(1, 2), tell=str) == []
    assert {item for _, item, _ in Counting.asked} == {"1", "3", "5"}
    assert papers.run([str(counting)], tmp_path / "out", part=(0, 2), tell=str)
    assert len(Counting.asked) == 18


def test_workers_make_the_same_cells_and_a_failing_item_costs_no_other(tmp_path, monkeypatch):
    file = tmp_path / "counting.yaml"
    program = f"program: {Path(__file__).stem}:"
    file.write_text(COUNTING.replace(f"program: {__name__}:", program))
    monkeypatch.setenv(
        "PYTHONPATH", f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    )
    papers.run([str(file)], tmp_path / "alone", tell=str)
    papers.run([str(file)], tmp_path / "shared", workers=2, tell=str)
    for cell in (tmp_path / "alone").rglob("*-*.json"):
        other = tmp_path / "shared" / cell.relative_to(tmp_path / "alone")
        assert json.loads(other.read_text())["readings"] == json.loads(cell.read_text())["readings"]
    failing = file.read_text().replace("items: 6", "items: 7")
    file.write_text(failing)
    (tmp_path / "shared" / "counting" / "low" / "6-0.json").mkdir(parents=True)  # cannot be written
    with pytest.raises(OffbeatError, match="1 of 7 items failed"):
        papers.run([str(file)], tmp_path / "shared", workers=2, tell=str)


def test_verdicts_follow_from_the_cells(counting, tmp_path):
    (folder,) = papers.run([str(counting)], tmp_path / "out", tell=str)
    found = json.loads((folder / "results.json").read_text())
    higher, lower, nothing = found["claims"]
    assert (higher["difference"], higher["wins"], higher["pairs"]) == (1.0, 6, 6)
    assert higher["p"] == 2 / 2**6
    assert nothing["pairs"] == 0
    assert (lower["difference"], lower["effect"]) == (-1.0, None)  # all alike
    report = tmp_path / "docs" / "results.md"
    papers.write_report([folder], report)
    text = report.read_text()
    row = "| 1.00 (1.00 to 1.00) | all alike (1.81) | 0.062 | 6 of 6 | **undecided** |"
    assert f"| high is higher {row}" in text  # two claims, corrected together
    assert "Decided: 0 of 3." in text


def test_a_cell_computed_again_is_the_same_bit_for_bit(pocket, tmp_path, monkeypatch):
    monkeypatch.setattr("offbeat.bench.lab.load_backbone", lambda name: pocket)
    monkeypatch.setenv("OFFBEAT_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    command = ["bench", "papers", str(file), "--quick", "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(app, [*command, "--report", str(tmp_path / "page.md")])
    assert found.exit_code == 0, found.output
    folder = tmp_path / "out" / "small-quick"
    cell = folder / "prompt" / "pig_+_owl-0.json"
    first, picture = json.loads(cell.read_text()), cell.with_suffix(".png").read_bytes()
    cell.unlink()
    assert CliRunner().invoke(app, command).exit_code == 0
    again = json.loads(cell.read_text())
    for one in (first, again):
        assert one.pop("seconds") > 0
        assert one.pop("seconds_all") > 0
    assert again == first
    assert cell.with_suffix(".png").read_bytes() == picture
    assert first["evaluations"] > 20
    assert (tmp_path / "page" / "small-quick.png").read_bytes() == (
        folder / "sheet.png"
    ).read_bytes()


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", bundled())
def test_bundled_tables_name_what_there_is(name, quick):
    table = read_table(name, quick=quick)
    assert table.ways
    assert table.readings
    for way in table.ways.values():
        if way.method:
            assert way.method in registry.names("method")
        assert not way.avoids or way.avoids in table.ways
    for metric in table.metrics:
        assert metric in registry.names("metric")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("source:", "sorce:"), "unknown 'sorce'"),
        (("over: words", "over: sentence"), "unknown 'sentence'"),
        (("over: words", "over: words, direction: up"), "direction"),
        (("program: fuse", "program: juggle"), "expected one of explore"),
        ((SMALL, "- a list"), "expected a mapping"),
        ((SMALL, "{"), "cannot be read as YAML"),
    ],
)
def test_a_table_that_is_none_is_refused_with_its_name(tmp_path, change, message):
    file = tmp_path / "small.yaml"
    file.write_text(SMALL.replace(*change))
    with pytest.raises(ConfigError, match=message):
        papers.run([str(file)], tmp_path / "out", tell=str)
    with pytest.raises(ConfigError, match="one of arousal"):
        read_table("nothing")
    with pytest.raises(ConfigError, match="I/N"):
        papers.part_of("2/2")


def test_no_name_of_a_table_leads_out_of_its_folder(counting, tmp_path):
    text = COUNTING.replace("high: {", '"../../../high": {')
    counting.write_text(text.replace("way: high", 'way: "../../../high"'))
    before = set(tmp_path.parent.rglob("*"))
    (folder,) = papers.run([str(counting)], tmp_path / "a" / "out", tell=str)
    made = set(tmp_path.parent.rglob("*")) - before
    assert all(
        path == tmp_path / "a" or path.is_relative_to(tmp_path / "a" / "out") for path in made
    )
    assert len(list(folder.glob("*/*.json"))) == 18

"""What the programs of the tables read, on pocket, small."""

import pytest
import torch

from offbeat.bench.cells import TableRun
from offbeat.bench.programs import fuse as fuse_program
from offbeat.bench.programs.explore import colourfulness
from offbeat.bench.spec import read_table
from offbeat.core.drawing import plain_concept_of
from offbeat.types import Request

EXPLORE = """
title: Small
source: nobody
program: explore
items: [handbag]
num_images: 2
options: {num_steps: 2, num_holds: 2, num_components: 8, num_baseline: 200, num_held_out: 20}
ways:
  held: {label: held, method: low-probability, set: {quantile: 0.999}}
  avoid: {label: avoid, method: low-probability, set: {quantile: 0.999}, avoids: held}
  again: {label: again, method: low-probability, set: {quantile: 0.999}, avoids: held, form: another seed}
  fit: {label: fit, form: fit, set: {density: kde}}
readings: {"from the marked": from it}
"""  # noqa: E501
FUSE = """
title: Small
source: nobody
program: fuse
items: [{pig: 1, owl: 1}]
seeds: 2
unit: training
num_images: 1
ways:
  trained: {method: cretok, train: {num_steps: 2}, prompt: "a drawing of a {concept}"}
  again:
    method: cretok
    train: {num_steps: 2}
    set: {phrase: "my {token} of {words}"}
    form: redescribed
    judge: clip
readings: {kl: KL}
"""


@pytest.fixture
def opened(pocket, tmp_path, monkeypatch):
    monkeypatch.setattr("offbeat.bench.lab.load_backbone", lambda name: pocket)
    monkeypatch.setenv("OFFBEAT_CACHE", str(tmp_path / "cache"))

    def open_table(text):
        file = tmp_path / "small.yaml"
        file.write_text(text)
        return TableRun(read_table(file), tmp_path / "out")

    return open_table


def test_a_marked_cluster_is_read_by_the_distance_from_it(opened, pocket):
    job = opened(EXPLORE)
    program, ways = job.program, job.table.ways
    request = Request(subject="handbag", num_images=2, seed=0)
    marked = program._marked(ways["held"], request)
    itself = program._from_marked(ways["held"], request, marked)
    assert itself["from the marked"] == itself["marked itself"]
    far = program._from_marked(ways["held"], request, plain_concept_of("castle", pocket))
    assert far["from the marked"] > 2 * far["marked itself"]
    told = [len(program._given(ways[name], program._method(ways[name]), request).get("avoid", ()))
            for name in ("avoid", "again")]  # fmt: skip
    assert told == [1, 0]
    (item,) = program.items()
    readings = program.cell(ways["again"], item, 0).readings
    assert {"from the marked", "colourfulness", "sureness", "failed"} <= set(readings)
    fit = program.cell(ways["fit"], item, 0).readings
    assert 0 < fit["variance kept"] < 1
    assert fit["likelihood"] < 5


def test_colourfulness_is_that_of_the_paper_by_hand():
    grey = torch.full((3, 2, 2), 0.5)
    halves = torch.zeros(3, 1, 2)
    halves[0, 0, 0] = halves[1, 0, 1] = 1.0  # red beside green: rg is 1 and -1, yb a half twice
    found = colourfulness(grey[None])
    assert float(found) == 0
    expected = torch.tensor([1.0, -1.0]).std() + 0.3 * 0.5
    assert float(colourfulness(halves[None])) == pytest.approx(float(expected))


def test_trainings_are_made_once_a_seed_and_drawn_in_another_prompt(opened, monkeypatch):
    job, seeds, train = opened(FUSE), [], fuse_program.train

    def counted(*args, seed, **settings):
        seeds.append(seed)
        return train(*args, seed=seed, **settings)

    monkeypatch.setattr(fuse_program, "train", counted)
    prompts = []
    draw = fuse_program.draw

    def watched(backbone, concept, **settings):
        prompts.append(concept.prompt())
        return draw(backbone, concept, **settings)

    monkeypatch.setattr(fuse_program, "draw", watched)
    named = type("Namer", (), {"name_it": lambda self, picture, what: "teapot"})()
    monkeypatch.setattr(fuse_program, "choose_judge", lambda *args: named)
    job.compute((0, 1), str)
    assert seeds == [0, 1]  # both ways share a training, whatever is set for drawing
    assert prompts[0].startswith("a drawing of a ")
    assert prompts[2] == "a picture of a teapot"  # after the picture that the judge named
    assert len({cell["key"] for _, cell in job.results()}) == 2

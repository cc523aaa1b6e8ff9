"""Plans: what they expand to, and what they refuse."""

import re

import pytest

from offbeat.checkpoints.placement import Placement
from offbeat.errors import OffbeatError
from offbeat.scale.plan import MAX_TASKS, _content, read_plan

PLAN = {
    "verb": "explore",
    "set": {"num_images": 2},
    "grid": {"subject": ["handbag", "chair"], "seed": {"from": 5, "num": 3}},
    "list": [{"novelty": 2}, {"quantile": 0.9}],
    "sample": {"num": 2, "from": {"config.learning_rate": {"low": 0.01, "high": 0.1, "log": True}}},
}


def test_a_plan_is_every_combination_once():
    plan = read_plan(PLAN)
    tasks = list(plan)
    assert len(tasks) == len(plan) == 2 * 3 * 2 * 2
    assert len({task.key for task in tasks}) == len({task.folder for task in tasks}) == len(tasks)
    assert {(t.arguments["subject"], t.arguments["seed"]) for t in tasks} == {
        (subject, seed) for subject in ("handbag", "chair") for seed in (5, 6, 7)
    }
    assert all(0.01 <= t.arguments["config"]["learning_rate"] <= 0.1 for t in tasks)
    assert plan.place({"subject": 1, "seed": 2}, 3) == tasks[-1].number
    assert [plan.task(task.number) for task in tasks] == tasks  # any one by itself


def test_a_key_is_what_the_result_depends_on(tmp_path):
    def key(**more):
        return read_plan({"verb": "explore", "set": {"subject": "chair", **more}}).task(0).key

    assert key() == key(seed=0)  # a default that is said
    assert len({key(), key(seed=1), key(backbone="pocket-sd"), key(config={"lora_rank": 2})}) == 4
    liked = tmp_path / "a.json"
    liked.write_text("1")
    first = key(taste=str(liked))
    other = tmp_path / "b.json"
    other.write_text("2")
    assert key(taste=str(other)) != first


def test_a_lora_that_changes_makes_other_tasks(tmp_path):
    file = tmp_path / "style.safetensors"
    file.write_bytes(b"1")

    def key(*lora):
        asked = {"verb": "explore", "set": {"subject": "chair"}}
        return read_plan(asked, Placement(lora=lora)).task(0).key

    assert len({key(), key(str(file)), key(f"{file}:0.5")}) == 3
    first = key(str(file))
    file.write_bytes(b"2")
    _content.cache_clear()  # one process reads a file once
    assert key(str(file)) != first


def test_the_slow_axes_change_last():
    grid = {"seed": [0, 1], "backbone": ["pocket", "pocket-sd"]}
    tasks = read_plan({"verb": "generate", "set": {"prompt": "a cat"}, "grid": grid})
    assert [task.arguments["backbone"] for task in tasks] == ["pocket"] * 2 + ["pocket-sd"] * 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"verb": "exlpore"}, "unknown verb 'exlpore'. Did you mean explore"),
        (
            {"set": {"nun_images": 2}},
            "unknown setting of explore 'nun_images'. Did you mean num_im",
        ),
        ({"set": {"config": {"reech": 2}}}, "reech: expected a setting of low-probability"),
        ({"grid": {"method": ["nobody"]}}, "unknown method 'nobody'"),
        ({"grid": {"seed": {"from": 0, "num": 10_000_000}}}, f"tasks .* at most {MAX_TASKS:,}"),
        ({"grid": {"subject": ["cat", "cat"]}}, "subject: a value is there twice"),
        ({"grid": {"seed": [0]}, "set": {"seed": 1}}, "seed: is in two parts"),
        ({"set": {"out": "../elsewhere"}}, "out: a sweep decides it itself"),
        ({"grid": {}}, "explore: needs subject"),
        ({"grid": {"subject": []}}, "subject: expected a list"),
        ({"list": []}, "has no task"),
        ({"sample": {"num": 2, "from": {"novelty": {"low": 3, "high": 1}}}}, "low below high"),
        ({"subjects": ["cat"]}, "unknown part of a plan 'subjects'"),
    ],
)
def test_a_bad_plan_gets_one_clear_line(change, says):
    with pytest.raises(OffbeatError) as caught:
        read_plan({"verb": "explore", "grid": {"subject": ["chair"]}} | change)
    assert re.search(says, str(caught.value).replace("\n", " "))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"a": "include: b.yaml", "b": "include: a.yaml"},
            "a.yaml includes b.yaml includes a.yaml",
        ),
        ({"a": "include: ../b.yaml"}, "leads out of the plan's folder"),
        ({"a": "include: /etc/passwd"}, "leads out of the plan's folder"),
        ({"a": "include: c.yaml"}, "no such file"),
        ({"a": "verb: [unclosed"}, "cannot be read as YAML"),
        ({"a": "- a list"}, "expected a mapping"),
    ],
)
def test_a_bad_file_gets_one_clear_line(files, says, tmp_path):
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(OffbeatError, match=says) as caught:
        read_plan(tmp_path / "a.yaml")
    assert str(tmp_path / "a.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_link_cannot_lead_out(tmp_path):
    (tmp_path / "out.yaml").write_text("verb: explore")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.yaml").symlink_to(tmp_path / "out.yaml")
    (tmp_path / "in" / "a.yaml").write_text("include: link.yaml")
    with pytest.raises(OffbeatError, match="leads out"):
        read_plan(tmp_path / "in" / "a.yaml")


def test_what_is_included_comes_before(tmp_path):
    (tmp_path / "base.yaml").write_text("verb: generate\nset: {num_images: 4, seed: 1}\n")
    (tmp_path / "a.yaml").write_text("include: base.yaml\nset: {seed: 2, prompt: a cat}\n")
    assert read_plan(tmp_path / "a.yaml").task(0).arguments == {
        "num_images": 4, "seed": 2, "prompt": "a cat",
    }  # fmt: skip

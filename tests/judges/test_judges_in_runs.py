"""Judges of every kind inside runs: chosen by name, recorded, and survived."""

import json
import os

import pytest
import torch
from test_api import KEY, QUICK, Server, answer, hang_up, said, slow

import offbeat
import tiny_vlm
from offbeat import dream, fuse, registry, score, train
from offbeat.errors import CheckpointError, ConfigError, JudgeError, UnknownNameError
from offbeat.judges.choose import MODEL_TYPES, choose_judge, open_judge
from offbeat.judges.http import Budget
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.metrics.rubric import CRITERIA
from offbeat.protocols import ChecksSubject

SMALL = LowProbabilityConfig(
    num_baseline=60, num_held_out=20, num_components=4, num_steps=6, num_probes=8, probe_every=3,
    judge_every=2, num_judged=1, lora_rank=2, quantile=0.999,
    use_support=False,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    before = os.environ.get("OFFBEAT_CACHE")
    os.environ["OFFBEAT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("OFFBEAT_CACHE")
    if before is not None:
        os.environ["OFFBEAT_CACHE"] = before


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_vlm.BUILDERS["smolvlm"](tmp_path_factory.mktemp("vlm") / "smolvlm")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OFFBEAT_API_KEY", KEY)
    found = Server()
    monkeypatch.setattr(Budget, "__init__", _quick(Budget.__init__))
    yield found
    found.close()


def _quick(init):
    def own(self, **settings):
        init(self, **{**QUICK, "timeout": 0.5, "num_tries": 1, **settings})

    return own


def explore(pocket, judge, out=None):
    return offbeat.explore(
        "handbag", config=SMALL, num_images=2, judge=judge, backbone=pocket, out=out,
        directions=1, candidates=1,
    )  # fmt: skip


def test_a_run_survives_a_server_that_fails_each_way_and_says_so(pocket, server, tmp_path):
    troubles = [slow, answer(b"{", 200), answer(said("")), answer(b"", 429), hang_up]
    server.replies = [troubles[0], answer(said("yes")), *troubles[1:]]
    run = explore(pocket, f"api:tiny-vlm@{server.url}", tmp_path / "run")
    assert [row["verdict"]["answer"] for row in run.trace if row["verdict"]] == [
        "unknown", "yes", "unknown",
    ]  # fmt: skip
    assert run.summary["unanswered"]["steps"] == 2
    assert run.summary["unanswered"]["pictures"] == 2
    assert run.summary["validity"] is None
    (warning,) = [text for text in run.summary["warnings"] if "no answer" in text]
    assert "went on as without a judge" in warning
    assert "timed out" in warning or "no whole answer" in warning
    assert "is not JSON" in warning
    assert run.concepts[0].metadata["step"] == "6"
    report = (run.folder / "report.html").read_text()
    assert "unknown" in report
    assert "is not JSON" in report
    request = json.loads((run.folder / "request.json").read_text())
    assert request["judge_name"] == f"api:tiny-vlm@{server.url[7:-3]}"
    for file in run.folder.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


def test_a_no_of_the_server_ends_the_search(pocket, server):
    server.replies = [answer(said("yes")), answer(said("No, it is not."))]
    run = explore(pocket, f"api:tiny-vlm@{server.url}")
    assert run.summary["stopped"] == "judge"
    assert run.concepts[0].metadata["step"] == "2"
    assert run.summary["validity"] == 0
    assert server.asked[0][2]["messages"][0]["content"][0]["text"].startswith(
        "Is this still a handbag?"
    )


def test_a_folder_s_model_judges_reads_names_and_teaches(pocket, folder, server, tmp_path):
    run = explore(pocket, str(folder))
    verdict = next(row["verdict"] for row in run.trace if row["verdict"])
    name = verdict["judge"]
    assert name.startswith("smolvlm:smolvlm@")
    assert run.request["judge_name"] == name

    mixed = fuse(
        ["pig", "zebu"], method="conceptlab", config={"num_steps": 1}, num_images=1,
        judge=str(folder), backbone=pocket,
    )  # fmt: skip
    assert mixed.request["judge"] == name
    assert mixed.summary["concepts"][0]["unknown_to_judge"] == []  # it can know any word

    server.replies = [answer(said("A poodle.")), answer(b"", 401)]
    dreamt = dream(
        1, method="conceptlab", subject="pet", config={"num_steps": 3, "judge_every": 1},
        guide=f"api:m@{server.url}", judge="none", backbone=pocket,
    )  # fmt: skip
    assert json.loads(dreamt.concepts[0].metadata["negatives"]) == ["poodle"]
    assert any("status 401" in text for text in dreamt.summary["warnings"])

    words = ["pig", "owl", "frog"]
    config = {"num_steps": 2, "estimate_every": 1, "num_estimated": 1}
    config |= {"num_pictures": 1, "num_inference_steps": 2}
    learned = train("distok", vocabulary=words, config=config, judge=str(folder), backbone=pocket)
    assert learned.readings["judge"] == name


def test_pictures_are_scored_by_one_judge_or_several(pocket, server):
    images = [torch.full((3, 8, 8), value) for value in (0.2, 0.6)]
    asked = {"text": "pig + owl", "backbone": pocket}
    server.replies = [answer(said("Yes")), answer(said("no"))]
    found = score(images, metrics="vqascore", judge=f"api:a@{server.url}", **asked).scores[0]
    assert found.values == (1, 0)
    ratings = dict.fromkeys(CRITERIA, 4) | {"originality": 8}
    server.replies = [answer(said(f"Here: {json.dumps(ratings)}"))]
    both = f"api:a@{server.url}, api:b@{server.url}"
    found = score(images, metrics="rubric", judge=both, **asked).scores[0]
    assert found.values == (5, 5)
    assert found.name == "rubric[api:a, api:b]"
    assert {body["model"] for _, _, body in server.asked} == {"a", "b"}
    server.replies = [answer(b"", 401)]
    for metric in ("vqascore", "validity", "rubric"):
        with pytest.raises(JudgeError, match="status 401"):
            score(images, metrics=metric, judge=f"api:a@{server.url}", **asked)


def test_names_folders_and_addresses_that_are_no_judge(pocket, folder, tmp_path):
    listed = registry.names("judge")
    assert {*MODEL_TYPES.values(), "api", "clip", "classifier"} <= set(listed)
    for kind, name in MODEL_TYPES.items():
        assert registry.find("judge", name).model_type == kind
    with pytest.raises(UnknownNameError, match="smolvlm"):
        open_judge("smolvml", pocket)
    with pytest.raises(CheckpointError, match="hub did not give it"):
        choose_judge("blip-vqa", pocket, ChecksSubject, subject="pet")  # its weights are not here
    with pytest.raises(CheckpointError, match=r"config\.json"):
        choose_judge(str(tmp_path), pocket, ChecksSubject, subject="pet")
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    with pytest.raises(CheckpointError, match=r"vision-language model of type .*got 'bert'"):
        choose_judge(str(tmp_path), pocket, ChecksSubject, subject="pet")
    with pytest.raises(ConfigError, match="no model"):
        choose_judge("api", pocket, ChecksSubject, subject="pet")
    with pytest.raises(ConfigError, match="no class probabilities"):
        fuse(["pig", "owl"], judge="api:m@http://localhost:1/v1", backbone=pocket)

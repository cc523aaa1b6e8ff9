"""What every command keeps: what a run says of itself, what outlives a failure, what is refused."""

import inspect
import json
import shutil

import pytest
from PIL import Image
from typer.testing import CliRunner

import offbeat
import tiny
from offbeat import cli
from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.backbones.unclip.adapter import UnclipBackbone
from offbeat.errors import CheckpointError, ImageError, OffbeatError, PromptError, ResumeError
from offbeat.files.png import encode_png, read_concept_file, read_recipe
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.runs import plots, sheet
from offbeat.runs.images import png_files
from offbeat.types import Scores
from offbeat.verbs.score import ScoreTable

ONE = {"directions": 1, "candidates": 1, "num_images": 1, "judge": "none"}
SMALL = LowProbabilityConfig(
    num_baseline=40, num_held_out=10, num_components=3, num_steps=6, num_probes=4, probe_every=3,
    judge_every=3, num_judged=1, lora_rank=2,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("OFFBEAT_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.build_sd(tmp_path_factory.mktemp("small") / "sd", "sd")


@pytest.fixture(scope="module")
def small(folder):
    return StableDiffusionBackbone.load(folder)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """A checkpoint that has a prior, so small that a search takes no time."""
    return UnclipBackbone.load(tiny.build(tmp_path_factory.mktemp("small") / "k", "2.2"))


# --- one place writes the checkpoint, its fingerprint, the versions, the device and the dtype


def test_every_verb_says_on_which_device_and_in_which_type_it_drew(folder, small, tmp_path):
    half = offbeat.load_backbone(folder, dtype="bfloat16")
    common = {"num_images": 1, "judge": "none", "method": "raw-prompt", "out": tmp_path / "run"}
    drawn = offbeat.explore("pet", backbone=half, **common)
    assert drawn.request["dtype"] == "bfloat16"
    (tmp_path / "run" / "done.json").unlink()
    with pytest.raises(ResumeError, match="dtype"):
        offbeat.explore("pet", backbone=small, resume=True, **common)
    picture = tmp_path / "run" / "images" / "0000.png"
    again = offbeat.again(picture)  # in the type that the picture names
    assert (again.same, again.notes) == (True, ())
    other = offbeat.again(picture, device="cpu")
    assert "dtype was bfloat16" in " ".join(other.notes)


# --- a sheet, a plot or a report that cannot be made costs only itself


def test_a_prompt_with_a_line_break_is_drawn(small, tmp_path):
    run = offbeat.generate("a pig\nand an owl", num_images=1, backbone=small, out=tmp_path / "g")
    assert (tmp_path / "g" / "contact.png").exists()
    assert run.request["prompt"] == "a pig\nand an owl"
    again = offbeat.explore("pig\nowl", method="raw-prompt", num_images=1, judge="none",
                            backbone=small, out=tmp_path / "e")  # fmt: skip
    assert "contact.png" in again.files


def fail(*_, **__):
    raise RuntimeError("no font\nhere")


@pytest.mark.parametrize("broken", ["contact_sheet", "plots", "report"])
def test_pictures_outlive_what_shows_them(prior, tmp_path, monkeypatch, broken):
    if broken == "contact_sheet":
        monkeypatch.setattr("offbeat.runs.images.contact_sheet", fail)
    elif broken == "plots":
        monkeypatch.setattr(plots, "curves", fail)
        monkeypatch.setattr(plots, "distribution_map", fail)
    else:
        monkeypatch.setattr("offbeat.verbs.explore_report.report_html", fail)
    run = offbeat.explore("handbag", config=SMALL, backbone=prior, out=tmp_path / "run", **ONE)
    assert (tmp_path / "run" / "images" / "0000.png").exists()
    assert any(
        "could not be made (RuntimeError: no font here)" in w for w in run.summary["warnings"]
    )
    again = offbeat.load_run(tmp_path / "run")
    assert again.summary == run.summary
    assert (tmp_path / "run" / "report.html").exists() == (broken != "report")


def test_pictures_are_written_before_what_shows_them(small, tmp_path, monkeypatch):
    def killed(*_, **__):
        assert (tmp_path / "run" / "images" / "0001.png").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("offbeat.runs.images.contact_sheet", killed)
    with pytest.raises(KeyboardInterrupt):
        offbeat.generate("a pig", num_images=2, backbone=small, out=tmp_path / "run")


def test_lines_of_a_title_stand_on_one():
    picture = Image.new("RGB", (8, 8))
    shown = sheet.contact_sheet([("a\nb", [picture])], title="c\nd", captions=["e\r\nf"])
    assert shown.width > 8
    assert sheet.triangle_sheet([picture], corners=["a\nb"] * 3, title="c\nd").width > 8


# --- two equal runs have equal files


def test_two_equal_runs_are_equal_to_the_last_file(prior, tmp_path):
    for name in ("one", "two"):
        offbeat.explore("handbag", config=SMALL, num_trials=2, backbone=prior,
                        out=tmp_path / name, **ONE)  # fmt: skip
    files = [
        {path.relative_to(tmp_path / name): path.read_bytes()
         for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("one", "two")
    ]  # fmt: skip
    assert files[0] == files[1]


# --- what a recipe says


def test_a_prompt_that_holds_a_placeholder_is_drawn_as_it_is(small, tmp_path):
    run = offbeat.generate("a {concept}", num_images=1, backbone=small, out=tmp_path / "g")
    assert run.concept.prompt() == "a {concept}"
    picture = tmp_path / "g" / "images" / "0000.png"
    assert read_recipe(picture)["prompt"] == "a {concept}"
    assert offbeat.again(picture, backbone=small).same


def test_brackets_stand_only_where_the_learned_word_does(prior):
    run = offbeat.explore("red", config=SMALL, space="lora", num_steps=1, backbone=prior,
                          prompt="a coloured picture of a {subject}", **ONE)  # fmt: skip
    (data,) = png_files("images", run.images, run.request, run.concept, prior).values()
    assert b"a coloured picture of a <red>" in data
    assert b"colou<red>" not in data


# --- arguments of a wrong type, unknown names


@pytest.mark.parametrize("name", ["fuse", "sweep", "grid"])
def test_an_unknown_argument_is_a_type_error_with_the_public_name(name):
    with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument 'sead'"):
        getattr(offbeat, name)("a", *"bc"[: {"fuse": 0, "sweep": 1, "grid": 2}[name]], sead=3)
    kinds = {p.kind for p in inspect.signature(getattr(offbeat, name)).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds


WRONG = [
    ("explore", (None,), {}),
    ("explore", (7,), {}),
    ("explore", ("pig",), {"avoid": "/nope"}),
    ("explore", ("pig",), {"avoid": [3]}),
    ("explore", ("pig",), {"avoid": 3}),
    ("explore", ("pig",), {"unlike": 3}),
    ("explore", ("pig",), {"seed": "x"}),
    ("explore", ("pig",), {"seed": True}),
    ("explore", ("pig",), {"novelty": "far"}),
    ("explore", ("pig",), {"num_images": 1.5}),
    ("explore", ("pig",), {"prompt": 5}),
    ("explore", ("pig",), {"config": 5}),
    ("explore", ("pig",), {"config": {"num_steps": "many"}}),
    ("explore", ("pig",), {"method": "cads", "config": [1]}),
    ("explore", ("pig",), {"out": 5}),
    ("generate", (None,), {}),
    ("generate", ("pig",), {"seed": -1}),
    ("generate", ("pig",), {"num_images": 10**9}),
    ("generate", ("pig",), {"num_inference_steps": 0}),
    ("generate", ("pig",), {"guidance_scale": "much"}),
    ("generate", ("pig",), {"negative_prompt": None}),
    ("generate", ("pig",), {"backbone": 5}),
    ("fuse", (None,), {}),
    ("fuse", ([1, 2],), {}),
    ("fuse", ({"pig": "x", "owl": 1},), {}),
    ("fuse", (["pig", "owl"],), {"seed": "x"}),
    ("fuse", (["pig", "owl"],), {"prompt": 5}),
    ("fuse", (["pig", "owl"],), {"config": 5}),
    ("sweep", ("pig", None), {}),
    ("sweep", ("pig", "owl"), {"num": "many"}),
    ("grid", ("pig", "owl", 3), {}),
    ("dream", ("many",), {}),
    ("dream", (1,), {"subject": 5, "method": "conceptlab"}),
    ("dream", (1,), {"max_cosine": "near"}),
    ("paint", (5,), {}),
    ("paint", ("none.png",), {"sweep": "abc"}),
    ("render", (None,), {}),
    ("render", (5,), {}),
    ("train", ("distok",), {"vocabulary": 5}),
    ("train", ("distok",), {"seed": "x"}),
    ("again", (None,), {}),
    ("score", (None,), {}),
    ("score", (5,), {}),
]


@pytest.mark.parametrize(("name", "arguments", "settings"), WRONG)
def test_wrong_arguments_raise_our_errors(name, arguments, settings, prior, tmp_path):
    takes = inspect.signature(getattr(offbeat, name)).parameters
    common = {"out": tmp_path / "run"} if "out" in takes else {}
    if name not in ("paint", "again", "score") and settings.get("method") != "cads":
        common["backbone"] = prior
    with pytest.raises(OffbeatError) as caught:
        getattr(offbeat, name)(*arguments, **{**common, **settings})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_one_run_to_avoid_needs_no_list(prior):
    with pytest.raises(OffbeatError, match="/nope: no such run folder"):
        offbeat.explore("pig", avoid="/nope", backbone=prior)


# --- a stranger's recipe


@pytest.fixture(scope="module")
def drawn(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("drawn") / "run"
    offbeat.generate("a pig", num_images=1, backbone=small, out=out)
    return out


def forged(drawn, path, change):
    """Save a picture whose recipe was changed."""
    picture = drawn / "images" / "0000.png"
    recipe, inside = read_recipe(picture), read_concept_file(picture)
    change(recipe)
    with Image.open(picture) as opened:
        path.write_bytes(encode_png(opened.convert("RGB"), recipe, concept=inside))
    return path


@pytest.fixture
def online(monkeypatch):
    """A machine with a network: what is asked of the hub while it is not switched off."""
    from huggingface_hub import constants

    asked = []

    def ask(name, *_, local_files_only=False, **__):
        if not (constants.HF_HUB_OFFLINE or local_files_only):
            asked.append(name)
        raise OSError("nothing there")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("snapshot_download", "hf_hub_download"):
        monkeypatch.setattr(f"huggingface_hub.{name}", ask)
    yield asked
    assert not constants.HF_HUB_OFFLINE  # it is put back


def test_a_recipe_chooses_nothing_that_is_fetched(drawn, tmp_path, online):
    picture = forged(drawn, tmp_path / "p.png", lambda r: r.update(checkpoint="evil/model"))
    with pytest.raises(CheckpointError, match="--backbone"):
        offbeat.again(picture)
    run = shutil.copytree(drawn, tmp_path / "run")
    request = json.loads((run / "request.json").read_text())
    (run / "request.json").write_text(json.dumps({**request, "checkpoint": "evil/model"}))
    done = json.loads((run / "done.json").read_text())
    del done["files"]["request.json"]
    (run / "done.json").write_text(json.dumps(done))
    with pytest.raises(CheckpointError, match="--backbone"):
        offbeat.render(run)
    assert online == []
    with pytest.raises(OffbeatError):
        offbeat.render(run, backbone="evil/model")  # the user's own word
    assert online == ["evil/model"] * len(online)
    assert online


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.pop("checkpoint"),
        lambda r: r.update(checkpoint=["pocket"]),
        lambda r: r.update(checkpoint="//elsewhere/share"),
        lambda r: r.update(seed="x"),
        lambda r: r.update(index=10**9),
        lambda r: r.update(versions=3),
        lambda r: r.update(drawing=[]),
        lambda r: r["drawing"].update(num=10**12),
        lambda r: r["drawing"].update(purpose=None),
        lambda r: r["drawing"].update(by="method"),
        lambda r: r.update(request=None),
        lambda r: r.update(dtype="float7"),
        lambda r: r.update(device=["cpu"]),
    ],
)
def test_a_damaged_recipe_ends_in_one_line(drawn, small, tmp_path, monkeypatch, change):
    picture = forged(drawn, tmp_path / "p.png", change)
    with pytest.raises(OffbeatError) as caught:
        offbeat.again(picture)
    assert "\n" not in str(caught.value)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, ["again", str(picture)])
    assert (result.exit_code, len(result.stderr.strip().splitlines())) == (2, 1)


def test_a_deeply_nested_recipe_ends_in_one_line(drawn, tmp_path):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("offbeat", '{"a":' + "[" * 200_000)
    Image.new("RGB", (4, 4)).save(tmp_path / "deep.png", pnginfo=info)
    with pytest.raises(ImageError, match="damaged"):
        offbeat.again(tmp_path / "deep.png")
    run = shutil.copytree(drawn, tmp_path / "run")
    (run / "request.json").write_text('{"schema_version": 1, "a":' + "[" * 200_000)
    with pytest.raises(OffbeatError, match=r"request\.json"):
        offbeat.load_run(run)


# --- foreign text in tables and on the terminal


def test_no_cell_of_a_table_is_a_formula():
    scores = Scores(name="-m", values=(-0.5,), per_image=True, mean=-0.5, interval=(0.0, 0.0),
                    better="higher", checkpoint="@c")  # fmt: skip
    table = ScoreTable(pictures=("=cmd()",), texts={"-m": ("+1 pig",)}, scores=(scores,))
    assert table.to_csv().splitlines()[1] == "'=cmd(),'+1 pig,'-m,-0.5,higher,'@c"


def test_control_characters_of_a_file_do_not_reach_the_terminal(drawn, tmp_path):
    evil = "a \x1b]0;owned\x07\x9b31m pig \u202e"
    picture = forged(drawn, tmp_path / "p.png", lambda r: r.update(prompt=evil, checkpoint=evil))
    for arguments in (["show", str(picture)], ["show", "--json", str(picture)],
                      ["again", str(picture), "--out", str(tmp_path / "x.png")]):  # fmt: skip
        result = CliRunner().invoke(cli.app, arguments)
        assert "pig" in result.output
        assert not set(result.output) & set("\x1b\x07\x9b\u202e")
    shown = CliRunner().invoke(cli.app, ["show", "--json", str(picture)])
    assert json.loads(shown.stdout)["prompt"] == evil


def test_a_text_that_is_none_is_refused():
    with pytest.raises(PromptError, match="expected a word or a text, got None"):
        offbeat.explore(None)

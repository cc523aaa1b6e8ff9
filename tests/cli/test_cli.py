"""The command line: quick help, one line for an error, and a run from end to end."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import typer
from typer.testing import CliRunner

import offbeat
from offbeat import cli, registry
from offbeat.cli.output import ProgressLine, Stop, Stopped, newest_folder
from offbeat.files.png import read_recipe
from offbeat.methods.settings import verbs_of

RUNNER = CliRunner()


def test_help_loads_no_torch():
    code = (
        "import sys; from offbeat import cli\n"
        "try: cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "explore" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["explore", "handbag", "--quantile", "2"],
            "quantile: expected a number in (0, 1), got 2.0",
        ),
        (
            ["explore", "handbag", "--baseline", "40", "--axes", "50"],
            "more samples than the 50 PCA",
        ),
        (["explore", "handbag", "--novelty", "2", "--reach", "2"], "novelty, reach: expected one"),
        (["explore", " "], "expected a word"),
        (["samples", __file__], "cannot be made (File exists)"),
        (["explore", "handbag", "--backbone", "nowhere"], "nowhere"),
        (["explore", "hand\udcffbag"], r"expected UTF-8 text, got 'hand\udcffbag'"),
        (["explore", "handbag", "--template", "a {subject.x}"], "it may hold only {subject}"),
        (["explore", "handbag", "--out", "x" * 300], "name is too long"),
        (["explore", "handbag", "--resume"], "no such run to resume"),
        (["explore", "handbag", "-n", "257"], "expected 1 to 256, got 257"),
        (["generate", "a pig \udcff"], "expected UTF-8 text"),
        (["generate", "a pig", "--out", "x" * 300], "name is too long"),
        (["generate", "a pig", "-n", "1000"], "expected 1 to 256, got 1000"),
        (["render", "nowhere", "-n", "300"], "expected 1 to 256, got 300"),
        (["render", "nowhere"], "no such run folder"),
        (["render", "x" * 300], "File name too long"),
        (["render", "."], "not a run folder"),
        (["render", ".."], "not a run folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = RUNNER.invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_list_names_what_there_is():
    assert "pocket" in RUNNER.invoke(cli.app, ["list", "backbones"]).output.split()
    lines = RUNNER.invoke(cli.app, ["list", "methods"]).stdout.splitlines()
    methods = {line.split()[0]: line for line in lines}
    assert list(methods) == registry.names("method")
    assert methods["conceptlab"].split()[1:6] == ["fuse", "sweep", "grid", "evolve", "dream"]
    assert "pocket" in methods["conceptlab"]
    assert "sdxl" not in methods["conceptlab"]  # it has no prior
    assert methods["distok"].endswith("any checkpoint")


@pytest.mark.parametrize("verb", ["fuse", "explore"])
def test_help_names_every_method_of_a_command(verb):
    command = typer.main.get_command(cli.app).commands[verb]
    (told,) = [option.help for option in command.params if option.name == "method"]
    able = [n for n in registry.names("method") if verb in verbs_of(registry.find("method", n))]
    assert [name for name in able if f"`{name}`" not in told] == []


def test_generate_draws_a_prompt_and_its_recipe_is_inside(tmp_path):
    out = tmp_path / "g"
    arguments = ["generate", "a red castle", "--negative-prompt", "blue", "-n", "1",
                 "--guidance", "2", "--steps", "4", "--out", str(out)]  # fmt: skip
    result = RUNNER.invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    recipe = read_recipe(out / "images" / "0000.png")
    assert recipe["prompt"] == "a red castle"
    assert recipe["negative_prompt"] == "blue"
    assert (recipe["num_inference_steps"], recipe["guidance_scale"]) == (4, 2.0)
    picture = str(out / "images" / "0000.png")
    shown = RUNNER.invoke(cli.app, ["show", picture])
    assert shown.stdout.startswith("a red castle\nNegative prompt: blue\nSteps: 4, ")
    assert json.loads(RUNNER.invoke(cli.app, ["show", "--json", picture]).stdout) == recipe
    assert "no settings" in RUNNER.invoke(cli.app, ["show", str(out / "contact.png")]).stderr
    long = RUNNER.invoke(cli.app, ["generate", "pig " * 100, "--out", str(tmp_path / "long")])
    assert long.exit_code == 2
    assert "at most" in long.stderr


def test_explore_and_render_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setenv("OFFBEAT_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "run"
    arguments = ["explore", "handbag", "--steps", "5", "-n", "1", "--baseline", "80",
                 "--components", "4", "--judge", "clip", "--out", str(out)]  # fmt: skip
    result = RUNNER.invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert str(out / "contact.png") in result.stdout
    again = RUNNER.invoke(cli.app, arguments)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    drawn = RUNNER.invoke(cli.app, ["render", str(out), "-n", "1", "--out", str(tmp_path / "r")])
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "r" / "contact.png").exists()


# --- stopped and resumed


@pytest.fixture
def interruptible():
    """A job that a shell starts in the background ignores SIGINT; these tests must not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


SEARCH = ["explore", "handbag", "--steps", "10", "-n", "1", "--baseline", "80", "--directions", "1",
          "--candidates", "1",
          "--components", "4", "--judge", "none"]  # fmt: skip


@pytest.mark.usefixtures("interruptible")
def test_a_stopped_search_names_its_folder_and_resume_finds_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFBEAT_CACHE", str(tmp_path / "cache"))

    def interrupt(self, stage, done, total, values):
        if (stage, done) == ("searching", 7):
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressLine, "__call__", interrupt)
        stopped = RUNNER.invoke(cli.app, SEARCH)
    assert stopped.exit_code == 130
    assert f"--resume --out {os.path.join('runs', 'handbag-0')}" in stopped.stderr
    assert "Traceback" not in stopped.output
    resumed = RUNNER.invoke(cli.app, [*SEARCH, "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert os.listdir("runs") == ["handbag-0"]
    assert (tmp_path / "runs/handbag-0/done.json").exists()


def test_resume_takes_the_run_started_last(tmp_path):
    for number, name in enumerate(["bag-1-2", "bag-1", "bag-10", "bag-1-render", "bag-1-9"]):
        (tmp_path / name).mkdir()
        if name != "bag-1-9":  # no run
            (tmp_path / name / "request.json").write_text("{}")
            os.utime(tmp_path / name / "request.json", (number, number))
    assert newest_folder(tmp_path / "bag-1") == tmp_path / "bag-1"


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("arguments", [["generate", "a pig"], ["render", "bag-0"]])
def test_a_stopped_drawing_promises_no_resume(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(offbeat, arguments[0], lambda *_, **__: signal.raise_signal(signal.SIGINT))
    result = RUNNER.invoke(cli.app, arguments)
    assert result.exit_code == 130
    assert "is not finished: remove it" in result.stderr
    assert "--resume" not in result.output


def test_the_last_verdict_stays_on_the_progress_line(monkeypatch, capsys):
    monkeypatch.setattr(ProgressLine, "PLAIN_EVERY", 0.0)
    line, verdict = ProgressLine(), {"answer": "handbag", "probability": 0.93}
    row = {"quantile": 0.5, "distance": 3.0, "branch": "away", "verdict": None}
    line("searching", 1, 3, {**row, "verdict": verdict})
    line("searching", 2, 3, row)
    line("searching", 1, 3, row)  # the next trial
    shown = capsys.readouterr().err.splitlines()
    assert ["judge: handbag (0.93)" in text for text in shown] == [True, True, False]


def test_help_states_the_library_s_default_of_steps():
    from offbeat.methods.low_probability.config import EVOLUTION_STEPS, LowProbabilityConfig

    text = " ".join(RUNNER.invoke(cli.app, ["explore", "--help"]).output.replace("│", " ").split())
    defaults = f"{LowProbabilityConfig().steps}, or {EVOLUTION_STEPS} generations"
    assert defaults in text
    assert "a Gaussian fitted to ordinary samples" in text


TERMINATED = """
    import os, signal, sys
    from offbeat.cli.output import ProgressLine
    told = ProgressLine.__call__

    def call(self, stage, done, total, values):
        if (stage, done) == ("searching", 5):
            os.kill(os.getpid(), signal.SIGTERM)
        told(self, stage, done, total, values)

    ProgressLine.__call__ = call
    from offbeat.cli import main
    main()
"""


def test_sigterm_ends_after_the_step_and_says_how_to_go_on(tmp_path):
    env = {**os.environ, "OFFBEAT_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", textwrap.dedent(TERMINATED), *SEARCH]
    command += ["--out", str(tmp_path / "run")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 143, done.stderr
    assert f"to go on, add --resume --out {tmp_path / 'run'}" in done.stderr
    assert "Traceback" not in done.stderr
    rows = (tmp_path / "run" / "trace.jsonl").read_text().splitlines()
    assert len(rows) == 5  # the step that it came in is there


def test_a_signal_during_a_step_waits_for_its_end_and_a_second_one_does_not():
    stop = Stop()
    stop.stepping = True
    stop(signal.SIGTERM, None)
    with pytest.raises(Stopped) as caught:
        stop.check()
    assert caught.value.code == 143
    with pytest.raises(Stopped):
        stop(signal.SIGINT, None)
    with pytest.raises(Stopped):
        Stop()(signal.SIGINT, None)  # nothing is at work: at once


def test_a_path_between_runs_is_drawn_and_named_as_one_between_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "owl-0").mkdir(parents=True)
    (tmp_path / "runs" / "owl-0" / "request.json").write_text("{}")
    asked = []

    def sweep(*names, **settings):
        asked.append(settings)
        raise offbeat.OffbeatError("drawn elsewhere")

    monkeypatch.setattr(offbeat, "sweep", sweep)
    for names in (["pig", "owl"], ["runs/owl-0:0", "runs/owl-0:1"], ["a/pig.png", "a/owl.png"]):
        RUNNER.invoke(cli.app, ["fuse", "--sweep", *names])
    assert [settings["num_images"] for settings in asked] == [3, 3, 1]
    assert str(asked[1]["out"]) == "runs/owl-0-0-owl-0-1-0"

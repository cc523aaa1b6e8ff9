"""What the documents point at is there, and the commands that they show run."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import offbeat
from offbeat import cli, registry

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

LINK = re.compile(
    r"""\]\(\s*<?([^)>\s]+)   # [text](target "title") and ![text](target)
    |^\[[^\]]+\]:\s*<?(\S+?)>?\s*$   # [text]: target
    |\b(?:src|href|srcset)="([^"]+)"   # <img src="target">
    """,
    re.VERBOSE | re.MULTILINE,
)
OUTSIDE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


def targets(text):
    """Return the relative links and pictures of a page, without code and anchors."""
    text = re.sub(r"^(```|~~~).*?^\1|`[^`\n]+`", "", text, flags=re.DOTALL | re.MULTILINE)
    found = (next(filter(None, match.groups())) for match in LINK.finditer(text))
    links = [target.partition("#")[0] for target in found if not OUTSIDE.match(target)]
    return [link for link in links if link]


def test_links_are_found():
    page = (
        '[a](b.md#c) ![d](e.png "title") [f](https://x.org) [g](#h) `[i](j)` <img src="k.svg">\n'
        "[l]: m.md\n```\n[n](o)\n```\n[p](mailto:q@r)\n"
    )
    assert targets(page) == ["b.md", "e.png", "k.svg", "m.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page):
    missing = [
        target
        for target in targets(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert missing == []


# --- commands

BLOCK = re.compile(r"^```(?:sh|bash|console)?\n(.*?)^```", re.DOTALL | re.MULTILINE)
SMALLER = {
    "explore": "--directions 1 -n 1 --candidates 1 --steps 2 --baseline 60 --set num_held_out=20",
    "fuse": "-n 1 --judge none",
    "dream": "-n 2 --judge none",
    "render": "-n 1",
    "paint": "--num 2 -n 1",
}
"""README's commands are run as they stand, but for this: smaller, for a test."""
ELSEWHERE = ("make", "source", "pip", "offbeat studio")
"""Run by the tests of the makefile's targets, of the wheel, and of the studio."""
SETTINGS = {"diffmorpher": "--set num_steps=2 --num 3"}


def commands(page):
    """Return the command lines of a page's blocks, comments left out, lines that go on joined."""
    found = []
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(("offbeat", *ELSEWHERE)):
                found.append(shlex.split(line, comments=True))
    return found


def test_every_command_of_the_readme_runs_in_its_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = 0
    for words in commands(ROOT / "README.md"):
        if " ".join(words).startswith(ELSEWHERE):
            continue
        more = SMALLER.get(words[1], "") if len(words) > 1 else ""
        more += " " + "".join(SETTINGS[word] for word in words if word in SETTINGS)
        done = CliRunner().invoke(cli.app, [*words[1:], *shlex.split(more)])
        assert done.exit_code == 0, f"{' '.join(words)}\n{done.output[-2000:]}"
        ran += 1
    assert ran > 10
    assert (tmp_path / "runs" / "teapot-0" / "contact.png").exists()


def test_the_readme_shows_names_that_are_there():
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGES[0].read_text(), re.DOTALL | re.MULTILINE)
    compile(block, "README.md", "exec")
    for name in re.findall(r"offbeat\.(\w+)\(", block):
        assert callable(getattr(offbeat, name))
    names = {field.name for field in dataclasses.fields(offbeat.Run)} | set(dir(offbeat.Run))
    assert {"images", "save"} <= names


ALL_COMMANDS = [
    pytest.param(words, id=f"{page.stem}: {' '.join(words)[:60]}")
    for page in PAGES
    for words in commands(page)
    if words[0] == "offbeat" and "..." not in words and "[" not in " ".join(words)
]


@pytest.mark.parametrize("words", ALL_COMMANDS)
def test_every_command_of_a_page_is_one_that_the_command_line_knows(words):
    command, context, rest = typer.main.get_command(cli.app), None, words[1:]
    while groups := getattr(command, "commands", None):
        if rest and rest[0] == "--offline":
            rest = rest[1:]
        if not rest or rest[0].startswith("--"):
            return
        assert rest[0] in groups, f"there is no command {rest[0]!r}"
        command, rest = groups[rest[0]], rest[1:]
    context = command.context_class(command, info_name="offbeat")
    # raises for an option that is not there, or that lacks its value
    command.make_parser(context).parse_args(list(rest))


def test_an_option_that_is_not_there_is_found():
    with pytest.raises(Exception, match="nonsense"):
        test_every_command_of_a_page_is_one_that_the_command_line_knows(
            ["offbeat", "explore", "x", "--nonsense"]
        )


def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="NO SITE: pip install -e '.[dev]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    cards = (tmp_path / "methods.html").read_text(encoding="utf-8")
    assert "share_exponent" in cards  # a setting of DisTok, read from its class
    reference = (tmp_path / "api.html").read_text(encoding="utf-8")
    for name in set(offbeat.__all__) - {"__version__"}:
        assert f">{name}<" in reference or f"{name}(" in reference, name


def test_every_method_has_a_card():
    cards = set(
        re.findall(r"^<!-- settings: (\S+) -->$", (ROOT / "docs" / "methods.md").read_text(), re.M)
    )
    assert cards == set(registry.BUILT_IN["method"])


def test_a_readme_alone_shows_its_pictures():
    from recipes.release import absolute

    text = absolute((ROOT / "README.md").read_text(encoding="utf-8"), "https://x/y")
    assert targets(text) == []
    assert "![" in text
    assert "(https://x/y/raw/HEAD/docs/contact.png)" in text

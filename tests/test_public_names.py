"""The public names: one list for a program, one for an editor, and they agree."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import offbeat


def test_the_lists_of_public_names_agree():
    tree = ast.parse(Path(offbeat.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name  # only so is a name public for mypy
    }
    assert seen == offbeat._MODULES
    assert sorted(offbeat.__all__) == sorted({*seen, "__version__"})
    for name, module in seen.items():
        assert getattr(offbeat, name).__module__ == module


VERBS = ["again", "dream", "explore", "generate", "paint", "render", "score",
         "train", "export_concept", "import_concept"]  # fmt: skip


@pytest.mark.parametrize("name", VERBS)
def test_every_argument_is_spelled_out(name):
    verb = getattr(offbeat, name)
    kinds = {parameter.kind for parameter in inspect.signature(verb).parameters.values()}
    assert kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    needed = [
        "x"
        for parameter in inspect.signature(verb).parameters.values()
        if parameter.default is inspect.Parameter.empty
    ]
    with pytest.raises(TypeError, match=rf"^{name}\(\).*'sead'"):
        verb(*needed, sead=3)


@pytest.mark.parametrize(
    "arguments", [["-m", "offbeat"], ["-c", "from offbeat.cli import main; main()"]]
)
def test_the_version_is_told_and_the_package_runs(arguments):
    command = [sys.executable, *arguments, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"offbeat {offbeat.__version__}\n"

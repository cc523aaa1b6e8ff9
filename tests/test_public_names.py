"""The public names: one list, for programs and for editors."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import offbeat


def test_the_stub_is_the_list_of_public_names():
    stub = Path(offbeat.__file__).with_suffix(".pyi")
    seen = {
        alias.asname: node.module
        for node in ast.parse(stub.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name  # only so is a name public for mypy
    }
    assert seen == offbeat._MODULES
    assert sorted(offbeat.__all__) == sorted({*seen, "__version__"})
    for name, module in seen.items():
        assert getattr(offbeat, name).__module__ == module


VERBS = ["again", "dream", "explore", "fuse", "generate", "grid", "paint", "render", "score",
         "sweep", "train", "export_concept", "import_concept"]  # fmt: skip


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

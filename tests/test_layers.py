"""A module imports only from lower rows; see the table of layers in CONTRIBUTING.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "offbeat"

ROWS = [
    # row 0: values, protocols and mathematics
    {"errors"},
    {"types"},
    {"protocols"},
    {"checks", "rng", "functional", "templates", "_hub"},
    {"density", "vocab", "_weights"},
    {"baseline", "budget", "drawing", "sampling"},
    # row 1: what is opened by name
    {"backbones", "methods", "judges", "metrics"},
    # row 2: files and pictures, and the one place where parts meet
    {"_disk"},
    {"store", "formats", "plots", "pictures", "registry"},
    {"run"},
    # row 3: many machines
    {"scale"},
    # row 4: what people touch
    {"studio", "bench", "study"},
    {"cli"},
]
PARTS = {
    "_again": "run",
    "_again_methods": "run",
    "_animation": "run",
    "_backbone_protocols": "protocols",
    "_cache": "store",
    "_capabilities": "run",
    "_report": "plots",
    "_sheet": "plots",
    "_evolve": "run",
    "_explore": "run",
    "_drawn": "run",
    "_export": "run",
    "_formats_exchange": "formats",
    "_formats_labels": "formats",
    "_formats_lora": "formats",
    "_formats_png": "formats",
    "_formats_tokens": "formats",
    "_doctor": "run",
    "_dream": "run",
    "_fuse": "run",
    "_fusion": "run",
    "_generate": "run",
    "_judge_protocols": "protocols",
    "_judges": "run",
    "_keeper": "run",
    "_memory": "run",
    "_models": "run",
    "_learned": "run",
    "_map": "run",
    "_mix": "run",
    "_mixture": "run",
    "_outcome": "run",
    "_paint": "run",
    "_painting": "run",
    "_pictures_out": "run",
    "_previews": "run",
    "_readings": "run",
    "_regions": "run",
    "_render": "run",
    "_runs": "run",
    "_score": "run",
    "_sketch": "run",
    "_sources": "run",
    "_train": "run",
    "_walk": "run",
    "_trained": "run",
}
"""Private modules, and the module that they are a part of."""

ROW = {name: index for index, names in enumerate(ROWS) for name in names}

MODELS = {"backbones", "judges", "metrics", "bench", "_weights"}
"""Those that run models; bench does it the plain way, to compare."""
FACES = {"cli", "studio", "bench", "study"}
OUTSIDE = {
    "diffusers": MODELS,
    "transformers": MODELS,
    "peft": MODELS,
    "huggingface_hub": {"backbones", "_hub", "_weights"},
    "matplotlib": {"plots"},
    "PIL": {"plots", "formats", "pictures", "run", "judges"},
    "typer": FACES,
    "rich": FACES,
    "ray": {"scale"},
    "fastapi": {"studio"},
    "starlette": {"studio"},
    "uvicorn": {"studio"},
    "pydantic": {"studio"},
}
"""Who may use what from outside; torch, numpy and safetensors are free but for ``NO_TORCH``."""
NO_TORCH = {"errors", "templates", "registry", "cli"}


def part_of(file):
    first = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    return PARTS.get(first, first)


def imported(tree):
    """Yield every imported module's dotted name, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a module stands"
            if node.module == "offbeat":
                yield from (f"offbeat.{alias.name}" for alias in node.names)
            else:
                yield node.module


def faults(file):
    part = part_of(file)
    if part not in ROW:
        yield f"{part} has no row: give it one in tests/test_layers.py"
        return
    for name in imported(ast.parse(file.read_text(encoding="utf-8"))):
        package, _, rest = name.partition(".")
        if package == "offbeat":
            first = rest.split(".")[0]
            target = PARTS.get(first, first)
            if target not in ROW:
                yield f"imports {name}, which has no row"
            elif target != part and ROW[target] >= ROW[part]:
                yield f"{part} imports {target}, which is not below it"
        elif part not in OUTSIDE.get(package, {part}):
            yield f"{part} imports {package}, which only {sorted(OUTSIDE[package])} may"
        elif package == "torch" and part in NO_TORCH:
            yield f"{part} imports torch"


LINES, BODY = 420, 80
"""At most, of a module, and of a function without its signature and docstring."""
LONGER = {"plots.py": 430}
"""Modules that grew beyond it: they may shrink, and not grow."""


def too_long(file, limit):
    text = file.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    if lines > limit:
        yield f"{lines} lines, at most {limit}: split it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            if lines > BODY:
                yield f"{node.name} has {lines} lines, at most {BODY}: split it"


FILES = [file for file in sorted(SOURCE.rglob("*.py")) if file != SOURCE / "__init__.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_imports_go_down_only(file):
    assert list(faults(file)) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_modules_and_functions_can_be_read_in_one_go(file):
    assert list(too_long(file, LONGER.get(file.relative_to(SOURCE).as_posix(), LINES))) == []


def test_what_is_too_long_would_be_seen(tmp_path):
    file = tmp_path / "long.py"
    lines = "    x = 1\n"
    file.write_text(f'def f(\n    a,\n):\n    """Say."""\n{lines * 81}\n\ndef g():\n{lines * 80}')
    assert [fault.split()[0] for fault in too_long(file, LINES)] == ["f"]
    file.write_text("x = 1\n" * 421)
    assert len(list(too_long(file, LINES))) == 1


def test_a_wrong_import_would_be_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    file = tmp_path / "methods" / "bad.py"
    file.parent.mkdir()
    file.write_text(
        "import offbeat.run\nimport diffusers\n"
        "def f():\n    from offbeat.judges.clip import ClipJudge\n    from offbeat import new\n"
    )
    assert len(list(faults(file))) == 4


@pytest.mark.parametrize("module", ["offbeat", "offbeat.registry", "offbeat.cli"])
def test_importing_loads_no_torch(module):
    heavy = "{'torch', 'diffusers', 'transformers', 'matplotlib', 'numpy'}"
    code = f"import sys, {module}; loaded = {heavy} & set(sys.modules); assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", code], check=True)

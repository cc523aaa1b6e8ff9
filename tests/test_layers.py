"""Folders are layers: a module imports from lower ones only; see the table in CONTRIBUTING.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "offbeat"

LAYERS = [
    {"errors"},
    {"types", "registry"},
    {"protocols"},
    {"core"},
    {"files"},
    {"checkpoints"},
    {"backbones", "judges", "metrics"},
    {"methods"},
    {"runs"},
    {"verbs"},
    {"scale"},
    {"bench", "study"},
    {"studio"},
    {"cli"},
    {"__main__"},
]
"""Files and folders at the top of the package, lowest first; those of one row never meet."""
ROW = {name: index for index, names in enumerate(LAYERS) for name in names}

FUNCTION_LEVEL = {"cli", "registry", "__init__"}
"""Where our own modules may be imported inside functions: for a fast ``--help``, and by name."""

RUN_MODELS = {"checkpoints", "backbones", "judges", "metrics", "bench"}
"""Those that run models; bench does it the plain way, to compare."""
FACES = {"cli", "studio", "bench", "study"}
OUTSIDE = {
    "diffusers": RUN_MODELS,
    "transformers": RUN_MODELS,
    "peft": RUN_MODELS,
    "huggingface_hub": {"checkpoints"},
    "matplotlib": {"runs"},
    "PIL": {"files", "runs", "judges", "metrics", "verbs", "scale"},
    "typer": FACES,
    "rich": FACES,
    "ray": {"scale"},
    "ribs": {"scale"},
    "fastapi": {"studio", "study"},
    "starlette": {"studio", "study"},
    "uvicorn": {"studio", "study"},
    "pydantic": {"studio", "study"},
    "sqlalchemy": {"study"},
    "alembic": {"study"},
    "statsmodels": {"study"},
}
"""Who may use what from outside; torch, numpy and safetensors are free but for ``NO_TORCH``."""
NO_TORCH = {"errors", "registry", "cli"}


def layer_of(file):
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def module_of(file):
    parts = ("offbeat", *file.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def inside_functions(tree):
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node for one in ast.walk(tree) if isinstance(one, functions) for node in ast.walk(one)}


def imported(tree, modules):
    """Yield (node, module) of every import, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a module stands"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                yield node, below if below in modules else str(node.module)


def faults(file, modules=frozenset()):
    layer = layer_of(file)
    if layer not in ROW:
        yield f"{layer} has no row: give it one in tests/test_layers.py"
        return
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inside = inside_functions(tree)
    for node, name in imported(tree, modules):
        package, _, rest = name.partition(".")
        if package == "offbeat":
            target = rest.split(".")[0]
            is_public = not rest and layer in FACES
            if target not in ROW and not is_public:
                yield f"imports {name}, which has no row"
            elif target != layer and not is_public and ROW[target] >= ROW[layer]:
                yield f"{layer} imports {target}, which is not below it"
            if node in inside and layer not in FUNCTION_LEVEL:
                yield f"line {node.lineno}: imports {name} inside a function"
        elif layer not in OUTSIDE.get(package, {layer}):
            yield f"{layer} imports {package}, which only {sorted(OUTSIDE[package])} may"
        elif package == "torch" and layer in NO_TORCH:
            yield f"{layer} imports torch"


def circle(edges):
    """Return one circle of imports between files, or nothing."""
    state, path = {}, []

    def visit(name):
        state[name] = "open"
        path.append(name)
        for target in sorted(edges.get(name, ())):
            if state.get(target) == "open":
                return [*path[path.index(target) :], target]
            if target not in state and (found := visit(target)):
                return found
        path.pop()
        state[name] = "done"
        return None

    for name in sorted(edges):
        if name not in state and (found := visit(name)):
            return found
    return []


PACK = SOURCE / "comfyui"
"""Nodes that ComfyUI loads, without Offbeat."""
FILES = [
    file
    for file in sorted(SOURCE.rglob("*.py"))
    if file != SOURCE / "__init__.py" and PACK not in file.parents
]
MODULES = {module_of(file): file for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_imports_go_down_only(file):
    assert list(faults(file, MODULES)) == []


def test_no_circle_of_files():
    edges = {
        module: {
            name
            for _, name in imported(ast.parse(file.read_text(encoding="utf-8")), MODULES)
            if name in MODULES
        }
        for module, file in MODULES.items()
    }
    assert circle(edges) == []


def test_nothing_private_lies_at_the_top_of_the_package():
    assert not [file.name for file in SOURCE.glob("_*.py") if not file.name.startswith("__")]


BODY = 80
"""Lines of a function at most, without its signature and docstring: it fits a screen."""


def too_long(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            if lines > BODY:
                yield f"{node.name} has {lines} lines, at most {BODY}: split it"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_functions_can_be_read_in_one_go(file):
    assert list(too_long(file)) == []


def test_what_is_too_long_would_be_seen(tmp_path):
    file = tmp_path / "long.py"
    lines = "    x = 1\n"
    file.write_text(f'def f(\n    a,\n):\n    """Say."""\n{lines * 81}\n\ndef g():\n{lines * 80}')
    assert [fault.split()[0] for fault in too_long(file)] == ["f"]


def test_a_wrong_import_would_be_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    file = tmp_path / "methods" / "bad.py"
    file.parent.mkdir()
    file.write_text(
        "import offbeat.runs.folder\nimport diffusers\nfrom offbeat import new\n"
        "def f():\n    from offbeat.judges.clip import ClipJudge\n    import torch\n"
    )
    assert len(list(faults(file))) == 4


def test_a_circle_would_be_seen():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


@pytest.mark.parametrize("module", ["offbeat", "offbeat.registry", "offbeat.cli"])
def test_importing_loads_no_torch(module):
    heavy = "{'torch', 'diffusers', 'transformers', 'matplotlib', 'numpy'}"
    code = f"import sys, {module}; loaded = {heavy} & set(sys.modules); assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", code], check=True)

"""What is published: the checkpoint and the types are inside, and it is small enough to fetch."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import offbeat

ROOT = Path(__file__).parent.parent
MAX_BYTES = 100 * 10**6
"""PyPI's limit of a file, unless asked for more."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a copy, so that what an earlier build left in ``build/`` is not in it."""
    for name in ("build", "setuptools"):
        pytest.importorskip(name, reason=f"building a wheel offline needs {name}")
    top = tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        ROOT / "src", top / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, top)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    done = subprocess.run(command, cwd=top, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = (top / "dist").iterdir()
    return made


def test_the_wheel_holds_every_file_of_the_package(wheel):
    package = ROOT / "src" / "offbeat"
    expected = {
        f"offbeat/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as file:
        found = {name for name in file.namelist() if ".dist-info/" not in name}
    assert found == expected
    assert "offbeat/py.typed" in found
    for part in ("card.json", "prior/prior/config.json", "decoder/unet/config.json"):
        assert f"offbeat/pocket/{part}" in found
    weights = [name for name in found if name.endswith(".safetensors")]
    assert len(weights) >= 5
    assert wheel.stat().st_size < MAX_BYTES


def test_the_licences_are_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as file:
        found = {Path(name).name for name in file.namelist() if ".dist-info/licenses/" in name}
    assert found == {"LICENSE", "LICENSES.md"}


@pytest.mark.slow
def test_an_installed_wheel_draws(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    (binaries,) = (
        path for path in (tmp_path / "venv").glob("*/") if path.name in ("bin", "Scripts")
    )
    python = binaries / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip())
    ours = Path(os.path.dirname(pytest.__file__)).parent
    (site / "dependencies.pth").write_text(f"{ours}\n")  # the same ones, after its own packages
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OFFBEAT_CACHE": str(tmp_path / "cache")}
    env.pop("PYTHONPATH", None)
    where = subprocess.run(
        [python, "-c", "import offbeat; print(offbeat.__file__)"],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(site)
    assert not Path(offbeat.__file__).is_relative_to(site)
    subprocess.run(
        [binaries / "offbeat", "generate", "a red castle", "-n", "1", "--out", "drawn"],
        cwd=tmp_path, env=env, check=True,
    )  # fmt: skip
    assert (tmp_path / "drawn" / "contact.png").stat().st_size > 0

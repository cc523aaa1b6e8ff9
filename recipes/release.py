"""Build what is published, and check it: ``python -m recipes.release [--address URL]``.

The last commit is built in a folder of its own, so nothing that was not committed gets in. With
the address of the repository, README's links and pictures lead there, since PyPI shows README
alone. The wheel is installed into a fresh environment and draws a picture.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


def absolute(text: str, address: str) -> str:
    """Return a README whose relative links lead to the repository, and whose pictures are shown.

    >>> absolute("![a](docs/a.png) [b](docs/b.md#c) [d](https://e)", "https://x/y")
    '![a](https://x/y/raw/HEAD/docs/a.png) [b](https://x/y/blob/HEAD/docs/b.md#c) [d](https://e)'
    """

    def led(match: re.Match[str]) -> str:
        mark, words, target = match.groups()
        return f"{mark}[{words}]({address}/{'raw' if mark else 'blob'}/HEAD/{target})"

    return LINK.sub(led, text)


def build(address: str | None, out: Path) -> list[Path]:
    """Return the source archive and the wheel of the last commit, checked."""
    with tempfile.TemporaryDirectory() as place:
        top = Path(place)
        packed = subprocess.run(
            ["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(top, filter="data")
        if address is not None:
            readme = top / "README.md"
            text = absolute(readme.read_text(encoding="utf-8"), address.rstrip("/"))
            readme.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "build", "--outdir", str(out.resolve())]
        subprocess.run(command, cwd=top, check=True)
    made = sorted(out.glob("offbeat-*"))
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *made], check=True)
    return made


def try_out(wheel: Path) -> None:
    """Install a wheel into a fresh environment, and let it draw."""
    with tempfile.TemporaryDirectory() as place:
        venv.create(place, with_pip=True)
        python = str(Path(place) / ("Scripts" if sys.platform == "win32" else "bin") / "python")
        constraints = str(ROOT / "constraints.txt")
        install = [python, "-m", "pip", "install", "-q", "-c", constraints, str(wheel.resolve())]
        subprocess.run(install, check=True)
        draw = [python, "-m", "offbeat", "generate", "a picture of a castle", "-n", "1"]
        subprocess.run([*draw, "--out", str(Path(place) / "run")], cwd=place, check=True)


def main() -> None:
    """Build, check and try."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", help="Of the repository, e.g. https://host/owner/offbeat")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    made = build(options.address, options.out)
    try_out(next(path for path in made if path.suffix == ".whl"))
    for path in made:
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

"""Draw the gallery of the documentation: every picture by a command that anybody can repeat.

``python -m recipes.gallery`` writes docs/gallery.md and docs/gallery/. What was drawn before, in
out/gallery, is taken as it is; remove it to draw anew.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
OUT, DOCS = ROOT / "out" / "gallery", ROOT / "docs"
MAX_WIDTH = 1000


@dataclass(frozen=True)
class Piece:
    """One picture of the gallery."""

    name: str
    command: str
    """Of ``offbeat``, without ``--out``."""
    words: str
    """What one sees, and whether it is good."""
    picture: str = "images/0000.png"
    """To make again; empty where that needs more than the picture."""


PIECES = (
    Piece("castle", "explore castle", "Castles of other colours and roofs; most could be used."),
    Piece(
        "mushroom",
        "explore mushroom",
        "Darker, marbled, other stems: seen by the eye of the judge more than by ours.",
    ),
    Piece(
        "fish",
        "explore fish --novelty 3 --directions 2",
        "Yellow, striped, drawn out. The dial asked for 3 and got 1.9.",
    ),
    Piece(
        "triangle",
        "fuse --grid dragon pumpkin octopus",
        "DisTok's triangle: between the corners, both things are there in some.",
    ),
    Piece(
        "dice",
        "dream -n 12 --law laplace",
        "From noise alone. Most of it lands on a thing that has a name; the last three do not.",
    ),
    Piece(
        "morph",
        "fuse --sweep owl teapot --method diffmorpher -n 2",
        "A smooth way from one to the other; half way it is neither.",
        "",
    ),
    Piece(
        "archive",
        "archive teapot --evaluations 96 --cells 5 --axis 'red teapot..blue teapot' "
        "--axis 'round teapot..thin teapot'",
        "The most valid concept for each place of a map: red to blue, round to thin.",
    ),
    Piece(
        "pair",
        "fuse pineapple owl -n 8",
        "Both are there in five of eight, says the judge, which still names one of them.",
    ),
    Piece("pet", "explore pet", "A failure: pets are many kinds already, so little is new."),
)


def draw(piece: Piece) -> Path:
    """Return the run folder of a piece, drawn now or before."""
    folder = OUT / piece.name
    if not (folder / "summary.json").exists():
        command = [
            sys.executable,
            "-m",
            "offbeat",
            *shlex.split(piece.command),
            "--out",
            str(folder),
        ]
        if folder.exists():
            command.append("--resume")
        subprocess.run(command, check=True)
    return folder


def page(pieces: tuple[Piece, ...]) -> str:
    """Draw what is missing, and return the page."""
    parts = [
        "# Gallery",
        "",
        "Each sheet is of pocket, the small checkpoint that comes with Offbeat, by the command",
        "above it; `python -m recipes.gallery` draws them all. Nothing was chosen by hand but the",
        "words, and failures are shown, too. `offbeat again` makes a picture of a run again, byte",
        "for byte on the same machine.",
        "",
    ]
    (DOCS / "gallery").mkdir(exist_ok=True)
    for piece in pieces:
        folder = draw(piece)
        sheet = Image.open(folder / "contact.png").convert("RGB")
        sheet.thumbnail((MAX_WIDTH, 4 * MAX_WIDTH))
        sheet.quantize(128).save(DOCS / "gallery" / f"{piece.name}.png", optimize=True)
        told = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["in_words"]
        again = f"\noffbeat again runs/{piece.name}/{piece.picture}" if piece.picture else ""
        parts += [
            f"## {piece.name.capitalize()}",
            "",
            piece.words,
            "",
            f"```\noffbeat {piece.command} --out runs/{piece.name}{again}\n```",
            "",
            f"![{told.split('. ')[0]}](gallery/{piece.name}.png)",
            "",
            f"*{told}*",
            "",
        ]
    return "\n".join(parts)


if __name__ == "__main__":
    (DOCS / "gallery.md").write_text(page(PIECES), encoding="utf-8")

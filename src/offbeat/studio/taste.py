"""Marks on pictures become preferences that steer ``explore``."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch

from offbeat.core.taste import FEWEST
from offbeat.errors import ConfigError
from offbeat.files.disk import make_folder
from offbeat.files.pictures import read_picture
from offbeat.files.preferences import SIDE, Preferences
from offbeat.studio.database import Database

FOLDER = "tastes"


def keep_taste(database: Database, folder: Path, session: str) -> str:
    """Write what a session's marks say to a file, and return its digest.

    Within a run, what is liked is preferred to what is not, and what is not disliked to what is;
    pictures of different runs are not compared.

    Raises:
        ConfigError: If there are too few marks to learn from.
    """
    images: list[torch.Tensor] = []
    winners: list[int] = []
    losers: list[int] = []
    for run, marks in database.marks(session).items():
        files = sorted((folder / "runs" / run / "images").glob("*.png"))
        codes = range(len(images), len(images) + len(files))
        images += [read_picture(file, size=SIDE) for file in files]
        values = [marks.get(int(file.stem), 0) for file in files]
        for better, worse in itertools.permutations(range(len(files)), 2):
            if values[better] > values[worse]:
                winners.append(codes[better])
                losers.append(codes[worse])
    if len(winners) < FEWEST:
        raise ConfigError(
            f"taste: expected marks that prefer at least {FEWEST} pictures to others of their run, "
            f"got {len(winners)}; like or dislike a few more"
        )
    taste = Preferences(torch.stack(images), torch.tensor(winners), torch.tensor(losers))
    make_folder(folder / FOLDER)
    taste.save(folder / taste_file(taste.digest))
    return taste.digest


def taste_file(digest: str) -> str:
    """Return where a taste lies, in the studio's folder."""
    return f"{FOLDER}/{digest}.safetensors"

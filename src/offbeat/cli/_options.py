"""Options that several commands take, each with one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

Device = Annotated[str, typer.Option(help="`cpu`, `cuda`, `cuda:1`, `mps`.")]
Checkpoint = Annotated[
    str, typer.Option(help="A checkpoint: name (`offbeat list backbones`), folder or hub id.")
]
Settings = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads it at run time on Python 3.10
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method. Several."),
]
TrainedFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        help="What `offbeat train` wrote: its folder or file. What comes with the checkpoint "
        "if not given."
    ),
]
Reader = Annotated[
    str,
    typer.Option(help="Who reads the pictures: `auto`, `none`, `clip`, `classifier` or a folder."),
]

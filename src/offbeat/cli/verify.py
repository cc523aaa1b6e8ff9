"""`offbeat verify`: a minute of checks on a real checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from offbeat.cli.options import Place, anywhere, placing
from offbeat.cli.output import Json, show_json


@placing
def verify(
    backbone: Annotated[str, typer.Argument(help="A checkpoint: name, folder, file or hub id.")],
    place: Place = anywhere,
    json: Json = False,
    out: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it at run time on Python 3.10
        typer.Option(help="A file for the report, which can be attached to an issue."),
    ] = None,
) -> None:
    """Check a checkpoint against its diffusers pipeline: text, prior, pictures, gradients."""
    from offbeat.backbones.verify import report, verify
    from offbeat.checkpoints.open import load_backbone
    from offbeat.files.disk import write_atomic

    checks = verify(load_backbone(backbone, device=place()))
    text = report(backbone, checks)
    if json:
        show_json({"backbone": backbone, "checks": [asdict(check) for check in checks]})
    else:
        typer.echo(text)
    if out is not None:
        write_atomic(out, f"{text}\n".encode())
    if any(check.passed is False for check in checks):
        raise typer.Exit(1)

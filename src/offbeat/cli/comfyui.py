"""``offbeat comfyui``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offbeat.cli.output import errors_shown

app = typer.Typer(help="Nodes for ComfyUI that read Offbeat's files.", no_args_is_help=True)

NAME = "offbeat"
"""Of the folder in ``custom_nodes``."""


@app.callback()
def comfyui() -> None:
    """Keep ``install`` a command of its own."""


@app.command()
def install(
    path: Annotated[Path, typer.Argument(help="ComfyUI's folder, which holds `custom_nodes`.")],
) -> None:
    """Copy the nodes into ComfyUI, or renew them; restart ComfyUI then.

    **Example**

    `offbeat comfyui install ~/ComfyUI`
    """
    with errors_shown():
        import shutil
        from importlib.resources import as_file, files

        from offbeat.errors import StoreError

        nodes = path.expanduser() / "custom_nodes"
        if not nodes.is_dir():
            raise StoreError(f"{path}: expected ComfyUI's folder, which holds custom_nodes/")
        target = nodes / NAME
        ours = target / "pyproject.toml"
        if target.exists() and not (ours.is_file() and "offbeat-comfyui" in ours.read_text()):
            raise StoreError(f"{target}: is there, and is not Offbeat's; move it away first")
        with as_file(files("offbeat") / "comfyui") as pack:
            shutil.copytree(
                pack,
                target,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns("__pycache__"),
            )
    typer.echo(f"{target}: restart ComfyUI; put Offbeat's files into models/offbeat there")

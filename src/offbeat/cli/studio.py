"""``offbeat studio``."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from offbeat.cli.output import errors_shown

TOKEN = "OFFBEAT_STUDIO_TOKEN"


def studio(
    folder: Annotated[
        Path, typer.Option(help="Where runs, uploads and the list of them are kept.")
    ] = Path("studio"),
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; other than this machine only with `--token`."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8188,
    token: Annotated[
        str | None,
        typer.Option(
            envvar=TOKEN,
            help="Password for the page. Set it in the environment: then no list of processes "
            "shows it.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another host name of this server. Repeat for several."),
    ] = None,
    backbone: Annotated[
        str,
        typer.Option(
            help="Checkpoint for requests that name none: a name (`offbeat list backbones`), a "
            "folder or a hub id."
        ),
    ] = "pocket",
    shelf: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Show the finished runs of this folder on the shelf, too: of `explore`, `fuse`, "
            "`archive`, ... Repeat for several.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where it runs: `auto`, `cpu`, `cuda`, ...")] = "auto",
    disk: Annotated[
        float,
        typer.Option(
            min=0.001, metavar="GIB", help="Limit of FOLDER; above it nothing new starts."
        ),
    ] = 50.0,
    show: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser.")
    ] = True,
) -> None:
    """Open a page in your browser to explore, fuse and paint, and to keep what you find.

    Every run is a folder in `FOLDER/runs`, as with any other command. A run that was stopped
    continues at the next start.

    `docs/studio.md` has the HTTP API that the page uses.
    """
    with errors_shown():
        from offbeat.errors import ConfigError, MissingExtraError

        if any(find_spec(name) is None for name in ("fastapi", "uvicorn", "python_multipart")):
            raise MissingExtraError("the studio", "studio")
        from offbeat.studio.security import is_loopback
        from offbeat.studio.server import free_port, serve

        if not is_loopback(host) and not token:
            raise ConfigError(
                f"--host {host}: others could reach it, so it needs a --token, or {TOKEN}"
            )
        if token is not None and len(token) < 8:
            raise ConfigError("--token: expected 8 characters or more")
        os.environ.pop(TOKEN, None)  # the process that draws has no use for it
        settings: dict[str, Any] = {
            "folder": folder,
            "host": host,
            "port": port or free_port(host),
            "token": token or None,
            "names": tuple(allow_host or ()),
            "device": device,
            "shelf": tuple(shelf or ()),
            "disk_bytes": int(disk * 2**30),
        }
        serve(settings, backbone=backbone, show=show, tell=typer.echo)

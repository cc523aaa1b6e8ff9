"""``offbeat studio``."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from offbeat.cli.output import errors_shown

TOKEN = "OFFBEAT_STUDIO_TOKEN"


def studio(
    folder: Annotated[
        Path, typer.Option(help="Where runs, uploads and the list of them are kept.")
    ] = Path("studio"),
    host: Annotated[
        str,
        typer.Option(help="Where to listen; beyond this machine only together with `--token`."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8188,
    token: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it at run time on Python 3.10
        typer.Option(
            envvar=TOKEN,
            help="What people have to know. In the environment nobody sees it in a list of "
            "processes.",
        ),
    ] = None,
    allow_host: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="NAME", help="A further name of this server. Several."),
    ] = None,
    backbone: Annotated[
        str,
        typer.Option(
            help="The checkpoint of requests that name none: a name (`offbeat list backbones`), "
            "folder or hub id."
        ),
    ] = "pocket",
    device: Annotated[str, typer.Option(help="Where it runs: `auto`, `cpu`, `cuda`, ...")] = "auto",
    show: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser.")
    ] = True,
) -> None:
    """Open a page on this machine in which one sees and steers.

    Explore, fuse, paint, and keep what was found on a shelf. Every run is a folder in
    `FOLDER/runs`, as of any other command. What ran when it was stopped goes on at the next start.

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
        }
        serve(settings, backbone=backbone, show=show, tell=typer.echo)

"""Serve a studio until it is stopped."""

from __future__ import annotations

import logging
import socket
import threading
import webbrowser
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from offbeat.files.disk import FolderLock
from offbeat.studio.app import create_app
from offbeat.studio.state import Settings


def free_port(host: str) -> int:
    """Return a port that nobody listens on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def serve(
    settings: Mapping[str, Any], *, backbone: str, show: bool, tell: Callable[[str], None]
) -> None:
    """Serve until an interrupt.

    Args:
        settings: As of ``Settings``.
        backbone: A name, a folder or a hub id.
        show: Whether to open a browser.
        tell: Told the address.

    Raises:
        StoreError: If another studio works in the folder.
    """
    name, source = named(backbone)
    made = Settings(**settings, backbone=name, source=source)
    made.folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock.take(made.folder)
    _serve(made, show=show, tell=tell)
    del lock


def _serve(settings: Settings, *, show: bool, tell: Callable[[str], None]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        server_header=False,
        limit_concurrency=500,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )
    name = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{name}:{settings.port}/"

    def ready() -> None:
        tell(f"Offbeat studio: {address}" + ("login" if settings.token else ""))
        tell(f"runs are kept in {settings.folder}; Ctrl-C stops, the next start goes on")
        if show:
            threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()

    tell("loading ...")
    Server(config, app, ready).run()


class Server(uvicorn.Server):
    """A server that reports when it listens, and closes event streams before it stops."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.app, self.ready = app, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        if self.started:
            self.ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop."""
        self.app.state.studio.events.close()
        super().handle_exit(sig, frame)


def named(backbone: str) -> tuple[str, str | None]:
    """Return a checkpoint's name for the page, the last part of a folder or hub id; its source."""
    path = Path(backbone).expanduser()
    if path.exists():
        return _slug(path.name), str(path.resolve())
    if "/" in backbone:
        return _slug(backbone.rsplit("/", 1)[1]), backbone
    return backbone, None


def _slug(name: str) -> str:
    text = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name)
    return text.lower().strip("-")[:60] or "own"

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
    app = create_app(settings)

    def ready(address: str) -> None:
        tell(f"Offbeat studio: {address}" + ("login" if settings.token else ""))
        tell(f"runs are kept in {settings.folder}; Ctrl-C stops, the next start goes on")
        if show:
            threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()

    tell("loading ...")
    close = app.state.studio.events.close
    run_app(app, host=settings.host, port=settings.port, tell=ready, close=close)


def run_app(
    app: FastAPI,
    *,
    host: str,
    port: int,
    tell: Callable[[str], None],
    close: Callable[[], None] = lambda: None,
) -> None:
    """Serve an application until an interrupt.

    Args:
        app: The application.
        host: Address to listen on.
        port: Port to listen on.
        tell: Told the address once it listens.
        close: Called when it begins to stop, before it waits for open answers.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        limit_concurrency=500,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )
    name = f"[{host}]" if ":" in host else host
    Server(config, lambda: tell(f"http://{name}:{port}/"), close).run()


class Server(uvicorn.Server):
    """A server that reports when it listens, and closes event streams before it stops."""

    def __init__(
        self, config: uvicorn.Config, ready: Callable[[], None], close: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self.ready, self.close = ready, close

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        if self.started:
            self.ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop."""
        self.close()
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

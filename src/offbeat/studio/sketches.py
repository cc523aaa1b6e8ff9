"""Low-step previews that follow a slider: one thread, the newest request of each lane."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from offbeat.studio import requests
from offbeat.studio.about import bundled
from offbeat.studio.arguments import Arguments, Translation, checked_word
from offbeat.verbs.sketch import between, concept_of, dreamt, mixture, sketch

BACKBONE = "pocket"
NUM_STEPS = 4
"""Denoising steps: what fits into half a second on a slow core."""
MAX_WAITING = 64


class Outdated(Exception):
    """A newer sketch was asked for in the same lane."""


class TooMany(Exception):
    """More sketches wait than can be drawn soon."""


class Sketches:
    """Draws one sketch at a time, and skips outdated requests."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sketch")
        self._newest: dict[tuple[str, str], int] = {}
        self._number = self._waiting = 0

    async def draw(self, request: Any, session: str, lane: str) -> bytes:
        """Return a PNG.

        Raises:
            Outdated: If a newer one was asked for before this one's turn.
            TooMany: If too many wait.
            OffbeatError: If it cannot be drawn.
        """
        if self._waiting >= MAX_WAITING:
            raise TooMany
        self._number += 1
        number, place = self._number, (session, lane)
        draw = self._drawing(request, session)  # may refuse, and then it never waits
        self._newest[place] = number

        def turn() -> bytes:
            if self._newest.get(place) != number:
                raise Outdated
            return draw()

        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, turn)
        finally:
            self._waiting -= 1
            if self._newest.get(place) == number:
                del self._newest[place]

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _drawing(self, request: Any, session: str) -> Callable[[], bytes]:
        """Return a function that draws a request; references are looked up now."""
        model = bundled()[BACKBONE]
        work = Translation(self.arguments, session)

        def find(source: requests.ConceptRef | requests.DreamSketch) -> Callable[[], Any]:
            if isinstance(source, requests.DreamSketch):
                law, seed = source.law, source.seed
                return lambda: dreamt(law=law, seed=seed, backbone=model)
            path = str(Path(self.arguments.folder, work.concept(source)))
            return lambda: concept_of(path)

        if isinstance(request, requests.MixtureSketch):
            weights = {
                checked_word(source.word or "a picture/"): source.share
                for source in request.sources
            }
            concept: Callable[[], Any] = lambda: mixture(weights, backbone=model)  # noqa: E731
        elif isinstance(request, requests.DreamSketch):
            concept = find(request)
        else:
            first, second = find(request.first), find(request.second)
            concept = lambda: between(first(), second(), request.share)  # noqa: E731

        def draw() -> bytes:
            picture = sketch(
                concept(),
                prompt=request.prompt,
                num_inference_steps=NUM_STEPS,
                seed=request.seed,
                backbone=model,
            )
            data = io.BytesIO()
            picture.save(data, format="PNG")
            return data.getvalue()

        return draw

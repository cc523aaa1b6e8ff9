"""What happens, told to the tabs of a session as server-sent events.

Each session has a channel with its last events, bounded; a stream reads it from where it stands.
So a slow or forgotten stream costs a place in the channel and no memory of its own.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

KEPT = 500
"""Events of a session that a stream may go back to."""
MAX_CHANNELS = 1000
HEARTBEAT = 15.0
LIFETIME = 3600.0
"""Seconds after which a stream ends; browsers open it again."""


@dataclass(slots=True)
class Channel:
    """The last events of one session, and the streams that wait for more."""

    dropped: int
    """Number of the last event that is no more: whoever saw less must read the lists anew."""
    events: deque[tuple[int, str]] = field(default_factory=deque)
    streams: set[asyncio.Event] = field(default_factory=set)


class TooManyStreams(Exception):
    """A session, or all of them, have as many streams as there may be."""


class Events:
    """The channels of all sessions; used from the event loop alone."""

    def __init__(self, *, per_session: int = 8, in_all: int = 200) -> None:
        self.per_session, self.in_all = per_session, in_all
        self._channels: OrderedDict[str, Channel] = OrderedDict()
        # numbers of an earlier server are all below: its streams are told to read anew
        self._number = time.time_ns() // 1000
        self._open = 0
        self._closed = False

    def publish(self, session: str, event: str, data: dict[str, Any]) -> None:
        """Tell every stream of a session; ``data`` holds JSON values."""
        self._number += 1
        text = json.dumps(data, allow_nan=False, separators=(",", ":"))
        channel = self._channel(session)
        channel.events.append((self._number, _event(self._number, event, text)))
        if len(channel.events) > KEPT:
            channel.dropped = channel.events.popleft()[0]
        for waiting in channel.streams:
            waiting.set()

    def close(self) -> None:
        """End every stream."""
        self._closed = True
        for channel in self._channels.values():
            for waiting in channel.streams:
                waiting.set()

    def open(self, session: str, last: int | None) -> AsyncIterator[str]:
        """Return a stream of one session, after event ``last``; None is from now on.

        Raises:
            TooManyStreams: If there are as many as may be.
        """
        channel = self._channel(session)
        if len(channel.streams) >= self.per_session or self._open >= self.in_all:
            raise TooManyStreams
        return self._stream(channel, self._number if last is None else last)

    async def _stream(self, channel: Channel, at: int) -> AsyncIterator[str]:
        wake = asyncio.Event()
        channel.streams.add(wake)
        self._open += 1
        try:
            ends = time.monotonic() + LIFETIME
            yield "retry: 2000\n\n"
            while not self._closed and time.monotonic() < ends:
                wake.clear()
                if not channel.dropped <= at <= self._number:
                    at = self._number
                    yield _event(at, "reset", "{}")
                for number, text in [one for one in channel.events if one[0] > at]:
                    at = number
                    yield text
                try:
                    await asyncio.wait_for(wake.wait(), HEARTBEAT)
                except asyncio.TimeoutError:
                    yield ": still here\n\n"
        finally:
            channel.streams.discard(wake)
            self._open -= 1

    def _channel(self, session: str) -> Channel:
        channel = self._channels.setdefault(session, Channel(dropped=self._number))
        self._channels.move_to_end(session)
        if len(self._channels) > MAX_CHANNELS:
            for name, one in list(self._channels.items()):
                if not one.streams and name != session:
                    del self._channels[name]
                    break
        return channel


def _event(number: int, event: str, text: str) -> str:
    return f"id: {number}\nevent: {event}\ndata: {text}\n\n"

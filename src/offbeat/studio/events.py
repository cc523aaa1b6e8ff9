"""Server-sent events: tell all tabs of a session what happens.

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
    """A session, an address, or the server has as many streams as allowed."""


class Events:
    """The channels of all sessions; used from the event loop alone."""

    def __init__(self, *, per_session: int = 8, per_address: int = 64, in_all: int = 200) -> None:
        self.per_session, self.per_address, self.in_all = per_session, per_address, in_all
        self._channels: OrderedDict[str, Channel] = OrderedDict()
        # numbers of an earlier server are all below: its streams are told to read anew
        self._number = time.time_ns() // 1000
        self._streams: set[Stream] = set()
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

    def open(self, session: str, last: int | None, *, address: str = "") -> Stream:
        """Return a stream of one session, after event ``last``; None is from now on.

        It counts from now on; whoever opens it must close it.

        Raises:
            TooManyStreams: If the session, the address, or all have as many as may be.
        """
        channel = self._channel(session)
        of_address = sum(stream.address == address for stream in self._streams)
        if (
            len(channel.streams) >= self.per_session
            or of_address >= self.per_address
            or len(self._streams) >= self.in_all
        ):
            raise TooManyStreams
        stream = Stream(self, channel, self._number if last is None else last, address)
        self._streams.add(stream)
        channel.streams.add(stream.wake)
        return stream

    def _channel(self, session: str) -> Channel:
        channel = self._channels.setdefault(session, Channel(dropped=self._number))
        self._channels.move_to_end(session)
        if len(self._channels) > MAX_CHANNELS:
            for name, one in list(self._channels.items()):
                if not one.streams and name != session:
                    del self._channels[name]
                    break
        return channel


class Stream:
    """A stream of one session's events as text, until it is closed."""

    def __init__(self, events: Events, channel: Channel, at: int, address: str) -> None:
        self.address, self.wake = address, asyncio.Event()
        self._events, self._channel, self._at = events, channel, at

    def close(self) -> None:
        """Give its place back; a second time does nothing."""
        self._channel.streams.discard(self.wake)
        self._events._streams.discard(self)

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield events as they come, and a sign of life between them."""
        events, channel = self._events, self._channel
        ends = time.monotonic() + LIFETIME
        yield "retry: 2000\n\n"
        while not events._closed and time.monotonic() < ends:
            self.wake.clear()
            if not channel.dropped <= self._at <= events._number:
                self._at = events._number
                yield _event(self._at, "reset", "{}")
            for number, text in [pair for pair in channel.events if pair[0] > self._at]:
                self._at = number
                yield text
            try:
                await asyncio.wait_for(self.wake.wait(), HEARTBEAT)
            except asyncio.TimeoutError:
                yield ": still here\n\n"


def _event(number: int, event: str, text: str) -> str:
    return f"id: {number}\nevent: {event}\ndata: {text}\n\n"

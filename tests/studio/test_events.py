"""Event streams: resumed, bounded, and none of another session."""

import asyncio
import json

import pytest

from offbeat.studio import events
from offbeat.studio.events import Events, TooManyStreams


async def take(stream, num):
    return [await asyncio.wait_for(anext(stream), 60) for _ in range(num)]


def opened(hub, session, last=None, **kwargs):
    return aiter(hub.open(session, last, **kwargs))


def parsed(text):
    return dict(line.split(": ", 1) for line in text.strip().split("\n"))


def run(body):
    return asyncio.run(body())


def test_a_stream_goes_on_after_the_last_event_that_was_seen():
    async def body():
        hub = Events()
        live = opened(hub, "a")
        await take(live, 1)
        for number in range(3):
            hub.publish("a", "progress", {"number": number})
            hub.publish("b", "progress", {"number": "of another session"})
        seen = [parsed(text) for text in await take(live, 3)]
        assert [json.loads(one["data"])["number"] for one in seen] == [0, 1, 2]
        again = opened(hub, "a", int(seen[0]["id"]))
        rest = [parsed(text) for text in (await take(again, 3))[1:]]
        assert rest == seen[1:]

    run(body)


def test_who_missed_what_is_forgotten_reads_anew(monkeypatch):
    monkeypatch.setattr(events, "KEPT", 5)

    async def body():
        hub = Events()
        for number in range(9):
            hub.publish("a", "progress", {"number": number})
        kept = hub._channels["a"].events
        assert len(kept) == 5
        for last in (1, kept[0][0] - 5, 10**18):
            told = parsed((await take(opened(hub, "a", last), 2))[1])
            assert told["event"] == "reset"
        fine = await take(opened(hub, "a", kept[0][0]), 5)
        assert [json.loads(parsed(text)["data"])["number"] for text in fine[1:]] == [5, 6, 7, 8]

    run(body)


def test_streams_that_are_left_open_are_counted_and_end(monkeypatch):
    async def body():
        hub = Events(per_session=2, per_address=3, in_all=4)
        held = [
            hub.open("a", None, address="x") for _ in range(2)
        ]  # they count before they are read
        with pytest.raises(TooManyStreams):
            hub.open("a", None, address="y")
        hub.open("b", None, address="x")
        with pytest.raises(TooManyStreams):  # of one address, whatever sessions it makes
            hub.open("c", None, address="x")
        hub.open("d", None, address="y")
        with pytest.raises(TooManyStreams):
            hub.open("e", None, address="z")
        held[0].close()
        held[0].close()
        hub.open("c", None, address="x")
        monkeypatch.setattr(events, "LIFETIME", -1.0)
        assert len([text async for text in held[1]]) == 1
        monkeypatch.setattr(events, "LIFETIME", 3600.0)
        hub.close()
        assert len([text async for text in held[1]]) == 1

    run(body)


def test_a_quiet_stream_says_that_it_is_alive(monkeypatch):
    monkeypatch.setattr(events, "HEARTBEAT", 0.01)

    async def body():
        assert (await take(opened(Events(), "a"), 2))[1].startswith(":")

    run(body)


def test_channels_are_bounded(monkeypatch):
    monkeypatch.setattr(events, "MAX_CHANNELS", 10)

    async def body():
        hub = Events()
        for number in range(50):
            hub.publish(str(number), "progress", {})
        assert len(hub._channels) == 10

    run(body)

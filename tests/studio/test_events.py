"""Event streams: resumed, bounded, and none of another session."""

import asyncio
import json

import pytest

from offbeat.studio import events
from offbeat.studio.events import Events, TooManyStreams


async def take(stream, num):
    return [await asyncio.wait_for(anext(stream), 5) for _ in range(num)]


def parsed(text):
    return dict(line.split(": ", 1) for line in text.strip().split("\n"))


def run(body):
    return asyncio.run(body())


def test_a_stream_goes_on_after_the_last_event_that_was_seen():
    async def body():
        hub = Events()
        live = hub.open("a", None)
        await take(live, 1)
        for number in range(3):
            hub.publish("a", "progress", {"number": number})
            hub.publish("b", "progress", {"number": "of another session"})
        seen = [parsed(text) for text in await take(live, 3)]
        assert [json.loads(one["data"])["number"] for one in seen] == [0, 1, 2]
        again = hub.open("a", int(seen[0]["id"]))
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
            told = parsed((await take(hub.open("a", last), 2))[1])
            assert told["event"] == "reset"
        fine = await take(hub.open("a", kept[0][0]), 5)
        assert [json.loads(parsed(text)["data"])["number"] for text in fine[1:]] == [5, 6, 7, 8]

    run(body)


def test_streams_that_are_left_open_are_counted_and_end(monkeypatch):
    async def body():
        hub = Events(per_session=2, in_all=3)
        held = [hub.open("a", None) for _ in range(2)]
        for stream in held:
            await take(stream, 1)
        with pytest.raises(TooManyStreams):
            hub.open("a", None)
        third = hub.open("b", None)
        await take(third, 1)
        with pytest.raises(TooManyStreams):
            hub.open("c", None)
        await held[0].aclose()
        hub.open("c", None)
        monkeypatch.setattr(events, "LIFETIME", -1.0)
        ended = hub.open("c", None)
        assert len([text async for text in ended]) == 1
        hub.close()
        assert [text async for text in held[1]] == []

    run(body)


def test_a_quiet_stream_says_that_it_is_alive(monkeypatch):
    monkeypatch.setattr(events, "HEARTBEAT", 0.01)

    async def body():
        assert (await take(Events().open("a", None), 2))[1].startswith(":")

    run(body)


def test_channels_are_bounded(monkeypatch):
    monkeypatch.setattr(events, "MAX_CHANNELS", 10)

    async def body():
        hub = Events()
        for number in range(50):
            hub.publish(str(number), "progress", {})
        assert len(hub._channels) == 10

    run(body)

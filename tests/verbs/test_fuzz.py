"""A stranger's files, made up by hypothesis: each ends in one of our errors, or is read.

``OFFBEAT_EXAMPLES`` says how many of each; ``make test-slow`` tries 10,000.
"""

import json
import os
import struct
import zlib
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from offbeat.errors import OffbeatError
from offbeat.files.concept import decode_concept
from offbeat.files.disk import json_bytes
from offbeat.files.png import (
    encode_png,
    parse_infotext,
    read_concept_file,
    read_infotext,
    read_recipe,
)
from offbeat.runs.folder import RunFolder
from offbeat.runs.result import load_run
from offbeat.verbs.again import checked_recipe
from offbeat.verbs.score import recipe_of

many = settings(
    max_examples=int(os.environ.get("OFFBEAT_EXAMPLES", "200")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(), part, max_size=4),
    max_leaves=12,
)  # fmt: skip
RECIPE = {
    "checkpoint": "pocket", "fingerprint": "f", "verb": "generate", "versions": {}, "seed": 0,
    "index": 0, "request": {"verb": "generate"}, "device": "cpu", "dtype": "float32",
    "drawing": {"by": "draw", "num": 1, "purpose": "image", "concept": "c", "start": 0},
}  # fmt: skip


@st.composite
def changed(draw, whole):
    """Return a copy of a JSON object, some of its entries replaced or gone."""
    copy = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 4))):
        part = copy
        while isinstance(part, dict) and part:
            name = draw(st.sampled_from(sorted(part)))
            if isinstance(part[name], dict) and part[name] and draw(st.booleans()):
                part = part[name]
                continue
            if draw(st.booleans()):
                part[name] = draw(values)
            else:
                del part[name]
            break
    return copy


@many
@given(changed(RECIPE))
def test_recipes(recipe):
    try:
        whole = checked_recipe(recipe, "p.png")
    except OffbeatError:
        return
    assert isinstance(whole["checkpoint"], str)
    assert 0 <= whole["index"] <= 4096


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    data = encode_png(Image.new("RGB", (4, 4)), {"prompt": "a pig", **RECIPE}, concept=b"x" * 50)
    return tmp_path_factory.mktemp("pngs") / "p.png", data


def chunk(kind, data):
    whole = kind + data
    return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))


KINDS = [b"iTXt", b"tEXt", b"zTXt", b"eXIf", b"IHDR"]
texts = st.binary(max_size=60) | st.sampled_from(
    [b"offbeat\0\0\0\0\0{", b"offbeat\0\1\0\0\0x", b"parameters\0\xff",
     b"offbeat-concept\0\0\0\0\0!",
     b"offbeat\0\0\0\0\0" + b"[" * 5000, b"offbeat\0\0\0\0\0[1]"]
)  # fmt: skip


@many
@given(
    chunks=st.lists(st.tuples(st.sampled_from(KINDS), texts), max_size=3),
    cut=st.integers(0, 400),
    flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=3),
)  # fmt: skip
def test_chunks_of_a_png(picture, chunks, cut, flips):
    path, whole = picture
    data = bytearray(whole[:33] + b"".join(chunk(*part) for part in chunks) + whole[33:])
    for at, value in flips:
        data[at % len(data)] = value
    path.write_bytes(bytes(data[: len(data) - cut] if cut % 2 else data))
    for read in (read_recipe, read_concept_file, read_infotext, recipe_of):
        try:
            found = read(path)
        except OffbeatError:
            continue
        if isinstance(found, str):
            parse_infotext(found)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    request = {"verb": "generate", "prompt": "a pig", "method": "m", "checkpoint": "pocket",
               "fingerprint": "f", "num_images": 1, "layout": "x"}  # fmt: skip
    folder = RunFolder.create(tmp_path_factory.mktemp("run") / "r", request)
    folder.append_trace({"step": 0})
    folder.write({"summary.json": json_bytes({"warnings": []}), "images/0000.png": b"x"})
    folder.finish()
    names = ("request.json", "done.json", "summary.json")
    return folder.path, {name: json.loads((folder.path / name).read_text()) for name in names}


@many
@given(data=st.data())
def test_requests_and_folders(run, data):
    path, wholes = run
    name = data.draw(st.sampled_from(sorted(wholes)))
    text = json.dumps(data.draw(changed(wholes[name]) | values))
    if data.draw(st.booleans()):
        text = text[: data.draw(st.integers(0, len(text)))]
    try:
        (path / name).write_text(text)
        for read in (RunFolder.open, load_run):
            with suppress(OffbeatError):
                read(path)
    finally:
        (path / name).write_text(json.dumps(wholes[name]))


@many
@given(st.binary(max_size=200) | changed(RECIPE).map(lambda v: json.dumps(v).encode()))
def test_concept_files(data):
    header = len(data).to_bytes(8, "little") + data
    for file in (data, header):
        with pytest.raises(OffbeatError):
            decode_concept({"concept.safetensors": file}.get)

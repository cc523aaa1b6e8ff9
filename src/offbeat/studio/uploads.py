"""Uploads: pictures, decoded once and saved as new PNGs, and concepts of other tools.

Nothing is kept as it came but a concept that our own reader took, and nothing is sent back but a
PNG that we wrote.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from offbeat import registry
from offbeat.errors import ConfigError, CorruptRunError, ImageError, OffbeatError
from offbeat.files.concept import CONCEPT_FILE, decode_concept
from offbeat.files.disk import unpack_tensors, write_atomic
from offbeat.files.exchange import read_weights
from offbeat.files.pictures import clean_png
from offbeat.files.png import parse_infotext, read_infotext, read_recipe
from offbeat.studio.about import config_of
from offbeat.studio.database import Database, Row, new_id
from offbeat.studio.requests import JobRequest

MAX_BYTES = 32 * 2**20
MAX_MEGAPIXELS = 50.0
MAX_UPLOADS = 200
"""Of a session."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
CONCEPT = ".safetensors"
MAX_SIDE = 16_384
"""Pixels of each side of a picture."""
MAX_HEADER, MAX_TENSORS = 2**20, 4096
"""Bytes of a concept's header, and tensors in it."""
_decoding = threading.BoundedSemaphore(4)
"""A picture takes some hundreds of megabytes while it is decoded: so many at a time."""


class TooManyUploads(Exception):
    """The session has as many uploads as allowed."""


def keep(folder: Path, database: Database, session: str, name: str, file: BinaryIO) -> Row:
    """Check and save an upload.

    Args:
        folder: The studio's.
        database: Where it is listed.
        session: Whose it is.
        name: As the browser gave it: shown, and never a path.
        file: Its content.

    Raises:
        ImageError: If it is no picture that is taken.
        CorruptRunError: If a file named as a concept does not hold one.
        TooManyUploads: If there are too many.
    """
    if len(database.uploads(session)) >= MAX_UPLOADS:
        raise TooManyUploads
    upload, where = new_id(), folder / "uploads"
    where.mkdir(exist_ok=True)
    shown = Path(name.replace("\\", "/")).name[:120] or "unnamed"
    row: Row = {"id": upload, "session": session, "name": shown, "created": time.time()}
    if shown.lower().endswith(CONCEPT):
        data = file.read(MAX_BYTES + 1)
        _check_concept(data, shown)
        _write(where / f"{upload}{CONCEPT}", data)
        row |= {"kind": "concept", "bytes": len(data), "width": None, "height": None, "recipe": 0}
    else:
        with _on_disk(file, where) as path:
            data, width, height = _clean(path, shown)
            recipe = recall(path, shown)["by"] is not None
        _write(where / f"{upload}.png", data)
        row |= {"kind": "picture", "bytes": len(data), "width": width, "height": height}
        row["recipe"] = int(recipe)
    database.add_upload(row)
    return row


def file_of(folder: Path, row: Row) -> Path:
    """Return the path of an upload."""
    ending = CONCEPT if row["kind"] == "concept" else ".png"
    return folder / "uploads" / f"{row['id']}{ending}"


def remove(folder: Path, database: Database, row: Row) -> None:
    """Remove an upload for good."""
    database.forget_upload(row["id"])
    file_of(folder, row).unlink(missing_ok=True)


def recall_of(folder: Path, name: str, file: BinaryIO) -> dict[str, Any]:
    """Return how a picture was made, by its metadata; nothing is saved."""
    where = folder / "uploads"
    where.mkdir(exist_ok=True)
    with _on_disk(file, where) as path:
        _clean(path, name)  # no picture, no answer
        return recall(path, name)


def recall(path: Path, name: str) -> dict[str, Any]:
    """Return the request in a picture's metadata, or the text that another tool wrote."""
    settings: dict[str, Any] = {
        "request": None, "by": None, "text": None, "prompt": None, "seed": None, "reason": "",
    }  # fmt: skip
    with suppress(OffbeatError, UnicodeError):
        text = read_infotext(path)[:10_000]
        parts = parse_infotext(text)
        settings |= {"by": "other", "text": text, "prompt": parts.get("Prompt")}
        seed = parts.get("Seed", "")
        settings["seed"] = int(seed) if seed.isdigit() and len(seed) < 11 else None
    with suppress(OffbeatError, UnicodeError, RecursionError):
        recipe = read_recipe(path)
        settings |= {"by": "offbeat", "prompt": recipe.get("prompt"), "seed": recipe.get("seed")}
        try:
            request = recipe.get("request") or recipe
            settings["request"] = request_of(request)
        except (LookupError, TypeError, ValueError, AttributeError, OffbeatError) as error:
            said = str(error).split("\n")[0][:200]
            settings["reason"] = f"what it was asked cannot be asked here ({said})"
    if settings["by"] is None:
        settings["reason"] = (
            f"{name[:120]} does not say how it was made; sites and editors remove it"
        )
    return settings


_OF_EXPLORE = (
    "subject", "prompt", "num_images", "num_trials", "directions", "candidates", "seed", "judge",
)  # fmt: skip
_OF_DREAM = ("num", "method", "max_cosine", "prompt", "seed")
_OF_GENERATE = (
    "prompt", "negative_prompt", "num_images", "seed", "num_inference_steps", "guidance_scale",
    "prior_num_inference_steps", "prior_guidance_scale",
)  # fmt: skip


def request_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job of a run's request, checked.

    Raises:
        ConfigError: If it needs what only the run folder has.
        ValueError: If it is no request that the studio can run.
    """
    from pydantic import TypeAdapter

    verb, layout = asked["verb"], asked.get("layout")
    job: dict[str, Any] = {"verb": verb, "backbone": asked.get("checkpoint")}
    if verb == "explore":
        job |= {name: asked[name] for name in _OF_EXPLORE if asked.get(name) is not None}
        if layout == "drawn":
            job |= {"method": asked["method"], "judge": "auto"}
            job["config"] = _changed(asked["method"], asked["config"])
        else:
            names = ("novelty", "reach", "num_steps", "space")
            job |= {name: value for name in names if (value := asked["config"][name]) is not None}
            if (quantile := asked["config"].get("quantile")) is not None:
                job["novelty"] = quantile  # below 1 it is one
            but = (*names, "quantile")
            job["config"] = _changed("low-probability", asked["config"], but=but)
    elif verb == "fuse" and layout in ("fuse", "sweep", "grid"):
        job |= _of_fusion(asked)
    elif verb == "dream":
        job |= {name: asked[name] for name in _OF_DREAM}
        job["config"] = _changed(asked["method"], asked["config"], but=("law",))
        job["law"] = asked["config"].get("law")
        job["subject"] = None if asked["subject"] == "dreams" else asked["subject"]
    elif verb == "generate":
        if asked.get("pictures") or asked.get("concepts"):
            raise ConfigError("it was made of pictures or concepts, which it does not hold")
        job |= {name: asked[name] for name in _OF_GENERATE if asked.get(name) is not None}
    else:
        raise ConfigError(f"a {verb} needs the runs and pictures that it was made from")
    checked = TypeAdapter(JobRequest).validate_python(job)
    return checked.model_dump(mode="json", exclude_unset=True)


def _of_fusion(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return a fusion of one picture's own words, for a picture of a path has its own shares."""
    points = asked["weights"]
    flat = isinstance(points[0][0], str)
    words = dict(points if flat else points[0])
    if any("digest" in source for source in asked.get("sources", ()) if isinstance(source, dict)):
        raise ConfigError("it was made of pictures, which it does not hold")
    if len(words) < 2:
        raise ConfigError(f"it shows {', '.join(words)} as it is; generate draws that")
    return {
        "sources": [{"word": word, "share": share} for word, share in words.items()],
        "config": _changed(asked["method"], asked["config"]),
        **{name: asked[name] for name in ("method", "prompt", "num_images", "seed")},
    }


def _changed(method: str, config: Mapping[str, Any], but: Sequence[str] = ()) -> dict[str, Any]:
    """Return the settings that are not the method's own."""
    cls = config_of(registry.find("method", method))
    if cls is None:
        return {}
    plain = cls()
    return {
        name: value
        for name, value in config.items()
        if name not in but and hasattr(plain, name) and value != getattr(plain, name)
    }


def _check_concept(data: bytes, name: str) -> None:

    if len(data) > MAX_BYTES:
        raise CorruptRunError(f"{name}: expected at most {MAX_BYTES >> 20} MiB")
    # a safetensors file has the length of its header, then a brace; a pickle has not
    if data[8:9] != b"{":
        raise CorruptRunError(f"{name}: expected a safetensors file, got something else")
    size = int.from_bytes(data[:8], "little")
    if size > MAX_HEADER:
        raise CorruptRunError(f"{name}: expected a header of at most {MAX_HEADER >> 20} MiB")
    if data[8 : 8 + size].count(b'"data_offsets"') > MAX_TENSORS:
        raise CorruptRunError(f"{name}: expected at most {MAX_TENSORS} tensors")
    try:
        about: Any = None
        with suppress(ValueError, TypeError, KeyError):
            about = unpack_tensors(data)[1]
        if isinstance(about, dict) and about and "export" not in about:  # one of our own
            decode_concept(lambda file: data if file == CONCEPT_FILE else None)
            return
        read_weights(data, Path(name))
    except OffbeatError:
        raise
    except Exception as error:
        raise CorruptRunError(f"{name}: cannot be read as a concept") from error


def _clean(path: Path, name: str) -> tuple[bytes, int, int]:

    with _decoding:
        try:
            return clean_png(path, formats=FORMATS, max_megapixels=MAX_MEGAPIXELS, longest=MAX_SIDE)
        except ImageError as error:
            raise ImageError(str(error).replace(path.name, name[:120])) from error


@contextmanager
def _on_disk(file: BinaryIO, folder: Path) -> Iterator[Path]:
    """Yield the path of a temporary copy of an upload."""
    handle, name = tempfile.mkstemp(prefix=".upload-", dir=folder)
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as copy:
            while block := file.read(2**20):
                copy.write(block)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:

    write_atomic(path, data)

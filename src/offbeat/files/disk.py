"""Write files atomically, read them safely, and store tensors with JSON metadata.

Sees errors and torch only: ``store`` and ``formats`` stand on it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import uuid
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from offbeat.errors import BusyError, CorruptRunError, StoreError

TEMP_PREFIX = ".offbeat-"
"""Of files being written; one that stays belongs to a killed run."""

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space, or choose another --out",
    errno.EDQUOT: "your disk quota is used up: free some space, or choose another --out",
    errno.EFBIG: "the file is larger than the disk allows: choose another --out",
    errno.EROFS: "the disk is read-only: choose another --out",
    errno.EACCES: "it is not yours to write: change its permissions, or choose another --out",
    errno.EPERM: "it is not yours to write: change its permissions, or choose another --out",
    errno.ENOTDIR: "a part of its path is a file: choose another --out",
    errno.EISDIR: "a folder has this name: choose another --out",
    errno.ENAMETOOLONG: "its name is too long: choose a shorter --out",
}


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds all of it or what it held before.

    Raises:
        StoreError: If the disk is full or the folder cannot be written; nothing is left behind.
    """
    temp = path.with_name(f"{TEMP_PREFIX}{uuid.uuid4().hex}.tmp")
    try:
        try:
            with open(temp, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temp, path)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise explained("written", path, error) from error


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def explained(verb: str, path: Path, error: OSError) -> StoreError:
    """Return the error to raise: what could not be done, why, and what to do."""
    advice = _ADVICE.get(error.errno or 0, "check the path and the disk")
    return StoreError(f"{path}: cannot be {verb} ({error.strerror or error}); {advice}")


def safe_name(text: str) -> str:
    """Return a text as the name of a file, which cannot lead to another folder.

    A name of letters, digits, spaces and ``-_.,+=()&`` stays as it is. In any other, signs that
    are not among those become ``_``, and a digest keeps two names apart.

    >>> safe_name("pig + owl"), safe_name("../x").startswith("_")
    ('pig + owl', True)
    """
    kept = "".join(c if c.isalnum() or c in " -_.,+=()&" else "_" for c in text)
    kept = "_" + kept.lstrip(".") if kept.startswith(".") or not kept.strip() else kept
    if kept == text and len(text) <= 120:
        return text
    return f"{kept[:100]}-{digest_of(text.encode(errors='surrogatepass'))[:8]}"


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        StoreError: If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explained("made", folder, error) from error


class FolderLock:
    """A folder that one process works on; freed when its last holder is gone, or killed.

    Nothing is written, and other processes may read. On a disk without locks nothing is locked.
    """

    def __init__(self, handle: int) -> None:
        self.release = weakref.finalize(self, os.close, handle)

    @classmethod
    def take(cls, folder: Path) -> FolderLock | None:
        """Lock ``folder``, or share the lock that this process holds on it.

        Raises:
            BusyError: If another process holds it.
        """
        try:
            import fcntl

            handle = os.open(folder, os.O_RDONLY)
        except (ImportError, OSError):  # Windows
            return None
        status = os.fstat(handle)
        key = (status.st_dev, status.st_ino)
        held = _LOCKS.get(key)
        if held is not None and held.release.alive:
            os.close(handle)
            return held
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise BusyError(
                f"{folder}: another process is at work on this run; wait for it or stop it, or "
                "choose another --out"
            ) from error
        except OSError:  # some network disks
            os.close(handle)
            return None
        _LOCKS[key] = lock = cls(handle)
        return lock


_LOCKS: weakref.WeakValueDictionary[tuple[int, int], FolderLock] = weakref.WeakValueDictionary()
"""What this process holds, by device and inode."""


def plain(value: Any) -> Any:
    """Return ``value`` as JSON gives it back; a number that is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def json_bytes(value: Any) -> bytes:
    """Return ``value`` as an indented JSON file."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def whole_lines(file: BinaryIO) -> int:
    """Return the length of a file up to its last newline."""
    end, block = file.seek(0, os.SEEK_END), 4096
    while end > 0:
        start = max(0, end - block)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def append_line(path: Path, row: Any) -> int:
    """Append JSON values as one line, and return where it begins; what is not finite is null.

    Raises:
        StoreError: If the disk is full; the line is taken back.
    """
    line = json.dumps(plain(row), ensure_ascii=False, allow_nan=False).encode() + b"\n"
    try:
        with open(path, "ab+", buffering=0) as file:
            end = whole_lines(file)
            file.truncate(end)  # a kill may have cut the last line
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except BaseException:
                file.truncate(end)
                raise
    except OSError as error:
        raise explained("written", path, error) from error
    return end


def parse_json(data: str | bytes) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: If it is not JSON, or is nested deeper than can be read.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file of a run holds.

    Raises:
        CorruptRunError: If it is missing or damaged.
        StoreError: If it cannot be read.
    """
    try:
        value = parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CorruptRunError(f"{path} is missing: not a run folder, or a damaged one") from error
    except OSError as error:
        raise explained("read", path, error) from error
    except (ValueError, RecursionError) as error:
        raise CorruptRunError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise CorruptRunError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def pack_tensors(
    tensors: Mapping[str, Tensor],
    metadata: Any = None,
    *,
    labels: Mapping[str, str] | None = None,
) -> bytes:
    """Return a safetensors file with JSON ``metadata`` and a digest of both.

    The same content always gives the same bytes. ``labels`` are further entries of its header, for
    other tools.
    """
    from safetensors.torch import save

    text = json.dumps(metadata, sort_keys=True, ensure_ascii=False)
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    table, values = _split(save(copies))
    entries = {**(labels or {}), "offbeat": text, "digest": _digest_of_parts(text, table, values)}
    # the library writes metadata in random order
    header = {"__metadata__": dict(sorted(entries.items())), **table}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return b"".join([len(head).to_bytes(8, "little"), head, values])


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """Return the header of a safetensors file, and the bytes of all values behind it."""
    end = 8 + int.from_bytes(data[:8], "little")
    return parse_json(data[8:end]), memoryview(data)[end:]


def unpack_tensors(data: bytes) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors and metadata of ``pack_tensors``.

    Raises:
        ValueError: If the file is cut, changed or of another kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        table, values = _split(data)
        metadata = table["__metadata__"]
        text, digest = str(metadata["offbeat"]), metadata["digest"]
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a tensor file of Offbeat ({error})") from error
    if _digest_of_parts(text, table, values) != digest:
        raise ValueError("its content does not match its digest")
    return tensors, parse_json(text)


def _digest_of_parts(text: str, table: Mapping[str, Any], values: memoryview) -> str:
    """Digest the metadata, the table of tensors and their values."""
    named = {name: entry for name, entry in table.items() if name != "__metadata__"}
    return digest_of(json.dumps([text, named], sort_keys=True).encode(), values)


def digest_of(*parts: bytes | memoryview) -> str:
    """Return 32 hexadecimal digits of BLAKE2b of all parts, one behind the other."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return ``value`` as JSON, its tensors moved to ``tensors``; keys and tuples stay such."""
    if isinstance(value, Tensor):
        name = f"{len(tensors):06d}"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[key, flatten(part, tensors)] for key, part in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [flatten(part, tensors) for part in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"state: expected tensors, numbers, text, lists or dicts, got {type(value)}")


def unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return what ``flatten`` was given."""
    if not isinstance(value, dict):
        return value
    ((kind, parts),) = value.items()
    if kind == "tensor":
        return tensors[parts]
    if kind == "dict":
        return {key: unflatten(part, tensors) for key, part in parts}
    values = [unflatten(part, tensors) for part in parts]
    return tuple(values) if kind == "tuple" else values

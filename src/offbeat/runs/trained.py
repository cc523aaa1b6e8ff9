"""Find what a method was trained to on a checkpoint, and check that it belongs to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from offbeat.errors import ConfigError, CorruptRunError, FingerprintError, StoreError
from offbeat.files.concept import decode_trained, encode_trained
from offbeat.files.disk import digest_of
from offbeat.protocols import TextBackbone
from offbeat.runs.folder import RunFolder
from offbeat.types import Trained

SUFFIX = ".safetensors"


def find_trained(
    method: Any, backbone: TextBackbone, source: str | Path | Trained | None
) -> tuple[Trained | None, str | None]:
    """Return what a method learned on this checkpoint, and a digest of it.

    Args:
        method: Any; one that learns nothing once needs, and gets, None.
        backbone: The checkpoint.
        source: A file, the folder of a training, or None for what comes with the checkpoint.

    Raises:
        StoreError: If it is not there.
        CorruptRunError: If it is damaged.
        FingerprintError: If it belongs to another checkpoint.
        ConfigError: If it is another method's, or the method takes none.
    """
    name = method.name
    if not hasattr(method, "train"):
        if source is not None:
            raise ConfigError(f"trained: {name} learns anew each time and takes nothing trained")
        return None, None
    if isinstance(source, Trained):
        trained, digest = source, digest_of(encode_trained(source))
    else:
        path = _path_of(name, backbone, source)
        data = _read(path)
        trained, digest = decode_trained(data, str(path)), digest_of(data)
    if trained.method != name:
        raise ConfigError(f"trained: expected what {name} learned, got what {trained.method} did")
    if trained.fingerprint != backbone.fingerprint:
        raise FingerprintError(
            f"{name}: was trained on {trained.checkpoint} ({trained.fingerprint}), and this is "
            f"{backbone.name} ({backbone.fingerprint}), where it cannot be used. Make one with "
            f"`offbeat train {name} --backbone {backbone.name}`"
        )
    return trained, digest


def _path_of(name: str, backbone: TextBackbone, source: str | Path | None) -> Path:
    if source is None:
        bundled = backbone.card.get("trained", {}).get(name)
        if bundled is None:
            raise StoreError(
                f"{name}: nothing trained comes with {backbone.name}. Make it with `offbeat train "
                f"{name} --backbone {backbone.name}`, then give its folder with --trained"
            )
        return Path(bundled)
    path = Path(source).expanduser()
    if path.is_dir():
        run = RunFolder.open(path)
        if not run.is_finished:
            raise StoreError(f"{path}: the training is not finished; go on with it with --resume")
        return path / f"{name}{SUFFIX}"
    return path


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file; expected what `offbeat train` writes") from error
    except OSError as error:
        raise CorruptRunError(f"{path}: cannot be read ({error})") from error

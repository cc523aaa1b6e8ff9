"""Write a learned concept as other tools read it."""

from __future__ import annotations

from pathlib import Path

from offbeat.checkpoints.open import loaded, loaded_recorded
from offbeat.checkpoints.placement import Where
from offbeat.errors import ConfigError, StoreError
from offbeat.files.concept import layout_of, made_on
from offbeat.files.disk import make_folder, write_atomic
from offbeat.files.exchange import _renamed, encode_export
from offbeat.files.learned import Learned, check_fingerprint
from offbeat.protocols import TextBackbone

SUFFIX = ".safetensors"


def export_learned(
    learned: Learned,
    format: str = "common",
    *,
    token: str | None = None,
    backbone: str | Path | TextBackbone | None = None,
    device: Where = "auto",
    out: str | Path = ".",
) -> list[Path]:
    """Write a concept's token, its LoRA factors, or both; as of ``offbeat.export_concept``.

    Raises:
        ConfigError: If the format is unknown or does not fit, or nothing was learned.
        StoreError: If a file is there already, or cannot be written.
    """
    target = Path(out).expanduser()
    is_file = target.suffix == SUFFIX
    named = target.stem if is_file and token is None else token
    concept = _renamed(learned.concept, named)
    layout = layout_of(learned.about)
    if not layout and concept.token_embeds and learned.checkpoint:
        model = (
            loaded_recorded(learned.checkpoint, device)
            if backbone is None
            else loaded(backbone, device)
        )
        check_fingerprint(learned, model)
        layout = made_on(model)["layout"]
    files = encode_export(concept, learned.about, style=format, layout=layout)
    if is_file and len(files) > 1:
        raise ConfigError(
            f"out: expected a folder, as this concept makes {len(files)} files, got {target}"
        )
    folder = target.parent if is_file else target
    paths = [target] if is_file else [folder / name for name in files]
    for path in paths:
        if path.exists():
            raise StoreError(f"{path}: the file exists already; choose another --out or --token")
    make_folder(folder)
    for path, data in zip(paths, files.values(), strict=True):
        write_atomic(path, data)
    return paths

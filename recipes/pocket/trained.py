"""Train what methods learn once for pocket: ``python -m recipes.pocket.trained``.

Needs nothing but the package. What ships already is kept if it belongs to the weights that ship
and to the settings of the card; a stopped training goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from offbeat import load_backbone, train
from offbeat.files.concept import decode_trained
from offbeat.methods.settings import make_method

TARGET = Path(__file__).parents[2] / "src" / "offbeat" / "pocket" / "trained"
METHODS = ("cretok", "distok")
AFTERWARDS = {"law", "dream_classes", "share_exponent", "use_template", "phrase"}
"""Settings of what is done with it: training does not read them."""


def main() -> None:
    """Bring ``src/offbeat/pocket/trained`` up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/trained"), help="run folders")
    out = parser.parse_args().out
    backbone = load_backbone("pocket")
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in METHODS:
        file = TARGET / f"{name}.safetensors"
        config = read_in_training(asdict(make_method(name, backbone, None).config))
        if file.exists():
            found = decode_trained(file.read_bytes(), str(file))
            if (
                found.fingerprint == backbone.fingerprint
                and read_in_training(found.config) == config
            ):
                print(f"{file}: belongs to these weights and settings")
                continue
        asked = json.dumps([backbone.fingerprint, config], sort_keys=True).encode()
        folder = out / f"{name}-{hashlib.blake2b(asked, digest_size=4).hexdigest()}"
        resume = (folder / "request.json").exists()
        train(name, backbone=backbone, out=folder, resume=resume, observe=show)
        shutil.copy(folder / file.name, file)
        print(f"{file}: trained; its sheet and report are in {folder}")


def read_in_training(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that training reads, as JSON keeps them."""
    kept: dict[str, Any] = json.loads(json.dumps(dict(config)))
    return {key: value for key, value in kept.items() if key not in AFTERWARDS}


def show(stage: str, done: int, total: int, values: object) -> None:
    """Print a line now and then."""
    if done % 500 == 0 or done == total:
        print(f"{stage}: {done}/{total}", flush=True)


if __name__ == "__main__":
    main()

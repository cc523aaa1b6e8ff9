"""Train one stage: ``python -m recipes.pocket.train STAGE``; run again, it goes on.

Stages, in the order in which they need each other: judge; autoencoder; teacher; text and vision;
cache; redecode; prior; unet; stable_diffusion; ip_adapter.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import torch
from recipes.pocket import data

MINUTES = {
    "judge": 25.0,
    "autoencoder": 15.0,
    "teacher": 6.0,
    "text": 10.0,
    "vision": 15.0,
    "cache": 0.0,
    "redecode": 10.0,
    "prior": 45.0,
    "unet": 240.0,
    "stable_diffusion": 70.0,
    "ip_adapter": 15.0,
}
"""Budget of each stage on one core of 2026; a stage that needs none is done in one pass."""


def main() -> None:
    """Parse the stage and train it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=MINUTES)
    parser.add_argument("--work", type=Path, default=data.work_folder(), help="folder of caches")
    parser.add_argument("--minutes", type=float, help="budget; default: see MINUTES")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    options.work.mkdir(parents=True, exist_ok=True)
    stage = importlib.import_module(f"recipes.pocket.{options.stage}")
    stage.train(options.work, options.minutes or MINUTES[options.stage])


if __name__ == "__main__":
    main()

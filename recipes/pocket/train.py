"""Train one stage: ``python -m recipes.pocket.train STAGE``; run again, it goes on.

A stage waits for the files that it needs of others, so all can be started at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from recipes.pocket import (
    autoencoder,
    data,
    judge,
    loop,
    prior,
    stable_diffusion,
    teacher,
    text,
    unet,
    vision,
)

STAGES: dict[str, tuple[Callable[[Path, float], None], float]] = {
    "autoencoder": (autoencoder.train, 1.6),
    "teacher": (teacher.train, 0.3),
    "text": (text.train, 1.0),
    "prior": (prior.train, 2.9),
    "unet": (unet.train, 6.0),
    "stable_diffusion": (stable_diffusion.train, 6.0),
    "judge": (judge.train, 1.4),
    "vision": (vision.train, 1.9),
    "redecode": (autoencoder.train_decoder, 1.5),
}
"""Stage to its function and its minutes on an accelerator that all share."""


def main() -> None:
    """Parse the stage and train it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--work", type=Path, default=data.work_folder(), help="folder of caches")
    parser.add_argument("--minutes", type=float, help="budget; default: see STAGES")
    parser.add_argument("--share", type=float, default=1.0, help="of the budget, to train less")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    loop.use_device()
    options.work.mkdir(parents=True, exist_ok=True)
    train, minutes = STAGES[options.stage]
    minutes = minutes if options.minutes is None else options.minutes
    train(options.work, minutes * options.share)
    (options.work / f"{options.stage}.done").touch()


if __name__ == "__main__":
    main()

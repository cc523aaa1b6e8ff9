"""Time and memory of painting beside plain generation with the same steps.

Here "plain" is another thing than "ours": a picture drawn without an artwork. So the ratio is no
gain; 0.4 means that painting takes two and a half times as long.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.bench.ratio import Ratio
from offbeat.core.rng import streams
from offbeat.methods.creativesynth.config import CreativeSynthConfig
from offbeat.methods.creativesynth.method import CreativeSynth
from offbeat.types import Request

PROMPT = "a picture of a cat"
NUM_IMAGES = (1, 4)
MEMORY_IMAGES = 4


def ratios(backbone: object, runs: int) -> list[Ratio]:
    """Return both comparisons for one picture and for four.

    Args:
        backbone: Not used: painting needs the form of pocket that draws from text.
        runs: Counted runs of each side.
    """
    work = _Work.load()
    found = []
    for num in NUM_IMAGES:
        ways = (
            ("with inversion and its check, the first time", partial(work.first, num)),
            ("the second time", partial(work.again, num)),
        )
        pictures = f"{num} picture{'s' if num > 1 else ''}"
        for label, paint in ways:
            what = f"painting {pictures}, {label}; plain: generation of the same steps"
            found.append(_pair(what, paint, partial(work.plain, num), runs))
    return found


class _Work:
    """An artwork, a content picture, and the runs to time."""

    def __init__(self, backbone: StableDiffusionBackbone) -> None:
        self.backbone = backbone
        config = CreativeSynthConfig.for_card(backbone.card)
        self.method = CreativeSynth(replace(config, with_semantic=backbone.takes_images))
        self.art, self.content = self.plain(2).clone()
        self.way: Tensor | None = None

    @classmethod
    def load(cls) -> _Work:
        """Return the runs on pocket."""
        return cls(StableDiffusionBackbone.load("pocket-sd"))

    @torch.no_grad()
    def plain(self, num: int) -> Tensor:
        """Return pictures of a prompt, drawn in one batch."""
        cfg, noise = self.method.config, streams(0, "bench", num=num)
        steps: dict[str, Any] = {"num_inference_steps": cfg.num_inference_steps}
        latents = self.backbone.denoise(
            self.backbone.init_latents(noise, **steps),
            self.backbone.encode_text([PROMPT]),
            generator=noise,
            guidance_scale=cfg.guidance_scale,
            **steps,
        )
        return self.backbone.decode(latents)

    @torch.no_grad()
    def first(self, num: int) -> Tensor:
        """Paint with an artwork whose inversion is not cached."""
        way = self.method.invert(self.backbone, self.art)
        self.method.reconstruct(self.backbone, way)
        self.backbone.decode(way[-1])
        return self._painted(num, way)

    def again(self, num: int) -> Tensor:
        """Paint with an artwork whose inversion is cached."""
        if self.way is None:
            self.way = self.method.invert(self.backbone, self.art)
        return self._painted(num, self.way)

    def _painted(self, num: int, way: Tensor) -> Tensor:
        request = Request(subject="cat", prompt=PROMPT, num_images=num)
        return self.method.paint(self.backbone, request, self.art, content=self.content, way=way)


def _pair(what: str, ours: Callable[[], Tensor], plain: Callable[[], Tensor], runs: int) -> Ratio:
    """Time two different runs in turn, after one warm-up of each."""
    times: tuple[list[float], list[float]] = ([], [])
    for run in range(runs + 1):
        for side, call in zip(times, (ours, plain), strict=True):
            started = time.perf_counter()
            call()
            if run:
                side.append(time.perf_counter() - started)
    return Ratio(what, *times, float("nan"))  # they draw different pictures


def memory() -> str:
    """Return the peak memory of a painting process beside that of a generating one."""
    command = [sys.executable, "-m", "offbeat.bench.speed_paint"]
    idle, plain, ours = (
        float(subprocess.run([*command, one], check=True, capture_output=True, text=True).stdout)
        for one in ("", "plain", "first")
    )
    return (
        f"Peak memory of a process that loads pocket-sd: {idle:.0f} MB; that draws {MEMORY_IMAGES} "
        f"pictures: {plain:.0f} MB; that paints {MEMORY_IMAGES}: {ours:.0f} MB."
    )


def _peak() -> float:
    """Return this process's peak memory, MB."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux the other counter starts from what the parent held
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1e3
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held / 1e6 if sys.platform == "darwin" else held / 1e3


if __name__ == "__main__":
    torch.set_num_threads(1)
    loaded = StableDiffusionBackbone.load("pocket-sd")
    if sys.argv[1]:
        getattr(_Work(loaded), sys.argv[1])(MEMORY_IMAGES)
    print(_peak())

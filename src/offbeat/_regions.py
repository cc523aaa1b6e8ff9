"""What a run drew inside a region of its map: a cluster to keep away from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from offbeat import formats
from offbeat._pictures_out import prior_settings
from offbeat._runs import read_concept
from offbeat.baseline import Baseline
from offbeat.errors import ConfigError, FingerprintError, StoreError
from offbeat.protocols import ExploringBackbone
from offbeat.rng import streams
from offbeat.sampling import sample_concept
from offbeat.store import RunFolder, unpack_tensors

BASELINE_FILE = "baseline.safetensors"
NUM_SAMPLES = 256
"""Samples of each state that are held against the region."""
MIN_INSIDE = 4
"""Fewer say nothing about a region."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A lasso on the map of an exploration."""

    run: str
    """Its folder."""
    region: Sequence[tuple[float, float]]
    """Corners of a polygon, in the map's coordinates."""
    step: int | None = None
    """Only what this kept step drew; None is every kept step."""

    def __post_init__(self) -> None:
        if len(self.region) < 3:
            raise ConfigError(f"region: expected 3 corners or more, got {len(self.region)}")


def region_cluster(region: Region, backbone: ExploringBackbone) -> Tensor:
    """Return embeddings of what a run drew inside a region of its map, ``[n, D]``.

    Raises:
        ConfigError: If there is next to nothing inside.
        FingerprintError: If the run is of another checkpoint.
        StoreError: If the run keeps no such step, or is no exploration.
    """
    run = RunFolder.open(region.run)
    space = baseline_of(run).space
    steps = kept_steps(run)
    if region.step is not None:
        steps = {step: where for step, where in steps.items() if step == region.step}
    if not steps:
        raise StoreError(f"{region.run}: keeps no such step of its search, so nothing to look at")
    parts = []
    for where in steps.values():
        concept, about = read_concept(run, where)
        if about["fingerprint"] != backbone.fingerprint:
            raise FingerprintError(f"{region.run}: its map is of another checkpoint's space")
        with torch.no_grad():
            noise = streams(0, "region", num=NUM_SAMPLES)
            samples = sample_concept(backbone, concept, noise, **prior_settings(concept))
        parts.append(samples[inside(space.project(samples)[:, :2], region.region)])
    found = torch.cat(parts)
    if len(found) < MIN_INSIDE:
        raise ConfigError(
            f"region: of what the search drew, {len(found)} samples lie inside, and at least "
            f"{MIN_INSIDE} make a cluster; draw it wider, or around other points"
        )
    return found


def baseline_of(run: RunFolder) -> Baseline:
    """Return what an exploration measured as ordinary, as soon as it has.

    Raises:
        StoreError: If it has not, or is no exploration.
    """
    if not run.exists(BASELINE_FILE):
        raise StoreError(f"{run.path}: has no map: it is no exploration, or has just begun")
    return Baseline.unpack(*unpack_tensors(run.read(BASELINE_FILE)))


def kept_steps(run: RunFolder, trial: int | None = None) -> dict[int, str]:
    """Return the steps of a search whose concept is kept, and the folder of each.

    Args:
        run: An exploration, finished or not.
        trial: Of it; None is the best, or the first.
    """
    if trial is None:
        trial = int(run.read_json("summary.json")["trial"]) if run.exists("summary.json") else 0
    under, ending = f"trials/{trial}/states/", f"/{formats.CONCEPT_FILE}"
    names = (name for name in run.names() if name.startswith(under) and name.endswith(ending))
    found = {int(name[len(under) :].split("/")[0]): name.removesuffix(ending[1:]) for name in names}
    return dict(sorted(found.items()))


def inside(points: Tensor, polygon: Sequence[tuple[float, float]]) -> Tensor:
    """Return which of ``points``, ``[N, 2]``, lie in a polygon, ``[N]``: the even-odd rule.

    >>> square = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    >>> inside(torch.tensor([[0.5, 0.5], [1.5, 0.5]]), square).tolist()
    [True, False]
    """
    found = torch.zeros(len(points), dtype=torch.bool)
    x, y = points.double().T
    for (x1, y1), (x2, y2) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        if y1 == y2:
            continue
        crosses = (y < y1) != (y < y2)
        found ^= crosses & (x < x1 + (y - y1) / (y2 - y1) * (x2 - x1))
    return found

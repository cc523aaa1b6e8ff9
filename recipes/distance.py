"""Plot seen novelty against the distance in the embedding, at every look of some explorations.

``python -m recipes.distance RUN... --out FILE`` reads the traces of run folders; a look is a step
at which the judge and the eye were shown pictures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from scipy.stats import spearmanr

from offbeat.runs.folder import RunFolder


def looks(folder: Path) -> tuple[str, list[tuple[float, float]]]:
    """Return a run's subject, and of each look the distance in ordinary ones and seen novelty."""
    run = RunFolder.open(folder)
    summary = run.read_json("summary.json")
    points = []
    for row in run.trace():
        if row.get("seen") is None:
            continue
        distance = (row.get("probe") or {}).get("distance_median", row["distance"])
        points.append((distance / summary["ordinary_distance"], row["seen"]))
    return str(summary["subject"]), points


def main() -> None:
    """Draw the plot, and print the rank correlation of each subject and of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    figure, axes = plt.subplots(figsize=(6.4, 4.2), dpi=110)
    every: list[tuple[float, float]] = []
    told = {}
    for folder in given.runs:
        subject, points = looks(folder)
        x, y = zip(*points, strict=True)
        axes.scatter(x, y, s=22, label=f"{subject} ({len(points)})")
        told[subject] = round(float(spearmanr(x, y).statistic), 2)
        every += points
    told["all"] = round(float(spearmanr(*zip(*every, strict=True)).statistic), 2)
    axes.set_xlabel("distance of fresh samples, in ordinary distances")
    axes.set_ylabel("seen novelty, upper quarter of a look")
    axes.axhline(1, color="0.7", linewidth=1)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(given.out)
    print(json.dumps(told))


if __name__ == "__main__":
    main()

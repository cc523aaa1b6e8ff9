"""Measure an archive against random search and plain seeds, on pocket.

Run: ``python tests/scale/measure_archive.py``.
Coverage and QD-score at equal evaluations, three seeds each, into docs/scale-archive.png. A quarter
of an hour of one core.
"""

import json
from pathlib import Path

import torch

import offbeat
from offbeat.runs.plots import panels

SUBJECT, EVALUATIONS, SEEDS = "teapot", 96, 3
WAYS = {
    "archive": {"batch_size": 4},
    "random search": {"emitters": ("random",), "batch_size": 16},
    "plain seeds": {"emitters": ("seeds",), "batch_size": 16},
}


def main():
    torch.set_num_threads(1)
    backbone = offbeat.load_backbone("pocket")
    curves = {"coverage": {}, "qd_score": {}}
    for label, settings in WAYS.items():
        for seed in range(SEEDS):
            run = offbeat.archive(
                SUBJECT, backbone=backbone, seed=seed, evaluations=EVALUATIONS, cells=6,
                num_images=1, num_inference_steps=6, **settings,
            )  # fmt: skip
            for name, series in curves.items():
                series.setdefault(label, []).append([row[name] for row in run.trace])
            print(label, seed, {name: series[label][-1][-1] for name, series in curves.items()},
                  flush=True)  # fmt: skip
            if label == "archive" and seed == 0:
                Path("docs/scale-gallery.png").write_bytes(run.files["contact.png"])
    shown = {
        "Coverage": ("share of 36 cells", curves["coverage"]),
        "QD-score": ("sum of the qualities kept", curves["qd_score"]),
    }
    Path("docs/scale-archive.png").write_bytes(
        panels(shown, across="generations of 16 concepts; line: mean of 3 seeds, band: all of them")
    )
    print(json.dumps(curves))


if __name__ == "__main__":
    main()

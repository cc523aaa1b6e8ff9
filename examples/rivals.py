"""The simple rivals that a claim must beat, each beside the ordinary, with what it costs.

python examples/rivals.py [FOLDER]
"""

import sys
from pathlib import Path

import offbeat

OF_A_SUBJECT = (
    "raw-prompt",
    "high-guidance",
    "seed-variance",
    "best-of-n",
    "cads",
    "guidance-interval",
    "adaptive-negatives",
)
OF_A_PAIR = ("raw-prompt", "interpolation", "best-of-n")


def main(folder=None, *, of_a_subject=OF_A_SUBJECT, of_a_pair=OF_A_PAIR, **settings):
    settings = {"num_images": 4, "backbone": "pocket-sd", **settings}
    runs = [offbeat.explore("handbag", method=method, **settings) for method in of_a_subject]
    runs += [offbeat.fuse(["pig", "snake"], method=method, **settings) for method in of_a_pair]
    for run in runs:
        name = f"{run.request['subject']}, {run.request['method']}"
        print(f"{name}: {run.summary['in_words']}")
        if folder:
            print("saved in", run.save(Path(folder) / name.replace(" ", "")))
    return runs[-1]


if __name__ == "__main__":
    main(*sys.argv[1:2])

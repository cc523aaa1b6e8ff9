"""A path between two pictures that offbeat drew before, as frames, strip and GIF.

python examples/diffmorpher.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import offbeat


def main(folder=None, **settings):
    frames = settings.pop("num", 8)
    with tempfile.TemporaryDirectory() as where:
        ends = []
        for word in ("frog", "teapot"):
            ends.append(Path(where) / f"{word}.png")
            drawn = offbeat.generate(f"a picture of a {word}", num_images=1, backbone="pocket-sd")
            drawn.images[0].save(ends[-1])
        run = offbeat.sweep(*ends, method="diffmorpher", num=frames, num_images=1, **settings)
    print(run.summary["in_words"])
    if folder:
        print("saved in", run.save(folder))
        print("it moves in", Path(folder) / "path-00.gif")
    return run


if __name__ == "__main__":
    main(*sys.argv[1:2])

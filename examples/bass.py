"""Columns of two text embeddings, exchanged at random: of many pictures the most balanced one.

python examples/bass.py [FOLDER]
"""

import sys

import offbeat


def main(folder=None, **settings):
    num_images = settings.pop("num_images", 2)
    run = offbeat.fuse(["handbag", "lion"], method="bass", num_images=num_images, **settings)
    print(run.summary["in_words"])
    last = run.trace[-1]
    print(f"{last['inside']} of {last['drawn']} exchanges lay in the balance region")
    if folder:
        print("saved in", run.save(folder))
    return run


if __name__ == "__main__":
    main(*sys.argv[1:2])

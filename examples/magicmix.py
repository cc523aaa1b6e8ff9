"""The layout of one thing, the content of another: a castle that lies as a cat does.

python examples/magicmix.py [FOLDER]
"""

import sys

import offbeat


def main(folder=None, **settings):
    num_images = settings.pop("num_images", 4)
    run = offbeat.fuse(
        ["cat", "castle"],  # or ["cat.png", "castle"]: the layout may be a picture
        method="magicmix",
        num_images=num_images,
        **settings,
    )
    print(run.summary["in_words"])
    if folder:
        print("saved in", run.save(folder))
    return run


if __name__ == "__main__":
    main(*sys.argv[1:2])

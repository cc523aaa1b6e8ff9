"""One animal that is 55 % pig, 25 % sheep and 20 % snake, and four that nobody named.

python examples/distok.py [FOLDER]
"""

import sys

import offbeat


def main(folder=None, **settings):
    run = offbeat.fuse({"pig": 0.55, "sheep": 0.25, "snake": 0.2}, num_images=4, **settings)
    print(run.summary["in_words"])
    for index, read in enumerate(run.summary["concepts"][0]["images"]):
        print(f"picture {index} reads as {read}")
    dreams = offbeat.dream(4, law="laplace", **settings)
    for row in dreams.summary["concepts"]:
        print(f"dream {row['dream']} reads as {', '.join(row['read'])}")
    if folder:
        print("saved in", run.save(folder))
    return run


if __name__ == "__main__":
    main(*sys.argv[1:2])

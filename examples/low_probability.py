"""Unusual handbags in a few lines: how far they are, and what the judge says of each.

python examples/low_probability.py [FOLDER]
"""

import sys

import offbeat


def main(folder=None, **settings):
    run = offbeat.explore("handbag", reach=2.0, num_images=4, **settings)
    for index, found in enumerate(run.summary["images"]):
        times = found["distance"] / run.summary["ordinary_distance"]
        verdict = found["verdict"]
        said = f"{verdict['answer']} ({verdict['probability']:.2f})" if verdict else "not asked"
        print(f"picture {index}: {times:.1f} times as far as ordinary; a handbag? {said}")
    print(run.summary["in_words"])
    if folder:
        print("saved in", run.save(folder))
    return run


if __name__ == "__main__":
    main(*sys.argv[1:2])

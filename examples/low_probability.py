"""Unusual handbags in a few lines: how far they are, and what the judge says of each.

python examples/low_probability.py [FOLDER]
"""

import sys

import offbeat


def main(folder=None, **settings):
    run = offbeat.explore("handbag", directions=2, num_images=4, **settings)
    for index, found in enumerate(run.summary["images"]):
        verdict = found["verdict"]
        said = f"{verdict['answer']} ({verdict['probability']:.2f})" if verdict else "not asked"
        seen = f"{found['seen']:.1f} times as different as another ordinary one"
        print(f"direction {found['direction'] + 1}, picture {index}: {seen}; a handbag? {said}")
    print(run.summary["in_words"])
    if folder:
        print("saved in", run.save(folder))
    return run


if __name__ == "__main__":
    main(*sys.argv[1:2])

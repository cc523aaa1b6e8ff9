"""Groups of columns exchanged until the picture leans to neither word; our reading of AGSwap.

python examples/agswap.py [FOLDER]
"""

import sys

import offbeat


def main(folder=None, **settings):
    num_images = settings.pop("num_images", 4)
    run = offbeat.fuse(["cat", "castle"], method="agswap", num_images=num_images, **settings)
    print(run.summary["in_words"])
    for row in run.trace:
        leans = " ".join(f"{lean:+.2f}" for lean in row["leans"])
        print(f"round {row['step'] + 1}: leans {leans}")
    if folder:
        print("saved in", run.save(folder))
    return run


if __name__ == "__main__":
    main(*sys.argv[1:2])

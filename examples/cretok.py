"""A word that means "mixture", trained once, in a prompt of one's own.

python examples/cretok.py [FOLDER]
"""

import sys

import offbeat


def main(folder=None, **settings):
    run = offbeat.fuse(["pineapple", "owl"], method="cretok", num_images=4, **settings)
    print(run.summary["in_words"])
    (word, row), *_ = run.concept.token_embeds.items()
    print(f"{word} is one row of {row.shape[-1]} numbers, in the prompt {run.concept.prompt()!r}")
    if folder:
        print("saved in", run.save(folder))
    return run


if __name__ == "__main__":
    main(*sys.argv[1:2])

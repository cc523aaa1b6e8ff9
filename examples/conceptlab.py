"""A mixture that is searched by gradient, and what it looks like in another style.

python examples/conceptlab.py [FOLDER]
"""

import sys

import offbeat


def main(folder=None, **settings):
    run = offbeat.fuse(["castle", "teapot"], method="conceptlab", num_images=4, **settings)
    print(run.summary["in_words"])
    outline = offbeat.render(run, prompt="an outline drawing of a {concept}", num_images=2)
    print(f"{len(outline.images)} more of {outline.request['prompt']!r}")
    if folder:
        print("saved in", run.save(folder))
    return run


if __name__ == "__main__":
    main(*sys.argv[1:2])

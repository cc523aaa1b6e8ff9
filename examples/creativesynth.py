"""An owl painted into a picture of a castle, and the way from one to the other.

python examples/creativesynth.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import offbeat


def main(folder=None, **settings):
    with tempfile.TemporaryDirectory() as place:
        # any two pictures of your own will do; these two are drawn
        art, content = (Path(place) / name for name in ("castle.png", "owl.png"))
        for file, prompt in (
            (art, "a picture of a castle on a blue background"),
            (content, "a picture of an owl"),
        ):
            drawn = offbeat.generate(prompt, backbone="pocket-sd", num_images=1)
            drawn.images[0].save(file)
        strip = offbeat.paint(art, content, sweep=[0.0, 0.2, 0.4, 1.0], num_images=1, **settings)
        run = offbeat.paint(art, content, num_images=4, **settings)  # the inversion is cached
    print(len(strip.images), "pictures from the castle to the owl")
    print(run.summary["in_words"])
    if folder:
        print("saved in", run.save(folder))
    return run


if __name__ == "__main__":
    main(*sys.argv[1:2])

"""Small designs with pictures, for the tests of studies."""

import zlib

from PIL import Image
from PIL.PngImagePlugin import PngInfo

QUESTION = {"en": "Which {item} is more creative?", "de": "Welches Bild ({item}) ist kreativer?"}


def raw_design(kind="pairs", conditions=("explored", "ordinary"), items=("owl", "castle"), **more):
    """Return a design as YAML gives it; its pictures lie in CONDITION/ITEM."""
    places = {name: {item: f"{name}/{item}" for item in items} for name in conditions}
    return {
        "study": 1, "title": "Which is more creative?", "kind": kind, "question": QUESTION,
        "conditions": places, "trials": 8, "min_seconds": 0, **more,
    }  # fmt: skip


def draw(folder, conditions=("explored", "ordinary"), items=("owl", "castle"), count=4):
    """Draw a plain picture for each condition, item and number, with metadata that tells."""
    for condition in conditions:
        for item in items:
            (folder / condition / item).mkdir(parents=True)
            for index in range(count):
                name = f"{condition}/{item}/{index}"
                shade = zlib.crc32(name.encode()) & 0xFFFFFF
                told = PngInfo()
                told.add_text("parameters", f"{condition} made this")
                picture = Image.new("RGB", (32, 32), f"#{shade:06x}")
                picture.save(folder / f"{name}.png", pnginfo=told)


def make(folder, kind="pairs", conditions=("explored", "ordinary"), **more):
    """Make a study in ``folder/study``."""
    from offbeat.study.design import create, design_of

    draw(folder, conditions)
    design = design_of(raw_design(kind, conditions, **more))
    return create(design, folder / "study", base=folder)


def planned(kind="pairs", conditions=("explored", "ordinary"), **more):
    """Return a study without files."""
    from offbeat.study.design import design_of
    from offbeat.study.simulate import planned as plan_of

    return plan_of(design_of(raw_design(kind, conditions, **more)))


def answer_all(storage, token, value=lambda trial: trial.expected or "left"):
    """Answer every trial that is left."""
    rater = storage.rater(token)
    while not rater.is_finished:
        at = rater.position
        rater = storage.answer(
            token, key=f"test/{at:06d}", position=at, value=value(rater.trials[at]), seconds=2.0
        )
    return rater

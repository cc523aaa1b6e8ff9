"""The API's request models: every request is typed, bounded and checked here first."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, model_validator

Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
"""Of a job, a run or an upload; a job and the run that it makes share theirs."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
"""Of a method, a backbone or a judge, as ``about`` lists it: never a path or an address."""
Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Text = Annotated[str, StringConstraints(max_length=1000)]
Title = Annotated[str, StringConstraints(strip_whitespace=True, max_length=120)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
NumImages = Annotated[int, Field(ge=1, le=64)]
Index = Annotated[int, Field(ge=0, lt=100_000)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1e6)]
SettingName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Setting = (
    bool
    | Annotated[int, Field(ge=-(2**53), le=2**53)]
    | FiniteFloat
    | Annotated[str, StringConstraints(max_length=300)]
    | None
)
Config = Annotated[dict[SettingName, Setting], Field(max_length=64)]
"""Further settings of a method: names and ranges are in ``about``."""
Coordinate = Annotated[FiniteFloat, Field(ge=-1e6, le=1e6)]
Region = Annotated[list[tuple[Coordinate, Coordinate]], Field(min_length=3, max_length=500)]
"""A lasso on the map: the corners of a polygon, in the map's own coordinates."""


class _Strict(BaseModel):
    """Refuse unknown fields: they are typing errors."""

    model_config = ConfigDict(extra="forbid")


# --- what a request points at


class ConceptRef(_Strict):
    """A concept of a run: its result, a kept step, or one of several."""

    run: Id
    step: Index | None = None
    """A kept step of an exploration; None is what it ended with."""
    trial: Index | None = None
    """The search that kept it; None is the best. Without a step, what this search ended with."""
    index: Index | None = None
    """Of a sweep, a grid, a dream or a walk; None where the run has one concept."""


class PictureRef(_Strict):
    """A picture: one that was uploaded, or one of a run."""

    upload: Id | None = None
    run: Id | None = None
    kind: Literal["images", "ordinary", "previews"] = "images"
    index: Index = 0
    step: Index | None = None
    """Of a preview."""
    trial: Index = 0
    """The search whose preview it is."""

    @model_validator(mode="after")
    def _one(self) -> PictureRef:
        if (self.upload is None) == (self.run is None):
            raise ValueError("expected either `upload`, or `run` with `index`")
        return self


class AvoidRef(_Strict):
    """What to avoid: a run, one of its steps, or a region of its map."""

    run: Id
    step: Index | None = None
    trial: Index | None = None
    """As of a concept."""
    region: Region | None = None


class Source(_Strict):
    """One part of a mixture: a word, or a picture where the method takes pictures."""

    word: Word | None = None
    picture: PictureRef | None = None
    share: Share = 1.0

    @model_validator(mode="after")
    def _one(self) -> Source:
        if (self.word is None) == (self.picture is None):
            raise ValueError("expected either `word` or `picture`")
        return self


# --- the verbs


class _Job(_Strict):
    """What every verb takes."""

    title: Title = ""
    """On the shelf; empty is made of the request."""
    parent: Id | None = None
    """The run that this one was made from, where no other field says it: kept as its lineage."""
    seed: Seed = 0
    backbone: Name | None = None
    """One of ``about``'s checkpoints; None is the studio's own in the form that the verb needs."""


class ExploreJob(_Job):
    """Find unusual pictures of a subject that are still the subject: ``offbeat.explore``."""

    verb: Literal["explore"]
    subject: Word
    method: Name = "low-probability"
    novelty: Annotated[FiniteFloat, Field(gt=0, le=100)] | None = None
    """How many times as different as another ordinary picture, above 1; below 1 it is the quantile
    of the distance to hold. Where neither it, ``reach`` nor ``num_steps`` is given, 0.999."""
    reach: Annotated[FiniteFloat, Field(gt=0, le=100)] | None = None
    num_steps: Annotated[int, Field(ge=1, le=10_000)] | None = None
    space: Literal["subject", "adjective", "lora", "token+lora", "direct"] | None = None
    num_images: NumImages = 8
    """Of each direction."""
    num_trials: Annotated[int, Field(ge=1, le=16)] = 1
    directions: Annotated[int, Field(ge=1, le=8)] = 1
    """Searches that keep away from each other; each has pictures and a concept of its own."""
    candidates: Annotated[int, Field(ge=1, le=8)] | None = None
    """For each picture that is shown so many are drawn, and the judge and the differences choose;
    None is 3 with a taste, else 1."""
    prompt: Text | None = None
    judge: Name = "auto"
    avoid: Annotated[list[AvoidRef], Field(max_length=16)] = []
    """Less of these."""
    unlike: Annotated[list[PictureRef], Field(max_length=64)] = []
    """Unlike these pictures: together they are one cluster to keep away from."""
    taste: Annotated[str, StringConstraints(pattern=r"^(marks|[0-9a-f]{8,64})$")] | None = None
    """``marks``: of the pictures that pass, choose by what this session likes and dislikes. A job
    shows it as the digest of these marks, so that it can be drawn again by the same ones."""
    start: ConceptRef | None = None
    """Go on from this state of a run of the same subject, space and checkpoint."""
    preview_every: Annotated[int, Field(ge=0, le=1000)] = 5
    """Steps between two previews; 0 draws none."""
    config: Config = {}


class FuseJob(_Job):
    """Make one thing of several, a path between two, or a triangle of three: ``offbeat.fuse``."""

    verb: Literal["fuse"]
    layout: Literal["fuse", "sweep", "grid"] = "fuse"
    sources: Annotated[list[Source], Field(min_length=2, max_length=12)]
    """Shares are made to sum to 1; a sweep takes two sources and a grid three, without shares."""
    num: Annotated[int, Field(ge=2, le=32)] | None = None
    """Concepts of a sweep, or along a side of a grid (at most 12)."""
    num_images: NumImages = 8
    method: Name = "distok"
    prompt: Text | None = None
    judge: Name = "auto"
    config: Config = {}


class DreamJob(_Job):
    """Make concepts from noise: ``offbeat.dream``."""

    verb: Literal["dream"]
    num: NumImages = 16
    method: Name = "distok"
    subject: Word | None = None
    law: Literal["gaussian", "laplace", "cauchy"] | None = None
    max_cosine: Annotated[FiniteFloat, Field(ge=-1, le=1)] = 0.95
    prompt: Text | None = None
    judge: Name = "auto"
    config: Config = {}


class WalkJob(_Job):
    """Walk between two learned concepts: ``offbeat.walk``."""

    verb: Literal["walk"]
    first: ConceptRef
    second: ConceptRef
    num: Annotated[int, Field(ge=2, le=32)] = 9
    num_images: NumImages = 1
    prompt: Text | None = None


class PaintJob(_Job):
    """Paint a content and a text into an artwork: ``offbeat.paint``."""

    verb: Literal["paint"]
    art: PictureRef
    content: PictureRef | None = None
    prompt: Text | None = None
    method: Name = "creativesynth"
    strength: Annotated[FiniteFloat, Field(ge=0, le=1)] | None = None
    sweep: Annotated[int, Field(ge=2, le=16)] | None = None
    """Draw a strip of so many strengths from 0 to 1 instead."""
    num_images: NumImages = 4
    config: Config = {}


class GenerateJob(_Job):
    """Draw a prompt as it is: ``offbeat.generate``."""

    verb: Literal["generate"]
    prompt: Annotated[Text, StringConstraints(min_length=1)]
    negative_prompt: Text = ""
    image: PictureRef | None = None
    """A picture as prompt beside the text: what is drawn are variations of it."""
    image_weight: Annotated[FiniteFloat, Field(ge=0, le=10)] | None = None
    """Of the picture; on an unCLIP checkpoint its share, at most 1."""
    num_images: NumImages = 8
    num_inference_steps: Annotated[int, Field(ge=1, le=200)] | None = None
    guidance_scale: Annotated[FiniteFloat, Field(ge=0, le=100)] | None = None
    prior_num_inference_steps: Annotated[int, Field(ge=2, le=200)] | None = None
    prior_guidance_scale: Annotated[FiniteFloat, Field(ge=0, le=100)] | None = None


class RenderJob(_Job):
    """Draw what runs learned in another prompt: ``offbeat.render``.

    With a title and one picture this is how a find is kept as a named concept.
    """

    verb: Literal["render"]
    sources: Annotated[list[ConceptRef], Field(min_length=1, max_length=4)]
    prompt: Text | None = None
    """With ``{concept}``, and ``{concept2}``, ... for further sources."""
    num_images: NumImages = 8


class ImportJob(_Job):
    """Keep an uploaded token or LoRA as a concept: ``offbeat.import_concept``."""

    verb: Literal["import"]
    upload: Id
    word: Word | None = None
    prompt: Text | None = None


JobRequest = Annotated[
    ExploreJob | FuseJob | DreamJob | WalkJob | PaintJob | GenerateJob | RenderJob | ImportJob,
    Field(discriminator="verb"),
]


class Continue(_Strict):
    """Continue an exploration from a kept step, with changes."""

    step: Index | None = None
    """None is its end; a step between two kept ones takes the one before."""
    trial: Index | None = None
    """The search that kept it; None is the best."""
    region: Region | None = None
    """More like this: the kept step whose samples lie nearest the middle of the lasso."""
    changes: dict[SettingName, Any] = Field(default={}, max_length=32)
    """Fields of the exploration's request to replace, e.g. ``{"reach": 2.5}``."""


# --- quick pictures


class MixtureSketch(_Strict):
    """A mixture of words with shares."""

    of: Literal["mixture"]
    sources: Annotated[list[Source], Field(min_length=1, max_length=12)]
    prompt: Text | None = None
    seed: Seed = 0


class DreamSketch(_Strict):
    """A concept made from noise by a seed."""

    of: Literal["dream"]
    law: Literal["gaussian", "laplace", "cauchy"] = "gaussian"
    prompt: Text | None = None
    seed: Seed = 0


class WalkSketch(_Strict):
    """A point between two concepts; each is a run's, or made from noise."""

    of: Literal["walk"]
    first: ConceptRef | DreamSketch
    second: ConceptRef | DreamSketch
    share: Annotated[FiniteFloat, Field(ge=0, le=1)]
    """Of the second."""
    prompt: Text | None = None
    seed: Seed = 0


SketchRequest = Annotated[MixtureSketch | DreamSketch | WalkSketch, Field(discriminator="of")]


class RunChange(_Strict):
    """Changes of a run on the shelf; fields that are left out keep their value."""

    title: Title | None = None
    note: Annotated[str, StringConstraints(max_length=5000)] | None = None
    favourite: bool | None = None
    shared: bool | None = None
    """Whether every session of this server sees it."""


class Mark(_Strict):
    """What this session thinks of a picture of a run."""

    index: Index
    mark: Annotated[int, Field(ge=-1, le=1)]
    """1 likes it, -1 dislikes it, 0 neither."""


class Failure(BaseModel):
    """An error: one sentence for people, one word for programs."""

    error: str
    """What came, what was expected, what to do."""
    kind: str
    """E.g. ``not_found``, ``invalid``, ``too_large``, ``busy``, ``outdated``, ``forbidden``."""
    fields: list[dict[str, Any]] = []
    """Of ``invalid``: where in the request, and what is wrong there."""

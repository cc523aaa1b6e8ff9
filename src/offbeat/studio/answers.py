"""The API's answers: what each route returns, field by field."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from pydantic import ValidatorFunctionWrapHandler as Check

Kind = Literal["images", "ordinary", "previews"]
State = Literal["queued", "running", "finished", "failed", "cancelled", "interrupted"]
Point = tuple[float, float]
T = TypeVar("T")


def _or_null(value: Any, check: Check) -> Any:
    try:
        return check(value)
    except ValidationError:
        return None


Read = Annotated[T | None, WrapValidator(_or_null)]
"""Of a run folder, which any version or plug-in may have written; null if of another type."""


class _Whole(BaseModel):
    """An answer whose fields are all told here; a reading of a plug-in beside them is left out."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class Verdict(_Whole):
    """What a judge says of a picture, or of a step."""

    answer: Literal["yes", "no", "unknown"]
    probability: float | None
    judge: str | None
    note: str | None


class Picture(_Whole):
    """A picture of a job or run that is drawn already."""

    kind: Kind
    index: int
    step: int | None
    """Of a preview."""
    trial: int | None
    """The search of a preview."""
    url: str


class RunPicture(Picture):
    """A picture of a run, with what is known of it; null where something is not."""

    concept: Read[int]
    """Number of the concept that drew it; of an exploration its direction."""
    caption: Read[str]
    distance: Read[float]
    quantile: Read[float]
    axes: Read[list[float]]
    seen: Read[float]
    """Seen novelty: 1 is just another ordinary picture."""
    verdict: Read[Verdict]
    mark: Literal[-1, 0, 1] | None
    """What this session thinks of it: 1 is a like."""


class Job(_Whole):
    """A job, in whatever state."""

    id: str
    verb: str
    title: str
    subject: str
    state: State
    created: float
    started: float | None
    ended: float | None
    error: dict[str, Any] | None
    attempts: int
    request: dict[str, Any]
    position: int | None
    """How many run before it, while it is queued."""
    stage: str | None
    done: int | None
    total: int | None
    seconds_left: float | None
    pictures: list[Picture]


class Jobs(_Whole):
    """A session's jobs."""

    jobs: list[Job]
    others: int
    """Open jobs of other sessions."""


class Run(_Whole):
    """A run, as a list shows it."""

    id: str
    verb: str
    title: str
    subject: str
    method: str
    backbone: str
    created: float
    ended: float | None
    note: str
    num_images: int
    num_concepts: int
    in_words: str
    state: State
    favourite: bool
    shared: bool
    own: bool
    brought: bool
    """Whether it is a run of the command line."""
    deleted: bool
    cover: str | None


class Runs(_Whole):
    """A part of the shelf."""

    total: int
    runs: list[Run]


class RunConcept(_Whole):
    """One concept of a run."""

    index: int
    weights: Read[dict[str, float]]
    share: Read[float]
    caption: Read[str]
    exportable: bool


class Kept(_Whole):
    """A step of a search that was kept."""

    trial: int
    step: int
    url: str | None


class RunFile(_Whole):
    """A file of a run."""

    name: str
    bytes: int
    url: str


class Relation(_Whole):
    """Another run, and how the two hang together."""

    run: str
    how: str


class RunDetail(Run):
    """Everything that is known of a run."""

    request: dict[str, Any]
    summary: dict[str, Any]
    warnings: list[str]
    settings: dict[str, Any]
    pictures: list[RunPicture]
    concepts: list[RunConcept]
    steps: list[Kept]
    files: list[RunFile]
    parents: list[Relation]
    children: list[Relation]


class Marked(_Whole):
    """A picture that was liked or disliked."""

    run: str
    index: int
    mark: Literal[-1, 0, 1]


class Emptied(_Whole):
    """What is gone for good."""

    removed: int


class MapStep(_Whole):
    """Where the samples of a step are on the map."""

    trial: int
    step: int
    kept: bool
    points: list[Point]
    median: Read[list[float]]
    distance: Read[float]
    distance_p10: Read[float]
    distance_p90: Read[float]
    quantile: Read[float]


class MapPicture(_Whole):
    """Where a picture is on the map."""

    kind: Kind
    index: int
    axes: Read[list[float]]
    url: str


class Map(_Whole):
    """Coordinates for a chart; two axes of ``num_components``."""

    axes: list[str]
    num_components: int
    num_ordinary: int
    ordinary_distance: float
    ordinary: list[Point]
    steps: list[MapStep]
    pictures: list[MapPicture]


class CurveRow(BaseModel):
    """Readings of one step; a method may have more of its own."""

    model_config = ConfigDict(extra="allow")

    trial: int
    step: int
    branch: Read[str]
    distance_p10: Read[float]
    distance_p90: Read[float]
    verdict: Read[Verdict]


class Curve(_Whole):
    """Readings by step."""

    target_distance: Read[float]
    ordinary_distance: Read[float]
    rows: list[CurveRow]


class Edge(_Whole):
    """That a run uses another."""

    source: str = Field(alias="from")
    target: str = Field(alias="to")
    how: str


class Lineage(_Whole):
    """What a run comes from and what came from it."""

    nodes: list[Run]
    edges: list[Edge]


class Upload(_Whole):
    """A picture or concept that was brought."""

    id: str
    kind: Literal["picture", "concept"]
    name: str
    bytes: int
    width: int | None
    height: int | None
    created: float
    url: str | None
    recipe: bool


class Uploads(_Whole):
    """A session's uploads."""

    uploads: list[Upload]


class Recalled(_Whole):
    """How a picture was made, as far as it says."""

    request: dict[str, Any] | None
    by: Literal["offbeat", "other"] | None
    text: str | None
    prompt: str | None
    seed: int | None
    reason: str


class AboutBackbone(_Whole):
    """A checkpoint that requests may name."""

    name: str
    default: bool
    height: int | None
    width: int | None
    capabilities: list[str]
    subjects: list[str]
    words: list[str]
    max_prompt_tokens: int | None
    prompt_template: str | None


class AboutMethod(_Whole):
    """A method, with its settings as a JSON schema."""

    name: str
    verbs: list[str]
    takes: list[str]
    weights: bool
    summary: str
    backbones: list[str]
    words: list[str]
    settings: dict[str, Any]


class About(_Whole):
    """What the server has."""

    version: str
    backbones: list[AboutBackbone]
    methods: list[AboutMethod]
    judges: list[str]
    formats: list[str]
    limits: dict[str, int]


class Counts(_Whole):
    """What a session has."""

    uploads: int
    runs: int
    queued: int
    running: int

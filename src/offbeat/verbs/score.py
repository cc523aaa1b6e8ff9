"""Score pictures with metrics, and return a table of the results."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import psutil
from torch import Tensor

from offbeat import registry
from offbeat.checkpoints.open import load_backbone
from offbeat.checkpoints.placement import Where, placement_of
from offbeat.errors import ConfigError, ImageError, OffbeatError, PromptError
from offbeat.files import png
from offbeat.files.exchange import stem_of
from offbeat.files.pictures import picture_files, read_whole, whole
from offbeat.judges.choose import choose_any
from offbeat.metrics import EncoderMetric, SharedEncoder, texts_for
from offbeat.protocols import Metric, TextBackbone
from offbeat.runs.result import Run
from offbeat.types import Observe, Scores, ignore

if TYPE_CHECKING:
    from PIL.Image import Image

Picture: TypeAlias = "str | Path | Image | Tensor"
Pictures: TypeAlias = "Picture | Run | Sequence[Picture | Run]"

PLAIN = ("diversity", "vendi")
WITH_TEXTS = ("clip_t",)
WITH_REFERENCES = ("clip_i", "novelty_nn")
"""What is measured if nothing is named: without more, with texts, with references."""


MEMORY_SHARE = 0.5
"""Of the free memory that pictures may take; the rest is for what measures them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTable:
    """What metrics measured of the same pictures."""

    pictures: tuple[str, ...]
    """A name for each: its file, or its number."""
    texts: Mapping[str, tuple[str, ...]]
    """Metric to the text of each picture, where it has one."""
    scores: tuple[Scores, ...]

    def __getitem__(self, stem: str) -> Scores:
        """Return the scores of one metric, by its name with or without brackets.

        Raises:
            ConfigError: If it was not measured.
        """
        for scores in self.scores:
            if stem in (scores.name, scores.name.partition("[")[0]):
                return scores
        names = ", ".join(scores.name for scores in self.scores)
        raise ConfigError(f"{stem}: not measured; there is {names or 'nothing'}")

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values; a missing interval is null."""
        rows = []
        for scores in self.scores:
            row = asdict(scores)
            row["interval"] = None if math.isnan(scores.interval[0]) else list(scores.interval)
            row["values"] = list(scores.values)
            row["texts"] = list(self.texts.get(scores.name, ()))
            rows.append(row)
        return {"schema_version": 1, "pictures": list(self.pictures), "scores": rows}

    def to_csv(self) -> str:
        """Return a line for each value: picture, text, metric, value, better, checkpoint."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(["picture", "text", "metric", "value", "better", "checkpoint"])
        for scores in self.scores:
            texts = self.texts.get(scores.name, ("",) * len(self.pictures))
            names = self.pictures if scores.per_image else ("all",)
            for name, said, value in zip(names, texts, scores.values, strict=False):
                said = said if scores.per_image else ""
                cells = (name, said, scores.name, repr(value), scores.better, scores.checkpoint)
                lines.writerow([harmless(cell) for cell in cells])
        return text.getvalue()


def harmless(cell: str) -> str:
    """Return a cell of a table that no spreadsheet runs as a formula; numbers stay as they are.

    >>> harmless("=1+1"), harmless("-0.5"), harmless("a pig")
    ("'=1+1", '-0.5', 'a pig')
    """
    if not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def score(
    pictures: Pictures,
    *,
    text: str | Sequence[str] | None = None,
    references: Pictures | None = None,
    metrics: Sequence[str | Metric] | str | None = None,
    backbone: str | Path | TextBackbone = "pocket",
    judge: Any = "auto",
    device: Where = "auto",
    observe: Observe = ignore,
) -> ScoreTable:
    """Measure pictures from anywhere.

    Args:
        pictures: Files, folders, run folders (their ``images/``), runs, PIL pictures or tensors
            ``[3, H, W]``, 0 to 1; one or several.
        text: What they should show: one for all, or one for each. None takes what each picture
            keeps inside of how it was made.
        references: Pictures to compare with, as ``pictures``.
        metrics: Names of the registry, ``NAME=SOURCE`` with a folder or hub id of weights of its
            own, or loaded metrics. None is ``diversity`` and ``vendi``, with texts ``clip_t``,
            with references ``clip_i`` and ``novelty_nn``.
        backbone: Whose encoders a metric without weights of its own runs on.
        judge: Who is asked where a metric asks: a name as for ``explore``, or a loaded judge;
            several, ``A,B`` or a list, where a metric asks several.
        device: Where to run.
        observe: Told which metric is at work.

    Raises:
        OffbeatError: Each kind of bad input has its own, see ``offbeat.errors``.
    """
    measured = _Pictures.read(pictures, "pictures")
    others = _Pictures.read(references, "references") if references is not None else None
    names = _names(metrics, measured, text, others)
    bench = _Bench(backbone, judge, device)
    loaded = [bench.metric(name) for name in names]
    texts_of = {id(metric): _texts(metric, measured, text) for metric in loaded}
    _refuse_missing(loaded, texts_of, others)
    scores, texts = [], {}
    for number, metric in enumerate(loaded):
        observe(f"measuring {metric.name}", number, len(loaded), {})
        said = texts_of[id(metric)]
        scores.append(
            metric.score(measured.images, texts=said, references=others.images if others else None)
        )
        if said is not None:
            texts[metric.name] = tuple(said)
    return ScoreTable(pictures=tuple(measured.names), texts=texts, scores=tuple(scores))


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Pictures with their names, and the recipes that they keep inside."""

    names: list[str]
    images: list[Tensor]
    recipes: list[Mapping[str, Any]]
    room: float
    """Bytes that they may take: all are in memory at once."""

    @classmethod
    def read(cls, given: Pictures, what: str) -> _Pictures:
        pictures = cls([], [], [], MEMORY_SHARE * psutil.virtual_memory().available)
        single = isinstance(given, str | Path | Run) or hasattr(given, "getbands")
        single = single or (isinstance(given, Tensor) and given.ndim == 3)
        if not single and not isinstance(given, Iterable):
            raise ImageError(f"{what}: expected files, folders, runs or pictures, got {given!r}")
        for picture in [given] if single else list(given):  # type: ignore[arg-type]
            pictures._add(picture)
        if not pictures.images:
            raise ImageError(f"{what}: expected at least 1 picture, got 0")
        return pictures

    def _add(self, one: Any) -> None:
        if isinstance(one, str | Path):
            for file in _files(Path(one).expanduser()):
                self._put(str(file), read_whole(file), recipe_of(file))
        elif isinstance(one, Run):
            for image in one.images:
                self._put(f"{len(self.names):04d}", whole(image), one.request)
        elif isinstance(one, Tensor):
            self._put(f"{len(self.names):04d}", one, {})
        elif hasattr(one, "getbands"):  # a picture of PIL, which is not loaded to find out
            self._put(f"{len(self.names):04d}", whole(one), {})
        else:
            raise ImageError(
                "pictures: expected files, folders, runs, PIL pictures or tensors, got "
                f"{type(one).__name__}"
            )

    def _put(self, name: str, image: Tensor, recipe: Mapping[str, Any]) -> None:
        taken = sum(other.nbytes for other in [*self.images, image])
        if taken > self.room:
            raise ImageError(
                f"{name}: expected pictures that fit into memory, and up to this one there are "
                f"{taken / 1e9:.1f} GB; score them in parts, or make them smaller"
            )
        self.names.append(name)
        self.images.append(image)
        self.recipes.append(recipe)


def _files(path: Path) -> list[Path]:
    """Return the pictures of a file, a folder, or a run folder."""
    if path.is_file():
        return [path]
    run = path / "images"
    return picture_files(run if (path / "request.json").is_file() and run.is_dir() else path)


def recipe_of(file: Path) -> dict[str, Any]:
    """Return what a picture keeps of how it was made; empty where that is nothing.

    Of a picture of AUTOMATIC1111 or the tools after it that is its prompt.
    """
    try:
        return png.read_recipe(file)
    except OffbeatError:
        pass
    try:
        fields = png.parse_infotext(png.read_infotext(file))
    except OffbeatError:
        return {}
    return {"prompt": fields["Prompt"]} if fields.get("Prompt") else {}


def _text_in(recipe: Mapping[str, Any], reads: str) -> str | None:
    """Return what a metric reads of a recipe: ``prompt``, ``subject`` or ``weights``."""
    if reads == "weights":
        pairs = recipe.get("weights") or ()
        return " + ".join(f"{word}={share:g}" for word, share in pairs) or None
    text, subject = recipe.get(reads), recipe.get("subject")
    if not isinstance(text, str) or not text:
        return None
    # what was learned stands in brackets: "a picture of a <handbag>", or "[handbag]" of before
    for word in (f"<{stem_of(str(subject))}>", f"[{subject}]"):
        text = text.replace(word, str(subject))
    return text


def _texts(
    metric: Metric, pictures: _Pictures, text: str | Sequence[str] | None
) -> list[str] | None:
    """Return the texts that a metric gets: those given, else those in the pictures, else none."""
    if text is not None:
        return texts_for([text] if isinstance(text, str) else text, len(pictures.names))
    reads = str(getattr(metric, "reads", "prompt"))
    if "texts" not in metric.needs and reads != "weights":
        return None
    texts = [_text_in(recipe, reads) for recipe in pictures.recipes]
    if "texts" not in metric.needs or None not in texts:
        return None if None in texts else [str(part) for part in texts]
    name = pictures.names[texts.index(None)]
    raise PromptError(
        f"{metric.name}: expected a text, and picture {name} keeps no {reads} inside; give one "
        "with --text, or one a line for each picture with --texts"
    )


def _names(
    metrics: Sequence[str | Metric] | str | None,
    pictures: _Pictures,
    text: str | Sequence[str] | None,
    references: _Pictures | None,
) -> list[str | Metric]:
    if isinstance(metrics, str):
        metrics = [part.strip() for part in metrics.split(",")]
    if metrics is not None:
        if not [name for name in metrics if name]:
            raise ConfigError("metrics: expected at least one name, see `offbeat list metrics`")
        return [name for name in metrics if name]
    has_texts = text is not None or all(_text_in(recipe, "prompt") for recipe in pictures.recipes)
    names = [*(WITH_TEXTS if has_texts else ()), *(WITH_REFERENCES if references else ())]
    return [*names, *(PLAIN if len(pictures.images) > 1 else PLAIN[1:])]


def _refuse_missing(
    metrics: Sequence[Metric],
    texts_of: Mapping[int, Sequence[str] | None],
    references: _Pictures | None,
) -> None:
    for metric in metrics:
        if "references" in metric.needs and references is None:
            raise ConfigError(
                f"{metric.name}: expected pictures to compare with; give a folder with --reference"
            )
        if "texts" in metric.needs and not texts_of[id(metric)]:
            raise PromptError(f"{metric.name}: expected a text; give one with --text")


class _Bench:
    """Loads what metrics run on, when the first of them wants it."""

    def __init__(self, backbone: str | Path | TextBackbone, judge: Any, device: Where) -> None:
        self._backbone, self._judge, self._where = backbone, judge, device
        self._encoders: dict[str, SharedEncoder] = {}

    @cached_property
    def backbone(self) -> Any:
        if isinstance(self._backbone, str | Path):
            return load_backbone(self._backbone, device=self._where)
        return self._backbone

    @cached_property
    def judge(self) -> Any:
        named = self._judge
        return choose_any(named, self.backbone) if isinstance(named, str) else named

    def metric(self, name: str | Metric) -> Metric:
        if not isinstance(name, str):
            return name
        stem, sign, source = name.partition("=")
        kind = registry.find("metric", stem)
        options: dict[str, Any] = {}
        if "judge" in getattr(kind, "needs", ()):
            options["judge"] = self.judge
        if sign:
            options["device"] = placement_of(self._where).resolved().device
            loaded: Metric = kind.load(source, **options)
        else:
            loaded = kind.load(backbone=self.backbone, **options)
        if not isinstance(loaded, Metric):
            raise ConfigError(
                f"{stem}: expected a metric with name, better, needs and score, got "
                f"{type(loaded).__name__}; see CONTRIBUTING.md"
            )
        if isinstance(loaded, EncoderMetric):  # metrics of one encoder read each picture once
            encoder = loaded.encoder
            key = f"{type(encoder).__name__} {encoder.checkpoint}"
            loaded.encoder = self._encoders.setdefault(key, SharedEncoder(encoder))
        return loaded

"""The parts that every command shares: load, check, open the run folder, record, write.

A command makes a ``Session``, loads its checkpoint and method with it, opens it with everything
that the result depends on, draws, and writes. No other module writes the checkpoint, its
fingerprint, the versions, the device and the dtype into a run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from offbeat.backbones.emphasis import is_weighted
from offbeat.checkpoints.open import check_needs, default_backbone, loaded, loaded_recorded
from offbeat.checkpoints.placement import Where
from offbeat.core.checks import check_gradients, check_range, check_whole
from offbeat.core.drawing import draw, plain_concept_of, scaled
from offbeat.core.templates import check_text, fill
from offbeat.core.threads import few_threads
from offbeat.errors import ConfigError, PromptError
from offbeat.files.concept import CONCEPT_FILE
from offbeat.files.disk import json_bytes
from offbeat.files.labels import versions
from offbeat.files.learned import Learned, fitted
from offbeat.methods.settings import make_method, verbs_of, with_metric
from offbeat.protocols import TextBackbone
from offbeat.runs.folder import RunFolder
from offbeat.runs.recorder import OnKept, Recorder
from offbeat.runs.report import concept_report
from offbeat.runs.result import (
    Run,
    Source,
    concept_files,
    learned_of,
    load_run,
    numerics_of,
    read_concept,
)
from offbeat.types import Concept, Observe, OnStep, ignore

if TYPE_CHECKING:
    from PIL import Image

Backbone = str | Path | TextBackbone
Search = Callable[[OnStep, Mapping[str, Any] | None], Concept]
"""Learns a concept: given what to tell each step, and the state to go on from."""
View = Callable[[], bytes | None]
"""Makes a file that shows the result, e.g. a contact sheet; None makes no file."""

MAX_IMAGES = 2**16
"""Pictures of one run at most; more is a mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The arguments that ``fuse``, ``sweep`` and ``grid`` share; checked when it is made."""

    method: str
    config: Mapping[str, Any] | None
    trained: Any
    prompt: str | None
    num_images: int
    seed: int
    judge: str

    def __post_init__(self) -> None:
        check_numbers(num_images=self.num_images, seed=self.seed)
        check_template(self.prompt)


def check_numbers(*, seed: int, **counts: int) -> None:
    """Refuse a seed below 0, and counts of pictures, trials or words below 1 or absurdly large.

    Raises:
        ConfigError: With the first that is no such whole number.
    """
    for name, count in counts.items():
        check_whole(name, count, 1, MAX_IMAGES)
    check_whole("seed", seed, 0, 2**64)


def checked_text(name: str, text: object) -> str:
    """Return a text without spaces at its ends.

    Raises:
        PromptError: If it is no text, is empty, or cannot be encoded.
    """
    if not isinstance(text, str) or not text.strip():
        raise PromptError(f"{name}: expected a word or a text, got {text!r}")
    check_text(name, text)
    return text.strip()


def check_template(prompt: str | None) -> None:
    """Refuse a prompt without ``{concept}``, before anything is loaded.

    Raises:
        PromptError: If it is no text, or lacks the place.
    """
    if prompt is not None:
        fill(checked_text("prompt", prompt), concept="")


def conditions_of(backbone: TextBackbone) -> dict[str, Any]:
    """Return what every number depends on: the weights, the versions, device and dtype."""
    return {
        "fingerprint": backbone.fingerprint,
        "versions": versions(),
        **numerics_of(backbone),
    }


class Session:
    """One command at work: its checkpoint, its run folder, its progress, and what it writes."""

    backbone: Any
    """The loaded checkpoint, once ``load`` was called."""

    def __init__(
        self,
        backbone: Backbone | None,
        device: Where = "auto",
        *,
        out: str | Path | None = None,
        resume: bool = False,
        observe: Observe = ignore,
    ) -> None:
        if out is not None and not isinstance(out, str | Path):
            raise ConfigError(f"out: expected the path of a folder, got {out!r}")
        self._source, self._device, self._out, self._resume = backbone, device, out, resume
        self.observe = observe
        self.request: dict[str, Any] = {}
        """Everything that the result depends on, once ``open`` was called."""
        self.folder: RunFolder | None = None
        self.problems: list[str] = []
        """Sheets, plots and reports that could not be made, and why."""
        self.recorder = Recorder(None, observe, stage="")

    # --- before anything is written

    def load(self, method: str | None = None, needs: type[Any] = TextBackbone) -> Any:
        """Return the checkpoint: the one given, or the bundled one that suits the method.

        Raises:
            CapabilityError: If it lacks a part of ``needs``.
        """
        source = self._source
        if source is None:
            source = "pocket" if method is None else default_backbone(method)
        self._use(loaded(source, self._device))
        check_needs(method or "this", needs, self.backbone)
        return self.backbone

    def _use(self, backbone: TextBackbone) -> None:
        self.backbone = backbone
        self.problems += getattr(backbone, "notes", ())

    def load_learned(self, sources: Sequence[Source]) -> list[Learned]:
        """Return the concepts that sources name, and load the checkpoint that they belong to.

        It is the one given, or the one that the first source names.

        Raises:
            FingerprintError: If a concept was learned on another checkpoint.
        """
        backbone = None if self._source is None else self.load()
        named = [with_strength(source) for source in sources]
        learned = [learned_of(source, backbone) for source, _ in named]
        if backbone is None:
            self._use(loaded_recorded(learned[0].checkpoint, self._device))
        learned = [fitted(concept, self.backbone) for concept in learned]
        for concept in learned:
            self.problems += concept.notes
        return [
            part if strength is None else stronger(part, self.backbone, strength)
            for part, (_, strength) in zip(learned, named, strict=True)
        ]

    def method(self, name: str, settings: Mapping[str, Any] | None, verb: str, cannot: str) -> Any:
        """Return a method that suits the checkpoint.

        Args:
            name: As in the registry.
            settings: Its settings; those left out come from the checkpoint's card.
            verb: The command that it must serve, as in ``methods.settings.VERBS``.
            cannot: What an error says of one that does not, e.g. ``does not paint``.

        Raises:
            ConfigError: If it is of another kind, a setting is unknown, or it would follow
                gradients through float16.
            CapabilityError: If the checkpoint lacks what it needs.
        """
        if settings is not None and not isinstance(settings, Mapping):
            raise ConfigError(f"config: expected settings of {name} by name, got {settings!r}")
        method = make_method(name, self.backbone, dict(settings or {}))
        if verb not in verbs_of(method):
            raise ConfigError(f"method: {name} {cannot}; choose another method")
        check_needs(name, getattr(method, "needs", None), self.backbone)
        if verb in getattr(method, "gradient_verbs", ()):
            check_gradients(name, self.backbone)
        return with_metric(method, self.backbone)

    def open(self, asked: Mapping[str, Any]) -> bool:
        """Make the run folder, or reopen it; return whether the run is finished already.

        Args:
            asked: The command's own part of the request, as JSON values.
        """
        self.request = {
            **asked,
            "checkpoint": self.backbone.name,
            **conditions_of(self.backbone),
        }
        if not self._out:
            return False
        self.folder = RunFolder.create(Path(self._out), self.request, resume=self._resume)
        return self.folder.is_finished

    def finished(self) -> Run:
        """Return the run that an earlier process finished."""
        assert self.folder is not None
        return load_run(self.folder.path)

    def record(self, stage: str, label: str, *, row_every: int = 1) -> Recorder:
        """Return the recorder of this session's steps, see ``Recorder``."""
        self.recorder = Recorder(
            self.folder, self.observe, stage=stage, label=label, row_every=row_every
        )
        return self.recorder

    # --- at work

    def learn(
        self,
        number: int,
        where: str,
        search: Search,
        *,
        total: int,
        method: str | None = None,
        on_kept: OnKept | None = None,
    ) -> Concept:
        """Return concept ``number``: the one that an earlier process learned, or learn it now.

        Args:
            number: Of the search, 0 first.
            where: Folder of the concept inside the run folder, with a slash, or nothing.
            search: Learns it.
            total: Steps at most.
            method: The method's name, where the concept does not say it.
            on_kept: Told each step that is kept.
        """
        folder, recorder = self.folder, self.recorder
        if folder is not None and folder.exists(where + CONCEPT_FILE):
            recorder.reread()
            return read_concept(folder, where)[0]
        state = recorder.resume(number)
        on_step = recorder.observer(number, total, on_kept, done=recorder.taken(number))
        with few_threads(self.backbone):
            concept = search(on_step, state)
        if recorder.taken(number):  # what took steps outlives a kill
            self.keep_concept(where, concept, method)
        return concept

    def keep_concept(self, where: str, concept: Concept, method: str | None = None) -> None:
        """Write a concept to a folder of the run, if there is a run folder."""
        if self.folder is not None:
            files = concept_files([concept], self.backbone, method)
            self.folder.write({where + name: data for name, data in files.items()})

    def draw_parts(
        self, stage: str, count: int, draw_part: Callable[[int], Mapping[str, Tensor]]
    ) -> list[dict[str, Tensor]]:
        """Return ``count`` parts of a drawing; what was kept before a kill is not drawn again.

        Args:
            stage: What the observer is told.
            count: Parts.
            draw_part: Draws part ``number``: tensors by name, the pictures under ``""``.
        """
        folder = self.folder
        state = folder.load_checkpoint() if folder is not None else None
        done = int(state["part"]) if state is not None else 0
        drawn = dict(self.recorder.resume(done) or {})
        names: set[str] = {name[6:] for name in drawn}
        for number in range(done, count):
            part = draw_part(number)
            names |= part.keys()
            drawn |= {f"{number:06d}{name}": tensor.cpu() for name, tensor in part.items()}
            state = {"part": number + 1, "search": drawn}
            self.recorder.tell(stage, number + 1, count, {}, state.copy)
        return [{name: drawn[f"{n:06d}{name}"] for name in names} for n in range(count)]

    def draw(self, concept: Concept) -> Tensor:
        """Return the run's pictures of a concept, ``[N, 3, H, W]``, 0 to 1."""
        seed, num = self.request["seed"], self.request["num_images"]
        return draw(self.backbone, concept, seed=seed, num=num, observe=self.observe)

    def plain(self, word: str) -> Concept:
        """Return a word as it is, in the prompt of the run."""
        return plain_concept_of(word, self.backbone, self.request["prompt"])

    # --- at the end

    def keep(self, files: Mapping[str, bytes]) -> dict[str, bytes]:
        """Write files, if there is a run folder, and return them."""
        if self.folder is not None:
            self.folder.write(files)
        return dict(files)

    def show(self, views: Mapping[str, View]) -> dict[str, bytes]:
        """Make and write sheets, plots and the like; one that cannot be made costs only itself."""
        made: dict[str, bytes] = {}
        for name, view in views.items():
            try:
                data = view()
            except Exception as error:  # whatever it is, the pictures are worth more
                problem = " ".join(f"{type(error).__name__}: {error}".split())
                self.problems.append(f"{name} could not be made ({problem}); all else is there.")
                continue
            if data is not None:
                made[name] = data
        return self.keep(made)

    def write(
        self,
        concepts: Sequence[Concept],
        images: Sequence[Image.Image],
        files: Mapping[str, bytes],
        *,
        summary: Mapping[str, Any] | None = None,
        views: Mapping[str, View],
        title: str | None = None,
        report: Callable[[Mapping[str, Any], Mapping[str, bytes]], str] | None = None,
        ordinary: Sequence[Image.Image] = (),
    ) -> Run:
        """Write what was drawn, then what shows it, and return the run.

        Args:
            concepts: What was learned.
            images: What was drawn.
            files: The pictures and concepts as files; they are written first.
            summary: What was found, JSON values; None is the prompt alone.
            views: Files that show it: the contact sheet as ``contact.png``, plots, films.
            title: Of the usual report; None makes none.
            report: Makes another report, of the summary and the views.
            ordinary: Pictures to compare with.
        """
        written = self.keep(files)
        shown = self.show(views)
        facts = {"prompt": self.request["prompt"]} if summary is None else dict(summary)
        facts = self._with_problems(facts)
        if title is not None:
            report = self._usual_report(title)
        if report is not None:
            html = partial(report, facts, shown)
            shown |= self.show({"report.html": lambda: html().encode()})
            facts = self._with_problems(facts)
        last = self.keep({"summary.json": json_bytes(facts)})
        if self.folder is not None:
            self.folder.finish()
        return Run(
            request=self.request,
            concepts=list(concepts),
            images=list(images),
            ordinary=list(ordinary),
            summary=facts,
            trace=list(self.recorder.rows),
            files={**written, **shown, **last},
            folder=self.folder.path if self.folder is not None else None,
        )

    def _with_problems(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Return a summary whose warnings hold what could not be shown."""
        if not self.problems:
            return summary
        warnings = [*summary.get("warnings", ()), *self.problems]
        return {**summary, "warnings": list(dict.fromkeys(warnings))}

    def _usual_report(self, title: str) -> Callable[[Mapping[str, Any], Mapping[str, bytes]], str]:
        def report(summary: Mapping[str, Any], views: Mapping[str, bytes]) -> str:
            return concept_report(
                title=title,
                lead=str(summary["in_words"]),
                sheet_png=views.get("contact.png"),
                curve_png=views.get("curve.png"),
                found=summary,
                settings=self.request,
                warnings=summary["warnings"],
            )

        return report


STRENGTH = r"[+-]?\d*\.\d+|[+-]\d+"
"""A concept's strength as it is written: with a point or a sign, as a plain number is an index."""
MAX_STRENGTH = 10.0


def with_strength(source: Source) -> tuple[Source, float | None]:
    """Return a source without its strength, and the strength; None if it says none.

    >>> with_strength("runs/dream-0:3:-0.5")
    ('runs/dream-0:3', -0.5)
    """
    if isinstance(source, Run) or Path(source).expanduser().exists():
        return source, None
    match = re.fullmatch(rf"(.+):({STRENGTH})", str(source))
    return (source, None) if match is None else (match[1], float(match[2]))


def stronger(learned: Learned, backbone: TextBackbone, strength: float) -> Learned:
    """Return a learned concept of another strength, and say so in its origin.

    Raises:
        RangeError: If it is beyond 10.
    """
    check_range("strength of a concept", strength, -MAX_STRENGTH, MAX_STRENGTH)
    before = float(learned.origin.get("strength", 1.0))
    return replace(
        learned,
        concept=scaled(learned.concept, backbone, strength),
        origin={**learned.origin, "strength": before * strength},
    )


def prompt_strengths(
    prompt: str, learned: Sequence[Learned], backbone: TextBackbone
) -> tuple[str, list[Learned]]:
    """Return a prompt without the strengths in it, and the concepts with them.

    ``{concept:0.7}`` and ``{concept2:-0.3}`` are places with a strength.
    """
    parts = list(learned)
    for place, number, strength in re.findall(rf"({{concept(\d*):({STRENGTH}|\d+)}})", prompt):
        index = int(number or 1) - 1
        if index < len(parts):
            parts[index] = stronger(parts[index], backbone, float(strength))
            prompt = prompt.replace(place, f"{{concept{number}}}")
    return prompt, parts


def note_syntax(session: Session, *prompts: str) -> None:
    """Tell of weights in prompts that the checkpoint takes literally."""
    weighted = next((prompt for prompt in prompts if is_weighted(prompt)), None)
    if weighted is not None and not session.request.get("prompt_syntax"):
        able = getattr(session.backbone, "takes_syntax", False)
        advice = "--prompt-syntax a1111 reads them" if able else "this checkpoint knows no weights"
        session.problems.append(
            f"prompt: brackets with numbers and BREAK in {weighted[:60]!r} are taken literally; "
            f"{advice}."
        )


def in_prompt(concept: Concept, prompt: str | None) -> Concept:
    """Return a concept that stands in another prompt; None leaves it in its own."""
    return concept if prompt is None else replace(concept, template=prompt)

"""Turn a request into a function call: look names up, and turn references into files.

This is where a request could reach the file system, so it is where nothing of one becomes a path:
identifiers are looked up in the list, and the paths are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from offbeat.errors import ConfigError, StoreError, VocabularyError
from offbeat.files.pictures import is_picture
from offbeat.runs.folder import RunFolder
from offbeat.runs.map import kept_steps
from offbeat.studio import requests, shelf
from offbeat.studio.about import JUDGES, SEARCH, Catalogue, config_of
from offbeat.studio.database import Database, Row
from offbeat.studio.files import allowed_names
from offbeat.studio.taste import keep_taste, taste_file
from offbeat.studio.uploads import file_of

Call = tuple[str, dict[str, Any]]
Edge = tuple[str, str]
PAIRS = 2
MOST = {
    "num_baseline": 20_000, "num_held_out": 5_000, "num_noises": 64, "num_probes": 512,
    "num_judged": 32, "lora_rank": 128, "batch_size": 256, "num": 64, "num_candidates": 64,
    "num_steps": 20_000,
}  # fmt: skip
"""Of settings that take memory or hours: what one request may ask of a server for many."""


class NotThere(Exception):
    """A run, picture or upload that is not there, or is another session's."""


class Arguments:
    """Turns requests into function calls and checks what they refer to."""

    def __init__(self, database: Database, folder: Path, catalogue: Catalogue) -> None:
        self.database, self.folder, self.catalogue = database, folder, catalogue

    def of_row(self, row: Row) -> Call:
        """Return the function call of a job that was accepted before."""
        request: requests.JobRequest = TypeAdapter(requests.JobRequest).validate_python(
            row["request"]
        )
        return Translation(self, row["session"]).call(request)

    def row_of(self, request: Any, session: str) -> tuple[Row, list[Edge]]:
        """Check a request without drawing anything; return its row for the database.

        Raises:
            OffbeatError: If it cannot be.
            NotThere: If it refers to what is not there.
        """
        if getattr(request, "taste", None) == "marks":  # later marks do not change this job
            digest = keep_taste(self.database, self.folder, session)
            request = request.model_copy(update={"taste": digest})
        work = Translation(self, session)
        call, arguments = work.call(request)
        subject = _subject(request)
        row = {
            "session": session,
            "verb": request.verb,
            "request": request.model_dump(mode="json", exclude_unset=True),
            "title": request.title or subject,
            "subject": subject,
            "method": str(arguments.get("method", call)),
            "backbone": work.backbone,
        }
        if request.parent is not None:
            work.run(request.parent, "parent")
        return row, work.edges


class Translation:
    """Translates one request into a function call."""

    def __init__(self, shared: Arguments, session: str) -> None:
        self.shared, self.session = shared, session
        self.database, self.folder = shared.database, shared.folder
        self.catalogue = shared.catalogue
        self.edges: list[Edge] = []
        self.backbone = ""

    def call(self, request: Any) -> Call:
        """Return the name of a public function of offbeat, and its arguments."""
        name, arguments = _TRANSLATIONS[type(request)](self, request)
        self.backbone = self._backbone(request, arguments)
        self._check_method(request, name, arguments)
        source = self.catalogue.checkpoints[self.backbone].source
        common = {} if name == "import_concept" else {"seed": request.seed}
        return name, {**common, **arguments, "backbone": source}

    # --- what a request points at

    def run(self, run: str, how: str) -> Path:
        """Return the folder of a run that the session may use, and note that it is used."""
        row = self.database.run(run)
        if not shelf.visible(row, self.session):
            raise NotThere(f"no run {run}")
        self.edges.append((run, how))
        return self.folder / "runs" / run

    def picture(self, picture: requests.PictureRef, how: str = "picture") -> str:
        """Return the path of a picture, relative to the studio's folder."""
        if picture.upload is not None:
            row = self.database.upload(self.session, picture.upload)
            if row is None or row["kind"] != "picture":
                raise NotThere(f"no picture {picture.upload}")
            return file_of(Path(), row).as_posix()
        assert picture.run is not None
        folder = self.run(picture.run, how)
        name = shelf.picture_file(picture, allowed_names(folder))
        if name is None:
            raise NotThere(f"no picture {picture.index} of {picture.kind} in run {picture.run}")
        return f"runs/{picture.run}/{name}"

    def state(self, concept: requests.ConceptRef, how: str) -> str:
        """Return a run, or a state of one of its searches, as ``explore`` takes it."""
        folder, (step, trial) = self.run(concept.run, how), (concept.step, concept.trial)
        if step is None:
            return f"runs/{concept.run}" + ("" if trial is None else f":{trial}.end")
        self._state_file(folder, step, trial)
        return f"runs/{concept.run}:" + (f"{step}" if trial is None else f"{trial}.{step}")

    def concept(self, concept: requests.ConceptRef) -> str:
        """Return a concept as ``render`` takes it."""
        folder = self.run(concept.run, "concept")
        if concept.step is not None:
            return f"runs/{concept.run}/{self._state_file(folder, concept.step, concept.trial)}"
        if concept.index is not None and (folder / "concepts").is_dir():
            return f"runs/{concept.run}:{concept.index}"
        if concept.index:
            raise NotThere(f"no concept {concept.index} in run {concept.run}: it has one")
        return f"runs/{concept.run}"

    def taste(self, digest: str) -> str:
        """Return the file of a taste, relative to the studio's folder."""
        if not (self.folder / taste_file(digest)).exists():
            raise NotThere(f"no taste {digest}")
        return taste_file(digest)

    def _state_file(self, folder: Path, step: int, trial: int | None) -> str:
        there = (folder / "request.json").exists()
        steps = kept_steps(RunFolder.open(folder), trial) if there else {}
        if step not in steps:
            known = ", ".join(map(str, steps)) or "none"
            raise StoreError(f"step: expected one that was kept, {known}, got {step}")
        return steps[step] + "concept.safetensors"

    # --- checks

    def _backbone(self, request: Any, given: Mapping[str, Any]) -> str:
        """Return the checkpoint's name: the one requested, or the first that can do it."""
        known = self.catalogue.checkpoints
        if request.backbone is not None:
            if request.backbone not in known:
                names = ", ".join(known)
                raise ConfigError(f"backbone: expected one of {names}, got {request.backbone!r}")
            return str(request.backbone)
        if "method" in given and given["method"] in self.catalogue.methods:
            works = self.catalogue.checkpoints_of(given["method"])
            return works[0] if works else self.catalogue.default
        return self._of_parents(request) or self.catalogue.default

    def _of_parents(self, request: Any) -> str | None:
        """Return the checkpoint on which the concepts were learned."""
        for parent, how in self.edges:
            row = self.database.run(parent)
            if (
                how == "concept"
                and row is not None
                and row["backbone"] in self.catalogue.checkpoints
            ):
                return str(row["backbone"])
        return None

    def _check_method(self, request: Any, call: str, given: Mapping[str, Any]) -> None:
        if (judge := given.get("judge", "auto")) not in JUDGES:
            raise ConfigError(f"judge: expected one of {', '.join(JUDGES)}, got {judge!r}")
        method = given.get("method")
        if method is None:
            return
        verbs = self.catalogue.verbs_of(method)
        if call not in verbs:
            able = [
                name for name in self.catalogue.methods if call in self.catalogue.verbs_of(name)
            ]
            raise ConfigError(
                f"method: for {call} expected one of {', '.join(able)}, got {method!r}"
            )
        if self.backbone not in self.catalogue.checkpoints_of(method):
            works = ", ".join(self.catalogue.checkpoints_of(method)) or "none that is here"
            raise ConfigError(f"backbone: {method} works on {works}, got {self.backbone!r}")
        self._check_words(method, getattr(request, "sources", ()))
        self._check_settings(method, given.get("config") or {})

    def _check_words(self, method: str, sources: Any) -> None:
        known = self.catalogue.checkpoints[self.backbone].words.get(method)
        for source in sources:
            if known and source.word is not None and source.word not in known:
                raise VocabularyError(
                    f"{source.word!r}: {method} does not know it on {self.backbone}; known: "
                    f"{', '.join(known)}"
                )

    def _check_settings(self, method: str, config: Mapping[str, Any]) -> None:
        for name, value in config.items():
            most = MOST.get(name)
            if most is not None and isinstance(value, int | float) and value > most:
                raise ConfigError(f"{name}: expected at most {most} here, got {value}")
            if isinstance(value, str) and ("/" in value or "\\" in value):
                raise ConfigError(f"{name}: expected a word or a text, got what could be a path")
        about = self.catalogue.methods[method]
        cls = config_of(about)
        card = self.catalogue.checkpoints[self.backbone].card
        if cls is not None and hasattr(cls, "for_card"):
            cls.for_card(card, **config)
        elif config:
            raise ConfigError(f"config: {method} takes none, got {', '.join(config)}")


def checked_word(word: str) -> str:
    """Return a word if it is not a path: some functions read words as file names.

    Raises:
        VocabularyError: If it could be one.
    """
    if is_picture(word) or any(ord(letter) < 32 for letter in word):
        raise VocabularyError(f"{word!r}: expected a word, got what could be a file; upload it")
    return word


def _subject(request: Any) -> str:
    """Return the title on the shelf of a run without one."""
    if isinstance(request, requests.FuseJob):
        return " + ".join(source.word or "picture" for source in request.sources)
    for name in ("subject", "prompt", "word"):
        if subject := getattr(request, name, None):
            return str(subject)[:200]
    names = {"dream": "dreams", "walk": "a walk", "paint": "painting"}
    return names.get(str(request.verb), "a run")


# --- one function a verb


def _explore(work: Translation, request: requests.ExploreJob) -> Call:
    arguments: dict[str, Any] = {
        "args": [checked_word(request.subject)],
        "method": request.method,
        "num_images": request.num_images,
        "prompt": request.prompt,
        "judge": request.judge,
        "config": dict(request.config),
    }
    if request.method != SEARCH:
        steered = [name for name in _OF_SEARCH if name in request.model_fields_set]
        if steered:
            raise ConfigError(f"{', '.join(steered)}: of the search, and {request.method} has none")
        return "explore", arguments
    if twice := set(request.config) & {"novelty", "reach", "num_steps", "space"}:
        raise ConfigError(f"config: {', '.join(sorted(twice))} has a field of its own")
    names = (
        "novelty", "reach", "num_steps", "space", "num_trials", "directions", "preview_every",
    )  # fmt: skip
    arguments |= {name: getattr(request, name) for name in names}
    arguments["candidates"] = request.candidates or (1 if request.taste is None else 3)
    if request.novelty is not None and request.reach is not None:
        raise ConfigError("novelty, reach: expected one of them, got both")
    arguments["avoid"] = [_avoided(work, avoided) for avoided in request.avoid]
    if request.unlike:
        arguments["unlike"] = [[work.picture(picture, "unlike") for picture in request.unlike]]
    if request.taste is not None:
        arguments["taste"] = work.taste(request.taste)
    if request.start is not None:
        arguments["start"] = work.state(request.start, "start")
    if request.reach is None and request.novelty is None and request.num_steps is None:
        arguments["novelty"] = 0.999
    return "explore", arguments


_OF_SEARCH = (
    "novelty",
    "reach",
    "num_steps",
    "space",
    "avoid",
    "unlike",
    "start",
    "num_trials",
    "directions",
    "candidates",
    "taste",
)


def _avoided(work: Translation, one: requests.AvoidRef) -> str | dict[str, Any]:
    if one.region is None:
        ref = requests.ConceptRef(run=one.run, step=one.step, trial=one.trial)
        return work.state(ref, "avoid")
    work.run(one.run, "avoid")
    return {"run": f"runs/{one.run}", "region": one.region, "step": one.step}


def _fuse(work: Translation, request: requests.FuseJob) -> Call:
    names = [
        work.picture(source.picture) if source.picture else checked_word(source.word or "")
        for source in request.sources
    ]
    if len(set(names)) < len(names):
        raise VocabularyError("sources: one of them is given twice; name each once")
    arguments: dict[str, Any] = {
        "method": request.method,
        "num_images": request.num_images,
        "prompt": request.prompt,
        "judge": request.judge,
        "config": dict(request.config),
    }
    if request.layout == "fuse":
        shares = [source.share for source in request.sources]
        parts = [[name, share] for name, share in zip(names, shares, strict=True) if share > 0]
        if len(parts) < PAIRS:
            raise VocabularyError("sources: expected two or more with a share above 0")
        return "fuse", {**arguments, "args": [parts]}
    needed = 2 if request.layout == "sweep" else 3
    if len(names) != needed:
        raise VocabularyError(f"sources: a {request.layout} takes {needed}, got {len(names)}")
    num = request.num or (9 if request.layout == "sweep" else 5)
    if request.layout == "grid" and num > 12:
        raise ConfigError(f"num: a grid has 2 to 12 along a side, got {num}")
    each = num if request.layout == "sweep" else num * (num + 1) // 2
    if each * request.num_images > 256:
        raise ConfigError(f"num_images: expected at most {256 // each} of each, or fewer concepts")
    return request.layout, {**arguments, "args": names, "num": num}


def _dream(work: Translation, request: requests.DreamJob) -> Call:
    subject = None if request.subject is None else checked_word(request.subject)
    return "dream", {
        "args": [request.num],
        "method": request.method,
        "subject": subject,
        "law": request.law,
        "max_cosine": request.max_cosine,
        "prompt": request.prompt,
        "judge": request.judge,
        "config": dict(request.config),
    }


def _walk(work: Translation, request: requests.WalkJob) -> Call:
    if request.num * request.num_images > 256:
        raise ConfigError(f"num_images: expected at most {256 // request.num} of each")
    return "walk", {
        "args": [work.concept(request.first), work.concept(request.second)],
        "num": request.num,
        "num_images": request.num_images,
        "prompt": request.prompt,
    }


def _paint(work: Translation, request: requests.PaintJob) -> Call:
    if request.strength is not None and request.sweep is not None:
        raise ConfigError("strength, sweep: expected one of them, got both")
    return "paint", {
        "args": [work.picture(request.art)],
        "content": None if request.content is None else work.picture(request.content),
        "prompt": request.prompt or None,
        "method": request.method,
        "strength": request.strength,
        "sweep": request.sweep,
        "num_images": request.num_images,
        "config": dict(request.config),
    }


def _generate(work: Translation, request: requests.GenerateJob) -> Call:
    names = (
        "negative_prompt", "num_images", "num_inference_steps", "guidance_scale",
        "prior_num_inference_steps", "prior_guidance_scale",
    )  # fmt: skip
    drawn = {"args": [request.prompt], **{name: getattr(request, name) for name in names}}
    if request.image is not None:
        drawn |= {"image": work.picture(request.image), "image_weight": request.image_weight}
    elif request.image_weight is not None:
        raise ConfigError("image_weight: expected an image beside it, got none")
    return "generate", drawn


def _render(work: Translation, request: requests.RenderJob) -> Call:
    return "render", {
        "args": [[work.concept(source) for source in request.sources]],
        "prompt": request.prompt,
        "num_images": request.num_images,
    }


def _import(work: Translation, request: requests.ImportJob) -> Call:
    row = work.database.upload(work.session, request.upload)
    if row is None or row["kind"] != "concept":
        raise NotThere(f"no concept {request.upload}")
    word = None if request.word is None else checked_word(request.word)
    source = file_of(Path(), row).as_posix()
    return "import_concept", {"args": [source], "word": word, "prompt": request.prompt}


_TRANSLATIONS: dict[type, Callable[[Translation, Any], Call]] = {
    requests.ExploreJob: _explore,
    requests.FuseJob: _fuse,
    requests.DreamJob: _dream,
    requests.WalkJob: _walk,
    requests.PaintJob: _paint,
    requests.GenerateJob: _generate,
    requests.RenderJob: _render,
    requests.ImportJob: _import,
}

__all__ = ["Arguments", "NotThere", "checked_word"]

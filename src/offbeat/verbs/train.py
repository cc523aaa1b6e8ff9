"""Train what a method learns once for all concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbeat.checkpoints.placement import Where
from offbeat.core import vocab
from offbeat.core.drawing import draw, plain_concept_of
from offbeat.core.threads import few_threads
from offbeat.errors import ConfigError, StoreError, VocabularyError
from offbeat.files.concept import encode_trained, made_on
from offbeat.files.png import to_pil
from offbeat.judges.choose import choose_judge
from offbeat.methods.settings import config_of, steps_of
from offbeat.protocols import ReadsClasses, TextBackbone
from offbeat.runs.images import sheet
from offbeat.runs.plots import lines_over_steps
from offbeat.runs.trained import SUFFIX, find_trained
from offbeat.types import Observe, Request, Trained, ignore
from offbeat.verbs.session import Session, View, check_numbers

if TYPE_CHECKING:
    from PIL import Image

ROW_EVERY = 50
NUM_SHOWN = 6
LISTS = {"substitute-60": vocab.SUBSTITUTE_60, "animals": vocab.ANIMALS}


def train(
    method: str,
    *,
    vocabulary: Sequence[str] | str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    judge: str = "auto",
    backbone: str | Path | TextBackbone = "pocket",
    device: Where = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    observe: Observe = ignore,
) -> Trained:
    """Train what ``fuse`` and ``dream`` use, once for a checkpoint and a vocabulary.

    Args:
        method: ``cretok``, ``distok`` or a plug-in that trains.
        vocabulary: Words, a file with one a line, ``substitute-60`` or ``animals``; None is what
            the checkpoint's card names, else substitute-60.
        config: Settings of the method, before those that suit the checkpoint.
        seed: Same seed, same result.
        judge: Who reads what decoded tokens draw, where the method asks (DisTok): ``auto`` is the
            checkpoint's own towers, if they know words; ``none``; or a model as ``offbeat list
            judges`` names it, its folder or hub id, which then chooses between the words.
        backbone: Name, folder, hub id, or a loaded one.
        device: Where to run, or a ``Placement``: see ``load_backbone``.
        out: Run folder, written as the training goes; None keeps all in memory.
        resume: Go on with the training in ``out``.
        observe: Told how far it is.

    Raises:
        ConfigError: If the method trains nothing, a setting is unknown, or ``auto`` is nobody and
            the method needs one.
        VocabularyError: If the vocabulary is empty, too small, or holds a word twice.
    """
    check_numbers(seed=seed)
    session = Session(backbone, device, out=out, resume=resume, observe=observe)
    model = session.load()
    chosen = session.method(method, config, "train", "trains nothing: it learns each concept anew")
    words = words_of(vocabulary, model)
    # the checkpoint's classifier stays unseen, to judge the result
    reader = choose_judge(judge, model, ReadsClasses, words=words, unseen=True)
    if reader is None and judge == "auto" and getattr(chosen, "needs_reader", False):
        raise ConfigError(
            f"judge: {method} asks one what its tokens draw, and {model.name} brings none that "
            "knows words; name a vision-language model (--judge smolvlm), or leave that half out: "
            "--set consistency_from=pool has no new concepts, --judge none no consistency either"
        )
    finished = session.open(
        {
            "verb": "train",
            "method": method,
            "config": config_of(chosen),
            "vocabulary": list(words),
            "seed": seed,
            "judge": reader.name if reader else None,
        }
    )
    if finished and session.folder is not None:
        known, _ = find_trained(chosen, model, session.folder.path)
        assert known is not None
        return known
    recorder = session.record("training", "training", row_every=ROW_EVERY)
    state = recorder.resume(0)
    with few_threads(model):
        trained: Trained = chosen.train(
            model,
            words,
            seed=seed,
            judge=reader,
            on_step=recorder.observer(0, steps_of(chosen), done=recorder.taken(0)),
            resume=state,
        )
    layout = made_on(model)["layout"]
    if len(layout) > 1:  # other tools must know which part of a row is whose
        encoders = [list(part) for part in layout]
        trained = replace(trained, readings={**trained.readings, "encoders": encoders})
    if session.folder is not None:
        _write(session, chosen, trained)
    return trained


def words_of(
    vocabulary: Sequence[str] | str | Path | None, backbone: TextBackbone
) -> tuple[str, ...]:
    """Return the words to train on.

    Raises:
        StoreError: If a file cannot be read.
        VocabularyError: If there are fewer than two, or one is there twice.
    """
    if vocabulary is None:
        concepts = tuple(backbone.card["concepts"])
        return concepts if len(concepts) > 1 else vocab.SUBSTITUTE_60
    if isinstance(vocabulary, str) and vocabulary in LISTS:
        return LISTS[vocabulary]
    if not isinstance(vocabulary, str | Path):
        if not isinstance(vocabulary, Sequence) or not all(isinstance(w, str) for w in vocabulary):
            raise VocabularyError(f"vocabulary: expected words or a file, got {vocabulary!r}")
        return vocab.check_words(vocabulary)
    path = Path(vocabulary).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise StoreError(
            f"{vocabulary}: expected {', '.join(LISTS)}, or a file with one word a line"
        ) from error
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{vocabulary}: expected UTF-8 text ({error})") from error
    except OSError as error:
        raise StoreError(f"{vocabulary}: cannot be read ({error})") from error
    return vocab.check_words([line for line in lines if line.strip() and line[0] != "#"])


def _write(session: Session, method: Any, trained: Trained) -> None:
    """Write what was trained, its curve, and what it draws of pairs that were held out."""
    rows = session.recorder.rows
    points = [(row["step"], row["loss"], 0.0) for row in rows]
    steps, loss = (rows[-1]["step"] + 1, rows[-1]["loss"]) if rows else (0, None)
    views: dict[str, View] = {"curve.png": lambda: lines_over_steps({"loss": points})}
    if hasattr(method, "fuse"):
        views["contact.png"] = lambda: _sheet(session, method, trained)
    words = f"{steps} steps over {len(trained.vocabulary)} words"
    session.write(
        [],
        [],
        {f"{method.name}{SUFFIX}": encode_trained(trained)},
        summary={
            "method": method.name,
            "steps": steps,
            "loss": loss,
            "readings": dict(trained.readings),
            "warnings": list(trained.readings.get("warnings", ())),
            "in_words": f"{words}; last loss {loss:.3f}." if rows else f"{words}.",
        },
        views=views,
        title=f"{method.name}, trained on {session.backbone.name}",
    )


def _sheet(session: Session, method: Any, trained: Trained) -> bytes:
    """Return a sheet of pairs that were held out: each word alone, then both."""
    backbone, words = session.backbone, trained.vocabulary
    pairs = vocab.evaluation_pairs(words, min(30, len(words) // 2))[:NUM_SHOWN]
    rows: list[list[Image.Image]] = [[], [], []]
    for number, pair in enumerate(pairs):
        request = Request(subject=" + ".join(pair), weights=((pair[0], 0.5), (pair[1], 0.5)))
        concepts = [
            *(plain_concept_of(word, backbone) for word in pair),
            method.fuse(backbone, request, trained=trained),
        ]
        for row, concept in zip(rows, concepts, strict=True):
            row += to_pil(draw(backbone, concept, seed=number, num=1))
        session.observe("drawing", number + 1, len(pairs), {})
    return sheet(
        list(zip(("first word", "second word", "both"), rows, strict=True)),
        title=f"{method.name}: pairs that were held out of its training",
        captions=["\n+ ".join(pair) for pair in pairs],
    )

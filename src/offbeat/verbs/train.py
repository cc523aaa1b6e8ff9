"""Train what a method learns once for all concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbeat.checkpoints.open import loaded
from offbeat.checkpoints.placement import Where
from offbeat.core import vocab
from offbeat.core.drawing import draw, plain_concept_of
from offbeat.errors import ConfigError, StoreError, VocabularyError
from offbeat.files.concept import encode_trained, made_on
from offbeat.files.disk import json_bytes
from offbeat.files.labels import versions
from offbeat.files.png import to_pil
from offbeat.judges.choose import _reader
from offbeat.methods.settings import config_of, make_method, steps_of
from offbeat.protocols import TextBackbone
from offbeat.protocols.methods import FusesConcepts, TrainsOnce
from offbeat.runs.folder import RunFolder
from offbeat.runs.images import sheet
from offbeat.runs.plots import lines_over_steps
from offbeat.runs.recorder import Keeper, few_threads
from offbeat.runs.report import concept_report
from offbeat.runs.result import numerics_of
from offbeat.runs.trained import SUFFIX, find_trained
from offbeat.types import Observe, Request, Trained, ignore

if TYPE_CHECKING:
    from PIL import Image

ROW_EVERY = 50
CHECKPOINT_EVERY = 500
NUM_SHOWN = 6
LISTS = {"substitute-60": vocab.SUBSTITUTE_60, "animals": vocab.ANIMALS}


def train(
    method: str,
    *,
    vocabulary: Sequence[str] | str | Path | None = None,
    config: dict[str, Any] | None = None,
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
            checkpoint's own towers, if it has any; ``none``; or a model as ``offbeat list judges``
            names it, its folder or hub id, which then chooses between the words.
        backbone: Name, folder, hub id, or a loaded one.
        device: Where to run, or a ``Placement``: see ``load_backbone``.
        out: Run folder, written as the training goes; None keeps all in memory.
        resume: Go on with the training in ``out``.
        observe: Told how far it is.

    Raises:
        ConfigError: If the method trains nothing, or a setting is unknown.
        VocabularyError: If the vocabulary is empty, too small, or holds a word twice.
    """
    model = loaded(backbone, device)
    chosen = make_method(method, model, config)
    if not isinstance(chosen, TrainsOnce):
        raise ConfigError(f"method: {method} trains nothing; it learns each concept anew")
    words = words_of(vocabulary, model)
    reader = _reader(judge, model, words)
    asked = {
        "verb": "train",
        "method": method,
        "config": config_of(chosen),
        "vocabulary": list(words),
        "seed": seed,
        "judge": reader.name if reader else None,
        "checkpoint": model.name,
        "fingerprint": model.fingerprint,
        "versions": versions(),
        **numerics_of(model),
    }
    folder = RunFolder.create(Path(out), asked, resume=resume) if out else None
    if folder is not None and folder.is_finished:
        found, _ = find_trained(chosen, model, folder.path)
        assert found is not None
        return found
    keeper = Keeper(
        folder,
        observe,
        stage="training",
        label="training",
        row_every=ROW_EVERY,
        checkpoint_every=CHECKPOINT_EVERY,
    )
    state = keeper.resume(0)
    total = steps_of(chosen)
    done = 0 if not keeper.rows else int(keeper.rows[-1]["step"]) + 1
    with few_threads(model):
        trained: Trained = chosen.train(
            model,
            words,
            seed=seed,
            judge=reader,
            on_step=keeper.observer(0, total, done=done),
            resume=state,
        )
    layout = made_on(model)["layout"]
    if len(layout) > 1:  # other tools must know which part of a row is whose
        encoders = [list(part) for part in layout]
        trained = replace(trained, readings={**trained.readings, "encoders": encoders})
    if folder is not None:
        folder.write(_files(chosen, model, trained, keeper.rows, asked, observe))
        folder.finish()
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
        own = tuple(backbone.card["concepts"])
        return own if len(own) > 1 else vocab.SUBSTITUTE_60
    if isinstance(vocabulary, str) and vocabulary in LISTS:
        return LISTS[vocabulary]
    if not isinstance(vocabulary, str | Path):
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


def _files(
    method: Any,
    backbone: TextBackbone,
    trained: Trained,
    rows: Sequence[Mapping[str, Any]],
    asked: Mapping[str, Any],
    observe: Observe,
) -> dict[str, bytes]:
    """Return what was trained, its curve, and what it draws of pairs that it never met."""
    data = encode_trained(trained)
    curve = lines_over_steps({"loss": [(row["step"], row["loss"], 0.0) for row in rows]})
    files = {f"{method.name}{SUFFIX}": data, "curve.png": curve}
    warnings = list(trained.readings.get("warnings", ()))
    summary = {
        "method": method.name,
        "steps": rows[-1]["step"] + 1 if rows else 0,
        "loss": rows[-1]["loss"] if rows else None,
        "readings": dict(trained.readings),
        "warnings": warnings,
    }
    files["summary.json"] = json_bytes(summary)
    if isinstance(method, FusesConcepts):
        contact = _shown(method, backbone, trained, observe)
        files["contact.png"] = contact
        files["report.html"] = concept_report(
            title=f"{method.name}, trained on {backbone.name}",
            lead=f"{summary['steps']} steps over {len(trained.vocabulary)} words; last loss "
            f"{summary['loss']:.3f}."
            if rows
            else "",
            sheet_png=contact,
            curve_png=curve,
            found=summary,
            settings=asked,
            warnings=warnings,
        ).encode()
    return files


def _shown(method: Any, backbone: TextBackbone, trained: Trained, observe: Observe) -> bytes:
    """Return a sheet of pairs that were held out: each word alone, then both."""
    chosen = vocab.evaluation_pairs(trained.vocabulary, min(30, len(trained.vocabulary) // 2))
    rows: list[list[Image.Image]] = [[], [], []]
    for number, pair in enumerate(chosen[:NUM_SHOWN]):
        request = Request(subject=" + ".join(pair), weights=((pair[0], 0.5), (pair[1], 0.5)))
        concepts = [
            *(plain_concept_of(word, backbone) for word in pair),
            method.fuse(backbone, request, trained=trained),
        ]
        for row, concept in zip(rows, concepts, strict=True):
            row += to_pil(draw(backbone, concept, seed=number, num=1))
        observe("drawing", number + 1, len(chosen[:NUM_SHOWN]), {})
    captions = ["\n+ ".join(pair) for pair in chosen[:NUM_SHOWN]]
    labels = ("one", "the other", "both")
    return sheet(
        list(zip(labels, rows, strict=True)),
        title=f"{method.name}: pairs that it never met",
        captions=captions,
    )

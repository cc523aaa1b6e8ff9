"""Concepts to the files of other tools, and theirs to a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from offbeat import formats
from offbeat._disk import digest_of, make_folder, write_atomic
from offbeat._learned import check_lora, of_files
from offbeat._pictures_out import made_on
from offbeat._render import Source, check_fingerprint, learned_of
from offbeat._runs import Run, concept_files, kept, loaded
from offbeat.backbones._placement import Where
from offbeat.errors import ConfigError, StoreError
from offbeat.protocols import TextBackbone
from offbeat.store import RunFolder
from offbeat.types import PLACEHOLDER, Concept

SUFFIX = ".safetensors"


def export_concept(
    source: Source,
    format: str = "diffusers",
    *,
    token: str | None = None,
    backbone: str | Path | TextBackbone | None = None,
    device: Where = "auto",
    out: str | Path = ".",
) -> list[Path]:
    """Write a learned concept as another tool reads it: its token, its LoRA factors, or both.

    Args:
        source: A run, its folder, ``FOLDER:INDEX``, a ``concept.safetensors``, or a picture that
            keeps its concept inside.
        format: ``diffusers``; ``a1111`` or ``comfyui`` (also Forge); ``sdxl`` (the rows of two
            encoders in one file, which every format is where there are two); ``kohya``.
        token: Its word in prompts, e.g. ``<owlpig>``; None makes one of the subject, or of the
            name of the file in ``out``.
        backbone: Only for concepts of an early Offbeat on a checkpoint of several text encoders.
        device: Where that is loaded.
        out: A folder, or a file that ends in ``.safetensors``.

    Returns:
        The files written.

    Raises:
        ConfigError: If the format is unknown or does not fit, or nothing was learned.
        StoreError: If a file is there already, or cannot be written.
    """
    learned, target = learned_of(source), Path(out).expanduser()
    is_file = target.suffix == SUFFIX
    named = target.stem if is_file and token is None else token
    concept = _renamed(learned.concept, named)
    layout = formats.layout_of(learned.about)
    if not layout and concept.token_embeds and learned.checkpoint:
        model = loaded(learned.checkpoint if backbone is None else backbone, device)
        check_fingerprint(learned, model)
        layout = made_on(model)["layout"]
    files = formats.encode_export(concept, learned.about, style=format, layout=layout)
    if is_file and len(files) > 1:
        raise ConfigError(
            f"out: expected a folder, as this concept makes {len(files)} files, got {target}"
        )
    folder = target.parent if is_file else target
    paths = [target] if is_file else [folder / name for name in files]
    for path in paths:
        if path.exists():
            raise StoreError(f"{path}: is there already; choose another --out or --token")
    make_folder(folder)
    for path, data in zip(paths, files.values(), strict=True):
        write_atomic(path, data)
    return paths


def _renamed(concept: Concept, token: str | None) -> Concept:
    """Return a concept whose tokens have words that no other concept of its user has."""
    base = formats.stem_of(token if token is not None else concept.subject)
    words = {}
    for number, old in enumerate(concept.token_embeds, start=1):
        ours = old.startswith(PLACEHOLDER.removesuffix(">"))
        if token is None and not ours:
            words[old] = old  # a method's own word, such as <cretok>
        else:
            words[old] = f"<{base}>" if number == 1 else f"<{base}-{number}>"
    if token is not None and len(words) == 1 and token.startswith("<"):
        words = dict.fromkeys(words, token)
    word, template = concept.word, concept.template
    for old, new in words.items():
        word, template = word.replace(old, new), template.replace(old, new)
    tokens = {words[old]: rows for old, rows in concept.token_embeds.items()}
    return replace(concept, word=word, template=template, token_embeds=tokens)


def import_concept(
    source: str | Path | Sequence[str | Path],
    *,
    backbone: str | Path | TextBackbone | None = None,
    word: str | None = None,
    prompt: str | None = None,
    device: Where = "auto",
    out: str | Path | None = None,
) -> Run:
    """Read a token or LoRA of another tool, check it against its checkpoint, and keep it as a run.

    Args:
        source: A safetensors file of diffusers, AUTOMATIC1111, ComfyUI or kohya, or ConceptLab's
            ``learned_embeds.bin``; a picture of Offbeat; or several that belong together.
        backbone: The checkpoint that it was learned on; None is what the file says.
        word: What stands in prompts, of a file that holds factors alone.
        prompt: With ``{concept}``; None is the concept's own, or the checkpoint's.
        device: Where the checkpoint is loaded.
        out: Run folder; None keeps it in memory.

    Returns:
        A run without pictures: ``offbeat render`` draws with it.

    Raises:
        CorruptRunError: If a file is cut, changed, or of no known layout.
        ConfigError: If the checkpoint or the word is not known.
        FingerprintError: If it says that it was learned on another checkpoint.
        ShapeError: If it does not fit the checkpoint.
        UnsafeWeightsError: If it is a pickle other than ConceptLab's.
    """
    given = [source] if isinstance(source, str | Path) else list(source)
    paths = [Path(one).expanduser() for one in given]
    model = None if backbone is None else loaded(backbone, device)
    learned = of_files(paths, model, word=word, prompt=prompt)
    model = loaded(learned.checkpoint, device) if model is None else model
    check_fingerprint(learned, model)
    concept = learned.concept
    check_lora(concept.lora, model)
    with torch.no_grad():  # a prompt that is too long, or a token that is too wide, fails here
        model.encode_text([concept.prompt()], tokens=concept.token_embeds)
    request = {
        "verb": "import",
        "subject": concept.subject,
        "prompt": concept.template,
        "files": [{"name": path.name, "digest": digest_of(path.read_bytes())} for path in paths],
        "method": concept.metadata.get("method", "imported"),
        "num_images": 0,
        "seed": 0,
        "checkpoint": model.name,
        "fingerprint": model.fingerprint,
        "versions": formats.versions(),
    }
    folder = RunFolder.create(Path(out), request) if out is not None else None
    return kept(request, [concept], [], concept_files([concept], model), folder)

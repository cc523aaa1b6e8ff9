"""Export concepts to the files of other tools, and import theirs into a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from offbeat.checkpoints.open import loaded_recorded
from offbeat.checkpoints.placement import Where
from offbeat.errors import ShapeError, StoreError
from offbeat.files.disk import digest_of
from offbeat.files.learned import fitted, of_files
from offbeat.files.lora import weights_file
from offbeat.protocols import TextBackbone
from offbeat.runs.export import export_learned
from offbeat.runs.result import Run, Source, concept_files, learned_of
from offbeat.verbs.session import Session, check_template


def export_concept(
    source: Source,
    format: str = "common",
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
        format: ``common``, which diffusers, AUTOMATIC1111, Forge, ComfyUI and InvokeAI read;
            ``diffusers``; ``a1111`` or ``comfyui``; ``sdxl`` (the rows of two encoders in one file,
            which every format is where there are two); ``kohya``.
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
    return export_learned(
        learned_of(source), format, token=token, backbone=backbone, device=device, out=out
    )


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
        source: A safetensors, ``.pt`` or ``.bin`` file of diffusers, AUTOMATIC1111, ComfyUI,
            kohya or ConceptLab; PEFT's folder; a picture of Offbeat; or several that belong
            together.
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
        UnsafeWeightsError: If it is a pickle that holds more than tokens.
    """
    check_template(prompt)
    sources = [source] if isinstance(source, str | Path) else source
    if not isinstance(sources, Sequence) or not sources:
        raise StoreError(f"source: expected a file, got {source!r}")
    paths = [weights_file(Path(path).expanduser()) for path in sources]
    session = Session(backbone, device, out=out)
    learned = of_files(
        paths, None if backbone is None else session.load(), word=word, prompt=prompt
    )
    if backbone is None:
        session.backbone = loaded_recorded(learned.checkpoint, device)
    model = session.backbone
    learned = fitted(learned, model)
    session.problems += learned.notes
    concept = learned.concept
    if concept.lora and not any(bool(f.any()) for n, f in concept.lora.items() if ".lora_B." in n):
        raise ShapeError(f"{paths[0]}: changes nothing: its factors are zero")
    with torch.no_grad():  # a prompt that is too long, or a token that is too wide, fails here
        model.encode_text([concept.prompt()], tokens=concept.token_embeds)
    session.open(
        {
            "verb": "import",
            "subject": concept.subject,
            "prompt": concept.template,
            "files": [
                {"name": path.name, "digest": digest_of(path.read_bytes())} for path in paths
            ],
            "method": concept.metadata.get("method", "imported"),
            "num_images": 0,
            "seed": 0,
        }
    )
    return session.write([concept], [], concept_files([concept], model), views={})

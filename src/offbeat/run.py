"""The library as functions: the one place where methods, backbones, judges and files meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbeat import formats, registry
from offbeat._disk import digest_of, json_bytes
from offbeat._explore import Exploration
from offbeat._outcome import Plan
from offbeat._pictures_out import draw, png_files, prior_settings, sheet
from offbeat.errors import CapabilityError, ConfigError, FingerprintError, PromptError, StoreError
from offbeat.methods.low_probability import LowProbabilityConfig
from offbeat.protocols import PriorBackbone
from offbeat.store import RunFolder
from offbeat.types import Concept, Observe, ignore

if TYPE_CHECKING:
    from PIL import Image

    from offbeat.backbones.unclip import UnclipBackbone

_PRIORS = ("pocket", "kandinsky-2.1", "kandinsky-2.2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a command made: pictures, the concept behind them, and how it was found."""

    request: Mapping[str, Any]
    concept: Concept
    images: list[Image.Image]
    """Unusual pictures."""
    ordinary: list[Image.Image]
    """Ordinary ones of the same noise; none after ``render``."""
    summary: Mapping[str, Any]
    """What was reached: JSON values, as in ``summary.json``."""
    trace: list[dict[str, Any]]
    """One row a step."""
    files: Mapping[str, bytes] = field(repr=False)
    """The run folder's content."""
    folder: Path | None = None
    """Where it was written; None until ``save``."""

    def save(self, folder: str | Path) -> Path:
        """Write the run folder; returns its path.

        Raises:
            StoreError: If the folder holds something already, or cannot be written.
        """
        run = RunFolder.create(Path(folder), self.request)
        for row in self.trace:
            run.append_trace(row)
        run.write(self.files)
        run.finish()
        return Path(folder)


def load_backbone(source: str | Path = "pocket", *, device: str = "cpu") -> UnclipBackbone:
    """Load a checkpoint by name, folder or hub id.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is damaged.
        UnknownNameError: If the name is none.
    """
    backbone: UnclipBackbone = registry.find("backbone", str(source)).load(source, device=device)
    return backbone


def explore(
    subject: str,
    *,
    novelty: float | None = None,
    reach: float | None = None,
    num_steps: int | None = None,
    space: str | None = None,
    num_images: int = 8,
    seed: int = 0,
    num_trials: int = 1,
    avoid: Sequence[str] = (),
    unlike: Sequence[str | Path] = (),
    prompt: str | None = None,
    judge: str = "auto",
    config: LowProbabilityConfig | None = None,
    backbone: str | Path | UnclipBackbone = "pocket",
    device: str = "cpu",
    out: str | Path | None = None,
    resume: bool = False,
    observe: Observe = ignore,
) -> Run:
    """Find unusual pictures of a subject that are still the subject.

    Args:
        subject: A word, e.g. ``handbag``.
        novelty: Chi-square quantile to reach and hold, inside (0, 1).
        reach: Or: so many times as far as an ordinary picture, above 0.
        num_steps: Optimizer steps at most; alone, without a distance, the search runs away as
            published.
        space: ``subject``, ``adjective``, ``lora``, ``token+lora`` or ``direct``.
        num_images: Pictures to draw, 1 or more.
        seed: Same seed, same pictures.
        num_trials: Searches from ``seed``, ``seed + 1``, ...; the best is kept, by validity, then
            by novelty.
        avoid: Runs, ``FOLDER`` or ``FOLDER:STEP``, to keep away from.
        unlike: Folders of pictures to keep away from.
        prompt: Template with ``{subject}``; None is the checkpoint's own.
        judge: ``auto``, ``none``, ``clip``, ``classifier`` or a classifier's folder.
        config: Everything else, and what those of these that are None take.
        backbone: Name, folder, hub id, or a loaded one.
        device: Where to run, e.g. ``cpu`` or ``cuda``; a loaded backbone stays where it is.
        out: Run folder, written as the search goes; None keeps all in memory.
        resume: Go on with the run in ``out``.
        observe: Told the stage, how far it is, and its readings.

    Raises:
        OffbeatError: Each kind of bad input has its own, see ``offbeat.errors``.

    Source: Song and Elgammal, arXiv:2601.22125.
    """
    if not subject.strip():
        raise PromptError("subject: expected a word to explore, e.g. handbag, got nothing")
    if num_images < 1 or num_trials < 1:
        raise ConfigError(
            f"num_images, num_trials: expected at least 1, got {num_images}, {num_trials}"
        )
    if novelty is not None and reach is not None:
        raise ConfigError(f"novelty, reach: expected one of them, got {novelty} and {reach}")
    own = config or LowProbabilityConfig()
    quantile, times = _distance(novelty, reach, num_steps, own)
    settings = replace(
        own,
        novelty=quantile,
        reach=times,
        space=space or own.space,
        num_steps=own.num_steps if num_steps is None else num_steps,
    )
    plan = Plan(
        subject=subject.strip(),
        prompt=prompt,
        num_images=num_images,
        seed=seed,
        num_trials=num_trials,
        avoid=tuple(avoid),
        unlike=tuple(str(folder) for folder in unlike),
        judge=judge,
        config=settings,
    )
    loaded = _loaded(backbone, device)
    exploration = Exploration(plan, loaded, out=out, resume=resume, observe=observe)
    return Run(**exploration.run())


def _distance(
    novelty: float | None, reach: float | None, num_steps: int | None, own: LowProbabilityConfig
) -> tuple[float | None, float | None]:
    """Return novelty and reach: one of them, or neither where only steps are given."""
    if reach is not None or novelty is not None:
        return novelty, reach
    if num_steps is not None:
        return None, None
    return (own.novelty if own.reach is None else None), own.reach


def load_run(folder: str | Path) -> Run:
    """Read a finished run folder.

    Raises:
        StoreError: If there is none, or it is not finished.
        CorruptRunError: If it is damaged.
    """
    run = RunFolder.open(Path(folder))
    if not run.is_finished:
        raise StoreError(f"{folder}: the run is not finished; go on with it with --resume")
    run.verify()
    concept, _ = formats.decode_concept(lambda name: run.read(name) if run.exists(name) else None)
    names = [name for name in run.names() if not name.startswith("trials/")]
    return Run(
        request=run.request,
        concept=concept,
        images=_pictures(run, names, "images/"),
        ordinary=_pictures(run, names, "ordinary/"),
        summary=run.read_json("summary.json"),
        trace=run.trace(),
        files={name: run.read(name) for name in names},
        folder=Path(folder),
    )


def render(
    source: str | Path | Run,
    *,
    prompt: str | None = None,
    num_images: int = 8,
    seed: int = 0,
    backbone: str | Path | UnclipBackbone | None = None,
    device: str = "cpu",
    out: str | Path | None = None,
    observe: Observe = ignore,
) -> Run:
    """Draw what a run learned, in its own prompt or another.

    Args:
        source: A run, or its folder.
        prompt: With ``{concept}``, e.g. ``an oil painting of a {concept}``; None is its own.
        num_images: Pictures to draw.
        seed: Same seed, same pictures; a run's own seed gives its own noise.
        backbone: None is the checkpoint that the run used.
        device: Where to run.
        out: Run folder to write; None keeps all in memory.
        observe: Told how far the drawing is.

    Raises:
        FingerprintError: If the checkpoint is not the one that it was learned on.
        PromptError: If the prompt lacks ``{concept}``.
    """
    run = source if isinstance(source, Run) else load_run(source)
    if prompt is not None and "{concept}" not in prompt:
        raise PromptError(f"prompt: expected {{concept}} somewhere in {prompt!r}")
    asked = run.request
    loaded = _loaded(asked["checkpoint"] if backbone is None else backbone, device)
    if loaded.fingerprint != asked["fingerprint"]:
        raise FingerprintError(
            f"the concept was learned on {asked['checkpoint']} ({asked['fingerprint']}), and "
            f"{loaded.name} is {loaded.fingerprint}: a token or LoRA fits no other weights"
        )
    request = {
        **{key: asked[key] for key in ("checkpoint", "fingerprint", "versions", "subject")},
        "verb": "render",
        "prompt": prompt or run.concept.template,
        "num_images": num_images,
        "seed": seed,
        "learned": {
            "request": dict(asked),
            "seed": run.summary.get("seed"),
            "trial": run.summary.get("trial"),
            "digest": digest_of(run.files[formats.CONCEPT_FILE]),
        },
        "prior": dict(prior_settings(run.concept)),
    }
    if num_images < 1:
        raise ConfigError(f"num_images: expected at least 1, got {num_images}")
    # too long a prompt fails before a folder is made
    loaded.encode_text([run.concept.prompt(prompt)], tokens=run.concept.token_embeds)
    folder = RunFolder.create(Path(out), request) if out is not None else None
    _, images = draw(
        loaded, run.concept, seed=seed, num=num_images, template=prompt, observe=observe
    )
    pictures = formats.to_pil(images)
    title = request["prompt"].replace("{concept}", f"[{run.concept.subject}]")
    files = {
        **png_files("images", pictures, request, run.concept, loaded),
        "contact.png": sheet([(title, pictures)], title=f"Unusual {run.concept.subject}"),
        **formats.encode_concept(
            run.concept,
            fingerprint=loaded.fingerprint,
            checkpoint=loaded.name,
            method=run.concept.metadata.get("method", ""),
        ),
    }
    return _kept(request, run.concept, pictures, files, folder)


def generate(
    prompt: str,
    *,
    negative_prompt: str = "",
    num_images: int = 8,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    prior_num_inference_steps: int | None = None,
    prior_guidance_scale: float | None = None,
    seed: int = 0,
    backbone: str | Path | UnclipBackbone = "pocket",
    device: str = "cpu",
    out: str | Path | None = None,
    observe: Observe = ignore,
) -> Run:
    """Draw a prompt as it is: the ordinary, to compare with.

    Args:
        prompt: Any text that fits the checkpoint.
        negative_prompt: What prior and decoder steer from.
        num_images: Pictures, 1 or more.
        num_inference_steps: Of the decoder; None is the checkpoint's own, as with the next three.
        guidance_scale: Of the decoder; 1 is off.
        prior_num_inference_steps: 2 or more.
        prior_guidance_scale: 1 is off.
        seed: Same seed, same pictures.
        backbone: Name, folder, hub id, or a loaded one.
        device: Where to run.
        out: Run folder to write; None keeps all in memory.
        observe: Told how far the drawing is.
    """
    if not prompt.strip():
        raise PromptError("prompt: expected some text, got nothing")
    if num_images < 1:
        raise ConfigError(f"num_images: expected at least 1, got {num_images}")
    loaded = _loaded(backbone, device)
    card = loaded.card
    prior = {
        "prior_num_inference_steps": prior_num_inference_steps or card["prior_num_inference_steps"],
        "prior_guidance_scale": _or(prior_guidance_scale, card["prior_guidance_scale"]),
    }
    decoding = {
        "num_inference_steps": num_inference_steps or card["num_inference_steps"],
        "guidance_scale": _or(guidance_scale, card["guidance_scale"]),
    }
    metadata = {"method": "generate", **{name: str(value) for name, value in prior.items()}}
    concept = Concept(template=prompt, subject=prompt, word=prompt, metadata=metadata)
    request = {
        "verb": "generate",
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "num_images": num_images,
        "seed": seed,
        **prior,
        **decoding,
        "checkpoint": loaded.name,
        "fingerprint": loaded.fingerprint,
        "versions": formats.versions(),
    }
    loaded.encode_text([prompt, negative_prompt])  # too long a text fails before a folder is made
    folder = RunFolder.create(Path(out), request) if out is not None else None
    _, images = draw(
        loaded,
        concept,
        seed=seed,
        num=num_images,
        negative_prompt=negative_prompt,
        decoding=decoding,
        observe=observe,
    )
    pictures = formats.to_pil(images)
    files = {
        **png_files("images", pictures, request, concept, loaded),
        **formats.encode_concept(
            concept, fingerprint=loaded.fingerprint, checkpoint=loaded.name, method="generate"
        ),
        "contact.png": sheet([("", pictures)], title=prompt),
    }
    return _kept(request, concept, pictures, files, folder)


def _kept(
    request: Mapping[str, Any],
    concept: Concept,
    pictures: list[Image.Image],
    files: Mapping[str, bytes],
    folder: RunFolder | None,
) -> Run:
    """Write what was drawn if there is a folder, and return it."""
    summary = {"prompt": request["prompt"]}
    files = {**files, "summary.json": json_bytes(summary)}
    if folder is not None:
        folder.write(files)
        folder.finish()
    return Run(
        request=request,
        concept=concept,
        images=pictures,
        ordinary=[],
        summary=summary,
        trace=[],
        files=files,
        folder=folder.path if folder is not None else None,
    )


def _or(value: float | None, default: Any) -> float:
    return float(default if value is None else value)


def _loaded(backbone: str | Path | UnclipBackbone, device: str) -> UnclipBackbone:
    """Return a backbone that is loaded and can do what these functions need.

    Raises:
        CapabilityError: If it lacks a part.
    """
    found: Any = backbone
    if isinstance(backbone, str | Path):
        found = load_backbone(backbone, device=device)
    if not isinstance(found, PriorBackbone):
        raise CapabilityError("low-probability", type(found).__name__, _missing(found), _PRIORS)
    return found  # type: ignore[return-value]


def _missing(backbone: object) -> str:
    """Return the first thing that the search needs and the backbone lacks."""
    needed = ("encode_text", "sample_prior", "init_lora", "decode_embeds", "encode_image")
    return next((name for name in needed if not hasattr(backbone, name)), "card")


def _pictures(run: RunFolder, names: Sequence[str], under: str) -> list[Image.Image]:
    import io

    from PIL import Image

    found = [name for name in names if name.startswith(under) and name.endswith(".png")]
    return [Image.open(io.BytesIO(run.read(name))).convert("RGB") for name in found]

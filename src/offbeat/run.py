"""The library as functions: the one place where methods, backbones, judges and files meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from offbeat import formats
from offbeat._disk import digest_of
from offbeat._explore import Exploration
from offbeat._generate import generate
from offbeat._outcome import Plan
from offbeat._pictures_out import draw, png_files, prior_settings, sheet
from offbeat._runs import Run, kept, load_backbone, load_run, loaded, loaded_prior
from offbeat.errors import ConfigError, FingerprintError, PromptError
from offbeat.methods.low_probability import LowProbabilityConfig
from offbeat.protocols import PriorBackbone, TextBackbone
from offbeat.store import RunFolder
from offbeat.types import Observe, ignore

__all__ = ["Run", "explore", "generate", "load_backbone", "load_run", "render"]


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
    backbone: str | Path | PriorBackbone = "pocket",
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
    model = loaded_prior(backbone, device)
    exploration = Exploration(plan, model, out=out, resume=resume, observe=observe)
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


def render(
    source: str | Path | Run,
    *,
    prompt: str | None = None,
    num_images: int = 8,
    seed: int = 0,
    backbone: str | Path | TextBackbone | None = None,
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
    model = loaded(asked["checkpoint"] if backbone is None else backbone, device)
    if model.fingerprint != asked["fingerprint"]:
        raise FingerprintError(
            f"the concept was learned on {asked['checkpoint']} ({asked['fingerprint']}), and "
            f"{model.name} is {model.fingerprint}: a token or LoRA fits no other weights"
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
    model.encode_text([run.concept.prompt(prompt)], tokens=run.concept.token_embeds)
    folder = RunFolder.create(Path(out), request) if out is not None else None
    images = draw(model, run.concept, seed=seed, num=num_images, template=prompt, observe=observe)
    pictures = formats.to_pil(images)
    title = request["prompt"].replace("{concept}", f"[{run.concept.subject}]")
    files = {
        **png_files("images", pictures, request, run.concept, model),
        "contact.png": sheet([(title, pictures)], title=f"Unusual {run.concept.subject}"),
        **formats.encode_concept(
            run.concept,
            fingerprint=model.fingerprint,
            checkpoint=model.name,
            method=run.concept.metadata.get("method", ""),
        ),
    }
    return kept(request, run.concept, pictures, files, folder)

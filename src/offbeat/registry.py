"""Names to objects: lazy ``"module:Class"`` tables, and entry points for plug-ins.

A plug-in is a package that declares, say, in its ``pyproject.toml``::

    [project.entry-points."offbeat.methods"]
    my-method = "my_package.my_method:MyMethod"

Asking for one name imports one module; listing names imports none.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, get_args

from offbeat.errors import OffbeatError, UnknownNameError

Kind = Literal["method", "backbone", "judge", "metric"]

_UNCLIP = "offbeat.backbones.unclip.adapter:UnclipBackbone"
_STABLE_DIFFUSION = "offbeat.backbones.stable_diffusion.adapter:StableDiffusionBackbone"
_ONE_STEP = "offbeat.backbones.stable_diffusion.one_step:OneStepBackbone"
_SD3 = "offbeat.backbones.flow.sd3:SD3Backbone"
_FLUX = "offbeat.backbones.flow.flux:FluxBackbone"

BUILT_IN: dict[Kind, dict[str, str]] = {
    "method": {
        "low-probability": "offbeat.methods.low_probability.method:LowProbability",
        "cretok": "offbeat.methods.cretok.method:CreTok",
        "distok": "offbeat.methods.distok.method:DisTok",
        "conceptlab": "offbeat.methods.conceptlab.method:ConceptLab",
        "creativesynth": "offbeat.methods.creativesynth.method:CreativeSynth",
        "agswap": "offbeat.methods.mixing.agswap:AGSwap",
        "bass": "offbeat.methods.mixing.bass:BASS",
        "diffmorpher": "offbeat.methods.mixing.diffmorpher:DiffMorpher",
        "magicmix": "offbeat.methods.mixing.magicmix:MagicMix",
        "raw-prompt": "offbeat.methods.rivals.raw_prompt:RawPrompt",
        "high-guidance": "offbeat.methods.rivals.high_guidance:HighGuidance",
        "interpolation": "offbeat.methods.rivals.interpolation:Interpolation",
        "seed-variance": "offbeat.methods.rivals.seed_variance:SeedVariance",
        "best-of-n": "offbeat.methods.rivals.best_of_n:BestOfN",
        "cads": "offbeat.methods.rivals.cads:CADS",
        "guidance-interval": "offbeat.methods.rivals.guidance_interval:GuidanceInterval",
        "adaptive-negatives": "offbeat.methods.rivals.adaptive_negatives:AdaptiveNegatives",
    },
    "backbone": {
        "pocket": _UNCLIP,
        "kandinsky-2.1": _UNCLIP,
        "kandinsky-2.2": _UNCLIP,
        "pocket-sd": _STABLE_DIFFUSION,
        "sd-1.5": _STABLE_DIFFUSION,
        "sdxl": _STABLE_DIFFUSION,
        "sd-turbo": _STABLE_DIFFUSION,
        "sdxl-turbo": _STABLE_DIFFUSION,
        "hyper-sd": _ONE_STEP,
        "sd3": _SD3,
        "sd3.5": _SD3,
        "flux": _FLUX,
        "flux-schnell": _FLUX,
        "chroma": "offbeat.backbones.flow.language:ChromaBackbone",
        "z-image": "offbeat.backbones.flow.language:ZImageBackbone",
        "z-image-turbo": "offbeat.backbones.flow.language:ZImageBackbone",
        "qwen-image": "offbeat.backbones.flow.language:QwenImageBackbone",
        "sana": "offbeat.backbones.flow.language:SanaBackbone",
    },
    "judge": {
        "clip": "offbeat.judges.clip:ClipJudge",
        "classifier": "offbeat.judges.classifier:ClassifierJudge",
        "blip-vqa": "offbeat.judges.vqa:BlipVqaJudge",
        "blip2": "offbeat.judges.vqa:Blip2Judge",
        "llava-next": "offbeat.judges.chat:LlavaNextJudge",
        "janus": "offbeat.judges.chat:JanusJudge",
        "qwen2.5-vl": "offbeat.judges.chat:QwenJudge",
        "smolvlm": "offbeat.judges.chat:SmolVlmJudge",
        "idefics3": "offbeat.judges.chat:Idefics3Judge",
        "api": "offbeat.judges.api:ApiJudge",
    },
    "metric": {
        "aesthetic_v1": "offbeat.metrics.aesthetics:AestheticV1",
        "aesthetic_v2": "offbeat.metrics.aesthetics:AestheticV2",
        "all_present": "offbeat.metrics.judged:AllPresent",
        "clip_directional": "offbeat.metrics.similarity:ClipDirectional",
        "clip_i": "offbeat.metrics.similarity:ClipI",
        "clip_t": "offbeat.metrics.similarity:ClipT",
        "clipscore": "offbeat.metrics.similarity:ClipScore",
        "coverage": "offbeat.metrics.diversity:Coverage",
        "density": "offbeat.metrics.diversity:Density",
        "distribution_kl": "offbeat.metrics.judged:DistributionKl",
        "diversity": "offbeat.metrics.diversity:Diversity",
        "fusion_balance": "offbeat.metrics.mixtures:FusionBalance",
        "fusion_reward": "offbeat.metrics.mixtures:FusionReward",
        "fusion_similarity": "offbeat.metrics.mixtures:FusionSimilarity",
        "hpsv2": "offbeat.metrics.similarity:Hpsv2",
        "imagereward": "offbeat.metrics.imagereward:ImageReward",
        "nima": "offbeat.metrics.aesthetics:Nima",
        "novelty_nn": "offbeat.metrics.novelty:NearestNovelty",
        "novelty_quantile": "offbeat.metrics.novelty:NoveltyQuantile",
        "pickscore": "offbeat.metrics.similarity:PickScore",
        "precision": "offbeat.metrics.diversity:Precision",
        "recall": "offbeat.metrics.diversity:Recall",
        "rubric": "offbeat.metrics.rubric:Rubric",
        "seen_novelty": "offbeat.metrics.seen:SeenNovelty",
        "taste": "offbeat.metrics.taste:TasteMetric",
        "validity": "offbeat.metrics.judged:Validity",
        "vendi": "offbeat.metrics.diversity:Vendi",
        "vqascore": "offbeat.metrics.judged:VqaScore",
    },
}
"""What Offbeat brings; a plug-in cannot take one of these names."""


def names(kind: Kind) -> list[str]:
    """Return all known names of one kind, sorted; imports nothing.

    >>> "cretok" in names("method")
    True
    """
    return sorted({*BUILT_IN[_checked(kind)], *(point.name for point in _plugins(kind))})


def find(kind: Kind, name: str) -> Any:
    """Return the class or function of this name.

    A backbone can also be a folder, a file or a hub id: ``checkpoints.open.adapter_of`` finds it.

    Args:
        kind: ``method``, ``backbone``, ``judge`` or ``metric``.
        name: As ``names`` lists it.

    Raises:
        UnknownNameError: If there is none; it lists those there are.
        OffbeatError: If a plug-in that declares the name cannot be imported.
    """
    if target := BUILT_IN[_checked(kind)].get(name):
        module, _, attribute = target.partition(":")
        return getattr(importlib.import_module(module), attribute)
    for point in _plugins(kind):
        if point.name == name:
            return _load(kind, point)
    raise UnknownNameError(kind, name, names(kind))


def _checked(kind: Kind) -> Kind:
    if kind not in get_args(Kind):
        raise UnknownNameError("kind", str(kind), get_args(Kind))
    return kind


def _plugins(kind: Kind) -> list[EntryPoint]:
    return sorted(entry_points(group=f"offbeat.{kind}s"), key=lambda point: point.name)


def _load(kind: Kind, point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # a plug-in's import can fail in any way; say whose it is
        owner = point.dist.name if point.dist else point.value
        raise OffbeatError(
            f"{kind} {point.name!r} of the plug-in {owner} cannot be imported from {point.value} "
            f"({type(error).__name__}: {error}); repair or uninstall {owner}"
        ) from error

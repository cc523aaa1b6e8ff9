"""Options that several commands take, each with one help text."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from offbeat.checkpoints.placement import Placement

Checkpoint = Annotated[
    str, typer.Option(help="A checkpoint: name (`offbeat list backbones`), folder or hub id.")
]
FittingCheckpoint = Annotated[
    str | None,
    typer.Option(
        help="A checkpoint: name (`offbeat list backbones`), folder or hub id; by default the "
        "bundled one in the form that the method needs."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same pictures.")]
NumImages = Annotated[int, typer.Option("--num-images", "-n", min=1, help="Pictures.")]
Template = Annotated[
    str | None,
    typer.Option(help="With `{concept}` where it stands; by default the method's own prompt."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in `--out`, or the newest one.")
]


def run_folder(name: str) -> Any:
    """Return the option ``--out`` of a command whose runs are named so."""
    return typer.Option(help=f"Run folder; by default `runs/{name}` and a number.")


Place = Callable[[], "Placement"]
"""What a command gets of the options of ``placing``: it checks them when called."""


def anywhere() -> Placement:
    """Return the placement that no option changes."""
    from offbeat.checkpoints.placement import Placement

    return Placement()


placed = functools.partial(typer.Option, rich_help_panel="Where and how it runs")
drawn = functools.partial(typer.Option, rich_help_panel="How it draws")
Variant = Annotated[
    str | None,
    placed(
        help="Which weights of a folder that holds several, e.g. `fp16` for "
        "`model.fp16.safetensors`."
    ),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE[:STRENGTH]",
        help="A LoRA of kohya, diffusers, PEFT, XLabs or ai-toolkit to draw with, e.g. "
        "`style.safetensors:0.8`. Repeatable.",
    ),
]
Embedding = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE",
        help="A learned token that prompts and negative prompts may hold, by the name of its file, "
        "e.g. `EasyNegative`. Repeatable.",
    ),
]
Prior = Annotated[
    str | None,
    placed(help="Folder or hub id of an unCLIP prior, where the checkpoint names a decoder alone."),
]


def with_prior(decoder: str | None, prior: str | None) -> str | None:
    """Return the name of a decoder with its prior, if there is one."""
    if prior is None:
        return decoder
    if decoder is None:
        raise typer.BadParameter("needs --backbone with the decoder", param_hint="--prior")
    return f"{prior}::{decoder}"


def _options(
    device: Annotated[
        str,
        placed(
            help="`cpu`, `cuda`, `cuda:1`, `mps`, `xpu`; `auto` is the first accelerator of "
            "these, and the CPU for the checkpoints that come with Offbeat."
        ),
    ] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        placed(
            help="Type of the weights; the last two take half the memory. `auto` is bfloat16 on "
            "CUDA, float32 elsewhere and for the checkpoints that come with Offbeat."
        ),
    ] = "auto",
    offload: Annotated[
        Literal["none", "model", "group", "sequential"],
        placed(
            help="Keep on the device only the model that runs, or only its current layer: less "
            "memory, and slower."
        ),
    ] = "none",
    vae_slicing: Annotated[
        bool,
        placed("--vae-slicing", help="Decode pictures one by one."),
    ] = False,
    vae_tiling: Annotated[
        bool,
        placed("--vae-tiling", help="Decode large pictures in tiles."),
    ] = False,
    attention: Annotated[
        str | None,
        placed(help="Attention backend of diffusers for transformers, e.g. `flash`."),
    ] = None,
    compile: Annotated[
        bool,
        placed("--compile", help="Compile the denoiser first."),
    ] = False,
    variant: Variant = None,
    lora: Lora = None,
    embedding: Embedding = None,
    quantize: Annotated[
        Literal["nf4", "int8", "fp8"] | None,
        placed(
            help="Bits of the weights of transformers and language models: `nf4` (bitsandbytes, "
            "CUDA), `int8`, `fp8` (torchao): less memory. For drawing."
        ),
    ] = None,
    cache: Annotated[
        Literal["first-block", "taylorseer"] | None,
        placed(
            help="Let a transformer leave out what changes little from step to step: faster, and "
            "other pictures."
        ),
    ] = None,
    few_steps: Annotated[
        Literal["lcm", "lightning", "hyper"] | None,
        drawn(
            help="Draw in 4 or 8 steps by a published LoRA, its sampler and guidance: `lcm` (SD "
            "1.5, SDXL), `lightning` (SDXL), `hyper` (SD 1.5, SDXL, FLUX)."
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        drawn(
            help="How pictures are denoised, by A1111's names: `euler`, `euler-a`, "
            "`dpm++-2m-karras`, `unipc`, `ddim`, `lcm`, ... ; by default the checkpoint's own."
        ),
    ] = None,
    guider: Annotated[
        str | None,
        drawn(
            help="How guidance works: `apg`, `cads`, `interval:start=0.2,stop=0.8`, `cfg-zero`, "
            "`tcfg`, `apg-mix`; by default plain."
        ),
    ] = None,
    ip_adapter: Annotated[
        str | None,
        drawn(
            help="File, folder or hub id of an IP-Adapter, so that pictures can be prompts on "
            "SD 1.5 and SDXL, e.g. `h94/IP-Adapter`."
        ),
    ] = None,
    prompt_syntax: Annotated[
        str | None,
        drawn(
            help="`a1111` reads `(word:1.3)`, `[word]` and `BREAK` in prompts of SD 1.5 and SDXL; "
            "by default they are taken literally."
        ),
    ] = None,
    prior: Prior = None,
    check_memory: Annotated[
        bool,
        placed(
            "--check-memory/--no-check-memory",
            help="Refuse a checkpoint that does not fit before it is loaded.",
        ),
    ] = True,
    offline: Annotated[bool, placed("--offline", help="Use no network.")] = False,
) -> None:
    """Take what ``Placement`` takes, and whether to stay offline: the one list of these options."""


def placing(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a placement in the place of its argument ``place``."""
    parameters = inspect.signature(command, eval_str=True).parameters
    options = dict(inspect.signature(_options, eval_str=True).parameters)
    if "backbone" not in parameters:  # a prior is named beside a decoder
        del options["prior"]
    taken: list[inspect.Parameter] = []
    for name, parameter in parameters.items():
        taken += options.values() if name == "place" else [parameter]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        placement = {name: given.pop(name) for name in options}
        if "prior" in placement:
            given["backbone"] = with_prior(given["backbone"], placement.pop("prior"))
        if placement.pop("offline"):
            from offbeat.checkpoints.hub import go_offline

            go_offline()

        def place() -> Placement:
            from offbeat.checkpoints.placement import Placement  # torch loads here, not for --help
            from offbeat.cli.output import show_note

            lora, tokens = (tuple(placement.pop(name) or ()) for name in ("lora", "embedding"))
            made = Placement(**placement, lora=lora, embeddings=tokens)
            for note in made.notes():
                show_note(note)
            return made

        command(**given, place=place)

    taken = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in taken]
    run.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in taken}
    del run.__wrapped__  # typer would look through to the command
    return run


def pictured(*names: str, help: str) -> Any:
    """Return an option about pictures that are given."""
    return typer.Option(*names, help=help, rich_help_panel="Pictures that are given")


NegativePrompt = Annotated[str, typer.Option(help="What to steer away from.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Denoising steps.")]
Guidance = Annotated[float | None, typer.Option(min=0, help="Guidance scale; 1 is off.")]
ImagePrompt = Annotated[
    Path | None,
    pictured(help="A picture as prompt beside the text: an IP-Adapter or an unCLIP checkpoint."),
]
ImageWeight = Annotated[
    float | None,
    pictured(
        help="Its weight: of an IP-Adapter 0 to 10, of an unCLIP checkpoint its share, 0 to 1 "
        "(by default 0.5)."
    ),
]
InitImage = Annotated[Path | None, pictured(help="A picture to begin from, not noise.")]
Strength = Annotated[
    float | None,
    pictured(help="How far it is drawn anew, 0 to 1; by default 0.8, or 1 with a mask."),
]
Mask = Annotated[
    Path | None,
    pictured(
        help="White where it is drawn anew. Latents are blended after each step: no network for "
        "inpainting is needed, and edges may show."
    ),
]


Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method. Repeatable."),
]
TrainedFile = Annotated[
    Path | None,
    typer.Option(
        help="Folder or file that `offbeat train` wrote; by default what comes with the checkpoint."
    ),
]
Reader = Annotated[
    str,
    typer.Option(
        help="Who reads the pictures: `auto`, `none`, `clip`, `classifier`, a vision-language "
        "model (`offbeat list judges`), or a model's folder or hub id."
    ),
]

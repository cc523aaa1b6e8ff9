"""Options that several commands take, each with one help text."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import typer

if TYPE_CHECKING:
    from offbeat.checkpoints.placement import Placement

Checkpoint = Annotated[
    str, typer.Option(help="A checkpoint: name (`offbeat list backbones`), folder or hub id.")
]
Place = Callable[[], "Placement"]
"""What a command gets of the options of ``placing``: it checks them when called."""


def anywhere() -> Placement:
    """Return the placement that no option changes."""
    from offbeat.checkpoints.placement import Placement

    return Placement()


_PANEL = "Where and how it runs"


def _options(
    device: Annotated[
        str,
        typer.Option(
            help="`cpu`, `cuda`, `cuda:1`, `mps`, `xpu`; `auto` is the first of these accelerators "
            "that is there, and the CPU for the checkpoints that come with Offbeat.",
            rich_help_panel=_PANEL,
        ),
    ] = "auto",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(help="Of the weights; the last two take half.", rich_help_panel=_PANEL),
    ] = "float32",
    offload: Annotated[
        Literal["none", "model", "sequential"],
        typer.Option(
            help="Keep on the device only the model that runs, or only its layer: less memory, "
            "and slower.",
            rich_help_panel=_PANEL,
        ),
    ] = "none",
    vae_slicing: Annotated[
        bool,
        typer.Option("--vae-slicing", help="Decode pictures one by one.", rich_help_panel=_PANEL),
    ] = False,
    vae_tiling: Annotated[
        bool,
        typer.Option(
            "--vae-tiling", help="Decode large pictures in tiles.", rich_help_panel=_PANEL
        ),
    ] = False,
    attention: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it at run time on Python 3.10
        typer.Option(
            help="A backend of diffusers for transformers' attention, e.g. `flash`.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    compile: Annotated[
        bool,
        typer.Option("--compile", help="Compile the denoiser first.", rich_help_panel=_PANEL),
    ] = False,
    check_memory: Annotated[
        bool,
        typer.Option(
            "--check-memory/--no-check-memory",
            help="Refuse what does not fit before it is loaded.",
            rich_help_panel=_PANEL,
        ),
    ] = True,
    offline: Annotated[
        bool, typer.Option("--offline", help="Touch no network.", rich_help_panel=_PANEL)
    ] = False,
) -> None:
    """Take what ``Placement`` takes, and whether to stay offline: the one list of these options."""


def placing(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a placement in the place of its argument ``place``."""
    own = inspect.signature(command, eval_str=True).parameters
    options = inspect.signature(_options, eval_str=True).parameters
    taken: list[inspect.Parameter] = []
    for name, parameter in own.items():
        taken += options.values() if name == "place" else [parameter]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        told = {name: given.pop(name) for name in options}
        if told.pop("offline"):
            from offbeat.checkpoints.hub import go_offline

            go_offline()

        def place() -> Placement:
            from offbeat.checkpoints.placement import Placement  # torch loads here, not for --help

            placement = Placement(**told)
            for note in placement.notes():
                typer.secho(f"note: {note}", fg="yellow", err=True)
            return placement

        command(**given, place=place)

    taken = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in taken]
    run.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in taken}
    del run.__wrapped__  # typer would look through to the command
    return run


Settings = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads it at run time on Python 3.10
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method. Several."),
]
TrainedFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        help="What `offbeat train` wrote: its folder or file. What comes with the checkpoint "
        "if not given."
    ),
]
Reader = Annotated[
    str,
    typer.Option(
        help="Who reads the pictures: `auto`, `none`, `clip`, `classifier`, a vision-language "
        "model (`offbeat list judges`), or a model's folder or hub id."
    ),
]

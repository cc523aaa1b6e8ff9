"""``offbeat models``: list, inspect, fetch."""

from __future__ import annotations

from typing import Annotated

import typer

from offbeat.cli.options import Prior, Variant, with_prior
from offbeat.cli.output import Json, errors_shown, show_json

app = typer.Typer(
    name="models",
    help="Checkpoints: which there are, what one is made of, and fetching one ahead.",
    no_args_is_help=True,
)

Offline = Annotated[bool, typer.Option("--offline", help="Touch no network.")]


@app.command("list")
def list_(json: Json = False) -> None:
    """List the checkpoints that have names; no network is used."""
    with errors_shown():
        import offbeat
        from offbeat.checkpoints.models import as_json

        models = offbeat.list_models()
        if json:
            show_json([as_json(model) for model in models])
            return
    width = max(len(model.name) for model in models)
    for model in models:
        size = f", {_bytes(model.num_bytes)}" if model.num_bytes else ""
        line = f"{model.family}; {model.state}{size}; licence: {model.licence}"
        typer.echo(f"{model.name:<{width}}  {line}")
        typer.echo(f"{'':<{width}}  {', '.join(model.sources) or 'of a plug-in'}")
    typer.echo(
        "`offbeat models inspect NAME` shows what a checkpoint can do and how much memory it needs."
    )


@app.command("inspect")
def inspect(
    source: Annotated[
        str, typer.Argument(metavar="NAME|FOLDER|FILE", help="Which; a hub id is fetched first.")
    ],
    json: Json = False,
    variant: Variant = None,
    prior: Prior = None,
    offline: Offline = False,
) -> None:
    """Tell what a checkpoint is made of, what it can do, and the memory that it takes.

    **Example**

    `offbeat models inspect pocket`
    """
    with errors_shown():
        _connect(offline)
        import offbeat
        from offbeat.checkpoints.models import as_json

        model = offbeat.inspect_model(str(with_prior(source, prior)), variant=variant)
        if json:
            show_json(as_json(model))
            return
    typer.echo(f"{model.source}: {model.pipeline}, {model.width} x {model.height} pixels")
    for folder in model.folders:
        typer.echo(f"  in {folder}")
    typer.echo(f"  licence: {model.licence or 'not told'}")
    typer.echo(f"  fingerprint: {model.fingerprint or 'known when loaded'}")
    typer.echo(f"  can: {', '.join(model.capabilities)}")
    total = f"{model.parameters / 1e6:,.1f} M parameters, {_bytes(model.num_bytes)} on the disk"
    typer.echo(f"  {total}")
    width = max((len(part.name) for part in model.components), default=0)
    for part in model.components:
        line = f"{part.parameters / 1e6:>9,.1f} M  {'/'.join(part.dtypes):<5} {part.kind}"
        typer.echo(f"    {part.name:<{width}} {line}, {part.role}")
    typer.echo("  memory, about, for one picture:")
    for options, need in model.memory.items():
        device = f"{_bytes(need['device'])} on the device, " if need["device"] else ""
        typer.echo(f"    {options:<40} {device}{_bytes(need['host'])} in the CPU's memory")


@app.command("fetch")
def fetch(
    source: Annotated[str, typer.Argument(metavar="NAME", help="A known name, or a hub id.")],
    variant: Variant = None,
    offline: Offline = False,
) -> None:
    """Fetch a checkpoint from the hub ahead: just the files that loading it reads.

    **Example**

    `offbeat models fetch sdxl`, and from then on `offbeat generate "a red castle" --backbone sdxl
    --offline`
    """
    with errors_shown():
        _connect(offline)
        import offbeat

        folders = offbeat.fetch_model(source, variant=variant)
    for folder in folders:
        typer.echo(str(folder))


def _connect(offline: bool) -> None:
    if offline:
        from offbeat.checkpoints.hub import go_offline

        go_offline()


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"

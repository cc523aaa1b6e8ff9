"""``offbeat export`` and ``offbeat import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offbeat.cli import options as shared
from offbeat.cli.output import errors_shown, free_folder, show_note, show_result

_IN_PROMPTS = {
    "comfyui": "embedding:{0}",
    "a1111": "{0}",
    "diffusers": "the word that token= of load_textual_inversion says",
}
_FOR_ALL = "embedding:{0} in ComfyUI, {0} in AUTOMATIC1111, in diffusers the word that token= says"


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CONCEPT",
            help="A finished run folder, `FOLDER:NUMBER` for one concept of several, a "
            "`concept.safetensors`, or a picture.",
        ),
    ],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="Who shall read it: `common` is read by diffusers, AUTOMATIC1111, Forge, ComfyUI "
            "and InvokeAI; or `diffusers`, `a1111`, `comfyui`, `sdxl`, `kohya` alone.",
        ),
    ] = "common",
    token: Annotated[
        str | None,
        typer.Option(
            help="Its word in prompts, e.g. `<owlpig>`; made of the subject, or of the file's "
            "name, if not given."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="A folder, or a file that ends in `.safetensors`.")
    ] = Path("."),
) -> None:
    """Write what a run learned as other tools read it: its token, its LoRA factors, or both.

    **Examples**

    `offbeat export runs/pig-owl-0` writes `pig-owl.safetensors` for `load_textual_inversion`.

    `offbeat export runs/pig-owl-0 --format a1111 --out webui/embeddings/pigowl.safetensors`; there
    the word in prompts is the name of the file, `pigowl`.
    """
    with errors_shown():
        import offbeat
        from offbeat.files.exchange import holds_factors
        from offbeat.files.lora import UNET

        paths = offbeat.export_concept(source, format, token=token, out=out)
        written = {path: path.read_bytes() for path in paths}
        for path, data in written.items():
            typer.echo(str(path))
            if not holds_factors(data):
                word = _IN_PROMPTS.get(format, _FOR_ALL).format(path.stem)
                show_note(f"in a prompt, write {word}")
            elif holds_factors(data, "lora_prior_"):
                show_note(
                    "this LoRA is of a prior; only diffusers loads one, exported with "
                    "--format diffusers"
                )
        if format == "diffusers" and any(holds_factors(data, UNET) for data in written.values()):
            show_note(
                "ComfyUI passes over LoRA in these names without a word; for it, export with "
                "--format comfyui"
            )


@shared.placing
def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="A token or LoRA: safetensors, `.pt` or `.bin` of diffusers, AUTOMATIC1111, "
            "ComfyUI, kohya, PEFT or ConceptLab; or a picture. Several files make one concept.",
        ),
    ],
    backbone: Annotated[
        str | None,
        typer.Option(help="The checkpoint that it was learned on; what the file says if not given"),
    ] = None,
    word: Annotated[
        str | None,
        typer.Option(help="What stands in prompts, where the file holds LoRA factors alone."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="With `{concept}` where it stands; the checkpoint's own if not given."),
    ] = None,
    place: shared.Place = shared.anywhere,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder; `runs/NAME` and a number if not given."),
    ] = None,
) -> None:
    """Read a token or LoRA that another tool wrote, check it, and keep it as a run.

    **Example**

    `offbeat import cat-toy.safetensors --backbone sd-1.5 --out runs/cat-toy`, then
    `offbeat render runs/cat-toy --prompt "a {concept} in the snow"`
    """
    with errors_shown():
        import offbeat

        folder = out or free_folder(Path("runs") / files[0].stem)
        run = offbeat.import_concept(
            list(files), backbone=backbone, word=word, prompt=prompt, device=place(), out=folder
        )
    show_result(run.summary)
    typer.echo(f"{folder}: draw it with `offbeat render {folder}`")

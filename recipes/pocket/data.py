"""Fetch, render and cache the drawings, and split them: ``python -m recipes.pocket.data``.

The cache is one file, ``pictures.pt``: RGBA drawings at 160 px and, row by row, the concept, the
style and the side of the split. Made anew it is the same, bit for bit.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from recipes.pocket import loop, sources

HERE = Path(__file__).parent
SIZE = 160
"""Side of a cached drawing; pictures of 128 px are cut from it with a shift and a scale."""
MARGIN = 0.06
"""Empty border around the tight box of a drawing, as a share of its longer side."""


def work_folder() -> Path:
    """Return the folder of downloads, caches and checkpoints, ``$OFFBEAT_POCKET_WORK``."""
    default = Path.home() / ".cache" / "offbeat-pocket"
    return Path(os.environ.get("OFFBEAT_POCKET_WORK", default))


def concept_table(wide: bool = False) -> dict[str, dict[str, Any]]:
    """Return the concepts with icons, coarse classes and synonyms; ``wide`` adds the hard ones."""
    table = json.loads((HERE / "concepts.json").read_text())
    return {name: row for name, row in table.items() if wide or not row.get("wide")}


@dataclass(frozen=True, slots=True)
class Pictures:
    """The rendered drawings.

    Attributes:
        rgba: ``[N, 4, 160, 160]``, uint8, alpha not premultiplied.
        concept: ``[N]``, int64, an index of ``concepts``.
        style: ``[N]``, int64, an index of ``sources.STYLES``.
        held_out: ``[N]``, bool; every (concept, style) is wholly on one side.
        concepts: Names, those of the core first, then those of the wide mode.
        num_core: How many of ``concepts`` are core.
    """

    rgba: torch.Tensor
    concept: torch.Tensor
    style: torch.Tensor
    held_out: torch.Tensor
    concepts: tuple[str, ...]
    num_core: int

    def rows(self, *, held_out: bool, wide: bool = False) -> torch.Tensor:
        """Return the row numbers of one side of the split, ``[n]``."""
        mask = self.held_out == held_out
        if not wide:
            mask &= self.concept < self.num_core
        return mask.nonzero().flatten()


def render(data: bytes) -> Image.Image:
    """Return a drawing as RGBA from SVG text or an image file's bytes."""
    if data.startswith(b"<svg"):
        import resvg_py

        data = bytes(resvg_py.svg_to_bytes(svg_string=data.decode(), skip_system_fonts=True))
    return Image.open(io.BytesIO(data)).convert("RGBA")


def fit(image: Image.Image) -> Image.Image:
    """Cut a drawing to its visible box and centre it in a square of ``SIZE``."""
    box = image.getchannel("A").point(lambda value: 255 if value > 8 else 0).getbbox()
    if box is None:
        raise ValueError("the drawing is empty")
    image = image.crop(box)
    side = round(max(image.size) * (1 + 2 * MARGIN))
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    premultiplied = square.convert("RGBa").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return premultiplied.convert("RGBA")


def is_held_out(concept: str, style: str, styles: list[str]) -> bool:
    """Hold out one style of a concept, chosen by name, where it has four styles or more."""
    if len(styles) < 4:
        return False
    ranked = sorted(styles, key=lambda name: zlib.crc32(f"{concept}/{name}".encode()))
    return style == ranked[0]


def collect(folder: Path) -> list[tuple[str, str, Image.Image]]:
    """Return (concept, style, drawing) of all sets, in a fixed order."""
    table = concept_table(wide=True)
    wanted = {
        sources.plain_name(icon): name
        for name, row in table.items()
        for icon in (name, *row["icons"])
    }
    names = sources.code_points(sources.fetch(sources.TWEMOJI, folder))
    rows = []
    for source in sources.SOURCES:
        archive = sources.fetch(source, folder)
        is_iconify = source.package.startswith("@iconify")
        files = (
            sources.read_svgs(archive, 2 * SIZE)
            if is_iconify
            else sources.read_bitmaps(archive, names)
        )
        for icon, data in sorted(files):
            if icon in wanted:
                rows.append((wanted[icon], source.style, fit(render(data))))
    return rows


def build(folder: Path) -> Pictures:
    """Render everything and write ``pictures.pt``."""
    rows = collect(folder / "packages")
    table = concept_table(wide=True)
    core = list(concept_table())
    concepts = (*core, *(name for name in table if name not in core))
    styles_of: dict[str, list[str]] = {}
    for concept, style, _ in rows:
        if style not in styles_of.setdefault(concept, []):
            styles_of[concept].append(style)
    arrays = np.stack([np.asarray(image) for *_, image in rows])
    pictures = Pictures(
        rgba=torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous(),
        concept=torch.tensor([concepts.index(concept) for concept, *_ in rows]),
        style=torch.tensor([sources.STYLES.index(style) for _, style, _ in rows]),
        held_out=torch.tensor([is_held_out(c, s, styles_of[c]) for c, s, _ in rows]),
        concepts=concepts,
        num_core=len(core),
    )
    fields = {name: getattr(pictures, name) for name in Pictures.__slots__}
    torch.save(fields, folder / "pictures.pt")
    return pictures


def load(folder: Path | None = None) -> Pictures:
    """Return the cached drawings, rendering them if there are none."""
    folder = folder or work_folder()
    cache = folder / "pictures.pt"
    if not cache.exists():
        return build(folder)
    return Pictures(**loop.load(cache))


def contact_sheet(pictures: Pictures, columns: int = 14) -> Image.Image:
    """Return one row of drawings for each core concept, held-out ones framed in red."""
    label, side = 84, SIZE // 4
    sheet = Image.new("RGB", (2 * (label + columns * side), (pictures.num_core + 1) // 2 * side))
    sheet.paste("white", (0, 0, *sheet.size))
    draw = ImageDraw.Draw(sheet)
    for index in range(pictures.num_core):
        left, top = index % 2 * (label + columns * side), index // 2 * side
        draw.text((left + 2, top + 14), pictures.concepts[index], fill="black")
        rows = (pictures.concept == index).nonzero().flatten().tolist()[:columns]
        for column, row in enumerate(rows):
            array = pictures.rgba[row].permute(1, 2, 0).numpy()
            image = Image.fromarray(array, "RGBA").resize((side, side))
            corner = (left + label + column * side, top)
            sheet.paste(image, corner, image)
            if pictures.held_out[row]:
                end = (corner[0] + side - 1, corner[1] + side - 1)
                draw.rectangle((*corner, *end), outline="red")
    return sheet


def attributions() -> str:
    """Return the text of ATTRIBUTIONS.md."""
    lines = ["# Drawings that pocket was trained on", "", "| package | author | licence | style |"]
    lines.append("| --- | --- | --- | --- |")
    lines += [
        f"| {s.package} {s.version} | {s.author} | {s.licence} | {s.style} |"
        for s in sources.SOURCES
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Fetch, render, cache, and write the contact sheet and the attributions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=work_folder(), help="folder of caches")
    folder = parser.parse_args().work
    pictures = build(folder)
    contact_sheet(pictures).save(folder / "data.png")
    (folder / "ATTRIBUTIONS.md").write_text(attributions())
    counts = torch.bincount(pictures.concept, minlength=len(pictures.concepts))
    print(f"{len(pictures.rgba)} drawings, {int(pictures.held_out.sum())} held out")
    print(f"{pictures.num_core} core concepts with {int(counts[: pictures.num_core].sum())}")
    few = [f"{name} {n}" for name, n in zip(pictures.concepts, counts, strict=True) if n < 5]
    print("few:", ", ".join(few))


if __name__ == "__main__":
    main()

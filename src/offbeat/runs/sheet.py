"""The contact sheet: ordinary pictures above unusual ones, each column from the same noise."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from offbeat.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

INK, GREY, PAPER = "#1f2328", "#6a737d", "#f5f5f2"

MIN_CELL, MAX_CELL = 160, 320
"""Side of a picture on the sheet, in pixels: small ones are enlarged by a whole factor."""


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    *,
    captions: Sequence[str] = (),
    title: str = "",
    note: str = "",
    max_columns: int = 8,
) -> Image.Image:
    """Lay pictures out in rows, column by column of the same noise.

    Args:
        rows: Label and pictures of each row, e.g. ordinary above unusual; equally many in each.
        captions: One for each picture of the last row; its first line is set in ink.
        title: Above everything.
        note: Below everything, small.
        max_columns: Longer rows go on in a further block.

    Raises:
        ConfigError: If there is no picture, or rows or captions differ in number.
    """
    from PIL import Image, ImageDraw

    counts = {len(pictures) for _, pictures in rows} | ({len(captions)} if captions else set())
    if len(counts) != 1 or 0 in counts:
        raise ConfigError(f"rows: expected equally many pictures in each, got {sorted(counts)}")
    (count,) = counts
    cell = _cell(rows[0][1][0].size)
    columns = min(count, max_columns)
    sheet = _Sheet(cell, columns)
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    blocks = [slice(start, start + columns) for start in range(0, count, columns)]
    block_height = sheet.row * len(rows) + lines * sheet.line + sheet.gap
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    note_lines = _wrap(ruler, note, sheet.small, sheet.width - 2 * sheet.margin)
    head = sheet.margin + (2 * sheet.label if title else 0)
    foot = len(note_lines) * sheet.line + sheet.margin
    canvas = Image.new("RGB", (sheet.width, head + len(blocks) * block_height + foot), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((sheet.margin, sheet.margin), _line(title), INK, font=sheet.large, anchor="lt")
    top = head
    for block in blocks:
        sheet.draw_block(canvas, draw, top, rows, captions, block)
        top += block_height
    for number, line in enumerate(note_lines):
        at = (sheet.margin, top + number * sheet.line)
        draw.text(at, line, GREY, font=sheet.small, anchor="lt")
    return canvas


def triangle_sheet(
    pictures: Sequence[Image.Image], *, corners: Sequence[str], title: str = ""
) -> Image.Image:
    """Lay pictures out in a triangle, row by row from its upper corner.

    Args:
        pictures: 1 + 2 + ... + n of them.
        corners: What the upper, left and right corners are.
        title: Above everything.

    Raises:
        ConfigError: If so many pictures make no triangle.
    """
    from PIL import Image, ImageDraw

    side = (math.isqrt(8 * len(pictures) + 1) - 1) // 2
    if side < 1 or side * (side + 1) // 2 != len(pictures):
        raise ConfigError(f"pictures: expected 1, 3, 6, 10, ... of them, got {len(pictures)}")
    sheet = _Sheet(_cell(pictures[0].size), side)
    top = sheet.margin + (2 * sheet.label if title else 0) + sheet.label
    height = top + side * (sheet.cell + sheet.gap) + sheet.label + sheet.margin
    canvas = Image.new("RGB", (sheet.width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((sheet.margin, sheet.margin), _line(title), INK, font=sheet.large, anchor="lt")
    step, middle = sheet.cell + sheet.gap, sheet.width // 2
    at = iter(pictures)
    for row in range(side):
        left = middle - ((row + 1) * step - sheet.gap) // 2
        for column in range(row + 1):
            place = (left + column * step, top + row * step)
            canvas.paste(_fit(next(at), sheet.cell), place)
    below = top + side * step
    start = middle - (side * step - sheet.gap) // 2
    end = start + side * step - sheet.gap
    places = ((middle, top - sheet.label // 3, "ms"), (start, below, "lt"), (end, below, "rt"))
    for corner, (x, y, anchor) in zip(corners, places, strict=True):
        draw.text((x, y), _line(corner), INK, font=sheet.bold, anchor=anchor)
    return canvas


def place_sheet(
    pictures: Sequence[Image.Image],
    places: Sequence[tuple[float, float]],
    *,
    cells: int,
    labels: Sequence[str],
    captions: Sequence[str] = (),
    title: str = "",
) -> Image.Image:
    """Lay pictures out at their places, with what each axis is at its edge.

    Args:
        pictures: One for each place.
        places: From 0 to 1 across and up, the middle of each picture.
        cells: Pictures that would fill a side.
        labels: Of the axis across and of the axis up.
        captions: A few letters on each picture.
        title: Above everything.

    Raises:
        ConfigError: If there is no picture, or not one for each place.
    """
    from PIL import Image, ImageDraw

    if not pictures or len(pictures) != len(places):
        raise ConfigError(f"pictures: expected one a place, got {len(pictures)} of {len(places)}")
    sheet = _Sheet(max(96, min(_cell(pictures[0].size), 1600 // cells)), cells)
    side, top = cells * (sheet.cell + 4), sheet.margin + 2 * sheet.label
    left = sheet.margin + sheet.label
    size = (left + side + sheet.margin, top + side + sheet.label + sheet.margin)
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((left, sheet.margin), _line(title), INK, font=sheet.large, anchor="lt")
    draw.rectangle((left - 2, top - 2, left + side + 1, top + side + 1), outline="#d9dcdf")
    half = sheet.cell // 2
    for number, (picture, (across, up)) in enumerate(zip(pictures, places, strict=True)):
        x, y = left + round(across * side) - half, top + round((1 - up) * side) - half
        canvas.paste(_fit(picture, sheet.cell), (x, y))
        if captions:
            draw.text((x + 4, y + 3), captions[number], GREY, font=sheet.small, anchor="lt")
    at = (left + side // 2, top + side + sheet.label)
    draw.text(at, _line(labels[0]), GREY, font=sheet.small, anchor="ms")
    upright = Image.new("RGB", (side, sheet.label), PAPER)
    ImageDraw.Draw(upright).text(
        (side // 2, 2), _line(labels[1]), GREY, font=sheet.small, anchor="mt"
    )
    canvas.paste(upright.rotate(90, expand=True), (sheet.margin // 2, top))
    return canvas


def png_of(picture: Image.Image) -> bytes:
    """Return a picture as PNG."""
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


class _Sheet:
    """Measures of a contact sheet, all from the side of a picture."""

    def __init__(self, cell: int, columns: int) -> None:
        size = max(13, round(cell * 0.075))
        self.cell = cell
        self.gap = round(cell * 0.07)
        self.margin = round(cell * 0.16)
        self.label = round(size * 1.9)
        self.line = round(size * 1.4)
        self.row = self.label + cell + round(1.6 * self.gap)
        self.width = 2 * self.margin + columns * cell + (columns - 1) * self.gap
        self.width = max(self.width, 2 * self.margin + 26 * size)  # room for a title and a note
        self.small, self.bold = _font(size), _font(size, bold=True)
        self.large = _font(round(size * 1.5), bold=True)

    def draw_block(
        self,
        canvas: Image.Image,
        draw: ImageDraw.ImageDraw,
        top: int,
        rows: Sequence[tuple[str, Sequence[Image.Image]]],
        captions: Sequence[str],
        block: slice,
    ) -> None:
        """Draw one slice of every row below another, captions under the last."""
        for label, pictures in rows:
            draw.text((self.margin, top), _line(label), GREY, font=self.small, anchor="lt")
            for column, picture in enumerate(pictures[block]):
                canvas.paste(_fit(picture, self.cell), (self._left(column), top + self.label))
            top += self.row
        top -= self.gap
        for column, caption in enumerate(captions[block]):
            for number, line in enumerate(caption.split("\n")):
                font, colour = (self.bold, INK) if number == 0 else (self.small, GREY)
                text = _shorten(draw, line, font, self.cell)
                at = (self._left(column), top + number * self.line)
                draw.text(at, text, colour, font=font, anchor="lt")

    def _left(self, column: int) -> int:
        return self.margin + column * (self.cell + self.gap)


def _cell(size: tuple[int, int]) -> int:
    side = max(size)
    factor = math.ceil(MIN_CELL / side) if side < MIN_CELL else 1
    return min(side * factor, MAX_CELL)


def _fit(picture: Image.Image, cell: int) -> Image.Image:
    """Return a picture scaled to a square cell, on white where it is not square."""
    from PIL import Image

    scale = cell / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    scaled = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    if size == (cell, cell):
        return scaled
    square = Image.new("RGB", (cell, cell), "white")
    square.paste(scaled, ((cell - size[0]) // 2, (cell - size[1]) // 2))
    return square


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans from matplotlib, which brings it to every machine."""
    from pathlib import Path

    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    # the basic engine is in every build of Pillow: the same sheet everywhere
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _line(text: str) -> str:
    """Return a text without line breaks, which Pillow cannot place by its corner."""
    return " ".join(text.split())


def _wrap(draw: ImageDraw.ImageDraw, text: str, font: Any, width: float) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and draw.textlength(longer, font=font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _shorten(draw: ImageDraw.ImageDraw, text: str, font: Any, width: float) -> str:
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"

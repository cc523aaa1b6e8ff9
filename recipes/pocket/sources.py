"""Where the pictures come from: packages of the npm registry, by name and version.

Only sets whose licence allows redistribution of derived weights without share-alike are listed.
Left out on purpose: openmoji and emojione v1 (CC-BY-SA), tuxpaint-stamps-default (GPL-2 over
everything, no statement per picture), openclipart-svg (public domain, but its file names do not
name what they show, so it would need labels by hand).
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Source:
    """One set of drawings: the package, its licence and the word captions use for its style."""

    package: str
    version: str
    style: str
    licence: str
    author: str

    @property
    def archive(self) -> str:
        """File name that ``npm pack`` gives this package."""
        return f"{self.package.lstrip('@').replace('/', '-')}-{self.version}.tgz"


SOURCES = (
    Source("@iconify-json/noto", "1.2.9", "soft", "Apache-2.0", "Google, Noto Emoji"),
    Source("@iconify-json/noto-v1", "1.2.5", "retro", "Apache-2.0", "Google, Noto Emoji (old)"),
    Source("@iconify-json/twemoji", "1.2.5", "flat", "CC-BY-4.0", "Twitter and jdecked, Twemoji"),
    Source("@iconify-json/fluent-emoji", "1.2.7", "glossy", "MIT", "Microsoft, Fluent Emoji"),
    Source("@iconify-json/fluent-emoji-flat", "1.2.6", "simple", "MIT", "Microsoft, Fluent Emoji"),
    Source("@iconify-json/emojione", "1.2.3", "bold", "CC-BY-4.0", "EmojiTwo (EmojiOne 2.3)"),
    Source("@iconify-json/fxemoji", "1.2.2", "geometric", "Apache-2.0", "Mozilla, FxEmoji"),
    Source("@iconify-json/streamline-emojis", "1.2.4", "outline", "CC-BY-4.0", "Streamline Emojis"),
    Source("@lobehub/fluent-emoji-3d", "1.1.0", "3d", "MIT", "Microsoft, Fluent Emoji 3D"),
)
STYLES = tuple(source.style for source in SOURCES)
TWEMOJI = SOURCES[2]
VARIATION_SELECTOR = "-fe0f"


def fetch(source: Source, folder: Path) -> Path:
    """Download a package with ``npm pack`` unless the folder has it, and return its archive."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / source.archive
    if not archive.exists():
        wanted = f"{source.package}@{source.version}"
        subprocess.run(["npm", "pack", "--silent", wanted], cwd=folder, check=True)
    return archive


def read_member(archive: Path, name: str) -> bytes:
    """Return one file of a package."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile(f"package/{name}")
        if member is None:
            raise FileNotFoundError(f"{archive.name} has no file {name}")
        return member.read()


def plain_name(icon: str) -> str:
    """Return an icon's name without hyphens, spaces and a variant's number.

    >>> plain_name("birthday-cake-2"), plain_name("T rex")
    ('birthdaycake', 'trex')
    """
    return re.sub(r"[^a-z0-9]", "", re.sub(r"-\d$", "", icon.lower()))


def read_svgs(archive: Path, size: int) -> Iterator[tuple[str, bytes]]:
    """Yield (plain name, PNG bytes renderer input as SVG text) of an Iconify set."""
    icons = json.loads(read_member(archive, "icons.json"))
    width, height = icons.get("width", 16), icons.get("height", 16)
    for name, icon in icons["icons"].items():
        left, top = icon.get("left", 0), icon.get("top", 0)
        box = f"{left} {top} {icon.get('width', width)} {icon.get('height', height)}"
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{size}" height="{size}" viewBox="{box}">{icon["body"]}</svg>'
        )
        yield plain_name(name), svg.encode()


def read_bitmaps(archive: Path, names: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Yield (plain name, file bytes) of a package whose files are named by code point."""
    with tarfile.open(archive) as tar:
        for member in tar:
            code = Path(member.name).stem.replace(VARIATION_SELECTOR, "")
            handle = tar.extractfile(member) if member.name.endswith(".webp") else None
            if handle is not None and code in names:
                yield plain_name(names[code]), io.BytesIO(handle.read()).getvalue()


def code_points(twemoji_archive: Path) -> dict[str, str]:
    """Return Twemoji's table from code point to icon name."""
    table = json.loads(read_member(twemoji_archive, "chars.json"))
    return {code.replace(VARIATION_SELECTOR, ""): name for code, name in table.items()}

"""What the documents point at is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

LINK = re.compile(
    r"""\]\(\s*<?([^)>\s]+)   # [text](target "title") and ![text](target)
    |^\[[^\]]+\]:\s*<?(\S+?)>?\s*$   # [text]: target
    |\b(?:src|href|srcset)="([^"]+)"   # <img src="target">
    """,
    re.VERBOSE | re.MULTILINE,
)
OUTSIDE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


def targets(text):
    """Return the relative links and pictures of a page, without code and anchors."""
    text = re.sub(r"^(```|~~~).*?^\1|`[^`\n]+`", "", text, flags=re.DOTALL | re.MULTILINE)
    found = (next(filter(None, match.groups())) for match in LINK.finditer(text))
    links = [target.partition("#")[0] for target in found if not OUTSIDE.match(target)]
    return [link for link in links if link]


def test_links_are_found():
    page = (
        '[a](b.md#c) ![d](e.png "title") [f](https://x.org) [g](#h) `[i](j)` <img src="k.svg">\n'
        "[l]: m.md\n```\n[n](o)\n```\n[p](mailto:q@r)\n"
    )
    assert targets(page) == ["b.md", "e.png", "k.svg", "m.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page):
    missing = [
        target
        for target in targets(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert missing == []

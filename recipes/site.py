"""Hooks of the documentation site (mkdocs): pages from outside ``docs``, and tables from the code.

``make docs`` builds the site into ``site/``; warnings are errors. mkdocs.yml names this file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from offbeat import registry
from offbeat.methods.settings import schema_of, verbs_of

ROOT = Path(__file__).parent.parent
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "about/changelog.md",
    "CONTRIBUTING.md": "about/contributing.md",
    "SECURITY.md": "about/reporting.md",
    "src/offbeat/pocket/CARD.md": "about/pocket.md",
    "src/offbeat/pocket/LICENSES.md": "about/licences.md",
    "recipes/pocket/README.md": "about/recipe.md",
    "src/offbeat/comfyui/README.md": "comfyui.md",
}
"""Files of the repository that are pages of the site, too."""
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
SETTINGS = re.compile(r"^<!-- settings: ([a-z0-9-]+) -->$", re.MULTILINE)
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside, and the licence, which they link to."""
    for source, target in OUTSIDE.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links to where the pages are on the site, and write the tables of settings."""
    source = next((name for name, uri in OUTSIDE.items() if uri == page.file.src_uri), None)
    here = (ROOT / source) if source else Path(config.docs_dir) / page.file.src_uri

    def led(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        if re.match(r"[a-z][a-z0-9+.-]*:|//", target):
            return match[0]
        path = (here.parent / target).resolve()
        place = _place(path, Path(config.docs_dir))
        if place is None:  # code of the repository is no page of the site
            if not path.exists():
                raise ValueError(f"{here}: {target} is not there")
            return text
        depth = page.file.src_uri.count("/")
        return f"[{text}]({'../' * depth}{place}{anchor or ''})"

    parts = CODE.split(markdown)
    text = "".join(part if i % 2 else LINK.sub(led, part) for i, part in enumerate(parts))
    text = text.replace("<!-- api -->", public_names())
    return SETTINGS.sub(lambda match: settings_table(match[1]), text)


def _place(path: Path, docs: Path) -> str | None:
    """Return a file's address on the site, from its top; None where it has none."""
    if path.is_relative_to(ROOT) and (uri := OUTSIDE.get(path.relative_to(ROOT).as_posix())):
        return uri
    if path.is_relative_to(docs) and path.is_file():
        return path.relative_to(docs).as_posix()
    return None


def public_names() -> str:
    """Return one entry of the reference for each public name, in the order of the list."""
    stub = (ROOT / "src" / "offbeat" / "__init__.pyi").read_text(encoding="utf-8")
    found = re.findall(r"^from (\S+) import (\w+) as \w+$", stub, re.MULTILINE)
    order = sorted(found, key=lambda pair: (not pair[0].startswith("offbeat.verbs"), pair[1]))
    return "\n\n".join(f"::: {module}.{name}" for module, name in order)


def settings_table(name: str) -> str:
    """Return the settings of a method as a table, read from its class."""
    method = registry.find("method", name)
    config = getattr(method, "config_class", None)
    verbs = ", ".join(f"`{verb}`" for verb in sorted(verbs_of(method)))
    lines = [f"Commands: {verbs}. Each setting is given as `--set NAME=VALUE`.", ""]
    if config is None:
        return "\n".join(lines)
    lines += ["| setting | default | range | what it does |", "| --- | --- | --- | --- |"]
    for setting, schema in schema_of(config, {})["properties"].items():
        kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
        kind = kinds[0] if kinds else {}
        bounds = [
            f"{sign} {kind[key]:g}"
            for key, sign in (
                ("minimum", "at least"), ("exclusiveMinimum", "above"),
                ("maximum", "at most"), ("exclusiveMaximum", "below"),
            )
            if isinstance(kind.get(key), int | float)
        ]  # fmt: skip
        allowed = ", ".join(map(str, kind.get("enum", ()))) or ", ".join(bounds)
        text = str(schema.get("description", "")).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| `{setting}` | `{schema.get('default')}` | {allowed} | {text} |")
    return "\n".join(lines)

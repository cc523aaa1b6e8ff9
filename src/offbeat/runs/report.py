"""The report of a run: one HTML file that reads offline, in light and dark, on a phone.

It holds no script and asks no network; its own policy forbids both. All text is escaped.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from offbeat.core.templates import article
from offbeat.files.disk import plain
from offbeat.types import Verdict

if TYPE_CHECKING:
    from PIL import Image

MAX_SIDE = 256
"""Larger pictures are embedded at this side; the run folder keeps them whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPicture:
    """One picture of the report beside the ordinary one of the same noise."""

    ordinary: Image.Image | None
    """Of the same noise; None if the picture was chosen from many."""
    unusual: Image.Image
    distance: float
    """Mahalanobis distance of its embedding."""
    quantile: float
    """The chi-square quantile of that, 0 to 1."""
    seen: float | None = None
    """Seen novelty: 1 is just another ordinary picture."""
    verdict: Verdict | None = None
    file: str = ""
    """Its path in the run folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRow:
    """What the Gaussian says of a quantile, and what held-out samples say."""

    quantile: float
    """Asked for, 0 to 1."""
    distance: float
    """Mahalanobis distance of the Gaussian at it."""
    held_out_distance: float
    """Distance that this share of the held-out samples lies within."""
    held_out_inside: float
    """Share of the held-out samples within the Gaussian's distance, 0 to 1."""


def report_html(
    *,
    subject: str,
    pictures: Sequence[ReportPicture],
    asked: Mapping[str, Any],
    found: Mapping[str, Any],
    probe: Mapping[str, Any] | None,
    target: float | None,
    map_png: bytes | None,
    curve_png: bytes | None,
    calibration: Sequence[CalibrationRow],
    settings: Mapping[str, Any],
    warnings: Sequence[str] = (),
    lead: str = "",
    sheet_png: bytes | None = None,
) -> str:
    """Return the report as one HTML file.

    Args:
        subject: The user's word.
        pictures: In order of their number.
        asked: What was asked, label to value, for a table.
        found: Further findings, label to value, under those made from the pictures and the probe.
        probe: The last probe of the kept trial, as in the trace; None if there was none.
        target: Mahalanobis distance searched for; None if the search only ran away.
        map_png: From ``distribution_map``.
        curve_png: From ``curves``.
        calibration: One row for each quantile shown.
        settings: JSON values, everything that the run depends on; folded away.
        warnings: What a reader must know first.
        lead: The finding in a sentence, before the distances.
        sheet_png: The contact sheet, where directions stand in rows.
    """
    sections = [
        _warning_list(warnings),
        section("Ordinary and unusual", _chart(sheet_png, f"{subject}, ordinary and unusual")),
        section("Pictures", _gallery(subject, pictures) + _judge_note(pictures)),
        section("What was asked", _pairs(asked)),
        section("What was found", _pairs({**_findings(pictures, probe), **found})),
        section("Where it went", _chart(map_png, f"Map: how {subject} leaves the ordinary")),
        section("How it got there", _chart(curve_png, "Curves over the steps")),
        section("What a quantile is worth", _calibration(calibration)),
        section("Settings", _settings(settings)),
    ]
    finding = f"{_text(lead)} {_lead(subject, pictures, probe, target)}".strip()
    return page(f"Unusual {subject}", finding, sections)


def concept_report(
    *,
    title: str,
    lead: str,
    sheet_png: bytes | None,
    found: Mapping[str, Any],
    settings: Mapping[str, Any],
    warnings: Sequence[str] = (),
    curve_png: bytes | None = None,
) -> str:
    """Return the report of a fusion, a dream or a training as one HTML file.

    Args:
        title: At its head.
        lead: The finding in a sentence or two.
        sheet_png: The contact sheet; None leaves it out.
        found: JSON values, folded away.
        settings: JSON values, everything that the run depends on; folded away.
        warnings: What a reader must know first.
        curve_png: From ``lines_over_steps``.
    """
    sections = [
        _warning_list(warnings),
        section("Pictures", _chart(sheet_png, title)),
        section("How it got there", _chart(curve_png, "Curves over the steps")),
        section("What was found", _folded("Every reading", found)),
        section("Settings", _settings(settings)),
    ]
    return page(title, _text(lead), sections)


def page(title: str, lead: str, sections: Sequence[str]) -> str:
    """Return a page; ``lead`` and ``sections`` are HTML."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{_text(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>",
            f"<header><h1>{_text(title)}</h1>\n<p>{lead}</p>",
            "</header>",
            *(section for section in sections if section),
            "</main>\n</body>\n</html>\n",
        ]
    )


def percent(quantile: float) -> str:
    """Return a share with as many digits as its tail needs.

    >>> percent(0.5), percent(0.999), percent(0.99872), percent(1.0)
    ('50 %', '99.9 %', '99.87 %', '> 99.9999 %')
    """
    if math.isnan(quantile):
        return "?"
    tail = 1 - quantile
    if tail < 1e-6:
        return "> 99.9999 %"
    digits = max(1, math.floor(-math.log10(tail) + 1e-9))
    return f"{100 * quantile:.{digits}f}".rstrip("0").rstrip(".") + " %"


def _lead(
    subject: str,
    pictures: Sequence[ReportPicture],
    probe: Mapping[str, Any] | None,
    target: float | None,
) -> str:
    """Return the finding in a sentence or two."""
    parts = []
    if probe and probe.get("distance_median") is not None:
        distance, quantile = probe["distance_median"], _number(probe.get("quantile"))
        aim = f", where {target:.2f} was asked for" if target is not None else ""
        parts.append(
            f"Half of what the concept draws lies farther than <strong>{percent(quantile)}</strong>"
            f" of the ordinary, as a Gaussian has it: median distance {distance:.2f}{aim}."
        )
    verdicts = [picture.verdict for picture in pictures if picture.verdict]
    passed = [verdict.passed for verdict in verdicts if verdict.answered]
    if passed:
        what = _text(f"{article(subject)} {subject}")
        parts.append(f"The judge finds {sum(passed)} of {len(passed)} pictures still {what}.")
    return " ".join(parts)


def _findings(pictures: Sequence[ReportPicture], probe: Mapping[str, Any] | None) -> dict[str, Any]:
    findings: dict[str, Any] = {}
    if probe:
        fresh = f"{len(probe['axes'])} fresh samples" if probe.get("axes") else "fresh samples"
        low, high = (_number(probe.get(name)) for name in ("distance_p10", "distance_p90"))
        middle = _number(probe.get("distance_median"))
        findings[f"Distance of {fresh}"] = (
            f"{middle:.2f} median, {low:.2f} to {high:.2f} (10 to 90 %)"
        )
        findings["Quantile of the median"] = percent(_number(probe.get("quantile")))
        findings["Cosine to the subject's text"] = f"{_number(probe.get('anchor_cosine')):.3f}"
    if pictures:
        nearest, farthest = (
            pick(pictures, key=lambda picture: picture.distance) for pick in (min, max)
        )
        findings["Pictures shown"] = (
            f"from {percent(nearest.quantile)} (distance {nearest.distance:.2f}) "
            f"to {percent(farthest.quantile)} (distance {farthest.distance:.2f})"
        )
    return findings


def _gallery(subject: str, pictures: Sequence[ReportPicture]) -> str:
    figures = []
    for number, picture in enumerate(pictures):
        verdict, passed = picture.verdict, ""
        if verdict:
            kind = verdict.answer
            passed = f'<br><span class="{kind}">{kind}</span>'
            passed += f" {verdict.probability:.2f}" if verdict.answered else ""
        seen = "" if picture.seen is None else f"<br>{picture.seen:.1f} times as different"
        figures.append(
            "<figure>"
            + (
                _image(_picture_png(picture.ordinary), f"ordinary {subject}, noise {number}")
                if picture.ordinary
                else ""
            )
            + _image(_picture_png(picture.unusual), f"unusual {subject}, noise {number}")
            + f'<figcaption title="{_text(picture.file)}"><b>{percent(picture.quantile)}</b>'
            + f" · {picture.distance:.2f}{seen}{passed}</figcaption></figure>"
        )
    what = _text(f"{article(subject)} {subject}")
    paired = any(picture.ordinary for picture in pictures)
    where = (
        "Above, what the checkpoint usually draws; below, the learned concept from the same noise."
        if paired
        else "Chosen from many that the learned concepts draw."
    )
    text = (
        f"{where} Under each: the share of the ordinary that lies nearer, as a Gaussian has it, "
        f"the distance, and whether the judge finds it still {what}."
    )
    return f'<p>{text}</p>\n<div class="gallery">{"".join(figures)}</div>'


def _judge_note(pictures: Sequence[ReportPicture]) -> str:
    said = {
        f"Verdicts by {picture.verdict.judge}. {picture.verdict.note}".strip()
        for picture in pictures
        if picture.verdict
    }
    return "".join(f'<p class="note">{_text(note)}</p>' for note in sorted(said))


def _calibration(rows: Sequence[CalibrationRow]) -> str:
    if not rows:
        return ""
    names = ("Quantile", "Gaussian's distance", "Held-out distance", "Held-out samples inside")
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in names)
    body = "".join(
        f'<tr><th scope="row">{percent(row.quantile)}</th><td>{row.distance:.2f}</td>'
        f"<td>{row.held_out_distance:.2f}</td><td>{percent(row.held_out_inside)}</td></tr>"
        for row in rows
    )
    return (
        "<p>The distance is read as a quantile of a Gaussian fitted to ordinary samples. Samples "
        "that it never saw show how far that holds: where their share inside is smaller, the true "
        "tail is longer than the Gaussian's.</p>\n"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _pairs(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt>{_text(label)}</dt><dd>{_text(_shown(value))}</dd>" for label, value in values.items()
    )
    return f"<dl>{rows}</dl>" if rows else ""


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(part) for part in value) or "none"
    return str(value)


def _settings(settings: Mapping[str, Any]) -> str:
    return _folded("Everything this run depends on", settings)


def _folded(title: str, values: Mapping[str, Any]) -> str:
    text = json.dumps(plain(values), indent=2, ensure_ascii=False)
    return f"<details><summary>{title}</summary><pre>{_text(text)}</pre></details>"


def _warning_list(warnings: Sequence[str]) -> str:
    items = "".join(f"<li>{_text(warning)}</li>" for warning in warnings)
    return f'<aside aria-label="Warnings"><ul>{items}</ul></aside>' if items else ""


def section(title: str, body: str) -> str:
    """Return a section; ``body`` is HTML, and an empty one gives no section."""
    return f"<section><h2>{_text(title)}</h2>\n{body}\n</section>" if body else ""


def table_html(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table; one that is wide scrolls by itself."""
    names = "".join(f"<th>{_text(name)}</th>" for name in head)
    lines = ""
    for row in rows:
        cells = ("" if cell is None else _text(_shown(cell)) for cell in row)
        lines += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    table = f"<table><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def picture_html(png: bytes, alt: str) -> str:
    """Return a picture that lies in the page itself."""
    return _chart(png, alt)


def _chart(png: bytes | None, alt: str) -> str:
    return f'<div class="chart">{_image(png, alt)}</div>' if png else ""


def _image(png: bytes, alt: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img alt="{_text(alt)}" src="data:image/png;base64,{data}">'


def _picture_png(picture: Image.Image) -> bytes:
    from PIL import Image

    small = picture.convert("RGB")
    if max(small.size) > MAX_SIDE:
        small.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, format="PNG")
    return file.getvalue()


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)


_CSS = """
:root { --paper: #f5f5f2; --card: #fff; --ink: #1f2328; --grey: #5c646d; --rule: #d9dcdf;
  --green: #2f7a58; --red: #b3261e; --warn: #fbf0dc; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --card: #1f2226; --ink: #e6e8ea;
  --grey: #9aa2ab; --rule: #343a40; --green: #6fc39c; --red: #f0897b; --warn: #33291a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { margin: 0 0 .5rem; font-size: 1.9rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.75rem 0 .5rem; font-size: 1.15rem; }
p { max-width: 42rem; margin: .4rem 0 1rem; }
header p { font-size: 1.1rem; }
.note { color: var(--grey); font-size: .875rem; }
.gallery { display: grid; gap: .9rem; grid-template-columns: repeat(8, 1fr); }
@media (max-width: 52rem) { .gallery { grid-template-columns: repeat(4, 1fr); } }
@media (max-width: 28rem) { .gallery { grid-template-columns: repeat(3, 1fr); } }
figure { margin: 0 0 .6rem; }
figure img { display: block; width: 100%; border-radius: 4px; background: #fff; }
figure img + img { margin-top: .4rem; }
figcaption { margin-top: .4rem; font-size: .8rem; line-height: 1.4; color: var(--grey);
  font-variant-numeric: tabular-nums; }
figcaption b { color: var(--ink); }
.yes { color: var(--green); font-weight: 600; }
.no { color: var(--red); font-weight: 600; }
.chart { background: #fff; border-radius: 6px; padding: .5rem; max-width: 46rem;
  overflow-x: auto; }
.chart img { display: block; width: 100%; min-width: 36rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem 1.5rem .4rem 0; text-align: left; border-bottom: 1px solid var(--rule); }
tbody th { white-space: nowrap; }
thead th { color: var(--grey); font-weight: 400; font-size: .875rem; vertical-align: bottom; }
dl { display: grid; grid-template-columns: minmax(7rem, 15rem) 1fr; gap: .3rem 1.25rem; margin: 0; }
dt { color: var(--grey); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
aside { background: var(--warn); border-radius: 6px; padding: .25rem 1rem; margin-top: 1.5rem; }
aside ul { padding-left: 1.1rem; }
summary { cursor: pointer; color: var(--grey); }
pre { overflow-x: auto; background: var(--card); border-radius: 6px; padding: 1rem;
  font-size: .8rem; line-height: 1.45; }
"""

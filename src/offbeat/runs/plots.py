"""Plots of a run: distribution map and curves, as PNG bytes.

Green is the ordinary, red is what the search draws, darker as it goes on; ink and grey are for
all that is neither.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from offbeat.core.density import chi_square_cdf, chi_square_quantile
from offbeat.errors import ShapeError
from offbeat.runs.report import CalibrationRow, ReportPicture, concept_report, percent, report_html
from offbeat.runs.sheet import contact_sheet, png_of, triangle_sheet

__all__ = [
    "CalibrationRow",
    "ReportPicture",
    "concept_report",
    "contact_sheet",
    "curves",
    "distribution_map",
    "percent",
    "png_of",
    "report_html",
    "triangle_sheet",
]

INK, GREY, RULE = "#1f2328", "#6a737d", "#d9dcdf"
GREEN = "#3f8f6b"
RED = "#b3261e"
REDS = ("#f2b8a2", "#e58a70", "#d65f4c", "#b3261e", "#7d1414")
"""The search, from its first steps to its last."""

DPI = 150
Row = Mapping[str, Any]


# --- distribution map -----------------------------------------------------------------------


def distribution_map(
    baseline_axes: torch.Tensor,
    trace_rows: Sequence[Row],
    *,
    subject: str,
    num_components: int,
    trial: int | None = None,
    num_steps: int = 5,
    way_out: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> bytes:
    """Draw the ordinary and what the search drew at several steps, as PNG.

    Args:
        baseline_axes: Baseline samples along the first two axes, ``[N, 2]``, in the unit of the
            probes' ``axes``.
        trace_rows: The trace; rows with a probe are drawn.
        subject: For the title.
        num_components: Dimensions of the density, k: said in the note.
        trial: The trial to draw; None draws the first.
        num_steps: At most so many steps are drawn, the first and the last among them.
        way_out: Ordinary and last samples along the direction by which the search left, ``[N]``
            and ``[M]``, in standard deviations: a strip below the map, since the first two axes
            are seldom the way out.

    Raises:
        ShapeError: If ``baseline_axes`` is not ``[N, 2]``.
    """
    if baseline_axes.ndim != 2 or baseline_axes.shape[1] != 2:
        raise ShapeError(f"baseline_axes: expected [N, 2], got {list(baseline_axes.shape)}")
    rows = [row for row in _of_trial(trace_rows, trial) if (row.get("probe") or {}).get("axes")]
    shown = _spread(rows, num_steps)
    figure = _figure(7.2, 6.6 if way_out is None else 8.2)
    low, high = (0.115, 0.74) if way_out is None else (0.29, 0.58)
    axes = figure.add_axes((0.085, low, 0.885, high))
    _bare(axes)
    if way_out is not None:
        _draw_way_out(figure.add_axes((0.085, 0.085, 0.885, 0.1)), *way_out)
    faint = min(0.7, max(0.15, 16 / max(1, len(baseline_axes)) ** 0.5))
    axes.scatter(*baseline_axes.T.tolist(), s=5, color=GREEN, alpha=faint, linewidths=0)
    centres = []
    for row, colour in zip(shown, _ramp(len(shown)), strict=True):
        points = torch.tensor(row["probe"]["axes"], dtype=torch.float64)
        axes.scatter(*points.T.tolist(), s=20, color=colour, linewidths=0.4, edgecolors="white")
    for row in rows:
        points = torch.tensor(row["probe"]["axes"], dtype=torch.float64)
        centres.append(points.median(dim=0).values.tolist())
    _draw_path(axes, centres)
    axes.set_xlabel("first axis", color=GREY, fontsize=9)
    axes.set_ylabel("second axis", color=GREY, fontsize=9)
    title = f"How {_short(subject, 40)} leaves the ordinary"
    figure.text(0.03, 0.955, title, color=INK, fontsize=13, **_BOLD, **_PLAIN)
    _key(figure, len(baseline_axes), shown)
    note = f"Two of {num_components} axes, for display only: distance is measured in all of them."
    figure.text(0.03, 0.022, note, color=GREY, fontsize=8)
    return _png(figure)


def _draw_way_out(axes: Any, ordinary: torch.Tensor, last: torch.Tensor) -> None:
    """Draw both along the direction of leaving, each by its own height."""
    _bare(axes)
    _title(
        axes, "Along the way out", "standard deviations of the ordinary; green ordinary, red last"
    )
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    for values, colour in ((ordinary, GREEN), (last, RED)):
        bins = 40 if len(values) > 500 else 14
        counts = torch.histc(values.float(), bins=bins).double()
        edges = torch.linspace(float(values.min()), float(values.max()), bins + 1)
        axes.stairs(
            (counts / counts.max()).tolist(), edges.tolist(), fill=True, color=colour, alpha=0.55
        )


_BOLD: dict[str, Any] = {"fontweight": "bold"}
_PLAIN: dict[str, Any] = {"parse_math": False}
"""A dollar sign of the user's is a dollar sign."""


def _draw_path(axes: Any, centres: list[list[float]]) -> None:
    """Draw where the middle of the samples went, to a dot at its end."""
    if len(centres) < 2:
        return
    for colour, width in (("white", 3.6), (INK, 1.4)):
        axes.plot(*zip(*centres, strict=True), color=colour, linewidth=width, zorder=4)
    axes.scatter(*centres[-1], s=55, color=INK, linewidths=1.2, edgecolors="white", zorder=5)


def _key(figure: Any, num_baseline: int, shown: Sequence[Row]) -> None:
    """Write the meaning of each colour in one line under the title."""
    entries = [(GREEN, f"ordinary ({num_baseline:,})")]
    for number, (row, colour) in enumerate(zip(shown, _ramp(len(shown)), strict=True)):
        entries.append((colour, f"step {row['step']}" if number == 0 else f"{row['step']}"))
    if len(shown) > 1:
        entries.append((INK, "path of the median"))
    renderer, width = figure.canvas.get_renderer(), figure.bbox.width
    left = 0.032
    for colour, text in entries:
        figure.text(left, 0.905, "●", color=colour, fontsize=9)
        label = figure.text(left + 0.024, 0.905, text, color=INK, fontsize=9)
        left += 0.024 + label.get_window_extent(renderer).width / width + 0.026


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    """Return at most ``count`` rows, evenly spread, with the first and the last."""
    if len(rows) <= count:
        return list(rows)
    gap = (len(rows) - 1) / max(1, count - 1)
    return [rows[round(number * gap)] for number in range(count)]


def _ramp(count: int) -> list[str]:
    """Return ``count`` reds from light to dark; a single one is the last."""
    if count == 1:
        return [REDS[-2]]
    gap = (len(REDS) - 1) / max(1, count - 1)
    return [REDS[round(number * gap)] for number in range(count)]


# --- curves ---------------------------------------------------------------------------------


def curves(
    trace_rows: Sequence[Row],
    *,
    target: float | None,
    anchor_threshold: float | None,
    num_components: int,
    trial: int | None = None,
) -> bytes:
    """Draw log-density, distance, anchor and verdicts over the steps, as PNG.

    Probes, medians over fresh samples, are the lines; the raw steps stand faintly behind them.

    Args:
        trace_rows: The trace.
        target: Mahalanobis distance searched for; None if the search only runs away.
        anchor_threshold: Anchor cosine below which the search is pulled back; None without anchor.
        num_components: Dimensions of the density, k: gives the quantiles of a distance.
        trial: The trial to draw; None draws the first.
    """
    rows = _of_trial(trace_rows, trial)
    avoiding = any(probe.get("avoid_distance") for probe in _probes(rows))
    heights = [1.25, 2.1, 1.25, *([1.1] if avoiding else []), 0.9, 0.13]
    figure = _figure(8.2, 1.9 + sum(heights) * 1.18)
    grid = figure.add_gridspec(
        len(heights), 1, height_ratios=heights, hspace=0.62,
        left=0.085, right=0.845, top=0.955, bottom=0.075,
    )  # fmt: skip
    panels = [figure.add_subplot(cell) for cell in grid]
    _line_panel(panels[0], rows, "log_prob", "log_prob", "Log-density", "nats; lower is rarer")
    _distance_panel(panels[1], rows, target, num_components)
    words = ("Anchor", "cosine to the subject's text")
    _line_panel(panels[2], rows, "anchor_cosine", "anchor_cosine", *words)
    if anchor_threshold is not None:
        _mark(panels[2], anchor_threshold, "pulled back\nbelow this", INK, dashed=True)
    if avoiding:
        _avoid_panel(panels[3], rows)
    _judge_panel(panels[-2], rows)
    _rug_panel(panels[-1], rows)
    steps = [int(row["step"]) for row in rows] or [0]
    margin = max(1.0, 0.015 * (max(steps) - min(steps)))
    for panel in panels:
        panel.set_xlim(min(steps) - margin, max(steps) + margin)
        panel.tick_params(labelbottom=panel is panels[-1])
    panels[-1].set_xlabel("step", color=GREY, fontsize=9)
    return _png(figure)


def lines_over_steps(series: Mapping[str, Sequence[tuple[int, float, float]]]) -> bytes:
    """Draw several searches' distance and validity over the steps, as PNG.

    Args:
        series: Label to points of step, Mahalanobis distance and validity (0 to 1).
    """
    figure = _figure(8.2, 6.2)
    grid = figure.add_gridspec(
        2, 1, hspace=0.38, left=0.085, right=0.72, top=0.93, bottom=0.09
    )  # fmt: skip
    distance, validity = (figure.add_subplot(cell) for cell in grid)
    colours = (GREEN, "#2f6fa8", RED, "#c98a1b", INK, GREY)
    for panel, title, unit, column in (
        (distance, "Distance from the ordinary", "Mahalanobis, median", 1),
        (validity, "Still the subject", "share of pictures that the judge passes", 2),
    ):
        _bare(panel)
        _title(panel, title, unit)
        for colour, (label, points) in zip(colours, series.items(), strict=False):
            steps = [point[0] for point in points]
            values = [point[column] for point in points]
            panel.plot(
                steps, values, color=colour, linewidth=1.6, marker="o", markersize=3, label=label
            )
    validity.set_ylim(-0.03, 1.03)
    validity.set_xlabel("step", color=GREY, fontsize=9)
    distance.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=8.5)
    return _png(figure)


def heat_map(
    values: torch.Tensor,
    ranges: Sequence[tuple[float, float]],
    *,
    labels: Sequence[str],
    title: str,
) -> bytes:
    """Draw a quality over two axes, as PNG.

    Args:
        values: ``[rows, columns]``, the lowest row first; NaN where there is nothing.
        ranges: Of the axis across and of the axis up.
        labels: Of these.
        title: At the head.
    """
    figure = _figure(6.4, 5.6)
    axes = figure.add_axes((0.13, 0.11, 0.68, 0.78))
    _bare(axes)
    axes.grid(visible=False)
    extent = (*ranges[0], *ranges[1])
    shown = axes.imshow(
        values.tolist(), origin="lower", extent=extent, aspect="auto", cmap="YlGn", vmin=0
    )
    bar = figure.colorbar(shown, cax=figure.add_axes((0.85, 0.11, 0.03, 0.78)))
    bar.ax.tick_params(colors=GREY, labelsize=8, length=0)
    bar.outline.set_visible(False)
    axes.set_xlabel(labels[0], color=GREY, fontsize=9)
    axes.set_ylabel(labels[1], color=GREY, fontsize=9)
    figure.text(0.03, 0.945, _short(title, 60), color=INK, fontsize=13, **_BOLD, **_PLAIN)
    return _png(figure)


def panels(
    readings: Mapping[str, tuple[str, Mapping[str, Sequence[Sequence[float]]]]], *, across: str
) -> bytes:
    """Draw readings that grow with the work, one panel each, as PNG.

    Args:
        readings: Title to its unit and to label to the curves of equal length of several seeds,
            each beginning at 1: their mean is a line, from the least to the most a band.
        across: What the horizontal axis counts.
    """
    figure = _figure(8.2, 3.1 * len(readings))
    grid = figure.add_gridspec(
        len(readings), 1, hspace=0.42, left=0.09, right=0.76, top=0.93, bottom=0.1
    )
    colours = (RED, "#2f6fa8", GREEN, "#c98a1b", INK)
    for cell, (title, (unit, series)) in zip(grid, readings.items(), strict=True):
        panel = figure.add_subplot(cell)
        _bare(panel)
        _title(panel, title, unit)
        for colour, (label, several) in zip(colours, series.items(), strict=False):
            curves = torch.tensor(several, dtype=torch.float64)
            steps = list(range(1, curves.shape[1] + 1))
            low, high = curves.min(dim=0).values.tolist(), curves.max(dim=0).values.tolist()
            panel.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
            middle = curves.mean(dim=0).tolist()
            panel.plot(steps, middle, color=colour, linewidth=1.6, label=label)
        panel.set_ylim(bottom=0)
    panel.set_xlabel(across, color=GREY, fontsize=9)
    figure.axes[0].legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=8.5)
    return _png(figure)


def _line_panel(
    axes: Any, rows: Sequence[Row], raw: str, probed: str, title: str, unit: str
) -> None:
    """Draw a reading of the probes over the same reading of single steps."""
    _bare(axes)
    _title(axes, title, unit)
    axes.plot(*_series(rows, raw), color=REDS[0], linewidth=0.8)
    steps, values = _series(_probes(rows), probed)
    axes.plot(steps, values, color=RED, linewidth=1.6, marker="o", markersize=3.2)


def _distance_panel(
    axes: Any, rows: Sequence[Row], target: float | None, num_components: int
) -> None:
    """Draw the distance with the band of the probes, the target and the Gaussian's quantiles."""
    probes = _probes(rows)
    steps, low = _series(probes, "distance_p10")
    _, high = _series(probes, "distance_p90")
    axes.fill_between(steps, low, high, color=REDS[0], alpha=0.35, linewidth=0)
    unit = "Mahalanobis; line: median of fresh samples, band: 10 to 90 %"
    _line_panel(axes, rows, "distance", "distance_median", "Distance from the ordinary", unit)
    if target is not None:
        quantile = float(chi_square_cdf(torch.tensor(target**2), num_components))
        _mark(axes, target, f"target {percent(quantile)}", INK, dashed=True)
    bottom, top = axes.get_ylim()
    taken = [target] if target is not None else []
    for quantile in (0.999, 0.5, 0.99, 0.9, 0.9999):
        level = chi_square_quantile(quantile, num_components) ** 0.5
        near = any(abs(level - other) < 0.085 * (top - bottom) for other in taken)
        if bottom < level < top and not near:
            _mark(axes, level, percent(quantile), "#9aa2ab")
            taken.append(level)
    axes.set_ylim(bottom, top)


def _judge_panel(axes: Any, rows: Sequence[Row]) -> None:
    """Draw the probability of yes, a dot for each yes and a cross for each no."""
    _bare(axes)
    answered = [(row["step"], row["verdict"]) for row in rows if row.get("verdict")]
    verdicts = [(step, said) for step, said in answered if said.get("answer") != "unknown"]
    name = verdicts[0][1].get("judge", "") if verdicts else "was not asked"
    if answered and not verdicts:
        name = "gave no answer"
    _title(
        axes, "Still the subject?", f"probability of yes, {_short(name, 60)}" if verdicts else name
    )
    axes.set_ylim(-0.12, 1.12)
    axes.set_yticks([0, 0.5, 1])
    points = [(step, verdict.get("probability", math.nan)) for step, verdict in verdicts]
    if points:
        axes.plot(*zip(*points, strict=True), color=RULE, linewidth=1, zorder=1)
    for answer, colour, marker in (("yes", GREEN, "o"), ("no", RED, "X")):
        chosen = [
            point
            for point, (_, verdict) in zip(points, verdicts, strict=True)
            if verdict.get("answer") == answer
        ]
        if chosen:
            axes.scatter(*zip(*chosen, strict=True), color=colour, marker=marker, s=34, zorder=3)
    signs = (("no", RED, "✖"), ("yes", GREEN, "●")) if verdicts else ()
    for height, (answer, colour, sign) in enumerate(signs):
        text = {"transform": axes.transAxes, "color": colour, "fontsize": 8.5, "va": "center"}
        axes.text(1.02, 0.3 + 0.4 * height, f"{sign} {answer}", **text)


def _avoid_panel(axes: Any, rows: Sequence[Row]) -> None:
    """Draw the distance from each cluster to avoid, named by its number."""
    _bare(axes)
    _title(axes, "Distance from what to avoid", "Mahalanobis; median of fresh samples")
    probes = _probes(rows)
    count = max(len(probe.get("avoid_distance") or []) for probe in probes)
    for cluster in range(count):
        readings = [probe for probe in probes if len(probe.get("avoid_distance") or []) > cluster]
        steps, values = _series(
            [
                {"step": probe["step"], "value": probe["avoid_distance"][cluster]}
                for probe in readings
            ],
            "value",
        )
        shade = (INK, GREY, "#9aa2ab")[cluster % 3]
        axes.plot(steps, values, color=shade, linewidth=1.6, marker="o", markersize=3.2)
        if math.isfinite(values[-1]):
            _name(axes, values[-1], f"cluster {cluster + 1}", shade)


def _rug_panel(axes: Any, rows: Sequence[Row]) -> None:
    """Draw which loss each step followed, as a thin strip."""
    _bare(axes)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    _title(axes, "", "which loss each step followed", pad=3)
    names = {"anchor": GREEN, "creative": RED, "novelty": RED, "sum": GREY}
    for branch, colour in names.items():
        steps = [row["step"] for row in rows if row.get("branch") == branch]
        axes.bar(steps, [1] * len(steps), width=1.0, color=colour, linewidth=0)
    seen = [branch for branch in names if any(row.get("branch") == branch for row in rows)]
    for height, branch in enumerate(reversed(seen)):
        where = {"transform": axes.transAxes, "fontsize": 8.5, "va": "center"}
        y = 0.5 + 1.3 * (height - (len(seen) - 1) / 2)
        axes.text(1.02, y, f"■ {branch}", color=names[branch], **where)


def _of_trial(rows: Sequence[Row], trial: int | None) -> list[Row]:
    chosen = rows[0].get("trial", 0) if trial is None and rows else trial
    return [row for row in rows if row.get("trial", 0) == chosen]


def _probes(rows: Sequence[Row]) -> list[Row]:
    return [{**row["probe"], "step": row["step"]} for row in rows if row.get("probe")]


def _series(rows: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    """Return steps and readings; one that is missing is a gap."""
    values = [row.get(name) for row in rows]
    return (
        [float(row["step"]) for row in rows],
        [math.nan if value is None else float(value) for value in values],
    )


# --- matplotlib, without its global state ---------------------------------------------------


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # a subject in a script that the font lacks is drawn as boxes, and that is all
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _bare(axes: Any) -> None:
    """Leave two thin axes and a faint grid."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    axes.tick_params(colors=GREY, labelsize=8, length=0)
    axes.grid(color=RULE, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)


def _title(axes: Any, title: str, unit: str, *, pad: float = 5) -> None:
    """Write a panel's name in ink and what it measures in grey behind it."""
    where = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
    name = axes.annotate(
        title, (0, 1), (0, pad), color=INK, fontsize=10, annotation_clip=False, **_BOLD, **where
    )
    behind = {**where, "xycoords": name} if title else where
    offset = (7, 1.1) if title else (0, pad)
    axes.annotate(
        unit, (1, 0) if title else (0, 1), offset, color=GREY, fontsize=8.5,
        annotation_clip=False, **behind, **_PLAIN,
    )  # fmt: skip


def _mark(axes: Any, level: float, text: str, colour: str, *, dashed: bool = False) -> None:
    """Draw a level with its name on the right."""
    line = (0, (4, 3)) if dashed else "-"
    axes.axhline(level, color=colour, linewidth=0.9 if dashed else 0.5, linestyle=line, zorder=1)
    _name(axes, level, text, colour)


def _name(axes: Any, level: float, text: str, colour: str) -> None:
    """Write a name on the right, at its level."""
    axes.annotate(
        text, (1, level), (6, 0), xycoords=("axes fraction", "data"), color=colour, fontsize=8.5,
        textcoords="offset points", va="center", annotation_clip=False,
    )  # fmt: skip

import io
import math
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from offbeat.errors import ConfigError, ShapeError
from offbeat.runs import plots
from offbeat.runs.report import CalibrationRow, ReportPicture, percent, report_html
from offbeat.runs.sheet import contact_sheet
from offbeat.types import Verdict

COLOURS = ["#cc0000", "#00cc00", "#0000cc", "#cccc00"]
EVIL = "<script>alert('$x^$')</script>"


def solid(colours, size=(64, 64)):
    return [Image.new("RGB", size, colour) for colour in colours]


def row(step, **changes):
    points = torch.randn(8, 2, generator=torch.Generator().manual_seed(step)) + step / 4
    probe = {
        "distance_median": 7.0 + step / 4,
        "distance_p10": 6.5 + step / 4,
        "distance_p90": 7.5 + step / 4,
        "quantile": 0.5,
        "log_prob": -20.0 - step,
        "anchor_cosine": 0.6,
        "axes": points.tolist(),
        "avoid_distance": [],
    }
    verdict = {"answer": "yes", "probability": 0.7, "judge": "scripted", "note": ""}
    whole = {
        "trial": 0,
        "step": step,
        "branch": "anchor" if step % 3 == 0 else "novelty",
        "anchor_cosine": 0.6,
        "log_prob": -20.0,
        "distance": 7.1,
        "verdict": verdict if step % 2 else None,
        "probe": probe if step % 2 == 0 else None,
    }
    return {**whole, **changes}


@pytest.fixture
def figures(monkeypatch):
    """The figures themselves, in place of their PNG."""
    monkeypatch.setattr(plots, "_png", lambda figure: figure)


# --- contact sheet


def test_the_way_out_stands_below_the_map():
    rows = [{"trial": 0, "step": 4, "probe": {"axes": [[0.0, 1.0]]}}]
    away = (torch.randn(50), torch.randn(9) + 5)
    kwargs = {"subject": "bag", "num_components": 50}
    tall = plots.distribution_map(torch.randn(50, 2), rows, **kwargs, way_out=away)
    flat = plots.distribution_map(torch.randn(50, 2), rows, **kwargs)
    heights = [Image.open(io.BytesIO(png)).height for png in (tall, flat)]
    assert heights[0] > heights[1]


def test_a_column_of_the_sheet_is_one_noise():
    rows = [("ordinary", solid(COLOURS)), ("unusual", solid(COLOURS))]
    sheet = contact_sheet(rows, captions=["99.9 %\nyes"] * 4, title="x", note="y " * 200)
    pixels = np.asarray(sheet)
    for colour in COLOURS:
        same = (pixels == ImageColor.getrgb(colour)).all(axis=2)
        assert same.sum() == 2 * 192 * 192  # both rows, enlarged by a whole factor
        assert same.any(axis=0).sum() == 192  # in one column
    assert (
        sheet.tobytes()
        == contact_sheet(rows, captions=["99.9 %\nyes"] * 4, title="x", note="y " * 200).tobytes()
    )


def test_long_rows_go_on_below_and_large_pictures_shrink():
    wide = contact_sheet([("a", solid(COLOURS, (700, 350)))], max_columns=4)
    tall = contact_sheet([("a", solid(COLOURS, (700, 350)))], max_columns=2)
    assert tall.width < wide.width < 4 * 400
    assert tall.height > wide.height


@pytest.mark.parametrize(
    ("rows", "captions"),
    [
        ([], []),
        ([("a", [])], []),
        ([("a", solid(COLOURS)), ("b", solid(COLOURS[:2]))], []),
        ([("a", solid(COLOURS))], ["one"]),
    ],
)
def test_rows_that_do_not_match_are_refused(rows, captions):
    with pytest.raises(ConfigError, match="equally many"):
        contact_sheet(rows, captions=captions)


# --- map and curves


def test_the_map_shows_the_ordinary_and_the_steps(figures):
    rows = [row(step) for step in range(40)] + [row(0, trial=1)]
    figure = plots.distribution_map(torch.randn(30, 2), rows, subject=EVIL, num_components=50)
    (axes,) = figure.axes
    sizes = [len(points.get_offsets()) for points in axes.collections]
    assert sizes == [30, 8, 8, 8, 8, 8, 1]
    texts = [text.get_text() for text in figure.texts]
    assert {"step 0", "38", "ordinary (30)"} <= set(texts)
    with pytest.raises(ShapeError, match=r"expected \[N, 2\]"):
        plots.distribution_map(torch.randn(30, 3), rows, subject="x", num_components=50)


def test_the_curves_show_the_target_the_quantiles_and_the_verdicts(figures):
    rows = [row(step) for step in range(20)]
    rows[7]["verdict"] = {"answer": "no", "probability": 0.2, "judge": "scripted", "note": ""}
    target = 86.66081**0.5  # 99.9 % in 50 dimensions
    figure = plots.curves(rows, target=target, anchor_threshold=0.55, num_components=50)
    _, distance, anchor, judge, _ = figure.axes
    texts = {text.get_text() for text in distance.texts}
    assert {"target 99.9 %", "50 %", "90 %"} <= texts
    assert any(list(line.get_ydata()) == [target] * 2 for line in distance.lines)
    assert any(list(line.get_ydata()) == [0.55] * 2 for line in anchor.lines)
    yes, no = (points.get_offsets().tolist() for points in judge.collections)
    assert len(yes) == 9
    assert no == [[7, 0.2]]


def test_the_curves_show_how_clusters_to_avoid_are_left(figures):
    rows = [row(step) for step in range(6)]
    for step in (2, 4):  # no cluster was known at step 0
        rows[step]["probe"]["avoid_distance"] = [float(step), 9.0]
    figure = plots.curves(rows, target=None, anchor_threshold=None, num_components=50)
    panel = figure.axes[3]
    assert [list(line.get_ydata()) for line in panel.lines] == [[2.0, 4.0], [9.0, 9.0]]
    assert {"cluster 1", "cluster 2"} <= {text.get_text() for text in panel.texts}


BARE = {"trial": 0, "step": 3}
SPARSE = [
    [],
    [BARE],
    [{**BARE, "distance": None, "log_prob": None, "anchor_cosine": None, "verdict": None}],
    [row(0, probe={"distance_median": None, "axes": [[0.0, 1.0]]})],
    [row(step, distance=10.0**step, log_prob=-(10.0**step)) for step in range(12)],
    [row(1, verdict={"answer": "no", "probability": 0.0, "judge": EVIL, "note": "手袋"})],
]


@pytest.mark.parametrize("rows", SPARSE)
def test_a_run_of_any_length_is_drawn(rows):
    for target, threshold in ((9.3, 0.5), (None, None)):
        png = plots.curves(
            rows, target=target, anchor_threshold=threshold, num_components=50, trial=None
        )
        assert Image.open(io.BytesIO(png)).width > 1000
    png = plots.distribution_map(torch.randn(9, 2), rows, subject="手袋 $", num_components=50)
    assert Image.open(io.BytesIO(png)).width > 1000


def test_the_same_values_give_the_same_bytes():
    rows, axes = [row(step) for step in range(6)], torch.arange(20.0).view(10, 2)
    maps = {plots.distribution_map(axes, rows, subject="x", num_components=50) for _ in range(2)}
    drawn = {
        plots.curves(rows, target=9.3, anchor_threshold=0.5, num_components=50) for _ in range(2)
    }
    assert len(maps) == len(drawn) == 1


def test_importing_the_plots_loads_no_matplotlib_and_drawing_no_pyplot():
    code = """
import sys
from offbeat.runs import plots
assert "matplotlib" not in sys.modules
plots.curves([], target=None, anchor_threshold=None, num_components=2)
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- report


class Reader(HTMLParser):
    """Collects tags, what they point at and the text; checks that they close."""

    EMPTY = ("meta", "img", "br")

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.links, self.words = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.EMPTY:
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def make_report(text=EVIL, **changes):
    picture = ReportPicture(
        ordinary=solid(COLOURS)[0],
        unusual=solid(COLOURS, (600, 300))[1],
        distance=9.4,
        quantile=0.9992,
        verdict=Verdict("no", 0.31, text, f"note {text}"),
        file=text,
    )
    calibration = CalibrationRow(
        quantile=0.999, distance=9.31, held_out_distance=10.2, held_out_inside=0.987
    )
    fields = {
        "subject": text,
        "pictures": [picture],
        "asked": {text: text},
        "found": {"Trials": 3},
        "probe": row(0)["probe"],
        "target": 9.31,
        "map_png": b"map",
        "curve_png": b"curve",
        "calibration": [calibration],
        "settings": {text: [text, math.nan]},
        "warnings": [text],
    }
    return report_html(**{**fields, **changes})


def read(report):
    reader = Reader()
    reader.feed(report)
    reader.close()
    assert reader.open == []
    return reader


def test_nothing_that_a_user_writes_becomes_markup():
    report = make_report()
    reader = read(report)
    assert "script" not in reader.tags
    assert "<script" not in report
    assert len(reader.links) == 4
    assert all(link.startswith("data:image/png;base64,") for link in reader.links)
    for forbidden in ("http://", "https://", "url(", "@import"):
        assert forbidden not in report


def test_the_report_says_what_was_found():
    text = " ".join(" ".join(read(make_report("handbag")).words).split())
    assert "lies farther than 50 % of the ordinary" in text
    assert "finds 0 of 1 pictures still a handbag" in text
    assert "note handbag" in text
    for cell in ("9.31", "10.20", "98.7 %", "99.92 %"):
        assert cell in text


def test_a_report_of_a_run_without_judge_probe_or_pictures():
    empty = {"pictures": [], "probe": None, "target": None, "calibration": [], "warnings": []}
    reader = read(make_report("pet", **empty, map_png=None, curve_png=None, found={}, asked={}))
    assert "img" not in reader.tags
    assert "table" not in reader.tags
    half = {**row(0)["probe"], "distance_median": None, "quantile": None}
    read(make_report("pet", probe=half))


@given(st.floats(0, 1))
def test_a_percentage_keeps_its_tail(quantile):
    shown = percent(quantile)
    if shown.startswith(">"):
        assert quantile > 0.999998
        return
    value = float(shown.removesuffix(" %")) / 100
    assert value < 1
    assert abs(value - quantile) <= 0.051 * (1 - quantile) + 1e-12

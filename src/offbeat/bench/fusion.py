"""The fusion papers' claims on pocket, as a program: cells, tables, a sheet.

A cell is one mixture drawn by one way with four noises, and what the bundled classifier reads in
the pictures; no method has seen that judge. Sources of the claims: CreTok, arXiv:2410.24160;
DisTok, arXiv:2505.03667; ConceptLab, arXiv:2308.02669.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat import formats, plots, vocab
from offbeat._disk import json_bytes
from offbeat._pictures_out import draw, plain_concept_of
from offbeat._readings import choose_reader, in_words
from offbeat._train import train
from offbeat._trained import find_trained, make_method
from offbeat.backbones.unclip import UnclipBackbone
from offbeat.metrics.fusion import distribution_kl, vendi_score
from offbeat.pictures import read_picture
from offbeat.store import write_atomic
from offbeat.templates import article
from offbeat.types import Concept, Request

NUM_MIXTURES = 30
NUM_NOISES = 4
NUM_DREAMS = 16
NUM_REPEATS = 8
"""Repeated ConceptLab searches that dreams are compared with."""
SHEET_PAIRS = 8
SIDE = 64
"""Of pocket's pictures, in pixels."""
TOP = 5

Shares = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Way:
    """One row of a table: how a mixture becomes a concept."""

    label: str
    method: str = ""
    """Empty: a plain prompt."""
    config: tuple[tuple[str, Any], ...] = ()
    """Settings beside the checkpoint's own."""
    anew: bool = False
    """Whether it is trained again with them."""
    form: str = ""
    """Of a plain prompt, ``{words}`` with their articles."""


PAIR_WAYS = {
    "words": Way("prompt “a picture of a pig owl”"),
    "prompt": Way("prompt “a mixture of a pig and an owl”", form="a mixture of {words}"),
    "creative": Way(
        "prompt “a creative mixture of a pig and an owl”", form="a creative mixture of {words}"
    ),
    "cretok": Way("CreTok", "cretok"),
    "distok": Way("DisTok", "distok"),
    "conceptlab": Way("ConceptLab", "conceptlab"),
}
SHARE_WAYS = {
    "prompt": Way("prompt that lists the words", form="a mixture of {words}"),
    "first": Way("prompt of the largest share alone", form="first"),
    "distok": Way("DisTok", "distok"),
    "inconsistent": Way(
        "DisTok without consistency", "distok", (("consistency_share", 0.0),), anew=True
    ),
    "asked": Way("DisTok, shares as asked", "distok", (("share_exponent", 1.0),)),
}


def run(out: Path, *, threads: int, part: tuple[int, int], skip: Sequence[str] = ()) -> None:
    """Compute missing cells, then write ``table.md`` and ``pairs.png`` of what is there."""
    torch.set_num_threads(threads)
    lab = _Lab(UnclipBackbone.load("pocket"), out)
    words = list(lab.backbone.card["concepts"])
    pairs: list[Shares] = [
        ((one, 0.5), (other, 0.5)) for one, other in vocab.evaluation_pairs(words, NUM_MIXTURES)
    ]
    mixtures = list(vocab.weightings(words, NUM_MIXTURES))
    jobs = [("pairs", name, at, shares) for at, shares in enumerate(pairs) for name in PAIR_WAYS]
    jobs += [
        ("shares", name, at, shares) for at, shares in enumerate(mixtures) for name in SHARE_WAYS
    ]
    index, count = part
    for group, name, at, shares in jobs:
        if name not in skip and at % count == index:
            lab.cell(group, name, at, shares)
    if index == 0:
        lab.dreams("conceptlab" not in skip)
        write_atomic(out / "table.md", _table(lab, pairs, mixtures).encode())
        write_atomic(out / "pairs.png", _sheet(lab, pairs[:SHEET_PAIRS]))


class _Lab:
    """A checkpoint, its independent judge, and a folder of cells."""

    def __init__(self, backbone: UnclipBackbone, out: Path) -> None:
        self.backbone, self.out = backbone, out
        judge = choose_reader("classifier", backbone)
        assert judge is not None  # pocket brings one
        self.judge = judge
        self.labels = list(judge.labels)
        self._makers: dict[Way, Callable[[Shares], Concept]] = {}

    def cell(self, group: str, name: str, at: int, shares: Shares) -> dict[str, Any]:
        """Return what was read in the pictures of one mixture, computed or from its file."""
        file = self.out / "cells" / group / name / f"{at:02d}.json"
        if file.exists():
            found: dict[str, Any] = json.loads(file.read_text())
            if found["fingerprint"] == self.backbone.fingerprint and found["shares"] == [
                list(pair) for pair in shares
            ]:
                return found
        way = {"pairs": PAIR_WAYS, "shares": SHARE_WAYS}[group][name]
        started = time.perf_counter()
        concept = self._concept(way, shares)
        seconds = time.perf_counter() - started
        images = draw(self.backbone, concept, seed=at, num=NUM_NOISES)
        found = {
            "fingerprint": self.backbone.fingerprint,
            "shares": [list(pair) for pair in shares],
            "seconds": seconds,
            "read": self.judge.class_probabilities(images).tolist(),
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        formats.to_pil(images)[0].save(file.with_suffix(".png"))
        write_atomic(file, json_bytes(found))
        return found

    def read(self, group: str, name: str, at: int) -> Tensor | None:
        """Return probabilities of a computed cell, ``[4, K]``."""
        file = self.out / "cells" / group / name / f"{at:02d}.json"
        return torch.tensor(json.loads(file.read_text())["read"]) if file.exists() else None

    def seconds(self, name: str) -> list[float]:
        """Return how long each pair's concept took."""
        files = sorted((self.out / "cells" / "pairs" / name).glob("*.json"))
        return [json.loads(file.read_text())["seconds"] for file in files]

    def _concept(self, way: Way, shares: Shares) -> Concept:
        if way not in self._makers:
            self._makers[way] = self._maker(way)
        return self._makers[way](shares)

    def _maker(self, way: Way) -> Callable[[Shares], Concept]:
        """Return what makes a concept of a mixture; methods that train once do so here."""
        if not way.method:
            return lambda shares: _plain(way.form, shares, self.backbone)
        method = make_method(way.method, self.backbone, dict(way.config))
        source: Any = None
        if way.anew:
            name = "-".join([way.method, *(f"{key}={value}" for key, value in way.config)])
            folder = self.out / name
            source = train(
                way.method,
                config=dict(way.config),
                backbone=self.backbone,
                out=folder,
                resume=(folder / "request.json").exists(),
            )
        trained, _ = find_trained(method, self.backbone, source)

        def make(shares: Shares) -> Concept:
            request = Request(subject=" + ".join(word for word, _ in shares), weights=shares)
            concept: Concept = method.fuse(self.backbone, request, trained=trained)
            return concept

        return make

    def dreams(self, with_conceptlab: bool) -> None:
        """Compare dreams with repeated ConceptLab, by the judge's own features."""
        rows = [("distok", {"law": law}, NUM_REPEATS) for law in ("gaussian", "laplace", "cauchy")]
        if with_conceptlab:
            rows.append(("conceptlab", {}, NUM_REPEATS))
        for name, config, num in rows:
            label = "-".join([name, *map(str, config.values())])
            file = self.out / "dreams" / f"{label}.json"
            if file.exists():
                found = json.loads(file.read_text())
                if found["fingerprint"] == self.backbone.fingerprint:
                    continue
            method = make_method(name, self.backbone, config)
            trained, _ = find_trained(method, self.backbone, None)
            guide = choose_reader("clip", self.backbone)
            request = Request(subject="animal")
            images = [
                draw(
                    self.backbone,
                    method.dream(self.backbone, request, index, trained=trained, judge=guide),
                    seed=index,
                    num=1,
                )
                for index in range(num)
            ]
            read = self.judge.class_probabilities(torch.cat(images))
            file.parent.mkdir(parents=True, exist_ok=True)
            found = {"fingerprint": self.backbone.fingerprint, "read": read.tolist()}
            plots.contact_sheet(
                [("", formats.to_pil(torch.cat(images)))],
                captions=["\n".join(in_words(self.labels, one, 2)) for one in read],
                title=label,
            ).save(file.with_suffix(".png"))
            write_atomic(file, json_bytes(found))


def _plain(form: str, shares: Shares, backbone: UnclipBackbone) -> Concept:
    """Return a prompt of which nothing is learned."""
    words = [word for word, _ in sorted(shares, key=lambda pair: -pair[1])]
    if form == "first":
        return plain_concept_of(words[0], backbone)
    if not form:
        return plain_concept_of(" ".join(words), backbone)
    *first, last = (f"{article(word)} {word}" for word in words)
    prompt = form.replace("{words}", f"{', '.join(first)} and {last}")
    return Concept(template=prompt, subject=prompt, word=prompt)


def _table(lab: _Lab, pairs: Sequence[Shares], mixtures: Sequence[Shares]) -> str:
    """Return the tables in Markdown, of the cells that are there."""
    lines = [
        "| pairs | sum p1 + p2 | imbalance, abs(p1 - p2) | both in its top 5 | seconds a concept |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, way in PAIR_WAYS.items():
        found = [_pair_row(lab, name, at, shares) for at, shares in enumerate(pairs)]
        kept = [row for row in found if row is not None]
        if kept:
            total, gap, both = ([row[k] for row in kept] for k in range(3))
            lines.append(
                f"| {way.label} | {_spread(total)} | {_spread(gap)} | "
                f"{statistics.mean(both):.0%} of {len(kept) * NUM_NOISES} | "
                f"{statistics.median(lab.seconds(name)):.3g} |"
            )
    lines += ["", "| mixtures of 2 to 4 | KL(asked, read), nats | top class is the largest share |"]
    lines += ["| --- | --- | --- |"]
    for name, way in SHARE_WAYS.items():
        rows = [
            row
            for at, shares in enumerate(mixtures)
            if (row := _share_row(lab, name, at, shares)) is not None
        ]
        if rows:
            divergence, top = ([row[k] for row in rows] for k in range(2))
            lines.append(f"| {way.label} | {_spread(divergence)} | {statistics.mean(top):.0%} |")
    lines += ["", f"| {NUM_REPEATS} dreams | Vendi score of the judge's readings | entropy, nats |"]
    lines += ["| --- | --- | --- |"]
    for file in sorted((lab.out / "dreams").glob("*.json")):
        read = torch.tensor(json.loads(file.read_text())["read"])
        entropy = float(torch.special.entr(read).sum(dim=1).mean())
        lines.append(f"| {file.stem} | {vendi_score(read):.2f} | {entropy:.2f} |")
    return "\n".join(lines) + "\n"


def _pair_row(lab: _Lab, name: str, at: int, shares: Shares) -> tuple[float, float, float] | None:
    read = lab.read("pairs", name, at)
    if read is None:
        return None
    columns = [lab.labels.index(word) for word, _ in shares]
    first, second = read[:, columns].unbind(dim=1)
    top = read.topk(TOP, dim=1).indices
    both = [all(column in row for column in columns) for row in top.tolist()]
    return (
        float((first + second).mean()),
        float((first - second).abs().mean()),
        sum(both) / len(both),
    )


def _share_row(lab: _Lab, name: str, at: int, shares: Shares) -> tuple[float, float] | None:
    read = lab.read("shares", name, at)
    if read is None:
        return None
    asked = torch.zeros(1, len(lab.labels))
    for word, share in shares:
        asked[0, lab.labels.index(word)] = share
    top = (read.argmax(dim=1) == int(asked.argmax())).float().mean()
    return float(distribution_kl(asked, read).mean()), float(top)


def _spread(values: Sequence[float]) -> str:
    """Return the mean over mixtures, and its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.2f} ± {error:.2f}"


def _sheet(lab: _Lab, pairs: Sequence[Shares]) -> bytes:
    """Return a sheet of the first picture of some pairs, a row for each way."""
    rows = []
    for number in range(2):
        alone = [plain_concept_of(shares[number][0], lab.backbone) for shares in pairs]
        drawn = [draw(lab.backbone, one, seed=at, num=1) for at, one in enumerate(alone)]
        label = ("one word alone", "the other word alone")[number]
        rows.append((label, formats.to_pil(torch.cat(drawn))))
    for name, way in PAIR_WAYS.items():
        files = [lab.out / "cells" / "pairs" / name / f"{at:02d}.png" for at in range(len(pairs))]
        if all(file.exists() for file in files):
            rows.append((way.label, _opened(files)))
    captions = ["\n+ ".join(word for word, _ in shares) for shares in pairs]
    return plots.png_of(plots.contact_sheet(rows, captions=captions, title="Fusions on pocket"))


def _opened(files: Sequence[Path]) -> list[Any]:
    return formats.to_pil(torch.stack([read_picture(file, size=SIDE) for file in files]))

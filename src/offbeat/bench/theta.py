"""CreTok on pocket: its theta, its steps and its prompts against raw prompts.

Each cell is one arm with one seed: a token trained with that seed, used on the pairs that no token
is trained on. Cells are files, so a stopped command goes on. Source: CreTok, arXiv:2410.24160.
"""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat import vocab
from offbeat._disk import json_bytes, pack_tensors, unpack_tensors
from offbeat._sources import choose_judge
from offbeat.backbones.unclip import UnclipBackbone
from offbeat.formats import decode_trained, encode_trained, to_pil
from offbeat.functional import cosine
from offbeat.judges.classifier import ClassifierJudge
from offbeat.methods.cretok import CreTok, CreTokConfig, listed
from offbeat.plots import contact_sheet
from offbeat.rng import streams
from offbeat.store import write_atomic
from offbeat.templates import article, fill
from offbeat.types import Concept, Request, Trained

NUM_SEEDS, SIDE_SEEDS = 4, 1
NUM_EMBEDS = 4
"""Image embeddings a pair, for its similarity; one of their pictures goes to the judge."""
NUM_DECODING = 10
"""Steps of the decoder: half of pocket's own."""
PUBLISHED = "{token} mixture that resembles {words}"
INSERTED = "{token} mixture of {words}"
OURS = "{token} of {words}"


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of the table."""

    label: str
    phrase: str
    """With ``{words}``, and ``{token}`` where a token is used."""
    training: dict[str, Any] | None = None
    num_seeds: int = NUM_SEEDS
    template: str = "a {concept}"
    """What the phrase stands in."""

    @property
    def key(self) -> str:
        """The name of the training, shared by the arms that use one token."""
        return "_".join(f"{name}={value}" for name, value in (self.training or {}).items())


_STEPS = {"num_steps": 600}
ARMS = {
    "picture": Arm("a picture of A and B", "picture of {words}"),
    "mixture": Arm("a mixture of A and B", "mixture of {words}"),
    "creative": Arm("a creative mixture of A and B", "creative mixture of {words}"),
    "published": Arm(
        "published prompt, theta 0.5",
        PUBLISHED,
        {"theta": 0.5, **_STEPS},
        template="a photo of a {concept}",
    ),
    "theta-0.5": Arm("a T of A and B, theta 0.5", OURS, {"theta": 0.5, **_STEPS}),
    "theta-0.3": Arm("a T of A and B, theta 0.3", OURS, {"theta": 0.3, **_STEPS}),
    "quantile-0.5": Arm("a T of A and B, quantile 0.5", OURS, {"theta_quantile": 0.5, **_STEPS}),
    "quantile-0.9": Arm("a T of A and B, quantile 0.9", OURS, {"theta_quantile": 0.9, **_STEPS}),
    "quantile-0.7": Arm("a T of A and B, quantile 0.7", OURS, {"theta_quantile": 0.7, **_STEPS}),
    "theta-0.7": Arm("a T of A and B, theta 0.7", OURS, {"theta": 0.7, **_STEPS}, SIDE_SEEDS),
    "untrained": Arm(
        "a T of A and B, not trained", OURS, {"theta": -1.0, "num_steps": 1}, SIDE_SEEDS
    ),
    "inserted": Arm(
        "a T mixture of A and B, theta 0.5",
        INSERTED,
        {"theta": 0.5, **_STEPS},
        SIDE_SEEDS,
    ),
    "resembles": Arm(
        "published prompt with the word creative",
        PUBLISHED.replace("{token}", "creative"),
        None,
        SIDE_SEEDS,
        "a photo of a {concept}",
    ),
    "2k": Arm(
        "a T of A and B, theta 0.5, 2,000 steps",
        OURS,
        {"theta": 0.5, "num_steps": 2000},
        SIDE_SEEDS,
    ),
    "10k": Arm(
        "a T of A and B, theta 0.5, 10,000 steps",
        OURS,
        {"theta": 0.5, "num_steps": 10_000},
        SIDE_SEEDS,
    ),
}
"""T is the token; trained for 600 steps where nothing else is said."""
RAW = "mixture"
"""What the others are held against."""
SHOWN = ("mixture", "creative", "published", "theta-0.5", "quantile-0.7")
"""Rows of the sheet."""


def main(folder: Path) -> None:
    """Run the cells that are missing, then write ``table.md`` and ``sheet.png``."""
    torch.set_num_threads(1)
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    bench = _Bench(UnclipBackbone.load("pocket"), folder)
    for num_seeds in (NUM_SEEDS, SIDE_SEEDS):
        for seed in range(num_seeds):
            for name, arm in ARMS.items():
                if arm.num_seeds == num_seeds:
                    bench.cell(name, seed)
    write_atomic(folder / "table.md", table(folder).encode())
    write_atomic(folder / "sheet.png", sheet(folder))


class _Bench:
    """The checkpoint, the pairs, the judge, and the folder of cells."""

    def __init__(self, backbone: UnclipBackbone, folder: Path) -> None:
        self.backbone, self.folder = backbone, folder
        self.fingerprint = backbone.fingerprint
        """Of the weights that a cell belongs to; one of others is made again."""
        self.words = list(backbone.card["concepts"])
        self.pairs = vocab.evaluation_pairs(self.words)
        judge = choose_judge("classifier", backbone, self.words[0])
        assert isinstance(judge, ClassifierJudge)
        self.judge = judge
        with torch.no_grad():
            prompts = [f"a picture of {article(word)} {word}" for word in self.words]
            self.own = backbone.encode_text(prompts).text_embeds  # [K, D]

    def cell(self, name: str, seed: int) -> None:
        """Draw and judge all pairs by one arm, unless its file is there."""
        file = self.folder / "cells" / f"{name}-{seed}.json"
        if file.exists() and json.loads(file.read_bytes()).get("fingerprint") == self.fingerprint:
            return
        arm = ARMS[name]
        trained = self._trained(arm, seed) if arm.training is not None else None
        concepts = [self._concept(arm, trained, pair) for pair in self.pairs]
        rows, images = self._look(concepts, seed)
        if seed == 0:
            data = pack_tensors({"images": images})
            write_atomic(self.folder / "cells" / f"{name}-images.safetensors", data)
        readings = {k: v for k, v in (trained.readings if trained else {}).items()
                    if isinstance(v, (int, float, str))}  # fmt: skip
        write_atomic(
            file,
            json_bytes(
                {"arm": name, "fingerprint": self.fingerprint, "readings": readings, "pairs": rows}
            ),
        )

    def _trained(self, arm: Arm, seed: int) -> Trained:
        file = self.folder / "cells" / f"{arm.key}-{seed}.safetensors"
        if file.exists():
            found = decode_trained(file.read_bytes(), file.name)
            if found.fingerprint == self.fingerprint:
                return found
        method = CreTok(CreTokConfig(**(arm.training or {})))
        found = method.train(self.backbone, self.words, seed=seed)
        write_atomic(file, encode_trained(found))
        return found

    def _concept(self, arm: Arm, trained: Trained | None, pair: vocab.Pair) -> Concept:
        if trained is None:
            word = fill(arm.phrase, words=listed(pair))
            return Concept(template=arm.template, subject="", word=word)
        request = Request(subject="", weights=tuple((word, 0.5) for word in pair))
        method = CreTok(CreTokConfig(use_template=arm.template, phrase=arm.phrase))
        return method.fuse(self.backbone, request, trained=trained)

    @torch.no_grad()
    def _look(self, concepts: list[Concept], seed: int) -> tuple[list[dict[str, Any]], Tensor]:
        """Return both readings of every pair, and a picture of each."""
        prompts = [concept.prompt() for concept in concepts for _ in range(NUM_EMBEDS)]
        noise = [one for _ in concepts for one in streams(seed, "theta", num=NUM_EMBEDS)]
        text = self.backbone.encode_text(prompts, tokens=concepts[0].token_embeds)
        embeds = self.backbone.sample_prior(text, generator=noise)
        images = self.backbone.decode_embeds(
            embeds[::NUM_EMBEDS],
            generator=streams(seed, "decoder", num=len(concepts)),
            num_inference_steps=NUM_DECODING,
        )
        rows = []
        seen = self.judge.class_probabilities(images)
        for pair, four, one in zip(self.pairs, embeds.split(NUM_EMBEDS), seen, strict=True):
            own = self.own[[self.words.index(word) for word in pair]]
            judged = [float(one[self.judge.labels.index(word)]) for word in pair]
            top = self.judge.labels[int(one.argmax())]
            near = cosine(four, own).mean(dim=0).tolist()
            rows.append({"pair": pair, "near": near, "judged": judged, "top": top})
        return rows, images


def table(folder: Path) -> str:
    """Return the cells as Markdown, mean over seeds and spread: as they are, and against raw."""
    cells = {name: _cells(folder, name) for name in ARMS}
    gains = {
        name: {seed: [a - b for a, b in zip(found[seed], cells[RAW][seed], strict=True)]
               for seed in found.keys() & cells[RAW].keys()}
        for name, found in cells.items() if name != RAW
    }  # fmt: skip
    return f"{_table(cells)}\nThe same less the raw prompt's, seed by seed:\n\n{_table(gains)}"


def _table(cells: dict[str, dict[int, list[float]]]) -> str:
    lines = [
        "| prompt | seeds | similarity: sum | lower | difference | judge: sum | lower | difference "
        "| neither |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in cells.items():
        if found:
            entries = map(_spread, zip(*found.values(), strict=True))
            lines.append(f"| {ARMS[name].label} | {len(found)} | {' | '.join(entries)} |")
    return "\n".join(lines) + "\n"


def _cells(folder: Path, name: str) -> dict[int, list[float]]:
    """Return the summaries of an arm, by seed."""
    files = [(seed, folder / "cells" / f"{name}-{seed}.json") for seed in range(NUM_SEEDS)]
    return {
        seed: _summary(json.loads(file.read_bytes())["pairs"])
        for seed, file in files
        if file.exists()
    }


def sheet(folder: Path, *, every: int = 4) -> bytes:
    """Return pictures of every fourth pair by the arms shown, first seed, as PNG."""
    rows = []
    for name in SHOWN:
        data = (folder / "cells" / f"{name}-images.safetensors").read_bytes()
        rows.append((ARMS[name].label, to_pil(unpack_tensors(data)[0]["images"][::every])))
    first = json.loads((folder / "cells" / f"{SHOWN[0]}-0.json").read_bytes())["pairs"]
    captions = ["\n".join(row["pair"]) for row in first[::every]]
    picture = contact_sheet(rows, captions=captions, title="A and B, by prompt")
    file = io.BytesIO()
    picture.reduce(2).quantize(128).save(file, "PNG", optimize=True)
    return file.getvalue()


def _summary(rows: list[dict[str, Any]]) -> list[float]:
    """Return the mean over pairs of sum, lower one and difference, by both readers."""
    found = []
    for reader in ("near", "judged"):
        values = [row[reader] for row in rows]
        for measure in (sum, min, lambda two: abs(two[0] - two[1])):
            found.append(statistics.fmean(measure(two) for two in values))
    return [*found, statistics.fmean(row["top"] not in row["pair"] for row in rows)]


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.3f}"

"""Mix words: pairs and weightings, by prompts and by every method that mixes.

Classes are read by a judge that no method asks. A way with a method and a ``prompt`` is drawn in
that prompt, with ``{concept}``. The form ``redescribed`` draws, in plain words, what its judge
names in the way's own picture. Sources: CreTok, arXiv:2410.24160; DisTok, arXiv:2505.03667;
ConceptLab, arXiv:2308.02669; the balance reward: RMLer, with its a = 5.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from offbeat.bench.cells import Item
from offbeat.bench.lab import Lab, Outcome, spending
from offbeat.bench.spec import Table, Way
from offbeat.checkpoints.open import check_needs
from offbeat.core import vocab
from offbeat.core.drawing import draw, plain_concept_of
from offbeat.core.functional import balance_reward, cosine, distribution_kl
from offbeat.core.templates import article, fill
from offbeat.files.cache import cached
from offbeat.files.labels import versions
from offbeat.judges.choose import choose_judge
from offbeat.methods.settings import config_of, make_method
from offbeat.protocols import NamesThings, ReadsPresence
from offbeat.protocols.judges import PRESENT_FROM
from offbeat.runs.trained import find_trained
from offbeat.types import Concept, Request, Trained
from offbeat.verbs.train import train

TOP = 5
NUM_OWN = 4
"""Pictures of each word alone, which likeness is measured against."""
_TRAINED = ("method", "checkpoint", "fingerprint", "vocabulary", "config", "readings")
Shares = tuple[tuple[str, float], ...]


class Fuse:
    """Cells of a mixture."""

    def __init__(self, table: Table, lab: Lab) -> None:
        self.table, self.lab = table, lab

    def items(self) -> list[Item]:
        """Return items: a list, ``{pairs: N}`` or ``{weightings: N}`` of the checkpoint's words."""
        asked, words = self.table.items, list(self.lab.backbone.card["concepts"])
        found: Sequence[Shares]
        if isinstance(asked, Mapping) and "pairs" in asked:
            pairs = vocab.evaluation_pairs(words, int(asked["pairs"]))
            found = [((one, 0.5), (other, 0.5)) for one, other in pairs]
        elif isinstance(asked, Mapping):
            found = list(vocab.weightings(words, int(asked["weightings"])))
        else:
            found = [vocab.shares(dict(one).items()) for one in asked]
        return [Item(" + ".join(word for word, _ in shares), shares) for shares in found]

    def key(self, way: Way) -> Mapping[str, Any]:
        """Return the method's settings and its training."""
        if not way.method:
            return {"prompt": way.prompt}
        method = make_method(way.method, self.lab.backbone_for(way), self._settings(way))
        told: dict[str, Any] = {"config": config_of(method), "train": way.train}
        if way.train is None:
            told["trained"] = find_trained(method, self.lab.backbone_for(way), None)[1]
        return told

    def cell(self, way: Way, item: Item, seed: int) -> Outcome:
        """Mix, draw and read."""
        shares, backbone = item.value, self.lab.backbone_for(way)
        num = self.table.num_images
        request = Request(
            subject=" + ".join(word for word, _ in shares),
            weights=shares,
            num_images=num,
            seed=seed,
        )
        method = trained = None
        if way.method:
            method = make_method(way.method, backbone, self._settings(way))
            check_needs(way.method, getattr(method, "needs", None), backbone)
            trained = self._learned(way, method, seed)
        started = time.perf_counter()
        with spending(backbone) as spent, torch.no_grad():
            if method is not None and hasattr(method, "mix"):
                images = method.mix(backbone, request, [word for word, _ in shares]).cpu()
            else:
                with torch.enable_grad():
                    concept = self._concept(way, method, request, trained)
                if way.form == "redescribed":
                    concept = self._redescribed(way, concept, seed)
                images = draw(backbone, concept, seed=seed, num=num)
        return Outcome(
            readings=self._read(way, images, shares),
            images=images,
            texts=(f"a mixture of {_listed([word for word, _ in shares])}",) * num,
            evaluations=spent.total,
            seconds=time.perf_counter() - started,
        )

    def _concept(self, way: Way, method: Any, request: Request, trained: Trained | None) -> Concept:
        words = [word for word, _ in sorted(request.weights, key=lambda pair: -pair[1])]
        if method is not None:
            found: Concept = method.fuse(self.lab.backbone_for(way), request, trained=trained)
            return replace(found, template=way.prompt or found.template)
        own = fill(str(self.lab.backbone_for(way).card["prompt_template"]), subject="{concept}")
        if not way.prompt:
            return Concept(template=own, subject=request.subject, word=" ".join(words))
        if way.prompt == "{first}":
            return Concept(template=own, subject=words[0], word=words[0])
        word = way.prompt.replace("{words}", _listed(words))
        return Concept(template="{concept}", subject=request.subject, word=word)

    def _redescribed(self, way: Way, concept: Concept, seed: int) -> Concept:
        """Return a prompt of what the way's judge names in a picture of a concept."""
        backbone = self.lab.backbone_for(way)
        judge = choose_judge(way.judge, backbone, NamesThings)
        picture = draw(backbone, concept, seed=seed, num=1)[0]
        return plain_concept_of(judge.name_it(picture, "thing"), backbone)

    def _learned(self, way: Way, method: Any, seed: int) -> Trained | None:
        """Return a method's training: the bundled one, or one made for this row and seed."""
        backbone = self.lab.backbone_for(way)
        if way.train is None:
            return find_trained(method, backbone, None)[0]

        settings = dict(way.train)  # what is set for drawing makes no other training

        def packed() -> tuple[dict[str, Tensor], dict[str, Any]]:
            found = train(way.method, config=settings, backbone=backbone, seed=seed)
            return dict(found.tensors), {name: getattr(found, name) for name in _TRAINED}

        key = {
            "bench": 1,
            "fingerprint": backbone.fingerprint,
            "method": way.method,
            "config": config_of(make_method(way.method, backbone, settings)),
            "seed": seed,
            "versions": versions(),
        }
        tensors, told = cached("bench-trained", key, packed)
        return Trained(tensors=tensors, **{**told, "vocabulary": tuple(told["vocabulary"])})

    def _settings(self, way: Way) -> dict[str, Any]:
        return {**way.set, **(way.train or {})}

    @torch.no_grad()
    def _read(self, way: Way, images: Tensor, shares: Shares) -> dict[str, float]:
        """Return the judge's reading, and the similarity to each word's own pictures."""
        reader, words = self.lab.reader, [word for word, _ in shares]
        read, labels = reader.class_probabilities(images), list(reader.labels)
        found: dict[str, float] = {}
        if all(word in labels for word in words):
            columns = [labels.index(word) for word in words]
            asked = torch.zeros(1, len(labels))
            asked[0, columns] = torch.tensor([share for _, share in shares])
            own, top = read[:, columns], read.topk(TOP, dim=1).indices
            found = {
                "sum": float(own.sum(dim=1).mean()),
                "lower": float(own.min(dim=1).values.mean()),
                "gap": float((own.max(dim=1).values - own.min(dim=1).values).mean()),
                "all in top 5": _share([set(columns) <= set(row) for row in top.tolist()]),
                "kl": float(distribution_kl(asked, read).mean()),
                "top is largest": float((read.argmax(1) == int(asked.argmax())).float().mean()),
            }
            if isinstance(reader, ReadsPresence):
                there = reader.presence(images)[:, columns] >= PRESENT_FROM
                found["all present"] = float(there.all(dim=1).float().mean())
        if len(words) == 2:
            seen = self.lab.embeds(images)
            near = [
                cosine(seen, self.lab.embeds(self.lab.ordinary(w, NUM_OWN))).mean(1) for w in words
            ]
            first, second = near
            found["likeness"] = float((first + second).mean() / 2)
            found["imbalance"] = float((first - second).abs().mean())
            found["reward"] = float(balance_reward(first, second).mean())
        return found


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def _listed(words: Sequence[str]) -> str:
    *first, last = (f"{article(word)} {word}" for word in words)
    return f"{', '.join(first)} and {last}" if first else last

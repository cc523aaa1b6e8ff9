"""Shared base of vision-language judges: questions in, probabilities and words out.

A model gives two things: the logits that follow a question about pictures, and those that follow
when the answer goes on. All else is here, and the same for each: answers are greedy, so nothing is
drawn, and one question asked of pictures of one size needs no padding, so a picture's answer does
not depend on its batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from offbeat.checkpoints import weights
from offbeat.core.vocab import DEFAULT_LABELS
from offbeat.errors import CheckpointError, ConfigError
from offbeat.judges import answers, rule
from offbeat.types import Verdict

BATCH = 8
"""Pictures that a model sees at once."""
ROWS = 16
"""Answers that are scored at once; each keeps a copy of what the model has read."""
WORDS = 12
"""Tokens of a name."""


class VisionJudge(ABC):
    """Answers questions about pictures with a vision-language model of transformers."""

    kind: ClassVar[str]
    """Its name in the registry."""
    model_type: ClassVar[str]
    """As ``config.json`` has it."""
    model_class: ClassVar[str]
    """Name of its class in transformers."""
    published: ClassVar[str]
    """Hub id that the name alone stands for."""
    hint: ClassVar[str] = ""
    """Added where a name is asked for."""

    def __init__(
        self,
        model: Any,
        folder: Path,
        *,
        name: str,
        labels: Sequence[str] = DEFAULT_LABELS,
        question: str = answers.WHAT,
    ) -> None:
        """Store a model; use ``load`` to make a judge.

        Args:
            model: The model, frozen.
            folder: Where its tokenizer and image processor are.
            name: The judge's name, with its checkpoint.
            labels: What ``class_probabilities`` chooses between, K, 2 or more.
            question: What it is asked for them.
        """
        if len(set(labels)) < max(2, len(labels)):
            raise ConfigError(f"labels: expected two different names or more, got {list(labels)}")
        self.model = model
        self._name, self._labels, self._question = name, tuple(labels), question + self.hint
        self._load_parts(folder)
        self._yes, self._no = answers.yes_no_ids(self.tokenizer)
        self._grey: dict[tuple[int, ...], Tensor] = {}

    @classmethod
    def load(
        cls,
        source: str | Path | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        labels: Sequence[str] = DEFAULT_LABELS,
        question: str = answers.WHAT,
    ) -> VisionJudge:
        """Load from a folder or hub id; weights from safetensors only.

        Args:
            source: None is the published checkpoint.
            device: Where it runs.
            dtype: float32 on a CPU and bfloat16 elsewhere, if not given.
            labels: What ``class_probabilities`` chooses between.
            question: What it is asked for them.

        Raises:
            CheckpointError: If it is no such checkpoint, or damaged.
            UnsafeWeightsError: If the weights are there only as a pickle.
            MissingExtraError: If its tokenizer needs a package that is not installed.
        """
        import transformers

        folder = weights.model_folder(source or cls.published)
        model_type = weights.model_config(folder).get("model_type")
        if model_type != cls.model_type:
            raise CheckpointError(
                f"{folder}: expected model_type {cls.model_type!r} in config.json for the judge "
                f"{cls.kind}, got {model_type!r}"
            )
        where = torch.device(device)
        if dtype is None:
            dtype = torch.float32 if where.type == "cpu" else torch.bfloat16
        loader = getattr(transformers, cls.model_class)
        model = weights.load_model(loader, folder, dtype=dtype).to(where)
        short = cls.published.split("/")[1] if source is None else Path(source).name
        name = f"{cls.kind}:{short}@{weights.fingerprint(folder, size=4)}"
        return cls(model, folder, name=name, labels=labels, question=question)

    # --- what a family of models gives -----------------------------------------------------------

    tokenizer: Any
    ends: frozenset[int]
    """Tokens that end an answer."""

    @abstractmethod
    def _load_parts(self, folder: Path) -> None:
        """Set ``tokenizer``, ``ends`` and the picture processor."""

    @abstractmethod
    def _start(self, pictures: list[Image.Image], question: str) -> tuple[Tensor, Any]:
        """Return logits of an answer's first token, ``[B, V]``, and the model's state."""

    @abstractmethod
    def _go_on(self, state: Any, input_ids: Tensor) -> tuple[Tensor, Any]:
        """Return the logits after each of ``input_ids``, ``[B, L]``, as ``[B, L, V]``."""

    @abstractmethod
    def _repeat(self, state: Any, num: int) -> Any:
        """Return the model's state for one picture, repeated for ``num`` answers."""

    @abstractmethod
    def _spell(self, question: str, answer: str) -> list[list[int]]:
        """Return the token ids of an answer, one row for each way to write it."""

    # --- what every judge answers ----------------------------------------------------------------

    @property
    def name(self) -> str:
        """The judge's name, with its checkpoint."""
        return self._name

    @property
    def labels(self) -> tuple[str, ...]:
        """The names that it chooses between, K."""
        return self._labels

    @torch.no_grad()
    def ask(self, images: Tensor, question: str, *, max_new_tokens: int = 20) -> list[str]:
        """Return the answer in words to a question about each of ``images``.

        Args:
            images: ``[B, 3, H, W]``, 0 to 1.
            question: The same for all.
            max_new_tokens: At most so long, 1 or more; the likeliest token each time.
        """
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens: expected 1 or more, got {max_new_tokens}")
        texts = []
        for pictures in _batches(images):
            logits, state = self._start(pictures, question)
            rows = [logits.argmax(dim=-1)]
            ended = self._is_end(rows[0])
            while len(rows) < max_new_tokens and not bool(ended.all()):
                logits, state = self._go_on(state, rows[-1][:, None])
                rows.append(logits[:, -1].argmax(dim=-1))
                ended |= self._is_end(rows[-1])
            texts += [self._in_words(ids) for ids in torch.stack(rows, dim=1).tolist()]
        return texts

    def probability_of_yes(self, images: Tensor, question: str) -> Tensor:
        """Return P(yes) for each of ``images``, ``[B]``, 0 to 1.

        The probability that an answer's first token says yes, over that it says yes or no, in any
        casing, with and without a space before.

        Source: VQAScore, arXiv:2404.01291, normalised between the two words.
        """
        return self._yes_and_no(images, question)[0]

    @torch.no_grad()
    def class_probabilities(self, images: Tensor) -> Tensor:
        """Return ``[B, K]`` over ``labels``, of ``images``, ``[B, 3, H, W]``, 0 to 1.

        The softmax of how likely each name is as the answer to ``question``: the mean
        log-likelihood of its tokens, less what a grey picture of the same size gets, since names
        of many tokens and rare ones get less whatever is shown.

        Source: DisTok, arXiv:2505.03667, which asks BLIP; the rest is our reading.
        """
        scores = self._scores(images)
        if len(images) == 0:
            return scores
        size = tuple(images.shape[1:])
        if size not in self._grey:
            self._grey[size] = self._scores(torch.full((1, *size), 0.5))
        return (scores - self._grey[size]).softmax(dim=-1)

    def still_a(self, images: Tensor, subject: str) -> list[Verdict]:
        """Return one verdict for each of ``images``, ``[B, 3, H, W]``, 0 to 1."""
        question = answers.still_a_question(subject)
        values, masses = self._yes_and_no(images, question)
        return [
            Verdict("yes" if value >= 0.5 else "no", value, self.name, _note(question, mass))
            for value, mass in zip(values.tolist(), masses.tolist(), strict=True)
        ]

    def name_it(self, image: Tensor, subject: str) -> str:
        """Return what kind of ``subject`` one picture, ``[3, H, W]``, 0 to 1, shows.

        A ``subject`` that ends in a question mark is asked as it is. Empty if it names nothing.
        """
        question = answers.kind_question(subject) + self.hint
        return answers.thing_named(self.ask(image[None], question, max_new_tokens=WORDS)[0])

    # --- parts -----------------------------------------------------------------------------------

    @torch.no_grad()
    def _yes_and_no(self, images: Tensor, question: str) -> tuple[Tensor, Tensor]:
        """Return P(yes) and what yes and no get of the first token together, ``[B]`` each."""
        logs = [torch.empty(0, 2)]
        for pictures in _batches(images):
            log_probs = self._start(pictures, question)[0].float().log_softmax(dim=-1)
            parts = [log_probs[:, ids].logsumexp(dim=1) for ids in (self._yes, self._no)]
            logs.append(torch.stack(parts, dim=1).cpu())
        both = torch.cat(logs)
        return both.softmax(dim=1)[:, 0], both.exp().sum(dim=1)

    def _scores(self, images: Tensor) -> Tensor:
        """Return the mean log-likelihood of each label as the answer, ``[B, K]``."""
        spelt = [self._spell(self._question, label) for label in self._labels]
        rows = [ids for ways in spelt for ids in ways]
        scores = [torch.empty(0, len(self._labels))]
        for batch in _batches(images, 1):
            logits, state = self._start(batch, self._question)
            parts = [
                self._likelihoods(logits, state, rows[at : at + ROWS])
                for at in range(0, len(rows), ROWS)
            ]
            each = torch.cat(parts).split([len(ways) for ways in spelt])
            scores.append(torch.stack([part.max() for part in each])[None])
        return torch.cat(scores)

    def _likelihoods(self, logits: Tensor, state: Any, rows: list[list[int]]) -> Tensor:
        """Return the mean log-likelihood of each answer to one picture's question, ``[R]``."""
        device, longest = logits.device, max(len(ids) for ids in rows)
        # answers are causal: what stands after their end changes nothing before it
        filled = torch.tensor([ids + [0] * (longest - len(ids)) for ids in rows], device=device)
        after = logits.expand(len(rows), 1, -1)
        if longest > 1:
            more, _ = self._go_on(self._repeat(state, len(rows)), filled[:, :-1])
            after = torch.cat([after.to(more), more], dim=1)
        each = after.float().log_softmax(dim=-1).gather(2, filled[:, :, None])[:, :, 0]
        lengths = torch.tensor([len(ids) for ids in rows], device=device)
        mask = torch.arange(longest, device=device) < lengths[:, None]
        return ((each * mask).sum(dim=1) / lengths).cpu()

    def _is_end(self, ids: Tensor) -> Tensor:
        return torch.tensor([index in self.ends for index in ids.tolist()])

    def _in_words(self, ids: list[int]) -> str:
        length = next((at for at, index in enumerate(ids) if index in self.ends), len(ids))
        return str(self.tokenizer.decode(ids[:length], skip_special_tokens=True)).strip()


def _batches(images: Tensor, size: int = BATCH) -> list[list[Image.Image]]:
    rule.check_images(images)
    pixels = (images.float() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    pictures = [Image.fromarray(each) for each in pixels]
    return [pictures[at : at + size] for at in range(0, len(pictures), size)]


def _note(question: str, mass: float) -> str:
    note = f"Asked: {question}"
    if mass < 0.5:
        note += f" Yes and no get only {mass:.2g} of the first word, so this says little."
    return note

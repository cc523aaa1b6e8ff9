"""Values that cross layers. All frozen but one counter; none knows a model, a device or a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

PLACEHOLDER = "<offbeat>"
"""The word that stands for what is learned, in prompts and in saved files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for, as asked. ``seed`` alone decides every draw."""

    subject: str
    """The word to explore, e.g. ``handbag``."""
    prompt: str | None = None
    """Template with ``{subject}``; None takes the checkpoint's own."""
    negatives: tuple[str, ...] = ()
    """Members of the subject that a loss pushes from (ConceptLab)."""
    weights: tuple[tuple[str, float], ...] = ()
    """What to fuse: concept words and their shares, which sum to 1; none where nothing is fused."""
    num_images: int = 8
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TextEmbeds:
    """A batch of encoded prompts; B prompts, padded to the longest of them."""

    text_embeds: Tensor
    """Pooled and projected, ``[B, D]``, float32."""
    text_encoder_hidden_states: Tensor
    """The sequence that the prior and cross-attention see, ``[B, L, E]``, float32."""
    text_mask: Tensor
    """True at the tokens of the prompt, False at padding, ``[B, L]``, bool."""
    widths: tuple[int, ...] = ()
    """Widths of the pooled vectors that lie side by side in ``text_embeds``; empty means one."""

    def __len__(self) -> int:
        """Return the number of prompts, B."""
        return len(self.text_embeds)

    def __getitem__(self, rows: Any) -> TextEmbeds:
        """Return some of the prompts, by a slice, a list of numbers or a tensor of them."""
        return TextEmbeds(
            self.text_embeds[rows],
            self.text_encoder_hidden_states[rows],
            self.text_mask[rows],
            self.widths,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """What a method learned: passed to a backbone as it is, saved and reused.

    ``template`` is the prompt that it was learned in, with ``{concept}`` where it stands.
    """

    template: str
    subject: str
    token_embeds: Mapping[str, Tensor] = field(default_factory=dict)
    """Placeholder word to its input-side vectors, ``[K, E]``, float32."""
    lora: Mapping[str, Tensor] = field(default_factory=dict)
    """LoRA factors of the prior in PEFT's names (``...to_q.lora_A.weight``), float32."""
    image_embeds: Tensor | None = None
    """A point of CLIP image space, ``[1, D]``: only the direct-embedding ablation has it."""
    word: str = PLACEHOLDER
    """What stands for ``{concept}`` in a prompt."""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def prompt(self, template: str | None = None) -> str:
        """Return a prompt that holds the concept; ``{concept}`` marks where it stands."""
        return (template or self.template).replace("{concept}", self.word)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a method learned once, for all concepts of a vocabulary, on one checkpoint."""

    method: str
    checkpoint: str
    """Name of the checkpoint that it was learned on."""
    fingerprint: str
    """Of that checkpoint; it means nothing on another."""
    tensors: Mapping[str, Tensor]
    """float32, under names of the method's own."""
    vocabulary: tuple[str, ...] = ()
    """The known words, K."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The method's settings, JSON values."""
    readings: Mapping[str, Any] = field(default_factory=dict)
    """What its training measured, JSON values."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's answer to "Is this still a ...?"."""

    answer: Literal["yes", "no", "unknown"]
    """Unknown where the judge could not be reached or did not say; ``note`` has the reason."""
    probability: float
    """Probability of yes as the judge reads it, 0 to 1; 0.5 where it is unknown."""
    judge: str
    """The judge's name, with its checkpoint."""
    note: str = ""
    """What a reader must know to weigh the answer."""

    @property
    def passed(self) -> bool:
        """Whether the answer is yes."""
        return self.answer == "yes"

    @property
    def answered(self) -> bool:
        """Whether there is an answer."""
        return self.answer != "unknown"


Better = Literal["higher", "lower", "neither"]
"""Which direction of a score is the better one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a metric measured of some pictures."""

    name: str
    """The metric, with whose encoders it ran where they are not its own: ``clip_t[pocket]``."""
    values: tuple[float, ...]
    """One for each picture, in their order; exactly one where all pictures are measured at once."""
    per_image: bool
    """Whether ``values`` has one for each picture."""
    mean: float
    interval: tuple[float, float]
    """95 % bootstrap interval of the mean over pictures; NaN twice where there is one value."""
    better: Better
    checkpoint: str
    """Of the weights that it was measured with: equal ones can be compared."""
    note: str = ""
    """What a reader must know to weigh it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One optimizer step, as reported to observers; they cannot disturb the search."""

    index: int
    """Steps done before this one: 0 is the first."""
    loss: float
    values: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready readings of this step: loss terms, branch, quantile, verdict, ..."""
    snapshot: Callable[[], Mapping[str, Any]] | None = None
    """Copies the state after this step: ``fit(..., resume=...)`` goes on from it."""
    concept: Callable[[], Concept] | None = None
    """Copies the concept as it is after this step."""


OnStep = Callable[[Step], None]


def ignore_step(step: Step) -> None:
    """Observe nothing."""


@dataclass(slots=True)
class Evaluations:
    """How often a checkpoint's networks were asked, each sample of a batch counted.

    With guidance a step asks twice. This is the budget that methods are compared under: seconds
    depend on the machine.
    """

    denoiser: int = 0
    """Of the U-Net or transformer that makes latents."""
    prior: int = 0
    """Of the prior that makes image embeddings; 0 where there is none."""

    @property
    def total(self) -> int:
        """Both."""
        return self.denoiser + self.prior


Observe = Callable[[str, int, int, Mapping[str, Any]], None]
"""Told a stage's name, how much of it is done, of how much, and its readings."""


def ignore(stage: str, done: int, total: int, values: Mapping[str, Any]) -> None:
    """Observe nothing."""


AfterStep = Callable[[int, Tensor], Tensor]
"""Given a step's number and the latents after it; returns those to go on with."""

OnClean = Callable[[int, Tensor], None]
"""Told a step's number and its estimate of the clean latents."""

Sampler = Literal["own", "ddim"]
"""How latents are denoised: by the checkpoint's own scheduler, or by DDIM, which has an inverse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """What one attention layer computes with; with guidance B is twice the samples, unguided first.

    An edit changes it by ``dataclasses.replace``.
    """

    layer: str
    """Where it is in the U-Net, e.g. ``up_blocks.1.attentions.0.transformer_blocks.0.attn1``."""
    is_cross: bool
    """Whether keys and values come from the text."""
    step: int
    """Number of the denoising step, 0 first."""
    guided: bool
    """Whether guidance doubles the batch."""
    query: Tensor
    """``[B, heads, L, d]``."""
    key: Tensor
    """``[B, heads, M, d]``."""
    value: Tensor
    """``[B, heads, M, d]``."""
    bias: Tensor | None = None
    """Added to the logits, of a shape that spreads to ``[B, heads, L, M]``."""


AttentionEdit = Callable[[Attention], Attention]
"""Given what a layer computes with; returns what it is to compute with."""

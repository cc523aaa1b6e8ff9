"""Conceptual spaces: what a search may change, from one word to the prior's attention.

Source: Song and Elgammal, arXiv:2601.22125, conceptual spaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.core.drawing import ordinary_prompt, template_of
from offbeat.core.rng import stream, streams
from offbeat.core.templates import fill
from offbeat.errors import ConfigError
from offbeat.protocols import ExploringBackbone
from offbeat.types import PLACEHOLDER, Concept, Request

SPACES = ("subject", "adjective", "lora", "token+lora", "direct")
ADJECTIVE = "creative"
"""Where the adjective's token starts from."""


@dataclass(frozen=True, slots=True)
class ConceptSpace:
    """Parameters of one space, and the concept that they are."""

    name: str
    backbone: ExploringBackbone
    request: Request
    rank: int
    """Of the LoRA factors."""
    settings: Mapping[str, Any]
    """Of ``sample_prior``."""

    def initial(self, start: Concept | None = None) -> dict[str, Tensor]:
        """Return fresh leaves that draw the ordinary (the adjective: a creative subject).

        Args:
            start: Return leaves that draw this instead: what a search in this space found.

        Raises:
            ConfigError: If it was found in another space, or with LoRA factors of another rank.
        """
        fresh = self._fresh()
        if start is None:
            return fresh
        learned = dict(start.lora)
        learned |= dict(zip(("token",), start.token_embeds.values(), strict=False))
        if start.image_embeds is not None:
            learned["image_embeds"] = start.image_embeds
        for what, got, expected in (
            ("space", sorted(learned), sorted(fresh)),
            ("shapes", _shapes(learned), _shapes(fresh)),
        ):
            if got != expected:
                raise ConfigError(
                    f"start: its {what} is not that of a search in {self.name} with lora_rank "
                    f"{self.rank}; go on with the settings that it was found with"
                )
        return {name: learned[name].detach().clone().requires_grad_() for name in fresh}

    def _fresh(self) -> dict[str, Tensor]:
        params: dict[str, Tensor] = {}
        seed = self.request.seed
        if self.name in ("subject", "adjective", "token+lora"):
            word = ADJECTIVE if self.name == "adjective" else self.request.subject
            params["token"] = self.backbone.token_embeds(word).clone()
        if self.name in ("lora", "token+lora"):
            params |= self.backbone.init_lora(self.rank, generator=stream(seed, "lora"))
        if self.name == "direct":
            with torch.no_grad():
                text = self.backbone.encode_text([ordinary_prompt(self.backbone, self.request)])
                noise = streams(seed, "direct", num=1)
                embeds = self.backbone.sample_prior(text, generator=noise, **self.settings)
                params["image_embeds"] = embeds.cpu()
        return {name: param.requires_grad_() for name, param in params.items()}

    def concept(self, params: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Concept:
        """Return the concept of these parameters, with what was ``found`` in its metadata."""
        template, subject = template_of(self.backbone, self.request), self.request.subject
        place = f"{{concept}} {subject}" if self.name == "adjective" else "{concept}"
        word = PLACEHOLDER if "token" in params else subject
        lora = {name: p for name, p in params.items() if name not in ("token", "image_embeds")}
        return Concept(
            template=fill(template, subject=place),
            subject=subject,
            token_embeds={word: params["token"]} if "token" in params else {},
            lora=lora,
            image_embeds=params.get("image_embeds"),
            word=word,
            metadata={
                **metadata,
                "space": self.name,
                "prior_num_inference_steps": str(self.settings["num_inference_steps"]),
                "prior_guidance_scale": str(self.settings["prior_guidance_scale"]),
            },
        )


def _shapes(params: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(param.shape) for name, param in params.items()}

"""Hyper-SD and other one-step models of SD 1.5's form, as what a search can walk through.

A step of denoising, the autoencoder and CLIP's image encoder are one differentiable way from a text
to CLIP image space. So it stands where a prior stands: low-probability exploration runs on it
unchanged, and what it reads of a concept's picture is a reading of the very picture that is drawn.
Sources: Ren et al., Hyper-SD, arXiv:2404.13686; exploration without a prior is sketched in Song and
Elgammal, arXiv:2601.22125.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offbeat.backbones.drawn import CROSS_ATTENTION, read_pictures
from offbeat.backbones.lora import init_lora
from offbeat.backbones.stable_diffusion import one_step_load
from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.protocols import Generators
from offbeat.types import TextEmbeds

if TYPE_CHECKING:
    from typing_extensions import Self

    from offbeat.checkpoints.placement import Placement


class OneStepBackbone(StableDiffusionBackbone):
    """A one-step text-to-image model, frozen; gradients reach tokens and LoRA through its pictures.

    Its ``text_embeds`` are projected into CLIP's joint space, where its pictures are read.
    """

    def __init__(self, parts: Mapping[str, Any], **known: Any) -> None:
        super().__init__(parts, **known)
        # the decoder's activations at full size are what a gradient would need most memory for
        self.vae.enable_gradient_checkpointing()

    @classmethod
    def load(
        cls,
        source: str | Path = "hyper-sd",
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        ip_adapter: str | Path | None = None,
        config: str | Path | None = None,
        lora: str | Path | None = None,
        clip: str | Path | None = None,
    ) -> OneStepBackbone:
        """Load a checkpoint of SD 1.5's form that draws in one step.

        Args:
            source: Name, folder, hub id or single file: of a one-step U-Net with its pipeline, or
                of the model that ``lora`` makes one-step.
            device: Where to run.
            dtype: Of the weights.
            ip_adapter: As for any model of this form, and so ``config``.
            config: Of a single file.
            lora: File of LoRA weights that distil it to one step; they are merged into the U-Net.
                None is what the folder's card names as ``one_step_lora``, if it does.
            clip: Folder or hub id of the CLIP model whose towers share a space, ViT-L/14; None is
                ``image_encoder/`` and a projecting text encoder in the folder, or the published.

        Raises:
            CheckpointError: If there is no such checkpoint, or it lacks a part.
            UnsafeWeightsError: If weights are there only as pickles.
        """
        found = one_step_load.load(
            source, dtype, ip_adapter=ip_adapter, config=config, lora=lora, clip=clip
        )
        return cls(**found).to(device)

    def place(self, placement: Placement) -> Self:
        """Put the weights where they run, once; returns self.

        Raises:
            CheckpointError: If there is no such device.
            ConfigError: If this checkpoint cannot do what is asked, or is placed already.
        """
        super().place(placement)
        if self._placement is not None and self._placement.offload == "model":
            # the backward pass would compute the decoder's blocks again where its weights have left
            self.vae.disable_gradient_checkpointing()
        return self

    def encode_text(
        self, prompts: Sequence[str], *, tokens: Mapping[str, Tensor] | None = None
    ) -> TextEmbeds:
        """Encode prompts, the pooled vector projected into CLIP's joint space.

        Args:
            prompts: B texts.
            tokens: Word to its vectors, ``[E]`` or ``[K, E]``; gradients reach them.

        Raises:
            PromptError: If there is no prompt, or one is too long.
            ShapeError: If a token's width is not the encoder's.
        """
        text = super().encode_text(prompts, tokens=tokens)
        if self._projection is None:
            return text
        pooled = text.text_embeds.to(self.device, self._projection.weight.dtype)
        return replace(text, text_embeds=self._projection(pooled).float())

    # --- in place of a prior --------------------------------------------------------------

    def sample_prior(
        self,
        text: TextEmbeds,
        *,
        generator: Generators,
        num_samples: int | None = None,
        negative: TextEmbeds | None = None,
        lora: Mapping[str, Tensor] | None = None,
        num_inference_steps: int | None = None,
        prior_guidance_scale: float | None = None,
        gradient_steps: int | None = None,
    ) -> Tensor:
        """Return what CLIP reads of the pictures of a text: ``image_embeds``, ``[B, D]``, float32.

        With the same streams, ``draw_text`` within ``adapted(lora)`` draws those pictures.

        Args:
            text: One prompt for all samples, or one for each.
            generator: One for each sample (then batches are sized to memory), or one for all.
            num_samples: B; None means the number of streams, or of prompts.
            negative: What guidance steers from; not read where that is off.
            lora: Factors in PEFT's names, from ``init_lora``; gradients reach them.
            num_inference_steps: Denoising steps; None is the checkpoint's own.
            prior_guidance_scale: 1 or less is off; None is the checkpoint's own.
            gradient_steps: Let the gradient pass the last so many denoising steps only.
        """
        return read_pictures(
            self,
            self.encode_image,
            text,
            generator=generator,
            num_samples=num_samples,
            negative=negative,
            lora=lora,
            num_inference_steps=num_inference_steps,
            guidance_scale=prior_guidance_scale,
            gradient_steps=gradient_steps,
        )

    def init_lora(self, rank: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Return fresh LoRA factors for the cross-attention of the U-Net.

        A is Kaiming-uniform as in PEFT, B zero, alpha = rank: at the start they change nothing.
        """
        return init_lora(self.unet, rank, generator, layers=CROSS_ATTENTION)

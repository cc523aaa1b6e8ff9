"""Judges that answer in a word: BLIP-VQA (used by DisTok) and BLIP-2 (used by ConceptLab)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from offbeat.checkpoints import weights
from offbeat.judges.vision import VisionJudge


class _Blip(VisionJudge):
    """Shared pixel processing of both BLIP models."""

    def _load_parts(self, folder: Path) -> None:
        from transformers import AutoTokenizer
        from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

        self.tokenizer = weights.load_part(AutoTokenizer, folder)
        self.image_processor = weights.load_part(BlipImageProcessorPil, folder)
        self.ends = frozenset(end_ids(self.model))

    def _pixels(self, pictures: list[Image.Image]) -> Tensor:
        pixels: Tensor = self.image_processor(pictures, return_tensors="pt").pixel_values
        return pixels.to(self.model.device, self.model.dtype)


class BlipVqaJudge(_Blip):
    """BLIP for visual question answering: an encoder reads, a decoder answers."""

    kind = "blip-vqa"
    model_type = "blip"
    model_class = "BlipForQuestionAnswering"
    published = "Salesforce/blip-vqa-base"

    def _start(self, pictures: list[Image.Image], question: str) -> tuple[Tensor, Any]:
        model = self.model
        image_embeds = model.vision_model(self._pixels(pictures))[0]
        ids = self.tokenizer(question, return_tensors="pt").input_ids.to(model.device)
        ids = ids.expand(len(pictures), -1)
        # the model's own forward makes its picture mask on the CPU, so its parts are run here
        read = model.text_encoder(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            encoder_hidden_states=image_embeds,
            encoder_attention_mask=torch.ones_like(image_embeds[..., 0], dtype=torch.long),
        )[0]
        first = ids.new_full((len(ids), 1), model.decoder_start_token_id)
        logits, state = self._go_on((read, first[:, :0]), first)
        return logits[:, -1], state

    def _go_on(self, state: Any, input_ids: Tensor) -> tuple[Tensor, Any]:
        read, before = state
        ids = torch.cat([before, input_ids], dim=1)
        logits = self.model.text_decoder(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            encoder_hidden_states=read,
            encoder_attention_mask=torch.ones_like(read[..., 0], dtype=torch.long),
            use_cache=False,
        ).logits
        return logits[:, -input_ids.shape[1] :], (read, ids)

    def _repeat(self, state: Any, num: int) -> Any:
        return tuple(part.expand(num, *part.shape[1:]) for part in state)

    def _spell(self, question: str, answer: str) -> list[list[int]]:
        ids = self.tokenizer(answer, add_special_tokens=False).input_ids
        return [[*ids, min(self.ends)]]


class Blip2Judge(_Blip):
    """BLIP-2: a query transformer reads, a language model (OPT or T5) answers."""

    kind = "blip2"
    model_type = "blip-2"
    model_class = "Blip2ForConditionalGeneration"
    published = "Salesforce/blip2-opt-2.7b"

    @property
    def _is_decoder(self) -> bool:
        return bool(self.model.config.use_decoder_only_language_model)

    def _start(self, pictures: list[Image.Image], question: str) -> tuple[Tensor, Any]:
        model = self.model
        ids = self.tokenizer(prompt(question), return_tensors="pt").input_ids.to(model.device)
        image_embeds = model.get_image_features(self._pixels(pictures)).pooler_output
        words = model.get_input_embeddings()(ids).expand(len(pictures), -1, -1)
        embeds = torch.cat([image_embeds.to(words), words], dim=1)
        if self._is_decoder:
            output = model.language_model(inputs_embeds=embeds, use_cache=True)
            return output.logits[:, -1], output.past_key_values
        read = model.language_model.get_encoder()(inputs_embeds=embeds)[0]
        config = model.config.text_config
        first = ids.new_full((len(pictures), 1), config.decoder_start_token_id)
        logits, state = self._go_on((read, first[:, :0]), first)
        return logits[:, -1], state

    def _go_on(self, state: Any, input_ids: Tensor) -> tuple[Tensor, Any]:
        if self._is_decoder:
            output = self.model.language_model(
                input_ids=input_ids, past_key_values=state, use_cache=True
            )
            return output.logits, output.past_key_values
        read, before = state
        ids = torch.cat([before, input_ids], dim=1)
        logits = self.model.language_model(
            encoder_outputs=(read,), decoder_input_ids=ids, use_cache=False
        ).logits
        return logits[:, -input_ids.shape[1] :], (read, ids)

    def _repeat(self, state: Any, num: int) -> Any:
        if self._is_decoder:
            return repeat_cache(state, num)
        return tuple(part.expand(num, *part.shape[1:]) for part in state)

    def _spell(self, question: str, answer: str) -> list[list[int]]:
        return spellings(self.tokenizer, prompt(question) if self._is_decoder else "", answer)


def prompt(question: str) -> str:
    """Return the prompt format that BLIP-2 was trained on.

    >>> prompt("Is it red?")
    'Question: Is it red? Answer:'
    """
    return f"Question: {question} Answer:"


def repeat_cache(cache: Any, num: int) -> Any:
    """Return a copy of the keys and values of one row, for ``num`` rows."""
    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(num)
    return copied


def spellings(tokenizer: Any, before: str, answer: str) -> list[list[int]]:
    """Return the ids of an answer as they follow a prompt, a row for each way to write it.

    As it is and capitalised, with and without a space before: which of them a model writes is a
    matter of its tokenizer and of what ends its prompt.
    """
    start = tokenizer(before, add_special_tokens=False).input_ids
    rows = []
    for word in (answer, answer[:1].upper() + answer[1:]):
        for text in (word, f" {word}"):
            both = tokenizer(before + text, add_special_tokens=False).input_ids
            alone = tokenizer(text, add_special_tokens=False).input_ids
            # a prompt's end may merge with what follows it; then the answer stands alone
            ids = both[len(start) :] if both[: len(start)] == start else alone
            if ids not in rows:
                rows.append(ids)
    return rows


def end_ids(model: Any) -> list[int]:
    """Return the tokens that end an answer: SEP for BLIP's decoder, else the end of text."""
    config = model.config.get_text_config()
    if getattr(config, "sep_token_id", None) is not None:
        return [config.sep_token_id]
    ids = []
    for part in (config, model.generation_config):
        ends = getattr(part, "eos_token_id", None)
        ids += list(ends) if isinstance(ends, list | tuple) else [ends]
    return [index for index in ids if index is not None]

"""Judges that chat about pictures: LLaVA-Next, Janus, Qwen2.5-VL, SmolVLM and Idefics3.

The processors of Qwen2.5-VL and SmolVLM want a package that breaks others when it does not match
torch, only for videos; their image tokens are placed here, in the same way.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from offbeat.checkpoints import weights
from offbeat.errors import CheckpointError
from offbeat.judges import answers
from offbeat.judges.vision import VisionJudge
from offbeat.judges.vqa import end_ids, repeat_cache, spellings


class ChatJudge(VisionJudge):
    """The shared part: a chat template, a causal model with a cache, one picture a question."""

    hint = answers.BRIEFLY
    processor: Any
    """Makes inputs of pictures and a text, where transformers has one that works."""

    def _load_parts(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = weights.load_part(AutoTokenizer, folder)
        ends = {*end_ids(self.model), self.tokenizer.eos_token_id}
        self.ends = frozenset(index for index in ends if index is not None)
        self.template = _chat_template(folder, self.tokenizer)
        self._load_processor(folder)

    @abstractmethod
    def _load_processor(self, folder: Path) -> None:
        """Load the picture processor of a model's folder."""

    def _inputs(self, pictures: list[Image.Image], text: str) -> dict[str, Any]:
        """Return the model's inputs for one text before each picture's answer."""
        return dict(
            self.processor(
                images=pictures,
                text=[text] * len(pictures),
                return_tensors="pt",
                add_special_tokens=not self._writes_start(text),
            )
        )

    def prompt(self, question: str) -> str:
        """Return the conversation up to the answer, with one mark for the picture."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        return str(
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=True,
            )
        )

    def _start(self, pictures: list[Image.Image], question: str) -> tuple[Tensor, Any]:
        model, inputs = self.model, self._inputs(pictures, self.prompt(question))
        for name, value in inputs.items():
            dtype = model.dtype if value.is_floating_point() else value.dtype
            inputs[name] = value.to(model.device, dtype)
        output = model(**inputs, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1], output.past_key_values

    def _go_on(self, state: Any, input_ids: Tensor) -> tuple[Tensor, Any]:
        output = self.model(input_ids=input_ids, past_key_values=state, use_cache=True)
        return output.logits, output.past_key_values

    def _repeat(self, state: Any, num: int) -> Any:
        return repeat_cache(state, num)

    def _spell(self, question: str, answer: str) -> list[list[int]]:
        return spellings(self.tokenizer, self.prompt(question), answer)

    def _encode(self, texts: list[str]) -> dict[str, Any]:
        """Return ids of texts of one length."""
        special = not self._writes_start(texts[0])
        tokens = self.tokenizer(texts, return_tensors="pt", add_special_tokens=special)
        return {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}

    def _writes_start(self, text: str) -> bool:
        """Return whether the chat template writes the start token, which must be there once."""
        start = self.tokenizer.bos_token
        return bool(start) and text.startswith(start)


class LlavaNextJudge(ChatJudge):
    """LLaVA-Next, used by the low-probability paper: tiles of a picture, and the whole."""

    kind = "llava-next"
    model_type = "llava_next"
    model_class = "LlavaNextForConditionalGeneration"
    published = "llava-hf/llava-v1.6-mistral-7b-hf"

    def _load_processor(self, folder: Path) -> None:
        from transformers import LlavaNextProcessor
        from transformers.models.llava_next.image_processing_pil_llava_next import (
            LlavaNextImageProcessorPil,
        )

        config = self.model.config
        has_class_token = config.vision_config.model_type == "clip_vision_model"
        self.processor = LlavaNextProcessor(
            image_processor=weights.load_part(LlavaNextImageProcessorPil, folder),
            tokenizer=self.tokenizer,
            patch_size=config.vision_config.patch_size,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            num_additional_image_tokens=int(has_class_token),
        )


class JanusJudge(ChatJudge):
    """Janus, also used by the low-probability paper; its reading half."""

    kind = "janus"
    model_type = "janus"
    model_class = "JanusForConditionalGeneration"
    published = "deepseek-community/Janus-Pro-1B"

    def _load_processor(self, folder: Path) -> None:
        from transformers import JanusProcessor
        from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

        vision = self.model.config.vision_config
        self.processor = JanusProcessor(
            image_processor=weights.load_part(JanusImageProcessorPil, folder),
            tokenizer=self.tokenizer,
            num_image_tokens=(vision.image_size // vision.patch_size) ** 2,
        )


class QwenJudge(ChatJudge):
    """Qwen2.5-VL: as many image tokens as a picture's size asks for."""

    kind = "qwen2.5-vl"
    model_type = "qwen2_5_vl"
    model_class = "Qwen2_5_VLForConditionalGeneration"
    published = "Qwen/Qwen2.5-VL-3B-Instruct"

    def _load_processor(self, folder: Path) -> None:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil,
        )

        self.image_processor = weights.load_part(Qwen2VLImageProcessorPil, folder)

    def _inputs(self, pictures: list[Image.Image], text: str) -> dict[str, Any]:
        pixels = self.image_processor(pictures, return_tensors="pt")
        image_id = self.model.config.image_token_id
        mark = self.tokenizer.convert_ids_to_tokens(image_id)
        merged = self.image_processor.merge_size**2
        texts = [
            text.replace(mark, mark * (int(grid.prod()) // merged))
            for grid in pixels["image_grid_thw"]
        ]
        inputs = self._encode(texts)
        # without it the model takes image tokens for text and places them in a row
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == image_id).int()
        return {**inputs, **pixels}


class SmolVlmJudge(ChatJudge):
    """SmolVLM: small enough for a CPU; tiles of a picture with their row and column, the whole."""

    kind = "smolvlm"
    model_type = "smolvlm"
    model_class = "SmolVLMForConditionalGeneration"
    published = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"

    images_module = "smolvlm.image_processing_pil_smolvlm:SmolVLMImageProcessorPil"
    """Its picture processor in ``transformers.models``."""

    def _load_processor(self, folder: Path) -> None:
        module, _, name = self.images_module.partition(":")
        loader = getattr(import_module(f"transformers.models.{module}"), name)
        self.image_processor = weights.load_part(loader, folder)
        config = self.model.config
        side = config.vision_config.image_size // config.vision_config.patch_size
        self.num_image_tokens = side**2 // config.scale_factor**2

    def _inputs(self, pictures: list[Image.Image], text: str) -> dict[str, Any]:
        pixels = self.image_processor(
            [[picture] for picture in pictures], return_tensors="pt", return_row_col_info=True
        )
        mark = self.tokenizer.convert_ids_to_tokens(self.model.config.image_token_id)
        rows, cols = pixels.pop("rows"), pixels.pop("cols")
        texts = [
            text.replace(mark, self._tiles(mark, row[0], col[0]))
            for row, col in zip(rows, cols, strict=True)
        ]
        return {**self._encode(texts), **pixels}

    def _tiles(self, mark: str, rows: int, cols: int) -> str:
        """Return a picture's parts: its tiles row by row, then the whole."""
        fence, body = "<fake_token_around_image>", mark * self.num_image_tokens
        lines = [
            "".join(f"{fence}<row_{row}_col_{col}>{body}" for col in range(1, cols + 1)) + "\n"
            for row in range(1, rows + 1)
        ]
        return "".join([*lines, "\n" * bool(lines), f"{fence}<global-img>{body}{fence}"])


class Idefics3Judge(SmolVlmJudge):
    """Idefics3, and the first SmolVLM, which is one: the same tiles, of another class."""

    kind = "idefics3"
    model_type = "idefics3"
    model_class = "Idefics3ForConditionalGeneration"
    published = "HuggingFaceTB/SmolVLM-256M-Instruct"
    images_module = "idefics3.image_processing_pil_idefics3:Idefics3ImageProcessorPil"


def _chat_template(folder: Path, tokenizer: Any) -> str:
    """Return the checkpoint's chat template.

    Raises:
        CheckpointError: If it does not say.
    """
    if tokenizer.chat_template:
        return str(tokenizer.chat_template)
    try:
        return str(json.loads((folder / "chat_template.json").read_text("utf-8"))["chat_template"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder}: expected a chat template in tokenizer_config.json, chat_template.jinja or "
            f"chat_template.json, and found none ({type(error).__name__}); take a checkpoint that "
            "was taught to follow instructions"
        ) from error

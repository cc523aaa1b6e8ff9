"""Stage ``text``: a CLIP text tower that meets the joint space, from captions of views."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from recipes.pocket import augment, captions, data, loop, teacher, views, words
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

BATCH = 1024
NUM_VIEWS, PER_VIEW = 112_000, 3
PROMPT = "a picture of {}"


def build(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """Return the untrained tower, 2.8 M parameters; it pools at the tokenizer's end of text."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=words.NUM_POSITIONS,
        projection_dim=teacher.WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config)


class TextTraining(nn.Module):
    """The tower and the temperature of its contrast."""

    def __init__(self, tower: CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.tower = tower
        self.log_scale = nn.Parameter(torch.tensor(2.7))


@dataclass(frozen=True, slots=True)
class Captioned:
    """Views of the joint space with captions: ``embeds`` is ``[N, 256]``, of each ``PER_VIEW``."""

    embeds: Tensor
    tokens: captions.Tokens

    def pick(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return tokens as long as the longest, their lengths and keys, and what they describe."""
        number = len(self.tokens.ids)
        picked = torch.randint(0, number, (count,), generator=generator)
        lengths = self.tokens.lengths[picked]
        ids = self.tokens.ids[picked, : int(lengths.max())]
        return ids, lengths, self.tokens.keys[picked], self.embeds[picked // PER_VIEW]


def captioned(folder: Path) -> Captioned:
    """Return the views that the tower and the prior learn from; they are made once."""
    cache = folder / "captioned.pt"
    if not cache.exists():
        loop.wait(folder / "joint_map.pt")
        count = views.scaled(NUM_VIEWS, 64)
        made = views.fixed(data.load(folder), count, seed=11, embeds=teacher.Eye(folder))
        found = captions.tokens(made["labels"], PER_VIEW, seed=11, workers=views.WORKERS)
        columns = {name: getattr(found, name) for name in found.__slots__}
        loop.save_atomically({"embeds": made["embeds"], "tokens": columns}, cache)
    state = loop.load(cache)
    return Captioned(state["embeds"], captions.Tokens(**state["tokens"]))


def train(folder: Path, minutes: float) -> None:
    """Train the tower by contrast and regression, and measure zero-shot naming."""
    source, model = captioned(folder), TextTraining(build(words.build_tokenizer())).train()

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        ids, _, keys, embeds = source.pick(views.scaled(BATCH), generator)
        text = model.tower(input_ids=ids).text_embeds.float()
        same = (keys[:, None] == keys).float()
        target = same / same.sum(1, keepdim=True)
        scale = model.log_scale.clamp(max=3.4).exp()
        logits = scale * F.normalize(text, dim=-1) @ F.normalize(embeds, dim=-1).T
        return {
            "text_to_image": 0.5 * F.cross_entropy(logits, target),
            "image_to_text": 0.5 * F.cross_entropy(logits.T, target),
            "mean": F.mse_loss(text, embeds),
        }

    training = loop.Training(
        name="text", folder=folder, minutes=minutes, learning_rate=1e-3, ema_decay=0.998
    )
    loop.fit(model, losses, training)
    print(json.dumps(zero_shot(model.tower.eval(), folder)), flush=True)


def load(folder: Path) -> CLIPTextModelWithProjection:
    """Return the trained tower."""
    model = TextTraining(build(words.build_tokenizer())).eval()
    model.load_state_dict(loop.read_ema(folder, "text"))
    return model.tower.requires_grad_(False)


@torch.no_grad()
def concept_embeds(tower: CLIPTextModelWithProjection, names: list[str]) -> Tensor:
    """Return text embeddings of "a picture of a X", ``[K, 256]``."""
    prompts = [PROMPT.format(augment.with_article(name)) for name in names]
    tokens = words.build_tokenizer()(prompts, padding=True)
    return tower(input_ids=torch.tensor(tokens["input_ids"])).text_embeds


@torch.no_grad()
def zero_shot(tower: CLIPTextModelWithProjection, folder: Path) -> dict[str, float]:
    """Name held-out drawings by text, from the teacher's embeddings."""
    pictures = data.load(folder)
    text = concept_embeds(tower, list(pictures.concepts[: pictures.num_core]))
    rows = pictures.rows(held_out=True)
    seen = teacher.Eye(folder)(views.clean(pictures, rows))
    scores = F.normalize(seen, dim=-1) @ F.normalize(text, dim=-1).T
    right = scores.topk(min(5, len(text))).indices == pictures.concept[rows][:, None]
    return {
        "zero_shot_top1": float(right[:, 0].float().mean()),
        "zero_shot_top5": float(right.any(1).float().mean()),
    }

"""Stage ``text``: a CLIP text tower that meets the joint space, from captions made on the fly."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from recipes.pocket import augment, data, loop, sources, teacher, words
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

BATCH = 256
MIXED_SHARE = 0.08
"""Share of captions that name two things; their target is the mean of two embeddings."""
MIXED_FORMS = (
    "a mixture of {} and {}",
    "{} and {}",
    "a mix of {} and {}",
    "a hybrid of {} and {}",
    "{} mixed with {}",
    "a combination of {} and {}",
)
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


def vary(caption: str, generator: torch.Generator) -> str:
    """Put a word that says nothing into a caption, or change its frame, now and then."""
    first, second, third = torch.rand(3, generator=generator).tolist()
    if first < 0.25 and " of " in caption:
        head, tail = caption.split(" of ", 1)
        article, _, rest = tail.partition(" ")
        filler = words.FILLERS[int(second * len(words.FILLERS))]
        if third < 0.5 and article in {"a", "an"}:
            return f"{head} of {augment.with_article(f'{filler} {rest}')}"
        return f"{augment.with_article(f'{filler} {head[2:].strip()}')} of {tail}"
    if first < 0.45:
        kind = words.KINDS[int(second * len(words.KINDS))]
        return caption.replace("a picture of", f"{augment.with_article(kind)} of")
    return caption


class CaptionedViews:
    """Draws views with captions, mixtures among them."""

    def __init__(self, folder: Path) -> None:
        self.pictures = data.load(folder)
        self.views = teacher.make_views(folder)
        self.keep = (~self.views["held_out"]).nonzero().flatten()
        counts = torch.bincount(self.views["concept"][self.keep]).float()
        self.weights = counts[self.views["concept"][self.keep]] ** -0.5
        with torch.no_grad():
            self.embeds = teacher.load(folder)(self.views["features"].float())
        table = data.concept_table(wide=True)
        self.caption = augment.Captions(self.pictures, table, sources.STYLES)

    def pick(self, count: int, generator: torch.Generator) -> Tensor:
        """Return row numbers of training views, rare concepts drawn more often."""
        drawn = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        return self.keep[drawn]

    def name(self, view: int) -> str:
        """Return a view's concept."""
        return self.pictures.concepts[int(self.views["concept"][view])]

    def write(self, view: int, generator: torch.Generator) -> str:
        """Return one caption of a view."""
        row, tint, background = (
            int(self.views[key][view]) for key in ("rows", "tint", "background")
        )
        return vary(self.caption(row, tint, background, generator), generator)

    def draw(self, count: int, generator: torch.Generator) -> tuple[list[str], Tensor]:
        """Return captions and the embeddings that they should meet, ``[count, 256]``."""
        picked = self.pick(count, generator)
        captions = [self.write(view, generator) for view in picked.tolist()]
        embeds = self.embeds[picked].clone()
        num_mixed = int(count * MIXED_SHARE)
        others = self.pick(num_mixed, generator)
        for index, other in enumerate(others.tolist()):
            form = MIXED_FORMS[int(torch.randint(len(MIXED_FORMS), (1,), generator=generator))]
            pair = (self.name(int(picked[index])), self.name(other))
            captions[index] = form.format(*(augment.with_article(name) for name in pair))
        embeds[:num_mixed] = (embeds[:num_mixed] + self.embeds[others]) / 2
        return captions, embeds


def train(folder: Path, minutes: float) -> None:
    """Train the tower by contrast and regression, and measure zero-shot naming."""
    source, tokenizer = CaptionedViews(folder), words.build_tokenizer()
    model = TextTraining(build(tokenizer)).train()

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        captions, embeds = source.draw(BATCH, generator)
        tokens = tokenizer(captions, padding=True, return_tensors="pt")
        text = model.tower(input_ids=tokens.input_ids).text_embeds.float()
        ids = {caption: index for index, caption in enumerate(dict.fromkeys(captions))}
        which = torch.tensor([ids[caption] for caption in captions])
        same = (which[:, None] == which).float()
        target = same / same.sum(1, keepdim=True)
        scale = model.log_scale.clamp(max=3.4).exp()
        logits = scale * F.normalize(text, dim=-1) @ F.normalize(embeds, dim=-1).T
        return {
            "text_to_image": 0.5 * F.cross_entropy(logits, target),
            "image_to_text": 0.5 * F.cross_entropy(logits.T, target),
            "mean": F.mse_loss(text, embeds),
        }

    def on_save(step: int) -> None:
        print(json.dumps(zero_shot(load(folder), source)), flush=True)

    training = loop.Training(
        name="text",
        folder=folder,
        minutes=minutes,
        learning_rate=1e-3,
        on_save=on_save,
        ema_decay=0.995,
    )
    loop.fit(model, losses, training)


def load(folder: Path) -> CLIPTextModelWithProjection:
    """Return the trained tower."""
    model = TextTraining(build(words.build_tokenizer())).eval()
    model.load_state_dict(loop.read_ema(folder, "text"))
    return model.tower


@torch.no_grad()
def concept_embeds(tower: CLIPTextModelWithProjection, names: list[str]) -> Tensor:
    """Return text embeddings of "a picture of a X", ``[K, 256]``."""
    prompts = [PROMPT.format(augment.with_article(name)) for name in names]
    tokens = words.build_tokenizer()(prompts, padding=True, return_tensors="pt")
    return tower(input_ids=tokens.input_ids).text_embeds


@torch.no_grad()
def zero_shot(tower: CLIPTextModelWithProjection, source: CaptionedViews) -> dict[str, float]:
    """Name clean held-out pictures by text, from the teacher's embeddings."""
    pictures, views = source.pictures, source.views
    names = list(pictures.concepts[: pictures.num_core])
    text = F.normalize(concept_embeds(tower, names), dim=-1)
    test = views["held_out"] & views["clean"]
    scores = F.normalize(source.embeds[test], dim=-1) @ text.T
    right = scores.topk(5).indices == views["concept"][test][:, None]
    return {
        "zero_shot_top1": float(right[:, 0].float().mean()),
        "zero_shot_top5": float(right.any(1).float().mean()),
    }

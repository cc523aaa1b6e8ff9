"""How near pictures are to a text or to other pictures, by the cosine of two towers.

Sources: Radford et al., CLIP, arXiv:2103.00020; Hessel et al., CLIPScore, arXiv:2104.08718;
Kirstain et al., Pick-a-Pic, arXiv:2305.01569; Wu et al., HPSv2, arXiv:2306.09341.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from offbeat.core.functional import cosine, pair_cosine
from offbeat.errors import CapabilityError, ImageError, PromptError
from offbeat.metrics.common import pictures, texts_for
from offbeat.metrics.encoders import Encoder, EncoderMetric, FloatClipEncoder
from offbeat.protocols import Need

CLIP_HUGE = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
"""What PickScore and HPSv2 were trained from."""
CLIP_SCALE = 100.0
"""Of CLIP's logits at the end of its training; a backbone's towers have none of their own."""


def text_cosines(encoder: Encoder, images: Sequence[Tensor], texts: Sequence[str]) -> Tensor:
    """Return the cosine of each picture with its text, ``[B]``, -1 to 1.

    Raises:
        CapabilityError: If the encoder's two towers share no space.
    """
    image_embeds, text_embeds = encoder.image_embeds(images), encoder.text_embeds(texts)
    if image_embeds.shape[-1] != text_embeds.shape[-1]:
        raise CapabilityError(
            "comparing pictures with texts",
            encoder.name,
            "one space of pictures and texts",
            ("pocket", "kandinsky-2.1", "kandinsky-2.2"),
        )
    return pair_cosine(image_embeds, text_embeds)


class ClipT(EncoderMetric):
    """CLIP-T: the cosine of a picture and its text, -1 to 1."""

    stem = "clip_t"
    needs: tuple[Need, ...] = ("texts",)

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return the cosine of each picture and its text, ``[B]``."""
        return text_cosines(self.encoder, images, texts_for(texts, len(images)))


class ClipScore(ClipT):
    """CLIPScore: 2.5 times the cosine, and no less than 0; some papers print it times 100."""

    stem = "clipscore"

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return 2.5 max(cosine, 0) of each picture and its text, ``[B]``."""
        return 2.5 * super().measure(images, texts, references).clamp_min(0)


class ClipI(EncoderMetric):
    """CLIP-I: the mean cosine of a picture with all references, -1 to 1."""

    stem = "clip_i"
    needs: tuple[Need, ...] = ("references",)

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return the mean cosine of each picture with the references, ``[B]``."""
        others = pictures(references, "references")
        cosines = cosine(self.encoder.image_embeds(images), self.encoder.image_embeds(others))
        return cosines.mean(dim=1)


class ClipDirectional(EncoderMetric):
    """Whether pictures changed as the text did: the cosine of the two changes, -1 to 1.

    The texts are of the form ``old -> new``; the references are the pictures before, one for each
    or one for all. A picture that did not change has no direction: its value is 0.

    Source: Gal et al., StyleGAN-NADA, arXiv:2108.00946.
    """

    stem = "clip_directional"
    needs: tuple[Need, ...] = ("texts", "references")

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return the cosine of change and asked change of each picture, ``[B]``."""
        changes = texts_for(texts, len(images))
        before = pictures(references, "references")
        if len(before) not in (1, len(images)):
            raise ImageError(
                f"references: expected the picture before for all {len(images)} pictures or one "
                f"for each, got {len(before)}"
            )
        pairs = [_change(text) for text in changes]
        moved = self.encoder.image_embeds(images) - self.encoder.image_embeds(before)
        wanted = self.encoder.text_embeds([new for _, new in pairs])
        wanted = wanted - self.encoder.text_embeds([old for old, _ in pairs])
        return pair_cosine(moved, wanted)


def _change(text: str) -> tuple[str, str]:
    old, arrow, new = (part.strip() for part in text.partition("->"))
    if not (old and arrow and new):
        raise PromptError(
            f"texts: expected 'old -> new', e.g. 'a photo -> a painting', got {text!r}"
        )
    return old, new


class _Preference(ClipT):
    """A CLIP-H that learned what people prefer; a backbone's own towers did not."""

    processor = CLIP_HUGE

    def remark(
        self,
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> str:
        """Return a warning where the towers learned from no people."""
        if self.encoder.logit_scale is not None:
            return self.note
        return f"{self.name}: the formula on towers that learned nothing of what people prefer"


class PickScore(_Preference):
    """PickScore: the scaled cosine of a CLIP-H that learned from people's choices, about 19 to 23.

    On a backbone's own towers it is 100 times the cosine, and knows no choices.
    """

    stem = "pickscore"
    default = "yuvalkirstain/PickScore_v1"

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return the scaled cosine of each picture and its text, ``[B]``."""
        scale = self.encoder.logit_scale
        return (CLIP_SCALE if scale is None else scale) * super().measure(images, texts, references)


class Hpsv2(_Preference):
    """HPSv2: the cosine of a CLIP-H that learned from people's preferences, about 0.2 to 0.3.

    The published file has open_clip's names. On a backbone's own towers it is their cosine.
    """

    stem = "hpsv2"
    default = "xswu/HPSv2"
    clip = FloatClipEncoder

"""What Offbeat's files hold, and the arithmetic on it; needs torch and safetensors alone."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.functional import linear, normalize, silu

ENCODERS = ("clip_l", "clip_g", "t5xxl")
MAX_BYTES, MAX_HEADER = 2**30, 2**24
BASELINE = ("mean", "axes", "variances", "held_out")


class OffbeatFileError(ValueError):
    """A file that these nodes cannot use; the text says what was expected."""


def read(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Return the tensors of a safetensors file, and what Offbeat's header says of them."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise OffbeatFileError(f"{path.name}: too large to be a file of Offbeat")
        data = path.read_bytes()
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (OSError, SafetensorError, ValueError) as error:
        if isinstance(error, OffbeatFileError):
            raise
        raise OffbeatFileError(
            f"{path.name}: expected a safetensors file, and it cannot be read ({error})"
        ) from error
    written = header.pop("__metadata__", None) or {}
    if "offbeat" not in written:
        return tensors, {}
    told = json.dumps([written["offbeat"], header], sort_keys=True).encode()
    body = data[8 + int.from_bytes(data[:8], "little") :]
    if hashlib.blake2b(told + body, digest_size=16).hexdigest() != written.get("digest"):
        raise OffbeatFileError(f"{path.name}: was changed or damaged since Offbeat wrote it")
    about = json.loads(written["offbeat"])
    return tensors, about if isinstance(about, dict) else {}


def kind_of(path: str | Path) -> str | None:
    """Return ``concept``, ``space`` or ``baseline`` by the names in a file's header alone.

    None is anything else, such as a checkpoint, LoRA factors, or a file that is damaged.
    """
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size < MAX_HEADER else {}
        about = json.loads((header.pop("__metadata__", None) or {}).get("offbeat", "{}"))
        names = set(header)
        if "trained" in about and names != {"<cretok>"}:
            return "space" if about["trained"] == "distok" else None
        if set(BASELINE) <= names:
            return "baseline"
        if not names or "image_embeds" in names or any("lora" in name for name in names):
            return None
        rows = [tuple(entry["shape"]) for entry in header.values()]
        is_token = len(names) <= 3 and all(len(shape) in (1, 2) for shape in rows)
        return "concept" if is_token or about.get("tokens") else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


@dataclass(frozen=True)
class Concept:
    """Learned words, and the prompt that they were learned in."""

    template: str
    word: str
    subject: str
    tokens: dict[str, dict[str, Tensor]]
    """Word in prompts to its rows by text encoder; ``""`` names an only one."""

    def prompt(self, template: str = "") -> str:
        """Return a prompt that holds the concept where ``{concept}`` stands."""
        chosen = template.strip() or self.template
        if "{concept}" not in chosen:
            raise OffbeatFileError(f"prompt: expected {{concept}} somewhere in {chosen!r}")
        return chosen.replace("{concept}", self.word)


def read_concept(path: str | Path) -> Concept:
    """Return the concept of a ``concept.safetensors``, or of what ``offbeat export`` wrote."""
    path = Path(path)
    tensors, about = read(path)
    if "trained" in about and set(tensors) != {"<cretok>"}:
        raise OffbeatFileError(
            f"{path.name}: is a trained space of {about['trained']}; give it to Offbeat: Fuse words"
        )
    if any("lora" in name for name in tensors):
        raise OffbeatFileError(
            f"{path.name}: holds LoRA factors and no token that a prompt could use; write them by "
            "`offbeat export --format comfyui`, and load that by ComfyUI's own Load LoRA"
        )
    if "image_embeds" in tensors:
        raise OffbeatFileError(f"{path.name}: holds no token that a prompt could use")
    if set(tensors) & set(ENCODERS):
        tokens = {str(about.get("token", f"<{path.stem}>")): dict(tensors)}
    elif set(tensors) == {"emb_params"}:
        tokens = {str(about.get("token", f"<{path.stem}>")): {"": tensors["emb_params"]}}
    else:
        layout = about.get("encoders") or about.get("readings", {}).get("encoders", [])
        tokens = {word: parts_of(rows, layout) for word, rows in tensors.items()}
    if not tokens:
        raise OffbeatFileError(f"{path.name}: holds no token")
    word = about.get("word")
    if not isinstance(word, str) or not all(token in word for token in tokens):
        word = " ".join(tokens)
    subject = str(about.get("subject") or word.strip("<>"))
    return Concept(str(about.get("template", "{concept}")), word, subject, tokens)


def parts_of(rows: Tensor, layout: list) -> dict[str, Tensor]:
    """Return each text encoder's own rows of a token, as Offbeat keeps them side by side."""
    rows = rows if rows.ndim == 2 else rows[None]
    if len(layout) < 2:
        return {"": rows}
    found = {}
    widths = [int(width) for _, width, _ in layout]
    for (name, _, unit), part in zip(layout, rows.split(widths, dim=-1), strict=True):
        filled = part.any(dim=-1).nonzero()
        found[str(name)] = part[: int(filled.max()) + 1 if len(filled) else 1] * float(unit)
    return found


def check_widths(parts: dict[str, Tensor], widths: dict[str, int]) -> None:
    """Refuse rows of other widths than the text encoders': ComfyUI leaves them out with a log line.

    Args:
        parts: Rows by text encoder; ``""`` names an only one.
        widths: Of the encoders of the CLIP that is to read them; empty if they are not known.
    """
    if not widths:
        return
    if set(parts) == {""} and len(widths) == 1:
        parts = {next(iter(widths)): parts[""]}
    told = {name or "one encoder": rows.shape[-1] for name, rows in parts.items()}
    if told != {name: widths.get(name) for name in told}:
        mine, theirs = (
            ", ".join(f"{name} {width}" for name, width in sizes.items())
            for sizes in (told, widths)
        )
        raise OffbeatFileError(
            f"expected rows of this CLIP's widths ({theirs}), got {mine}: the file was made on "
            "another checkpoint; load that one"
        )


def embedding_file(parts: dict[str, Tensor]) -> bytes:
    """Return a token as a file of ComfyUI's ``embeddings`` folder."""
    named = {name or "emb_params": rows.float().contiguous() for name, rows in parts.items()}
    return save({name: rows.clone() for name, rows in named.items()})


# --- fusing words ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Space:
    """A space that `offbeat train distok` made."""

    params: dict[str, Tensor]
    words: list[str]
    pair_weighting: str
    template: str
    encoders: list

    @property
    def class_tokens(self) -> Tensor:
        """Rows of the known words, ``[K, E]``."""
        return self.params["class_tokens"]

    @torch.no_grad()
    def token(self, weights: list[tuple[str, float]], exponent: float = 1.0) -> Tensor:
        """Return the token, ``[E]``, of weighted words; ``exponent`` below 1 evens their shares."""
        shares = self._shares(weights)
        shares = shares.pow(exponent) / shares.pow(exponent).sum()
        mixture = shares[None] @ self.class_tokens
        is_pair = int(((shares - 0.5).abs() < 1e-6).sum()) == 2
        if self.pair_weighting == "sum" and is_pair:
            mixture = 2 * mixture
        norm = float(self.class_tokens.norm(dim=-1).mean())
        latent = self._network("encoder", mixture * (math.sqrt(mixture.shape[-1]) / norm))
        return normalize(self._network("decoder", latent), dim=-1, eps=1e-8)[0] * norm

    def _network(self, name: str, inputs: Tensor) -> Tensor:
        part = self.params
        hidden = silu(linear(inputs, part[f"{name}.0.weight"], part[f"{name}.0.bias"]))
        return linear(hidden, part[f"{name}.1.weight"], part[f"{name}.1.bias"])

    def _shares(self, weights: list[tuple[str, float]]) -> Tensor:
        known = {word.lower(): index for index, word in enumerate(self.words)}
        shares = torch.zeros(len(self.words), dtype=torch.float64)
        for word, weight in weights:
            index = known.get(" ".join(word.split()).lower())
            if index is None:
                near = get_close_matches(word.lower(), known, n=3) or self.words[:3]
                raise OffbeatFileError(
                    f"{word!r}: expected one of the {len(self.words)} words of this space, such as "
                    f"{', '.join(near)}"
                )
            if not (math.isfinite(weight) and weight >= 0):
                raise OffbeatFileError(f"{word}: expected a weight of 0 or more, got {weight!r}")
            shares[index] += weight
        if not shares.sum() > 0:
            raise OffbeatFileError("weights: expected at least one above 0, got none")
        return (shares / shares.sum()).float()


def read_space(path: str | Path) -> Space:
    """Return the space of a ``distok.safetensors``."""
    tensors, about = read(path)
    if about.get("trained") != "distok" or "class_tokens" not in tensors:
        raise OffbeatFileError(
            f"{Path(path).name}: expected a space that `offbeat train distok` made"
        )
    config = about["config"]
    return Space(
        tensors,
        [str(word) for word in about["vocabulary"]],
        str(config["pair_weighting"]),
        str(config["adaptive_template"]),
        list(about.get("readings", {}).get("encoders", [])),
    )


def parse_weights(text: str) -> list[tuple[str, float]]:
    """Return words and weights of ``pig=0.55, owl=0.45``; a word alone has weight 1."""
    found = []
    for part in (one.strip() for one in text.replace("\n", ",").split(",")):
        if not part:
            continue
        word, sign, weight = part.partition("=")
        try:
            found.append((word.strip(), float(weight) if sign else 1.0))
        except ValueError as error:
            raise OffbeatFileError(f"{part}: expected WORD=WEIGHT, e.g. pig=0.55") from error
    if not found:
        raise OffbeatFileError("weights: expected words, e.g. pig=0.55, owl=0.45")
    return found


# --- novelty --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Baseline:
    """What a checkpoint usually draws of a subject: a ``baseline.safetensors`` of a run."""

    mean: Tensor
    axes: Tensor
    variances: Tensor
    held_out: Tensor
    """Squared distances of ordinary samples that were not fitted."""

    @torch.no_grad()
    def distance(self, embeds: Tensor) -> Tensor:
        """Return Mahalanobis distances, ``[B]``, of CLIP image embeddings, ``[B, D]``."""
        embeds = embeds.detach().float().cpu()
        if embeds.ndim != 2 or embeds.shape[-1] != len(self.mean):
            raise OffbeatFileError(
                f"expected embeddings of width {len(self.mean)}, of the CLIP vision model that the "
                f"run's checkpoint has, got {list(embeds.shape)}: load that one"
            )
        white = (embeds - self.mean) @ self.axes.T / self.variances.sqrt()
        return white.square().sum(dim=-1).sqrt()

    def quantile(self, distance: float) -> float:
        """Return novelty: the share of a Gaussian nearer than ``distance``, 0 to 1."""
        half = torch.tensor(distance, dtype=torch.float64).square() / 2
        shape = torch.tensor(len(self.axes) / 2, dtype=torch.float64)
        return float(torch.special.gammainc(shape, half))

    def times(self, distance: float) -> float:
        """Return how many times as far as a usual picture of the run's checkpoint."""
        return distance / float(self.held_out.median().sqrt())


def read_baseline(path: str | Path) -> Baseline:
    """Return the baseline of a ``baseline.safetensors``."""
    tensors, about = read(path)
    if "anchor_mean" not in about or not set(BASELINE) <= set(tensors):
        raise OffbeatFileError(
            f"{Path(path).name}: expected the baseline.safetensors of an `offbeat explore` run"
        )
    return Baseline(*(tensors[name] for name in BASELINE))

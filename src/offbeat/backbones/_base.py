"""What every adapter says of itself, and how its weights are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from offbeat.errors import CheckpointError
from offbeat.types import Evaluations

if TYPE_CHECKING:
    from typing_extensions import Self


class Checkpoint(ABC):
    """A name, a fingerprint, a card, and frozen modules on one device."""

    _name: str
    _fingerprint: str
    _card: dict[str, Any]

    @abstractmethod
    def _modules(self) -> Iterable[Any]:
        """Return the modules that hold its weights, one at least."""

    def _freeze(self) -> None:
        for module in self._modules():
            module.eval().requires_grad_(False)

    @property
    def name(self) -> str:
        """The name, folder or hub id that it was loaded by."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """Digest of weights and configuration."""
        return self._fingerprint

    @property
    def card(self) -> Mapping[str, Any]:
        """Recommended settings and vocabulary."""
        return self._card

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        first = next(iter(self._modules()))
        return torch.device(next(iter(first.parameters())).device)

    @contextmanager
    def counting(self) -> Iterator[Evaluations]:
        """Count every evaluation of the denoiser and the prior in this block, sample by sample.

        Whoever asks is counted: searches, fits and looks as well as drawings.
        """
        found = Evaluations()

        def ask(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.denoiser += len(args[0] if args else kwargs["hidden_states"])

        def ask_prior(samples: int) -> None:
            found.prior += samples

        denoiser = getattr(self, "unet", None) or getattr(self, "transformer", None)
        prior = getattr(self, "fast_prior", None)
        with ExitStack() as stack:
            if denoiser is not None:
                hook = denoiser.register_forward_pre_hook(ask, with_kwargs=True)
                stack.callback(hook.remove)
            if prior is not None:
                stack.enter_context(prior.watched(ask_prior))
            yield found

    def to(self, device: str | torch.device) -> Self:
        """Move the weights; returns self.

        Raises:
            CheckpointError: If there is no such device.
        """
        try:
            for module in self._modules():
                module.to(device)
        except (RuntimeError, AssertionError) as error:
            raise CheckpointError(f"device {str(device)!r} cannot be used: {error}") from error
        return self

"""An optimiser for short budgets: Muon for matrices and kernels, AdamW for the rest.

Source: Jordan et al., Muon, https://kellerjordan.github.io/posts/muon/, with the update's size
matched to AdamW's as in Liu et al., Muon is Scalable for LLM Training, arXiv:2502.16982.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
SMALLEST_SIDE = 16
"""A matrix with a shorter side is left to AdamW."""


def orthogonalise(update: Tensor, steps: int = 5) -> Tensor:
    """Return the nearest matrix whose singular values are about 1, by Newton-Schulz, in bf16."""
    a, b, c = COEFFICIENTS
    wide = update.bfloat16()
    is_tall = wide.shape[0] > wide.shape[1]
    wide = wide.T if is_tall else wide
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return (wide.T if is_tall else wide).to(update.dtype)


def is_matrix(parameter: Tensor) -> bool:
    """Say whether Muon takes a parameter: a linear layer's or a convolution's weight."""
    return parameter.ndim >= 2 and min(parameter.flatten(1).shape) >= SMALLEST_SIDE


class MuonAdamW(torch.optim.Optimizer):
    """Muon and AdamW under one learning rate.

    Args:
        parameters: What is trained.
        lr: Learning rate; one scale serves both, since updates have the same root mean square.
        weight_decay: Decoupled decay, as in AdamW.
        momentum: Nesterov momentum of Muon.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
    ) -> None:
        kept = [parameter for parameter in parameters if parameter.requires_grad]
        matrices = [p for p in kept if is_matrix(p)]
        rest = [p for p in kept if not is_matrix(p)]
        groups = [{"params": matrices, "muon": True}, {"params": rest, "muon": False}]
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move every parameter that has a gradient."""
        del closure
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["muon"]:
                updates = self._muon(moved, group["momentum"])
            else:
                updates = [self._adam(parameter) for parameter in moved]
            for parameter, update in zip(moved, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(update * group["lr"])

    def _muon(self, parameters: list[Tensor], momentum: float) -> list[Tensor]:
        """Return the updates; processes that train together share the work."""
        together = distributed.is_initialized()
        rank, world = (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)
        updates = []
        for index, parameter in enumerate(parameters):
            state, grad = self.state[parameter], parameter.grad
            velocity = state.setdefault("velocity", torch.zeros_like(parameter))
            velocity.lerp_(grad, 1 - momentum)
            update = torch.zeros_like(parameter)
            if index % world == rank:
                nesterov = grad.lerp(velocity, momentum).flatten(1)
                size = 0.2 * max(nesterov.shape) ** 0.5
                update = (orthogonalise(nesterov) * size).view_as(parameter)
            updates.append(update)
        if together:
            flat = torch.cat([update.flatten() for update in updates])
            distributed.all_reduce(flat)
            parts = flat.split([update.numel() for update in updates])
            updates = [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]
        return updates

    def _adam(self, parameter: Tensor) -> Tensor:
        state, grad = self.state[parameter], parameter.grad
        first = state.setdefault("first", torch.zeros_like(parameter))
        second = state.setdefault("second", torch.zeros_like(parameter))
        state["count"] = count = state.get("count", 0) + 1
        first.lerp_(grad, 0.1)
        second.lerp_(grad.square(), 0.02)
        return (first / (1 - 0.9**count)) / ((second / (1 - 0.98**count)).sqrt() + 1e-8)

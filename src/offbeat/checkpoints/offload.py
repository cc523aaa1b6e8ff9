"""Keep weights in the CPU's memory, and copy them to the device only while a module computes.

The weights are frozen, so nothing is copied back. While a module runs it holds a copy on the
device, which is dropped afterwards. A gradient through the module keeps that copy for its backward
pass. If the weights themselves were moved, as is usual, the backward pass would find them gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from torch.nn import Parameter


def runs_on(module: Any) -> torch.device:
    """Return where a module computes: its weights may be elsewhere meanwhile."""
    own: torch.device | None = getattr(module, "_runs_on", None)
    if own is not None:
        return own
    found: torch.device = next(iter(module.parameters())).device
    return found


def ready(module: Any) -> None:
    """Show a module's weights on the device, as its call would: for those called by their parts."""
    hook = getattr(module, "_hf_hook", None)
    if isinstance(hook, _Guest):
        hook.enter()


@contextmanager
def uncompiled(module: Any) -> Iterator[None]:
    """Run a compiled module as it is written in this block.

    What was compiled does not see a hook or an attention processor that came later.
    """
    compiled = module._compiled_call_impl
    module._compiled_call_impl = None
    try:
        yield
    finally:
        module._compiled_call_impl = compiled


class Room:
    """A device with place for one guest at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.guest: _Guest | None = None

    def invite(self, module: Any) -> None:
        """Let a module come as one, and stay until another one comes."""
        add_hook_to_module(module, _Guest(self, list(module.modules()), stays=True))

    def invite_layers(self, module: Any) -> None:
        """Let each layer of a module come alone, and go when it has computed."""
        inside: set[int] = set()
        for part in list(module.modules()):
            if id(part) in inside:
                continue
            # its parts' weights are read without calling them
            owners = list(part.modules()) if isinstance(part, torch.nn.MultiheadAttention) else []
            inside |= {id(owner) for owner in owners}
            if owners or part._parameters or part._buffers:
                add_hook_to_module(part, _Guest(self, owners or [part], stays=False))


class _Guest(ModelHook):  # type: ignore[misc]
    """Shows the weights of some modules on the device before the first of them computes."""

    def __init__(self, room: Room, owners: list[Any], *, stays: bool) -> None:
        self.room, self.stays, self.inside = room, stays, False
        self.homes = [(owner, dict(owner._parameters)) for owner in owners]
        for owner in owners:
            for name, buffer in owner._buffers.items():  # small: they stay
                owner._buffers[name] = None if buffer is None else buffer.to(room.device)

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self.enter()
        device = self.room.device
        return send_to_device(args, device), send_to_device(kwargs, device)

    def post_forward(self, module: Any, output: Any) -> Any:
        if not self.stays:
            self.leave()
        return output

    def enter(self) -> None:
        before = self.room.guest
        if before is not None and before is not self:
            before.leave()
        if self.stays:
            self.room.guest = self
        if self.inside:
            return
        self.inside = True
        shown: dict[int, Parameter] = {}  # weights that two modules share stay one
        for owner, home in self.homes:
            for name, weight in home.items():
                if weight is None:
                    continue
                if id(weight) not in shown:
                    shown[id(weight)] = Parameter(weight.to(self.room.device), requires_grad=False)
                owner._parameters[name] = shown[id(weight)]

    def leave(self) -> None:
        self.inside = False
        self.room.guest = None if self.room.guest is self else self.room.guest
        for owner, home in self.homes:
            owner._parameters.update(home)

"""A second device where there is no accelerator: its tensors say ``meta``, and compute on the CPU.

Unlike torch's own meta tensors they have values. Like an accelerator's they refuse to be mixed with
the CPU's, so a weight, a mask or a noise that was left behind is an error, and they can be counted.
"""

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
aten = torch.ops.aten
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
"""Accelerators read indices from the CPU too."""


class Far(torch.Tensor):
    """A tensor on the far device."""

    @staticmethod
    def __new__(cls, near):
        settings = {"dtype": near.dtype, "device": DEVICE, "strides": near.stride()}
        made = torch.Tensor._make_wrapper_subclass(cls, near.size(), **settings)
        made.near = near
        return made

    def __repr__(self):
        return f"far {self.near!r}"

    def tolist(self):
        return self.near.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """Compute one operation where its tensors are."""
    if func is aten._fused_sdp_choice.default:
        return 0  # the plain one: the CPU's own kernels are not for others
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    far = any(isinstance(one, Far) for one in tensors)
    moved = kwargs.get("device")
    if far and func is not aten.copy_.default:
        checked = args[:1] if func in INDEXED else (args, kwargs)
        for one in tree_leaves(checked):
            if isinstance(one, torch.Tensor) and not isinstance(one, Far) and one.ndim:
                raise RuntimeError(f"{func}: tensors on two devices")
    if moved is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
        far = torch.device(moved) == DEVICE
    args, kwargs = tree_map_only(Far, lambda one: one.near, (args, kwargs))
    found = func(*args, **kwargs)
    if found is None:
        return None
    if func.overloadpacket.__name__.endswith("_") and tensors:
        return tensors[0]  # in place
    return tree_map_only(torch.Tensor, Far, found) if far else found


class _Literals(TorchFunctionMode):
    """torch would make numbers on ``meta`` without their values."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        where = kwargs.get("device")
        if func is torch.Tensor.new_tensor and isinstance(args[0], Far):
            return torch.tensor(args[1], dtype=args[0].dtype).to(DEVICE)
        if func is torch.tensor and where is not None and torch.device(where) == DEVICE:
            return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


@contextlib.contextmanager
def device():
    """Let ``meta`` be the far device in this block."""
    with _Operations(), _Literals():
        yield str(DEVICE)

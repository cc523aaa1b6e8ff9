"""The most bytes of tensors that live at once while something computes; weights are not counted."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak(act, *given, buffers=()):
    """Return the bytes; ``buffers`` are as weights."""
    with torch.no_grad(), _Counting() as counting:
        counting.seen |= {one.untyped_storage()._cdata for one in buffers}
        act(*given)
    return counting.most


class _Counting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.alive, self.most, self.seen = 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for one in tree_leaves((args, kwargs)):
            if isinstance(one, torch.nn.Parameter):
                self.seen.add(one.untyped_storage()._cdata)
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor):
                self.add(one.untyped_storage())
        return made

    def add(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key not in self.seen:
            self.seen.add(key)
            self.alive += size
            self.most = max(self.most, self.alive)
            weakref.finalize(storage, self.gone, key, size)

    def gone(self, key, size):
        self.alive -= size
        self.seen.discard(key)

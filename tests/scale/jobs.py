"""Jobs that workers of the tests do: they go wrong in known ways."""

import errno
import os
import signal
from unittest import mock

import torch

from offbeat.files.cache import cached
from offbeat.scale.sweep import Perform


class Refusing(Perform):
    """Fails at one seed, always."""

    def __call__(self, worker, task):
        if task.arguments["seed"] == 2:
            raise RuntimeError("no\nluck")
        return super().__call__(worker, task)


class FullDisk(Perform):
    """Draws on a disk that is full."""

    def __call__(self, worker, task):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with mock.patch("offbeat.files.disk.os.fsync", side_effect=full):
            return super().__call__(worker, task)


def die_at_two(worker, item):
    """Kill the own process at item 2."""
    if item == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


class Caching:
    """Takes from the cache, which each worker has for itself."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, worker, item):
        os.environ["OFFBEAT_CACHE"] = f"{self.folder}/{worker.name}"
        tensors, _ = cached("baselines", {"item": item % 3}, lambda: (self._made(item), {}))
        return float(tensors["mean"])

    def _made(self, item):
        return {"mean": torch.tensor(float(item % 3))}


class Nothing(Perform):
    """Does nothing, as quickly as can be."""

    def __call__(self, worker, task):
        return {"evaluations": None, "facts": {"validity": 1.0}}

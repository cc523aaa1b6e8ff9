"""One training loop for all stages: a budget in minutes, EMA, checkpoints, resuming."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from recipes.pocket.augment import cosine_schedule
from recipes.pocket.optimizer import MuonAdamW
from torch import Tensor, distributed, nn

SEEDS = "resume"
"""Folder of small seeds, one a stage, which ``recipes.pocket.export`` writes."""
StepLosses = Callable[[int, torch.Generator], dict[str, Tensor]]


@dataclass(slots=True, kw_only=True)
class Training:
    """Settings and state of one stage; the state is what a checkpoint holds.

    A budget of processor minutes, not of steps, sets the schedule, since the machine may be shared.
    """

    name: str
    folder: Path
    minutes: float
    learning_rate: float
    ema_decay: float = 0.999
    weight_decay: float = 0.01
    save_minutes: float = 3.0
    bf16: bool = True
    muon: bool = False
    report_every: int = 50
    on_save: Callable[[int], None] | None = None
    step: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)

    @property
    def checkpoint(self) -> Path:
        """Where the stage keeps its state."""
        return self.folder / f"{self.name}.pt"


def autocast(enabled: bool) -> torch.autocast:
    """Return the context of bf16 arithmetic on this machine's device."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled)


def save_atomically(state: object, path: Path) -> None:
    """Write a file so that a reader, or a kill, never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def read_ema(folder: Path, name: str) -> dict[str, Tensor]:
    """Return the averaged weights of a stage, from its checkpoint or else its seed."""
    path, seed = folder / f"{name}.pt", folder / SEEDS / f"{name}.pt"
    if not path.exists() and seed.exists():
        ema = torch.load(seed, weights_only=True)["ema"]
        return {k: v.float() if v.is_floating_point() else v for k, v in ema.items()}
    if not path.exists():
        raise FileNotFoundError(f"{path}: train stage {name!r} first")
    return torch.load(path, weights_only=True, map_location="cpu")["ema"]


def fit(module: nn.Module, losses: StepLosses, training: Training) -> None:
    """Train until the budget is spent; the module holds the averaged weights afterwards.

    Args:
        module: Everything that is trained.
        losses: Given the step and its random stream, returns the terms whose sum is minimised.
        training: Settings; its checkpoint is continued if there is one.
    """
    optimizer = make_optimizer(module, training)
    ema = restore(module, optimizer, training)
    rank = join_processes()
    budget, last_save = training.minutes * 60, training.seconds
    sums: dict[str, float] = {}
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    is_stopped = False
    while training.seconds < budget and not is_stopped:
        started = time.process_time()
        rate = training.learning_rate * cosine_schedule(training.seconds / budget)
        for group in optimizer.param_groups:
            group["lr"] = rate
        generator = torch.Generator().manual_seed((training.step * 64 + rank) * 1009)
        with autocast(training.bf16):
            terms = losses(training.step, generator)
        optimizer.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        share_gradients(module)
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        training.step += 1
        average(ema, module, min(training.ema_decay, training.step / (training.step + 10)))
        for key, value in (terms | {"steps": torch.ones(())}).items():
            sums[key] = sums.get(key, 0.0) + float(value.detach())
        spent = training.seconds + time.process_time() - started
        training.seconds, is_stopped = agree(spent, bool(stopped))
        if training.step % training.report_every == 0 and rank == 0:
            report(training, sums, rate)
        if training.seconds - last_save > training.save_minutes * 60:
            last_save = training.seconds
            if rank == 0:
                keep(module, optimizer, ema, training)
    if rank == 0:
        keep(module, optimizer, ema, training)
    module.load_state_dict(ema)


def restore(
    module: nn.Module, optimizer: torch.optim.Optimizer, training: Training
) -> dict[str, Tensor]:
    """Load the checkpoint, or the seed of an earlier sitting, and return the averaged weights."""
    seed = training.folder / SEEDS / f"{training.name}.pt"
    if not training.checkpoint.exists():
        if seed.exists():
            state = torch.load(seed, weights_only=True)
            module.load_state_dict({key: value.float() for key, value in state["ema"].items()})
            training.step = state["step"]
        return {key: value.detach().clone() for key, value in module.state_dict().items()}
    state = torch.load(training.checkpoint, weights_only=True)
    module.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    training.step, training.seconds = state["step"], state["seconds"]
    return state["ema"]


def make_optimizer(module: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Return the stage's optimiser."""
    common = {"lr": training.learning_rate, "weight_decay": training.weight_decay}
    parameters = [value for value in module.parameters() if value.requires_grad]
    if training.muon:
        return MuonAdamW(parameters, **common)
    return torch.optim.AdamW(parameters, betas=(0.9, 0.98), **common)


def join_processes() -> int:
    """Join the processes that torchrun started, if it did, and return this one's rank."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        distributed.init_process_group("gloo")
    return distributed.get_rank() if distributed.is_initialized() else 0


def share_gradients(module: nn.Module) -> None:
    """Average the gradients of all processes, in one message."""
    if not distributed.is_initialized():
        return
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def agree(seconds: float, is_stopped: bool) -> tuple[float, bool]:
    """Return the first process's clock and whether it was told to stop, so that all do."""
    if not distributed.is_initialized():
        return seconds, is_stopped
    value = torch.tensor([seconds, float(is_stopped)], dtype=torch.float64)
    distributed.broadcast(value, 0)
    return float(value[0]), bool(value[1])


@torch.no_grad()
def average(ema: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    """Move the averaged weights a little towards the present ones."""
    for key, value in module.state_dict().items():
        if value.dtype.is_floating_point:
            ema[key].lerp_(value, 1 - decay)
        else:
            ema[key].copy_(value)


def keep(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: dict[str, Tensor],
    training: Training,
) -> None:
    """Write the checkpoint, then let the stage look at itself."""
    state = {
        "model": module.state_dict(),
        "ema": ema,
        "optimizer": optimizer.state_dict(),
        "step": training.step,
        "seconds": training.seconds,
    }
    save_atomically(state, training.checkpoint)
    if training.on_save is not None:
        training.on_save(training.step)


def report(training: Training, sums: dict[str, float], rate: float) -> None:
    """Print the mean of each term since the last report as one JSON line."""
    row = {"stage": training.name, "step": training.step, "min": round(training.seconds / 60, 2)}
    steps = sums.pop("steps")
    row |= {key: round(value / steps, 4) for key, value in sums.items()}
    print(json.dumps(row | {"lr": round(rate, 7)}), flush=True)
    sums.clear()

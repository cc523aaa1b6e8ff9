"""One training loop for all stages: a budget in minutes, EMA, checkpoints, resuming."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from recipes.pocket.augment import cosine_schedule
from recipes.pocket.optimizer import MuonAdamW
from torch import Tensor, distributed, nn

SEEDS = "resume"
"""Folder of seeds, one a stage, which ``recipes.pocket.seeds`` writes."""
StepLosses = Callable[[int, torch.Generator], dict[str, Tensor]]


@dataclass(slots=True, kw_only=True)
class Training:
    """Settings and state of one stage; the state is what a checkpoint holds.

    A budget of minutes, not of steps, sets the schedule: of processor time on a CPU, which may be
    shared, and of the clock on an accelerator.
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


def use_device() -> torch.device:
    """Make tensors on the accelerator, or where ``$OFFBEAT_POCKET_DEVICE`` says; return it."""
    named = os.environ.get("OFFBEAT_POCKET_DEVICE")
    device = torch.device(named or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.set_default_device(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return device


def random(seed: int) -> torch.Generator:
    """Return a seeded stream on the device of new tensors."""
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def autocast(enabled: bool = True) -> torch.autocast:
    """Return the context of bf16 arithmetic on the device of new tensors."""
    kind = torch.get_default_device().type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=enabled)


def on_cpu() -> bool:
    """Whether there is no accelerator: batches are small there, and steps are what counts."""
    return torch.get_default_device().type == "cpu"


def clock() -> float:
    """Return the seconds that a budget counts."""
    return time.process_time() if on_cpu() else time.perf_counter()


def wait(*files: Path, minutes: float = 30.0) -> None:
    """Wait until a stage that runs beside this one has written its files.

    Raises:
        FileNotFoundError: If one is not there in time.
    """
    ends = time.monotonic() + 60 * minutes
    while absent := [file for file in files if not file.exists()]:
        if time.monotonic() > ends:
            raise FileNotFoundError(f"{absent[0]}: expected it from a stage that runs beside this")
        time.sleep(0.3)


def load(path: Path) -> Any:
    """Return what a stage wrote, on the device of new tensors."""
    return torch.load(path, weights_only=True, map_location=torch.get_default_device())


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
        ema = load(seed)["ema"]
        return as_floats(ema)
    if not path.exists():
        raise FileNotFoundError(f"{path}: train stage {name!r} first")
    return load(path)["ema"]


def as_floats(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in float32; counters stay as they are."""
    return {key: v.float() if v.is_floating_point() else v for key, v in state.items()}


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
    sums: dict[str, Any] = {}
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    is_stopped = False
    while training.seconds < budget and not is_stopped:
        started = clock()
        rate = training.learning_rate * cosine_schedule(training.seconds / budget)
        for group in optimizer.param_groups:
            group["lr"] = rate
        generator = random((training.step * 64 + rank) * 1009 + 17)
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
            sums[key] = sums.get(key, 0.0) + value.detach()
        spent = training.seconds + clock() - started
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
    if seed.exists():
        training.learning_rate *= 0.5  # it goes on, and need not find its way
    if not training.checkpoint.exists():
        if seed.exists():
            state = load(seed)
            module.load_state_dict(as_floats(state["ema"]))
            training.step = state["step"]
        return {key: value.detach().clone() for key, value in module.state_dict().items()}
    state = load(training.checkpoint)
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
    state = module.state_dict()
    real = [key for key, value in state.items() if value.dtype.is_floating_point]
    torch._foreach_lerp_([ema[key] for key in real], [state[key] for key in real], 1 - decay)
    for key in state.keys() - set(real):
        ema[key].copy_(state[key])


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


def report(training: Training, sums: dict[str, Any], rate: float) -> None:
    """Print the mean of each term since the last report as one JSON line."""
    row = {"stage": training.name, "step": training.step, "min": round(training.seconds / 60, 2)}
    steps = sums.pop("steps")
    row |= {key: round(float(value / steps), 4) for key, value in sums.items()}
    print(json.dumps(row | {"lr": round(rate, 7)}), flush=True)
    sums.clear()

"""Check this machine and this installation, and say what is wrong."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Literal

from offbeat.checkpoints.memory import free_memory
from offbeat.checkpoints.open import load_backbone
from offbeat.checkpoints.pipeline import hub_state
from offbeat.checkpoints.placement import first_device
from offbeat.core.drawing import draw, plain_concept_of
from offbeat.errors import OffbeatError
from offbeat.files.cache import cache_folder

OLDEST, NEWEST = (3, 10), (3, 13)
"""Versions of Python that are tested."""
EXTRAS = {
    "studio": "the studio: Offbeat in a browser",
    "study": "studies: asking people which pictures they prefer",
    "qd": "archives of many different concepts",
    "ray": "runs on many machines",
    "tokenizers": "the text readers of some judges and checkpoints",
    "quantize": "weights in 8 and 4 bits",
    "release": "building and checking what is published",
    "dev": "what tests, checks and docs need",
}
"""What an extra adds; one that is not here is described by its packages."""
ATTENTION = ("flash-attn", "xformers", "sageattention")
NUM_STEPS, MAX_THREADS = 4, 4
"""Of the trial picture: so small a network is slower on the many cores of a large machine."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    what: str
    found: str
    level: Literal["fine", "note", "wrong"] = "fine"
    advice: str = ""
    """What to do, if there is something to do."""


def doctor() -> list[Finding]:
    """Check versions, devices, memory, folders and the bundled checkpoints.

    Nothing is changed, and no network is used; a picture is drawn by each form of pocket. A process
    that imports torchvision and the first call of each accelerator take seconds: they are waited
    for beside the drawing.
    """
    with ThreadPoolExecutor() as pool:
        torchvision = pool.submit(lambda: list(_torchvision()))
        accelerators = pool.submit(lambda: list(_accelerators()))
        first = [_python(), *_packages()]
        extras, cpu = list(_extras()), _cpu()
        last = [_compiler(), _attention(), _memory(), _cache(), _hub(), _ffmpeg()]
        last += [_draws(name) for name in ("pocket", "pocket-sd")]
        return [*first, *torchvision.result(), *extras, cpu, *accelerators.result(), *last]


def _python() -> Finding:
    running = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return Finding("Python", running)
    return Finding("Python", running, "note", "3.10 to 3.13 are tested")


def _packages() -> Iterator[Finding]:
    """Yield what is installed of each dependency, held against what offbeat asks for."""
    from packaging.requirements import Requirement

    try:
        yield Finding("offbeat", f"{version('offbeat')}, {Path(__file__).parents[1]}")
        requirements = [Requirement(line) for line in requires("offbeat") or ()]
    except PackageNotFoundError:
        advice = "install it: python -m pip install ."
        yield Finding("offbeat", f"not installed, {Path(__file__).parents[1]}", "wrong", advice)
        return
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        install = f"python -m pip install '{requirement}'"
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(requirement.name, "not installed", "wrong", install)
            continue
        fits = requirement.specifier.contains(installed, prereleases=True)
        name = requirement.name
        yield Finding(name, installed, "fine" if fits else "wrong", "" if fits else install)


def _torchvision() -> Iterator[Finding]:
    """Yield nothing where it is absent: it is not needed, and a broken one breaks transformers."""
    try:
        installed = version("torchvision")
    except PackageNotFoundError:
        return
    tried = [sys.executable, "-c", "import torchvision"]
    done = subprocess.run(tried, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        yield Finding("torchvision", installed)
        return
    said = (done.stderr.strip().splitlines() or ["it cannot be imported"])[-1]
    advice = "transformers fails with it: python -m pip uninstall torchvision"
    yield Finding("torchvision", f"{installed}: {said}", "wrong", advice)


def _extras() -> Iterator[Finding]:
    """Yield each extra that the package declares: whether it is here, and what it would add."""
    from packaging.requirements import Requirement

    try:
        names = metadata("offbeat").get_all("Provides-Extra") or []
        requirements = [Requirement(line) for line in requires("offbeat") or ()]
    except PackageNotFoundError:
        return
    for extra in sorted(names):
        needed = [
            requirement
            for requirement in requirements
            if requirement.name != "offbeat"
            and requirement.marker is not None
            and requirement.marker.evaluate({"extra": extra})
            and not requirement.marker.evaluate({"extra": ""})
        ]
        names = sorted({requirement.name for requirement in needed})
        absent = [name for name in names if not _is_installed(name)]
        adds = EXTRAS.get(extra, ", ".join(names))
        if not absent:
            yield Finding(f"[{extra}]", f"installed: {adds}")
            continue
        install = f"to add {adds}: python -m pip install 'offbeat[{extra}]'"
        yield Finding(f"[{extra}]", f"{', '.join(absent)} not installed", "note", install)


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _cpu() -> Finding:
    import torch

    count = os.cpu_count() or 1
    return Finding("cpu", f"{count} cores, torch uses {torch.get_num_threads()} threads")


def _accelerators() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            half = "bfloat16" if torch.cuda.get_device_capability(index) >= (8, 0) else "float16"
            text = f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, fastest in {half}"
            yield Finding(f"cuda:{index}", text)
    elif torch.version.cuda:
        advice = "if this machine has an NVIDIA GPU, its driver is missing or too old"
        yield Finding("cuda", f"built for {torch.version.cuda}, no device", "note", advice)
    if torch.backends.mps.is_available():
        yield Finding("mps", f"{(free_memory(torch.device('mps')) or 0) / 1e9:.1f} GB free")
    if torch.xpu.is_available():
        yield Finding("xpu", f"{torch.xpu.device_count()} devices")
    yield Finding("auto", f"--device auto is {first_device()}; for what is bundled it is cpu")


def _compiler() -> Finding:
    """Say whether ``--compile`` has what it needs; nothing is compiled."""
    import torch

    if torch.cuda.is_available():
        if _is_installed("triton"):
            return Finding("compile", f"triton {version('triton')}")
        return Finding("compile", "no triton", "note", "--compile needs it on CUDA")
    for name in ("g++", "clang++", "cl"):
        if path := shutil.which(name):
            return Finding("compile", path)
    return Finding("compile", "no C++ compiler", "note", "--compile needs g++ or clang++")


def _attention() -> Finding:
    """List the packages of ``--attention`` that are here."""
    here = [name for name in ATTENTION if _is_installed(name)]
    return Finding("attention", ", ".join(["torch's own (native)", *here]))


def _memory() -> Finding:
    import psutil
    import torch

    total, free = psutil.virtual_memory().total, free_memory(torch.device("cpu")) or 0
    text = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    if free < 1e9:
        return Finding("memory", text, "note", "pocket takes about 0.7 GB")
    return Finding("memory", text)


def _cache() -> Finding:
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OffbeatError, OSError) as error:
        advice = "set OFFBEAT_CACHE to a folder that can be written"
        return Finding("cache", str(error), "wrong", advice)
    held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Finding("cache", f"{folder}, {held / 1e6:.0f} MB")


def _hub() -> Finding:
    offline, folder = hub_state()
    state = "offline" if offline else "online, if there is a network"
    return Finding("hub", f"{state}; downloads lie in {folder}")


def _ffmpeg() -> Finding:
    path = shutil.which("ffmpeg")
    if path:
        return Finding("ffmpeg", path)
    return Finding("ffmpeg", "not found", "note", "paths of `fuse --sweep` become GIF, and no MP4")


def _draws(name: str) -> Finding:
    """Draw one picture by a bundled checkpoint."""
    import torch

    started, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(min(threads, MAX_THREADS))
    try:
        backbone = load_backbone(name)
        pig = plain_concept_of("pig", backbone)
        draw(backbone, pig, seed=0, num=1, decoding={"num_inference_steps": NUM_STEPS})
    except Exception as error:  # whatever it is, it is the finding
        advice = "install offbeat again"
        return Finding(name, f"{type(error).__name__}: {error}", "wrong", advice)
    finally:
        torch.set_num_threads(threads)
    seconds = time.perf_counter() - started
    return Finding(name, f"loads, and draws in {NUM_STEPS} steps, {seconds:.1f} s")

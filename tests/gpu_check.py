"""Check an accelerator in under four minutes: every form and type against the CPU, and speed.

    make gpu-check            or: python tests/gpu_check.py [DEVICE] [--size tiny|true]

No published weights are needed: the checkpoints are tiny and random. Only the prior is timed at the
size of Kandinsky 2.2's, with random weights.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers import PriorTransformer, UnCLIPScheduler

sys.path.insert(0, str(Path(__file__).parent))
import tiny
import tiny_flow
from offbeat import Placement, explore, generate, load_backbone
from offbeat.backbones.unclip.prior import FastPrior
from offbeat.backbones.unclip.prior_pass import LORA_TARGETS, lora_name
from offbeat.backbones.verify import PROMPT, verify
from offbeat.checkpoints.placement import first_device
from offbeat.core.rng import normal, stream, streams
from offbeat.errors import OffbeatError
from offbeat.types import TextEmbeds

FORMS = {
    "sd": lambda folder: tiny.build_sd(folder, "sd"),
    "xl": lambda folder: tiny.build_sd(folder, "xl"),
    "2.1": lambda folder: tiny.build(folder, "2.1"),
    "2.2": lambda folder: tiny.build(folder, "2.2"),
    "sd3": tiny_flow.build_sd3,
    "flux": tiny_flow.build_flux,
}
LIMITS = {"float32": 0.004, "bfloat16": 0.06, "float16": 0.03}
"""Mean difference of pixels to those of the CPU in float32."""
SMALL = {"num_baseline": 40, "num_held_out": 10, "num_components": 3, "num_probes": 4,
         "judge_every": 1000, "num_judged": 1, "lora_rank": 2}  # fmt: skip


def say(passed, what, found):
    print(f"| {'yes' if passed else 'NO'} | {what} | {found} |", flush=True)
    return bool(passed)


def picture(folder, place):
    """Draw one picture by a verb; return its pixels on the CPU."""
    run = generate(PROMPT, backbone=folder, num_images=1, num_inference_steps=3, device=place)
    return torch.tensor(list(run.images[0].tobytes())) / 255


def check_form(form, folder, device):
    """Hold one form on a device against the CPU; yield whether each check passed."""
    plain = picture(folder, Placement(device="cpu"))
    offloads = ("none",) if device == "cpu" else ("none", "model", "sequential")
    for dtype, offload in itertools.product(LIMITS, offloads):
        what = f"{form}: generate, {dtype}, offload {offload}"
        try:
            placement = Placement(device=device, dtype=dtype, offload=offload)
            gap = float((picture(folder, placement) - plain).abs().mean())
        except (OffbeatError, RuntimeError) as error:
            yield say(False, what, f"{type(error).__name__}: {error}"[:200])
        else:
            yield say(gap < LIMITS[dtype], what, f"differs from the CPU by {gap:.1e} in the mean")
    for check in verify(load_backbone(folder, device=device)):
        if check.passed is not None:
            yield say(check.passed, f"{form}: {check.what}", check.found)


def check_search(folder, device):
    """Run a short search in each type; yield whether it ended with finite numbers."""
    for dtype in ("float32", "bfloat16"):
        run = explore("castle", backbone=folder, num_steps=2, num_images=1, judge="none",
                      device=Placement(device=device, dtype=dtype), config=SMALL)  # fmt: skip
        yield say(run.images, f"2.2: explore, {dtype}", f"ended with {len(run.images)} pictures")


def seconds(work, device, times=3):
    """Return the best time of a work, its kernels finished."""
    best = float("inf")
    for _ in range(times + 1):  # the first one warms up, and is as good as any other on a CPU
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best


def time_prior(device, size):
    """Time a gradient of a search's step and plain sampling, with random weights."""
    shape = {"num_attention_heads": 32, "attention_head_dim": 64, "num_layers": 20,
             "embedding_dim": 1280}  # fmt: skip
    if size == "tiny":
        shape = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2,
                 "embedding_dim": 32}  # fmt: skip
    width, inner = (
        shape["embedding_dim"],
        shape["num_attention_heads"] * shape["attention_head_dim"],
    )
    scheduler = UnCLIPScheduler(
        variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=10.0
    )
    num = 5000 if size == "true" and device.type != "cpu" else 20
    text = TextEmbeds(
        normal((1, width), stream(1), device), normal((1, 12, width), stream(2), device),
        torch.ones(1, 12, dtype=torch.bool, device=device),
    )  # fmt: skip
    with torch.device(device):
        module = PriorTransformer(**shape).eval().requires_grad_(False)
    settings = {"num_inference_steps": 5, "prior_guidance_scale": 4.0}
    for dtype in (torch.float32, torch.bfloat16):
        fast = FastPrior(module.to(dtype), scheduler)
        lora = {
            lora_name(index, target, which): torch.zeros(
                (10, inner) if which == "A" else (inner, 10), device=device
            ).requires_grad_()
            for index, target, which in itertools.product(
                range(shape["num_layers"]), LORA_TARGETS, ("A", "B")
            )
        }

        @torch.no_grad()
        def sample(fast=fast):
            fast.sample(text, text, stream(0), num_samples=num, **settings)

        def step(fast=fast, lora=lora):
            noise = streams(0, num=4)
            embeds = fast.sample(text, text, noise, num_samples=4, lora=lora, **settings)
            embeds.square().sum().backward()

        name = str(dtype).removeprefix("torch.")
        found = f"{num} samples {seconds(sample, device, 1):.3f} s, gradient of a step of 4 noises "
        yield say(True, f"prior, {size} size, {name}", f"{found}{seconds(step, device):.4f} s")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("device", nargs="?", default="auto")
    parser.add_argument("--size", choices=["tiny", "true"], default="true")
    parser.add_argument("--forms", default=",".join(FORMS))
    told = parser.parse_args(arguments)
    device = first_device() if told.device == "auto" else told.device
    where = torch.empty(0, device=device).device
    began = time.perf_counter()
    card = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
    print(f"{card}, torch {torch.__version__}\n\n| passed | what | found |\n| --- | --- | --- |")
    passed = []
    with tempfile.TemporaryDirectory() as root:
        for form in told.forms.split(","):
            folder = FORMS[form](Path(root) / form)
            passed += check_form(form, folder, device)
            if form == "2.2":
                passed += check_search(folder, device)
    passed += time_prior(where, "tiny" if where.type == "cpu" else told.size)
    print(f"\n{sum(passed)} of {len(passed)} passed in {time.perf_counter() - began:.0f} s")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())

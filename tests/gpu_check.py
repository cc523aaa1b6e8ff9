"""Check an accelerator in under four minutes: forms, types and verbs against the CPU, and speed.

    make gpu-check            or: python tests/gpu_check.py [DEVICE] [--size tiny|true]

No published weights are needed: the checkpoints are tiny and random. Only the prior is timed at the
size of Kandinsky 2.2's, with random weights, beside the plain loop of diffusers.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import torch
from diffusers import PriorTransformer, UnCLIPScheduler
from torch._dynamo import lookup_backend

sys.path.insert(0, str(Path(__file__).parent))
import tiny
import tiny_flow
from offbeat import Placement, explore, fuse, generate, load_backbone, paint, train
from offbeat.backbones.unclip.prior import FastPrior
from offbeat.backbones.unclip.prior_pass import LORA_TARGETS, lora_name
from offbeat.backbones.verify import PROMPT, verify
from offbeat.checkpoints import placement as placing
from offbeat.checkpoints.placement import first_device
from offbeat.core.rng import normal, stream, streams
from offbeat.errors import OffbeatError
from offbeat.types import TextEmbeds
from plain_prior import add_adapter, plain_sample

FORMS = {
    "sd": lambda folder: tiny.build_sd(folder, "sd"),
    "xl": lambda folder: tiny.build_sd(folder, "xl"),
    "2.1": lambda folder: tiny.build(folder, "2.1"),
    "2.2": lambda folder: tiny.build(folder, "2.2"),
    "sd3": tiny_flow.build_sd3,
    "flux": tiny_flow.build_flux,
}
LIMITS = {"float32": 0.01, "bfloat16": 0.06, "float16": 0.03}
"""Mean difference of pixels to those of the CPU in float32; products on CUDA are TF32."""
WORDS = ["castle", "pig", "owl", "horse"]
NUM_PLAIN = 250
"""Samples that the plain loop is timed on; its time grows with their number."""
SMALL = {"num_baseline": 40, "num_held_out": 10, "num_components": 3, "num_probes": 4,
         "judge_every": 1000, "num_judged": 1, "lora_rank": 2}  # fmt: skip


def say(passed, what, found):
    print(f"| {'yes' if passed else 'NO'} | {what} | {found} |", flush=True)
    return bool(passed)


def picture(folder, place):
    """Draw one picture by a verb; return its pixels on the CPU."""
    return pixels(
        generate(PROMPT, backbone=folder, num_images=1, num_inference_steps=3, device=place)
    )


def pixels(run):
    """Return the first picture of a run, 0 to 1."""
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
            yield say(check.passed, f"{form}: {check.what}", check.result)


def check_search(folder, device):
    """Run what learns, a few steps in each type; yield whether it ended with finite numbers."""
    for dtype in ("float32", "bfloat16"):
        place = Placement(device=device, dtype=dtype)
        run = explore("castle", backbone=folder, num_steps=2, num_images=1, judge="none",
                      device=place, config=SMALL)  # fmt: skip
        yield say(run.images, f"2.2: explore, {dtype}", f"ended with {len(run.images)} pictures")
        run = fuse(WORDS[:2], method="conceptlab", backbone=folder, num_images=1, judge="none",
                   device=place, config={"num_steps": 2})  # fmt: skip
        yield say(run.images, f"2.2: fuse, {dtype}", f"ended with {len(run.images)} pictures")
        rows = [
            train("cretok", backbone=folder, vocabulary=WORDS, judge="none", device=where,
                  config={"num_steps": 2, "num_pairs": 3}).tensors
            for where in (place, Placement(device="cpu"))
        ]  # fmt: skip
        gap = max(float((row - rows[1][name]).abs().max()) for name, row in rows[0].items())
        yield say(gap < 0.02, f"2.2: train, {dtype}", f"token differs from the CPU's by {gap:.1e}")


def check_painting(folder, device):
    """Paint, mix and draw by a compiled denoiser; yield whether it is what the CPU does."""
    size = int(load_backbone(folder, device="cpu").card["height"])
    art = torch.rand(3, size, size, generator=stream(7))
    steps = {"num_inference_steps": 3}
    works = {
        "paint": lambda place: paint(art, backbone=folder, num_images=1, device=place,
                                     config=steps),
        "fuse by MagicMix": lambda place: fuse(WORDS[:2], method="magicmix", backbone=folder,
                                               num_images=1, judge="none", device=place,
                                               config=steps),
    }  # fmt: skip
    for name, work in works.items():
        ours, plain = (pixels(work(Placement(device=where, dtype="float32")))
                       for where in (device, "cpu"))  # fmt: skip
        gap = float((ours - plain).abs().mean())
        yield say(gap < LIMITS["float32"], f"sd: {name}", f"differs from the CPU by {gap:.1e}")
    yield check_compiled(folder, device)


def check_compiled(folder, device):
    """Draw by a compiled denoiser: something is compiled, and nothing changes."""
    inner, graphs = "eager" if device == "cpu" else placing.BACKEND, []

    def backend(graph, inputs):
        graphs.append(graph)
        return lookup_backend(inner)(graph, inputs)

    before, placing.BACKEND = placing.BACKEND, backend
    what = f"sd: generate --compile, {inner}"
    try:
        compiled, plain = (
            picture(folder, Placement(device=device, dtype="float32", compile=compile))
            for compile in (True, False)
        )
    except (OffbeatError, RuntimeError) as error:
        return say(False, what, f"{type(error).__name__}: {error}"[:200])
    finally:
        placing.BACKEND = before
    gap = float((compiled - plain).abs().mean())
    found = f"{len(graphs) - 1} graphs, differs from the uncompiled by {gap:.1e}"
    return say(len(graphs) > 1 and gap < LIMITS["float32"], what, found)  # the first is a probe


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
    """Return a table of our prior and the plain loop: samples, and the gradient of a step."""
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
    few = min(num, NUM_PLAIN)
    times = f", plain: {few}, times {num / few:g}" if few < num else ""
    rows = ["| what | type | ours, s | plain loop, s | ratio |", "| --- | --- | --- | --- | --- |"]
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

        plain = copy.deepcopy(module)
        adapter = add_adapter(plain, 10)

        def loop(count, plain=plain):
            return plain_sample(plain, scheduler, text, text, num_samples=count, steps=5,
                                scale=4.0, generator=stream(0))  # fmt: skip

        @torch.no_grad()
        def sample(fast=fast):
            fast.sample(text, text, stream(0), num_samples=num, **settings)

        def step(fast=fast, lora=lora):
            noise = streams(0, num=4)
            embeds = fast.sample(text, text, noise, num_samples=4, lora=lora, **settings)
            embeds.square().sum().backward()

        def plain_step(loop=loop, adapter=adapter):
            loop(4).float().square().sum().backward()
            assert all(factor.grad is not None for factor in adapter.values())

        name = str(dtype).removeprefix("torch.")
        with torch.no_grad():
            drawn = seconds(lambda loop=loop: loop(few), device, 1) * num / few
        timed = [
            (f"{num} prior samples{times}", seconds(sample, device, 1), drawn),
            (
                "gradient of a step, 4 noises, LoRA",
                seconds(step, device),
                seconds(plain_step, device),
            ),
        ]
        rows += [
            f"| {what} | {name} | {ours:.4f} | {theirs:.4f} | {theirs / ours:.1f} |"
            for what, ours, theirs in timed
        ]
        del plain, adapter
    return "\n".join(rows)


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
    with (
        tempfile.TemporaryDirectory() as root,
        patch.dict(os.environ, OFFBEAT_CACHE=f"{root}/cache"),  # nothing of an earlier check
    ):
        for form in told.forms.split(","):
            folder = FORMS[form](Path(root) / form)
            passed += check_form(form, folder, device)
            checks = {"2.2": check_search, "sd": check_painting}.get(form)
            if checks is not None:
                passed += checks(folder, device)
    size = "tiny" if where.type == "cpu" else told.size
    print(f"\nThe prior at {size} size, 5 steps, guidance 4:\n\n{time_prior(where, size)}")
    print(f"\n{sum(passed)} of {len(passed)} passed in {time.perf_counter() - began:.0f} s")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())

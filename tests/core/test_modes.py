"""A search inside the caller's torch modes is the search without them."""

from functools import partial

import pytest
import torch

import offbeat
from offbeat.core.modes import own_modes
from offbeat.errors import ConfigError, DoesNotFitError
from offbeat.methods.conceptlab.config import ConceptLabConfig
from offbeat.methods.conceptlab.method import ConceptLab
from offbeat.methods.cretok.config import CreTokConfig
from offbeat.methods.cretok.method import CreTok
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.methods.low_probability.method import LowProbability
from offbeat.methods.mixing.diffmorpher import DiffMorpher
from offbeat.methods.pictures import Drawing
from offbeat.types import Request

MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}
SEARCH = LowProbabilityConfig(
    num_baseline=20, num_held_out=5, num_components=3, num_steps=2, num_probes=2, judge_every=2,
    lora_rank=2, reach=1.5, use_support=False,
)  # fmt: skip
REFUSED = r"float16 vanish.*--dtype bfloat16.*--dtype float32"


def searched(pocket):
    concept = LowProbability(SEARCH).fit(pocket, Request(subject="owl"))
    return next(iter(concept.lora.values()))


def mixed(pocket):
    request = Request(subject="x", weights=(("owl", 0.5), ("pig", 0.5)))
    concept = ConceptLab(ConceptLabConfig(num_steps=2, judge_every=0)).fuse(pocket, request)
    return next(iter(concept.token_embeds.values()))


def trained(pocket):
    found = CreTok(CreTokConfig(num_steps=2, num_pairs=3)).train(pocket, ["owl", "pig", "cat"])
    return next(iter(found.tensors.values()))


@pytest.mark.parametrize("task", [searched, mixed, trained])
@pytest.mark.parametrize("mode", MODES)
def test_a_search_is_the_same_in_any_mode(pocket, mode, task):
    expected = task(pocket)
    with MODES[mode]():
        got = task(pocket)
    assert got.device.type == "cpu"
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)
    assert not got.is_inference()


@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_loaded_in_any_mode_can_be_searched(pocket, mode):
    with MODES[mode]():
        again = offbeat.load_backbone("pocket", device="cpu")
    assert torch.equal(searched(again), searched(pocket))


def test_products_on_cuda_are_tf32_inside_alone():
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    try:
        for outside in ("none", "ieee", "tf32"):
            products.allow_tf32 = outside == "tf32"
            products.fp32_precision = outside
            with own_modes():
                with own_modes():
                    assert products.fp32_precision == "tf32"
                assert products.allow_tf32  # what torch.compile reads agrees
                assert torch.backends.mkldnn.matmul.fp32_precision == "none"  # the CPU stays exact
            assert products.fp32_precision == outside
            assert products.allow_tf32 == (outside == "tf32")
    finally:
        products.allow_tf32, products.fp32_precision = False, before


@pytest.mark.parametrize("on_the_way", ["there", "back"])
def test_memory_that_runs_out_says_what_takes_less(pocket, monkeypatch, on_the_way):
    def run_out(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore lines")

    if on_the_way == "back":
        monkeypatch.setattr(torch.Tensor, "backward", run_out)
    else:
        monkeypatch.setattr(pocket.fast_prior, "sample", run_out)
    with pytest.raises(DoesNotFitError, match=r"allocate 2 GiB\. What takes less: --dtype bf"):
        searched(pocket)


@pytest.fixture(scope="module")
def halves():
    return {name: offbeat.load_backbone(name, device="cpu", dtype="float16")
            for name in ("pocket", "pocket-sd")}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "work"),
    [
        ("pocket", searched),
        ("pocket", mixed),
        ("pocket", trained),
        ("pocket-sd", lambda model: DiffMorpher().ends(
            Drawing(method="", backbone=model, request=Request(subject="x"), start=0,
                    on_step=lambda step: None, sources=("owl", "pig")))),
    ],
)  # fmt: skip
def test_gradients_of_float16_are_refused(halves, name, work):
    with pytest.raises(ConfigError, match=REFUSED):
        work(halves[name])


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("pocket", partial(offbeat.explore, "owl")),
        ("pocket", partial(offbeat.fuse, ["owl", "pig"], method="conceptlab")),
        ("pocket", partial(offbeat.train, "distok")),
        ("pocket-sd", partial(offbeat.fuse, ["owl", "pig"], method="diffmorpher")),
    ],
)
def test_a_command_refuses_them_before_it_makes_a_folder(halves, tmp_path, name, command):
    with pytest.raises(ConfigError, match=REFUSED):
        command(backbone=halves[name], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_search_without_gradients_may_run_in_float16(halves):
    config = LowProbabilityConfig(space="subject", optimizer="cma-es")
    assert config.on(halves["pocket"]).optimizer == "cma-es"


def test_the_caller_s_modes_come_back():
    with torch.no_grad(), torch.device("meta"):
        with own_modes():
            assert torch.is_grad_enabled()
            assert torch.zeros(1).device.type == "cpu"
        assert not torch.is_grad_enabled()
        assert torch.zeros(1).device.type == "meta"

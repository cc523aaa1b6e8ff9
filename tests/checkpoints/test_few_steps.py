"""Published LoRA of few steps: merged, with the sampler, steps and guidance that they need."""

import pytest
import torch
from safetensors.torch import save_file

import offbeat
import tiny
from offbeat.checkpoints import base
from offbeat.checkpoints.known.few_steps import FEW_STEPS
from offbeat.core.rng import stream
from offbeat.core.samplers import SAMPLERS
from offbeat.errors import ConfigError


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize(("name", "kind"), [("lcm", "sd"), ("lightning", "xl"), ("hyper", "xl")])
def test_a_lora_its_sampler_and_its_settings_come_together(
    tiny_of, tmp_path, monkeypatch, name, kind
):
    plain = tiny_of(kind)
    made = FEW_STEPS[name, "sdxl" if kind == "xl" else "sd-1.5"]
    factors = plain.init_unet_lora(2, generator=stream(0))
    factors = {key: factor + 0.2 * torch.ones_like(factor) for key, factor in factors.items()}
    save_file(factors, tmp_path / made.file)
    fetched = []

    def locate(source, *, only, what):
        fetched.append((source, only))
        return tmp_path

    monkeypatch.setattr(base, "locate", locate)
    backbone = offbeat.load_backbone(plain.name, few_steps=name)
    assert fetched == [(made.repository, (made.file,))]
    assert backbone.card["num_inference_steps"] == made.num_inference_steps
    assert backbone.card["guidance_scale"] == made.guidance_scale
    assert type(backbone.scheduler).__name__ == made.sampler.scheduler
    expected = made.sampler.settings.items()
    assert expected <= dict(backbone.scheduler.config).items()
    run = offbeat.generate("a pig", backbone=backbone, num_images=1)
    assert run.request["few_steps"] == name
    assert run.request["num_inference_steps"] == made.num_inference_steps
    assert "lora" not in run.request  # it would be merged twice when drawn again
    same = offbeat.generate("a pig", backbone=backbone, num_images=1)
    assert run.images[0].tobytes() == same.images[0].tobytes()


def test_what_is_not_published_is_refused(tiny_of):
    with pytest.raises(ConfigError, match=r"lightning is published for sdxl"):
        offbeat.load_backbone(tiny_of("sd").name, few_steps="lightning")
    with pytest.raises(ConfigError, match=r"hyper is published for sd-1\.5, sdxl, flux"):
        offbeat.load_backbone(tiny_of("2.2").name, few_steps="hyper")
    with pytest.raises(ConfigError, match="expected lcm, lightning, hyper"):
        offbeat.Placement(few_steps="turbo")
    assert all(made.sampler.name in SAMPLERS for made in FEW_STEPS.values())


def test_a_turbo_model_draws_in_one_step_by_its_name(tmp_path):
    folder = tiny.build_sd(tmp_path / "my-SDXL-Turbo", "xl", adapter=False)
    (folder / "card.json").unlink()
    card = offbeat.load_backbone(folder).card
    assert (card["num_inference_steps"], card["guidance_scale"]) == (1, 0.0)

"""Any folder or hub id is taken for what it is, by its index."""

import json

import pytest
import torch

from offbeat.checkpoints import pipeline
from offbeat.checkpoints.known import unclip
from offbeat.checkpoints.open import adapter_of
from offbeat.core.rng import stream
from offbeat.errors import CheckpointError


def class_of(source):
    return adapter_of(source).__name__


def test_a_folder_is_of_the_form_that_its_index_names(
    tiny_sd_folder, tiny_folder, tiny_flow_folder, tmp_path
):
    assert class_of(tiny_sd_folder) == "StableDiffusionBackbone"
    assert class_of(tiny_folder) == class_of(tiny_folder / "prior") == "UnclipBackbone"
    wanted = "SD3Backbone" if "sd3" in tiny_flow_folder.name else "FluxBackbone"
    assert class_of(tiny_flow_folder) == wanted
    (tmp_path / "model_index.json").write_text("{}")
    assert class_of(tmp_path) == "StableDiffusionBackbone"
    assert class_of("somebody/anything") == "UnclipBackbone"  # offline: loading it says so


@pytest.mark.parametrize("half", ["prior", "decoder"])
def test_half_a_kandinsky_is_told_from_a_whole_one(tiny_folder, tmp_path, half):
    load = adapter_of(tiny_folder / half).load
    with pytest.raises(CheckpointError, match=f"a {half} alone; name the folder above it"):
        load(tiny_folder / half)
    (tmp_path / "lone").symlink_to(tiny_folder / half)
    with pytest.raises(CheckpointError, match=f"as {half}/, beside its .*kandinsky-2.2"):
        load(tmp_path / "lone")


def test_a_hub_id_of_one_half_brings_the_other(monkeypatch, tiny_folder):
    asked = []

    def locate(source, *, only):
        asked.append(source)
        return tiny_folder / ("prior" if "prior" in source else "decoder")

    monkeypatch.setattr(unclip, "locate", locate)
    prior, decoder, _ = unclip.find("kandinsky-community/kandinsky-2-2-decoder")
    assert [folder.path.name for folder in (prior, decoder)] == ["prior", "decoder"]
    assert asked == list(unclip.CHECKPOINTS["kandinsky-2.2"])


@torch.no_grad()
def test_a_combined_pipeline_is_both_halves_in_one_folder(tiny_folder, tiny_backbone, tmp_path):
    from diffusers import DiffusionPipeline, KandinskyCombinedPipeline, KandinskyV22CombinedPipeline

    pipes = {
        half: DiffusionPipeline.from_pretrained(tiny_folder / half, local_files_only=True)
        for half in ("prior", "decoder")
    }
    is_old = "text_encoder" in pipes["decoder"].components
    kind = KandinskyCombinedPipeline if is_old else KandinskyV22CombinedPipeline
    prior = {f"prior_{name}": part for name, part in pipes["prior"].components.items()}
    kind(**pipes["decoder"].components, **prior).save_pretrained(tmp_path / "both")
    (tmp_path / "both" / "card.json").write_text((tiny_folder / "card.json").read_text())
    assert class_of(tmp_path / "both") == "UnclipBackbone"
    both = adapter_of(tmp_path / "both").load(tmp_path / "both")

    def draw(backbone):
        text = backbone.encode_text(["a pig"])
        embeds = backbone.sample_prior(text, generator=stream(1))
        return backbone.decode_embeds(embeds, generator=stream(2))

    torch.testing.assert_close(draw(both), draw(tiny_backbone))


def test_a_component_of_another_library_is_never_imported(tiny_sd_folder, tmp_path):
    index = json.loads((tiny_sd_folder / "model_index.json").read_text())
    folder = pipeline.PipelineFolder(tiny_sd_folder, {**index, "unet": ["os", "system"]})
    with pytest.raises(CheckpointError, match="got 'os', 'system'"):
        folder.load("unet")

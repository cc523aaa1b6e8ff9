"""Values that the published programs gave on small weights of their own names.

``fixtures/metrics/make_model_values.py`` says how they were made. The weights are a formula of name
and shape, so that the programs and ours have the very same ones.
"""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

import tiny_metrics
from offbeat.metrics.aesthetics import AestheticV1, AestheticV2
from offbeat.metrics.imagereward import ImageReward
from offbeat.metrics.similarity import Hpsv2
from sine_weights import picture, weights_of

FILE = Path(__file__).parent.parent / "fixtures" / "metrics" / "model_values.json"
GIVEN = json.loads(FILE.read_text())
PICTURES = [picture("picture 0", 16, 16), picture("picture 1", 40, 56)]


def test_hpsv2_is_its_programs(tmp_path):
    given = GIVEN["hpsv2"]
    model = tiny_metrics.clip(text={"intermediate_size": 64}, hidden_act="gelu")
    tiny_metrics.build_clip(tmp_path, model, weights=False)
    save_file(weights_of(given["shapes"]), tmp_path / "HPS_v2_compressed.safetensors")
    texts = ["a red cat", "two owls on a branch"]
    found = Hpsv2.load(tmp_path).score(PICTURES, texts=texts)
    assert found.values == pytest.approx(given["values"], abs=2e-5)


def test_imagereward_is_its_programs(tmp_path):
    given = GIVEN["imagereward"]
    weights = weights_of(given["shapes"])
    save_file(weights, tmp_path / "ImageReward.safetensors")
    (tmp_path / "med_config.json").write_text(json.dumps(given["med_config"]))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(97, 123))]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    found = ImageReward.load(tmp_path).score(PICTURES, texts=["a b c", "x"])
    assert found.values == pytest.approx(given["values"], abs=5e-5)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_aesthetics_are_their_programs(version, tmp_path):
    given = GIVEN["aesthetic"][version]
    weights = weights_of(given["shapes"])
    model = tiny_metrics.clip()
    own = {name: weights.pop(name) for name in model.state_dict() if name in weights}
    missing, extra = model.load_state_dict(own, strict=False)
    assert not extra
    assert all(name.startswith("text_") or name == "logit_scale" for name in missing)
    tiny_metrics.build_clip(tmp_path / "clip", model)
    head = {name.removeprefix("predictor."): weight for name, weight in weights.items()}
    save_file(head, tmp_path / "head.safetensors")
    kind = AestheticV1 if version == "v1" else AestheticV2
    assert kind.load(tmp_path).score(PICTURES).values == pytest.approx(given["values"], abs=2e-5)

import json

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from offbeat.core.rng import stream, streams
from offbeat.errors import (
    CheckpointError,
    ConfigError,
    PromptError,
    RangeError,
    ShapeError,
    UnsafeWeightsError,
)
from offbeat.judges import rule
from offbeat.judges.classifier import ClassifierJudge, PixelSettings
from offbeat.judges.clip import ClipJudge
from offbeat.judges.scripted import ScriptedJudge
from offbeat.protocols import ChecksSubject, ReadsPresence
from offbeat.runs import readings

BLANK = torch.ones(2, 3, 8, 8)


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    labels = {0: "cat", 1: "dog", 2: "car"}
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=labels
    )
    torch.manual_seed(0)
    ResNetForImageClassification(config).save_pretrained(folder)
    pixels = {
        "size": {"height": 16, "width": 16},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    coarse = {"cat": ["animal", "pet"], "dog": ["animal", "pet"], "car": ["vehicle"]}
    (folder / "coarse_classes.json").write_text(json.dumps(coarse))
    (folder / "figures.json").write_text('{"clean": {"top1": 0.5, "top5": 0.9}}')
    return folder


def test_scripted_answers_once_a_call_and_remembers_the_questions():
    judge = ScriptedJudge(answers=["yes", "no", "cat"])
    assert isinstance(judge, ChecksSubject)
    assert [v.passed for v in judge.still_a(BLANK, "pet")] == [True, True]
    assert [v.answer for v in judge.still_a(BLANK, "pet")] == ["no", "no"]
    assert judge.name_it(BLANK[0], "pet") == "cat"
    assert judge.asked == [("pet", 2), ("pet", 2), ("pet", 1)]
    with pytest.raises(ConfigError, match="longer script"):
        judge.still_a(BLANK, "pet")
    with pytest.raises(ConfigError, match="'yes' or 'no'"):
        ScriptedJudge(answers=["maybe"]).still_a(BLANK, "pet")


def test_limit_is_chance_until_ordinary_pictures_set_it():
    limits = rule.Limits(share=0.5)
    asked = {"chance": 0.25, "judge": "j", "note": "n."}
    values = torch.tensor([0.3, 0.2, 0.1])
    assert [v.answer for v in limits.verdicts("pet", values, **asked)] == ["yes", "no", "no"]
    assert limits.learn("pet", torch.tensor([0.1, 0.4, 0.9])) == pytest.approx(0.2)
    calibrated = limits.verdicts("pet", values, **asked)
    assert [v.answer for v in calibrated] == ["yes", "yes", "no"]
    assert calibrated[0].probability == pytest.approx(0.3)
    assert "0.5 of what ordinary pictures get" in calibrated[0].note
    limits.learn("pet", torch.tensor([0.1]))
    assert "less than chance" in limits.verdicts("pet", values, **asked)[0].note


def test_members_come_from_subjects_then_label_then_coarse_class():
    labels = ["cat", "dog", "fish"]
    coarse = {"cat": ["pet"], "dog": ["pet"], "fish": ["fish"]}
    found = {
        subject: rule.members_of(subject, labels, subjects={"pet": ["dog"]}, coarse=coarse)
        for subject in ("pet", "fish", "cat", "sofa")
    }
    assert found == {"pet": ["dog"], "fish": ["fish"], "cat": ["cat"], "sofa": []}
    assert rule.members_of("pet", labels, subjects={}, coarse=coarse) == ["cat", "dog"]


def test_clip_judge_reads_pixels_in_any_batch(pocket):
    judge = ClipJudge(pocket)
    images = torch.rand(3, 3, 64, 64, generator=stream(0, "pixels"))
    probabilities = judge.class_probabilities(images)
    assert probabilities.shape == (3, len(judge.labels))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3))
    torch.testing.assert_close(judge.class_probabilities(images[1:2]), probabilities[1:2])
    verdict = judge.still_a(images, "pet")[0]
    assert str(pocket.card["notes"]) in verdict.note
    assert verdict.judge.startswith("clip:pocket@")


def test_clip_judge_takes_a_word_outside_the_vocabulary(pocket):
    judge = ClipJudge(pocket, concepts=["car", "tree"])
    assert judge.members("sofa") == []
    assert 0 < judge.still_a(BLANK, "sofa")[0].probability < 1
    with pytest.raises(PromptError):
        judge.still_a(BLANK, " ")


def test_clip_judge_wants_names_to_choose_between(pocket):
    with pytest.raises(ConfigError, match="concepts="):
        ClipJudge(pocket, concepts=["car"])


@torch.no_grad()
def test_calibrated_clip_judge_tells_pocket_vehicles_from_fruit(pocket):
    drawn = {}
    for subject in ("vehicle", "fruit"):
        text = pocket.encode_text([f"a picture of a {subject}"])
        embeds = pocket.sample_prior(text, generator=streams(1, subject, num=8), num_samples=8)
        noise = streams(1, subject, "d", num=8)
        drawn[subject] = pocket.decode_embeds(embeds, generator=noise, num_inference_steps=8)
    judge = ClipJudge(pocket)
    judge.calibrate(drawn["vehicle"][:4], "vehicle")
    own = [v.passed for v in judge.still_a(drawn["vehicle"][4:], "vehicle")]
    others = [v.passed for v in judge.still_a(drawn["fruit"], "vehicle")]
    assert sum(own) >= 3
    assert sum(others) <= 2


@pytest.mark.parametrize(
    ("images", "error"),
    [
        (torch.ones(3, 8, 8), ShapeError),
        (torch.full((1, 3, 8, 8), -1.0), RangeError),
        (torch.full((1, 3, 8, 8), 255.0), RangeError),
    ],
)
def test_pixels_out_of_shape_or_range_are_refused(classifier_folder, images, error):
    with pytest.raises(error):
        ClassifierJudge.load(classifier_folder).still_a(images, "cat")


def test_classifier_sums_its_members_and_says_how_good_it_is(classifier_folder):
    judge = ClassifierJudge.load(classifier_folder)
    assert isinstance(judge, ChecksSubject)
    assert judge.labels == ("cat", "dog", "car")
    images = torch.rand(4, 3, 20, 20, generator=stream(0, "pixels"))
    probabilities = judge.class_probabilities(images)
    verdicts = judge.still_a(images, "pet")
    for verdict, row in zip(verdicts, probabilities, strict=True):
        assert verdict.probability == pytest.approx(float(row[:2].sum()), abs=1e-6)
    assert "names 50% of held-out pictures (90% within five)" in verdicts[0].note


def test_a_classifier_may_read_presence_beside_its_names(classifier_folder, tmp_path):
    plain = ClassifierJudge.load(classifier_folder)
    assert not isinstance(plain, ReadsPresence)
    model = ResNetForImageClassification.from_pretrained(classifier_folder)
    model.config.id2label |= {index + 3: f"presence of {plain.labels[index]}" for index in range(3)}
    model.config.num_presence = 3
    model.classifier[1].weight.data = model.classifier[1].weight.data.repeat(2, 1)
    model.classifier[1].bias.data = torch.cat([model.classifier[1].bias.data, torch.zeros(3)])
    model.save_pretrained(tmp_path)
    for file in ("preprocessor_config.json", "coarse_classes.json"):
        (tmp_path / file).write_bytes((classifier_folder / file).read_bytes())
    judge = ClassifierJudge.load(tmp_path)
    assert isinstance(judge, ReadsPresence)
    assert judge.labels == plain.labels
    images = torch.rand(4, 3, 20, 20, generator=stream(0, "pixels"))
    torch.testing.assert_close(judge.class_probabilities(images), plain.class_probabilities(images))
    logits = plain.class_probabilities(images).log()
    differences = judge.presence(images).logit().diff(dim=1) - logits.diff(dim=1)
    bias = ResNetForImageClassification.from_pretrained(tmp_path).classifier[1].bias[:3]
    torch.testing.assert_close(differences, -bias.diff().expand(4, -1), rtol=0, atol=1e-4)


def test_what_is_there_is_told_where_the_judge_reads_it():
    class Seer:
        name, labels = "seer", ("pig", "owl", "fox")

        def class_probabilities(self, images):
            return torch.tensor([[0.9, 0.05, 0.05]]).expand(len(images), -1)

        def presence(self, images):
            return torch.tensor([[0.9, 0.6, 0.1], [0.8, 0.2, 0.1]])

    row = readings.of(Seer(), torch.zeros(2, 3, 4, 4), {"pig": 0.5, "owl": 0.5})
    assert row["all_present"] == 0.5
    assert [text.splitlines()[-1] for text in row["captions"]] == ["there: pig, owl", "there: pig"]
    assert "All of them are there in 50 % of the pictures." in readings.sentence(row, 2)
    assert readings.of(None, torch.zeros(2, 3, 4, 4), {"pig": 1.0}) == {}


def test_classifier_names_what_is_near_an_unknown_subject(classifier_folder):
    with pytest.raises(PromptError, match=r"Near: .*car"):
        ClassifierJudge.load(classifier_folder).still_a(BLANK, "cars")


def test_classifier_refuses_pickles_and_damage(classifier_folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        ClassifierJudge.load(tmp_path)
    for file in classifier_folder.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(UnsafeWeightsError):
        ClassifierJudge.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        ClassifierJudge.load(tmp_path)


def test_shortest_edge_is_resized_and_cropped_as_transformers_does(tmp_path):
    from PIL import Image
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}
    )
    processor.save_pretrained(tmp_path)
    pixels = (torch.rand(3, 12, 24, generator=stream(0, "pixels")) * 255).byte()
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    theirs = processor(picture, return_tensors="pt").pixel_values
    settings = PixelSettings.read(tmp_path / "preprocessor_config.json")
    ours = settings.apply(pixels[None] / 255)
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) < 0.1  # theirs rounds to bytes between

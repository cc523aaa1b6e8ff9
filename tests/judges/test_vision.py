"""Judges that run a vision-language model, held against what transformers itself makes of it."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import transformers
from PIL import Image
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

import tiny_vlm
from offbeat import registry
from offbeat.core.rng import stream
from offbeat.errors import CheckpointError, ConfigError, PromptError, UnsafeWeightsError
from offbeat.judges import answers
from offbeat.judges.vqa import spellings
from offbeat.protocols import ChecksSubject, NamesThings, ReadsClasses

LABELS = ("cat", "dog", "siamese cat")
QUESTION = "Is this still a pet? Yes or no."
IMAGES = torch.rand(3, 3, 40, 24, generator=stream(0, "pixels"))


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = tiny_vlm.BUILDERS[kind](tmp_path_factory.mktemp("vlm") / kind)
        return made[kind]

    return get


@pytest.fixture(scope="module", params=list(tiny_vlm.BUILDERS))
def pair(request, folders):
    """A judge, and the same checkpoint as transformers runs it."""
    folder = folders(request.param)
    judge = _class(request.param).load(folder, labels=LABELS)
    model = getattr(transformers, judge.model_class).from_pretrained(folder).eval()
    return SimpleNamespace(kind=request.param, judge=judge, theirs=Theirs(model, folder))


def _class(kind):
    return registry.find("judge", kind.removesuffix("-t5"))


class Theirs:
    """Inputs by the library's processor; where that wants torchvision, by its own placing rule."""

    def __init__(self, model, folder):
        self.model, self.folder = model, folder
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.is_seq2seq = model.config.model_type == "blip" or (
            model.config.model_type == "blip-2" and not model.config.use_decoder_only_language_model
        )

    def inputs(self, images, question):
        pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
        pictures, kind = [Image.fromarray(each) for each in pixels], self.model.config.model_type
        if kind in ("qwen2_5_vl", "smolvlm"):
            return getattr(self, f"_{kind}")(pictures, self._chat(question))
        processor = transformers.AutoProcessor.from_pretrained(self.folder)
        text = question
        if kind == "blip-2":
            text = f"Question: {question} Answer:"
        elif kind != "blip":
            content = [{"type": "image"}, {"type": "text", "text": question}]
            turn = [{"role": "user", "content": content}]
            text = processor.apply_chat_template(turn, add_generation_prompt=True)
        return dict(processor(images=pictures, text=[text] * len(images), return_tensors="pt"))

    def _chat(self, question):
        content = [{"type": "image"}, {"type": "text", "text": question}]
        turn = [{"role": "user", "content": content}]
        return self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)

    def _qwen2_5_vl(self, pictures, text):
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil,
        )

        pixels = Qwen2VLImageProcessorPil.from_pretrained(self.folder)
        found = pixels(pictures, return_tensors="pt")
        own = SimpleNamespace(image_processor=pixels, image_token="<|image_pad|>")
        place = transformers.Qwen2_5_VLProcessor.replace_image_token
        texts = [
            text.replace("<|image_pad|>", place(own, found, index))
            for index in range(len(pictures))
        ]
        ids = self.tokenizer(texts, return_tensors="pt", return_token_type_ids=False)
        types = (ids["input_ids"] == self.model.config.image_token_id).int()
        return {**ids, **found, "mm_token_type_ids": types}

    def _smolvlm(self, pictures, text):
        from transformers.models.smolvlm.image_processing_pil_smolvlm import (
            SmolVLMImageProcessorPil,
        )

        pixels = SmolVLMImageProcessorPil.from_pretrained(self.folder)
        found = pixels([[p] for p in pictures], return_tensors="pt", return_row_col_info=True)
        rows, cols = found.pop("rows"), found.pop("cols")
        assert rows[0][0] > 1  # the picture is cut, so that places matter
        texts = [
            text.replace(
                "<image>",
                get_image_prompt_string(
                    row[0],
                    col[0],
                    1,
                    "<fake_token_around_image>",
                    "<image>",
                    "<global-img>",
                ),
            )
            for row, col in zip(rows, cols, strict=True)
        ]
        ids = self.tokenizer(texts, return_tensors="pt", return_token_type_ids=False)
        return {**ids, **found}

    @torch.no_grad()
    def generate(self, images, question, num):
        """Return the ids of greedy answers, and the logits of their first token."""
        inputs = self.inputs(images, question)
        extra = {"generation_mode": "text"} if self.model.config.model_type == "janus" else {}
        found = self.model.generate(
            **inputs,
            **extra,
            max_new_tokens=num,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        return found.sequences[:, -len(found.logits) :], found.logits[0]

    @torch.no_grad()
    def likelihood(self, image, question, ids):
        """Return the mean log-likelihood of an answer by the model's own loss."""
        inputs = self.inputs(image[None], question)
        if self.model.config.model_type == "blip":
            ids = [self.model.decoder_start_token_id, *ids]
        labels = torch.tensor([ids])
        if not self.is_seq2seq:
            inputs["input_ids"] = torch.cat([inputs["input_ids"], labels], dim=1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            if "mm_token_type_ids" in inputs:
                types = inputs["mm_token_type_ids"]
                inputs["mm_token_type_ids"] = torch.cat([types, torch.zeros_like(labels)], dim=1)
            before = torch.full_like(inputs["input_ids"][:, : -len(ids)], -100)
            labels = torch.cat([before, labels], dim=1)
        return -float(self.model(**inputs, labels=labels).loss)


def test_answers_are_those_that_transformers_gives(pair, monkeypatch):
    ids, logits = pair.theirs.generate(IMAGES, QUESTION, 6)
    shares = logits.softmax(dim=-1)
    vocab = pair.theirs.tokenizer.get_vocab()
    mass = {
        word: sum(
            shares[:, vocab[piece]]
            for piece in (word, word.title(), f"Ġ{word}", f"Ġ{word.title()}")
            if piece in vocab
        )
        for word in ("yes", "no")
    }
    by_hand = mass["yes"] / (mass["yes"] + mass["no"])
    torch.testing.assert_close(pair.judge.probability_of_yes(IMAGES, QUESTION), by_hand)
    assert by_hand.std() > 1e-3  # it looks at the pictures
    words = pair.theirs.tokenizer.batch_decode(ids, skip_special_tokens=True)
    ours = pair.judge.ask(IMAGES, QUESTION, max_new_tokens=6)
    assert ours == [text.strip() for text in words]
    monkeypatch.setattr(pair.judge, "ends", frozenset({int(ids[0, 2])}))
    until = ids[0, : ids[0].tolist().index(int(ids[0, 2]))]
    ended = pair.judge.ask(IMAGES, QUESTION, max_new_tokens=6)[0]
    assert ended == pair.theirs.tokenizer.decode(until, skip_special_tokens=True).strip()


def test_a_name_gets_the_likelihood_of_the_models_own_loss(pair, monkeypatch):
    judge = pair.judge
    monkeypatch.setattr("offbeat.judges.vision.ROWS", 3)  # several rounds of one picture
    scores = judge._scores(IMAGES)
    assert judge._question.startswith(answers.WHAT)
    for column, label in enumerate(LABELS):
        ways = judge._spell(judge._question, label)
        text = judge.tokenizer.decode(ways[0], skip_special_tokens=True).strip()
        assert text == label
        best = max(pair.theirs.likelihood(IMAGES[1], judge._question, ids) for ids in ways)
        assert float(scores[1, column]) == pytest.approx(best, abs=1e-4)
    grey = judge._scores(torch.full((1, 3, 40, 24), 0.5))
    expected = (scores - grey).softmax(dim=-1)
    torch.testing.assert_close(judge.class_probabilities(IMAGES), expected)


def test_an_answer_depends_on_its_picture_alone(pair):
    judge = pair.judge
    before = torch.get_rng_state()
    assert isinstance(judge, ChecksSubject)
    assert isinstance(judge, ReadsClasses)
    assert isinstance(judge, NamesThings)
    verdicts = judge.still_a(IMAGES, "alien")
    alone = judge.still_a(IMAGES[2:], "alien")[0]
    assert verdicts[2].probability == pytest.approx(alone.probability, abs=1e-5)
    assert "Is this still an alien?" in alone.note
    assert alone.judge == judge.name
    assert judge.ask(IMAGES[2:], QUESTION) == judge.ask(IMAGES, QUESTION)[2:]
    together = judge.class_probabilities(IMAGES)
    torch.testing.assert_close(judge.class_probabilities(IMAGES[2:]), together[2:])
    assert judge.name_it(IMAGES[0], "pet") == judge.name_it(IMAGES[0], "pet")
    assert judge.still_a(IMAGES[:0], "pet") == []
    assert judge.class_probabilities(IMAGES[:0]).shape == (0, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_first_word_is_what_a_verdict_stands_on(folders):
    judge = _class("blip-vqa").load(folders("blip-vqa"), labels=LABELS)
    (verdict,) = judge.still_a(IMAGES[:1], "pet")
    assert verdict.passed == (verdict.probability >= 0.5)
    assert "of the first word" in verdict.note  # random weights say neither yes nor no
    with pytest.raises(PromptError, match="expected a word"):
        judge.still_a(IMAGES[:1], " ")
    with pytest.raises(ConfigError, match="two different names"):
        _class("blip-vqa").load(folders("blip-vqa"), labels=["cat", "cat"])


def test_half_precision_answers_much_the_same(folders):
    whole, half = (
        _class("smolvlm").load(folders("smolvlm"), dtype=dtype).probability_of_yes(IMAGES, QUESTION)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert whole.dtype == half.dtype == torch.float32
    torch.testing.assert_close(half, whole, atol=0.1, rtol=0)


def test_name_tells_files_apart(folders, tmp_path):
    own = _class("janus").load(folders("janus"))
    copied = shutil.copytree(folders("janus"), tmp_path / "janus")
    assert _class("janus").load(copied).name == own.name
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"note": "changed"}))
    assert _class("janus").load(copied).name != own.name


def test_what_is_no_such_checkpoint_says_why(folders, tmp_path):
    load = _class("qwen2.5-vl").load
    with pytest.raises(CheckpointError, match=r"model_type 'qwen2_5_vl'.*got 'janus'"):
        load(folders("janus"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="hub did not give it"):
        load("nobody/has-this")
    copied = shutil.copytree(folders("qwen2.5-vl"), tmp_path / "copied")
    (copied / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="chat template"):
        load(copied)
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load(copied)
    weights.unlink()
    with pytest.raises(CheckpointError, match="found none"):
        load(copied)
    (copied / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(UnsafeWeightsError):
        load(copied)


def test_words_are_found_in_a_tokenizer_that_marks_spaces():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = ["<unk>", *"▁[/INST]yesnocat", "▁yes", "▁Yes", "▁no", "▁No", "▁cat", "▁Cat"]
    ranks = [(piece, -float(len(piece) == 1) * 5 - 1) for piece in dict.fromkeys(pieces)]
    inner = Tokenizer(models.Unigram(ranks, unk_id=0))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    yes, no = answers.yes_no_ids(tokenizer)
    assert tokenizer.convert_ids_to_tokens(yes) == ["▁yes", "▁Yes"]
    assert tokenizer.convert_ids_to_tokens(no) == ["▁no", "▁No"]
    ways = spellings(tokenizer, "[/INST]", "cat")  # a space is no part of this prompt's end
    assert ["▁cat"] in [tokenizer.convert_ids_to_tokens(ids) for ids in ways]


def test_missing_weights_are_not_made_up(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    copied = shutil.copytree(folders("smolvlm"), tmp_path / "smolvlm")
    tensors = load_file(copied / "model.safetensors")
    del tensors[sorted(tensors)[0]]
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="expected a weight for every parameter"):
        _class("smolvlm").load(copied)


def test_an_older_checkpoint_keeps_its_template_in_a_file_of_its_own(folders, tmp_path):
    kind = "llava-next"
    copied = shutil.copytree(folders(kind), tmp_path / kind)
    text = (copied / "chat_template.jinja").read_text()
    (copied / "chat_template.jinja").unlink()
    (copied / "chat_template.json").write_text(json.dumps({"chat_template": text}))
    ours, older = (_class(kind).load(folder) for folder in (folders(kind), copied))
    assert ours.prompt("Is it red?") == older.prompt("Is it red?")

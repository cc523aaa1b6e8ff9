"""The ComfyUI nodes, against stubs of what ComfyUI gives them; numbers as the library's."""

import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import offbeat
from offbeat.checkpoints.known.unclip import POCKET
from offbeat.cli import app
from offbeat.core.baseline import Baseline
from offbeat.core.rng import stream
from offbeat.files.concept import CONCEPT_FILE, about_of, decode_trained, encode_concept
from offbeat.files.disk import pack_tensors
from offbeat.files.exchange import encode_export
from offbeat.types import Concept

PACK = Path(offbeat.__file__).parent / "comfyui"
MADE = {"fingerprint": "f", "checkpoint": "sd", "method": "distok"}


class Clip:
    """What ComfyUI's tokenizer does with words: ``embedding:NAME`` becomes rows of a file."""

    def __init__(self, embeddings, widths):
        self.embeddings, self.widths = embeddings, widths
        sizes = {f"clip_{name}": types.SimpleNamespace(embedding_size=size)
                 for name, size in widths.items()}  # fmt: skip
        self.tokenizer = types.SimpleNamespace(**sizes)

    def tokenize(self, text):
        return {name: self._row(text, f"clip_{name}", width) for name, width in self.widths.items()}

    def _row(self, text, key, width):
        found = []
        for word in text.split(" "):
            if not word.startswith("embedding:"):
                found.append(word)
                continue
            file = load_file(self.embeddings / f"{word.removeprefix('embedding:')}.safetensors")
            rows = file[key] if key in file else next(iter(file.values()))
            assert rows.shape[-1] == width  # ComfyUI leaves out what is of another width
            found += list(rows if rows.ndim == 2 else [rows])
        return found

    def encode_from_tokens_scheduled(self, tokens):
        return [[tokens, {}]]


@pytest.fixture
def comfy(tmp_path, monkeypatch):
    """ComfyUI's folders and the pack, loaded as ComfyUI loads it."""
    paths = types.ModuleType("folder_paths")
    paths.models_dir = str(tmp_path / "models")
    embeddings = tmp_path / "models" / "embeddings"
    embeddings.mkdir(parents=True)
    paths.folder_names_and_paths = {"embeddings": ([str(embeddings)], {".safetensors"})}
    paths.get_folder_paths = lambda name: paths.folder_names_and_paths[name][0]
    paths.get_filename_list = lambda name: sorted(
        path.relative_to(place).as_posix()
        for place in paths.get_folder_paths(name)
        for path in Path(place).rglob("*.safetensors")
    )

    def full_path(name, file):
        found = [Path(place) / file for place in paths.get_folder_paths(name)]
        return next((str(path) for path in found if path.is_file()), None)

    paths.get_full_path = full_path
    monkeypatch.setitem(sys.modules, "folder_paths", paths)
    spec = importlib.util.spec_from_file_location(
        "offbeat_nodes", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    pack = importlib.util.module_from_spec(spec)
    for name in ("offbeat_nodes.files", "offbeat_nodes.nodes"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "offbeat_nodes", pack)
    spec.loader.exec_module(pack)
    home = tmp_path / "models" / "offbeat"
    nodes = {name: node() for name, node in pack.NODE_CLASS_MAPPINGS.items()}
    return types.SimpleNamespace(
        home=home, embeddings=embeddings, nodes=nodes, files=sys.modules["offbeat_nodes.files"]
    )


def concept(rows, **changes):
    fields = {
        "template": "a photo of a {concept}",
        "subject": "red fox",
        "token_embeds": {"<offbeat>": rows},
    }
    return Concept(**{**fields, **changes})


def test_every_node_says_what_comfyui_asks(comfy):
    names = ("OffbeatConcept", "OffbeatFuse", "OffbeatDirection", "OffbeatNovelty")
    assert tuple(comfy.nodes) == names
    for node in comfy.nodes.values():
        assert callable(getattr(node, node.FUNCTION))
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
        assert set(node.INPUT_TYPES()) == {"required"}
    assert comfy.home.is_dir()


def test_it_works_without_offbeat_and_diffusers():
    code = f"""
import sys, types
for name in ("offbeat", "diffusers", "transformers"):
    sys.modules[name] = None
sys.path.insert(0, {str(PACK.parent)!r})
from comfyui import files
print(sorted(name for name in vars(files) if name.startswith("read")))
"""
    stub = "import sys, types; m = types.ModuleType('folder_paths'); m.models_dir = '/nowhere';"
    stub += "m.folder_names_and_paths = {'offbeat': ([], set())}; sys.modules['folder_paths'] = m"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", stub + code], check=True, capture_output=True
    )
    assert b"read_baseline" in done.stdout


def test_a_concept_stands_in_a_prompt(comfy):
    rows = torch.randn(2, 6, generator=stream(1))
    layout = [("clip_l", 6, 1.0)]
    data = encode_concept(concept(rows), layout=layout, **MADE)[CONCEPT_FILE]
    (comfy.home / "fox.safetensors").write_bytes(data)
    node, clip = comfy.nodes["OffbeatConcept"], Clip(comfy.embeddings, {"l": 6})
    assert node.INPUT_TYPES()["required"]["concept"] == (["fox.safetensors"],)
    conditioning, text = node.encode(clip, "fox.safetensors", "an oil painting of a {concept}, old")
    found = conditioning[0][0]["l"]
    assert found[:5] == ["an", "oil", "painting", "of", "a"]
    assert torch.equal(torch.stack(found[5:7]), rows)
    assert found[7:] == [",", "old"]
    assert text.startswith("an oil painting of a embedding:offbeat-")
    again, same = node.encode(clip, "fox.safetensors", "")  # its own prompt, and the same file
    assert again[0][0]["l"][:4] == ["a", "photo", "of", "a"]
    assert same.split()[-1] in text.split()
    assert len(list(comfy.embeddings.iterdir())) == 1
    before = node.IS_CHANGED("fox.safetensors", clip=clip, prompt="")
    other = encode_concept(concept(rows + 1), layout=layout, **MADE)
    (comfy.home / "fox.safetensors").write_bytes(other[CONCEPT_FILE])
    assert node.IS_CHANGED("fox.safetensors", clip=clip, prompt="") != before


def test_two_encoders_get_their_own_rows(comfy):
    rows = torch.randn(2, 10, generator=stream(1))
    layout = [("clip_l", 6, 1.0), ("clip_g", 4, 1.0)]
    words = {"word": "<offbeat> of clay"}  # a phrase around the token, as CreTok's
    data = encode_concept(concept(rows, **words), layout=layout, **MADE)
    (comfy.home / "own.safetensors").write_bytes(data[CONCEPT_FILE])
    about = about_of(data[CONCEPT_FILE], "")
    sent = encode_export(concept(rows, **words), about, style="sdxl", layout=layout)
    (comfy.home / "sent.safetensors").write_bytes(next(iter(sent.values())))
    clip = Clip(comfy.embeddings, {"l": 6, "g": 4})
    for name in ("own.safetensors", "sent.safetensors"):
        conditioning, text = comfy.nodes["OffbeatConcept"].encode(clip, name, "{concept} here")
        assert text.split()[1:] == ["of", "clay", "here"]
        tokens = conditioning[0][0]
        assert torch.equal(torch.stack(tokens["l"][:2]), rows[:, :6])
        assert torch.equal(torch.stack(tokens["g"][:2]), rows[:, 6:])


@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_fused_words_are_the_library_s(comfy, pocket, exponent):
    (comfy.home / "distok.safetensors").write_bytes(
        (POCKET / "trained" / "distok.safetensors").read_bytes()
    )
    width = pocket.token_embed("pig").shape[-1]
    clip = Clip(comfy.embeddings, {"l": width})
    for weights in ("pig=0.55, owl=0.45", "pig, owl", "Pig=3, bee=1, fox=2"):
        conditioning, _ = comfy.nodes["OffbeatFuse"].fuse(
            clip, "distok.safetensors", weights, exponent, "{concept}"
        )
        (mine,) = conditioning[0][0]["l"]
        pairs = comfy.files.parse_weights(weights)
        from offbeat.methods.distok.config import DisTokConfig
        from offbeat.methods.distok.method import DisTok
        from offbeat.types import Request

        trained = decode_trained((comfy.home / "distok.safetensors").read_bytes(), "")
        total = sum(share for _, share in pairs)
        request = Request(subject="x", weights=tuple((w, s / total) for w, s in pairs))
        config = DisTokConfig.for_card(pocket.card, share_exponent=exponent)
        theirs = DisTok(config).fuse(pocket, request, trained=trained)
        (expected,) = theirs.token_embeds.values()
        torch.testing.assert_close(mine, expected[0], rtol=0, atol=1e-6)


def test_novelty_is_the_library_s(comfy):
    noise = stream(4)
    scale = torch.linspace(2, 0.1, 12)
    samples, held_out, pictures = (
        torch.randn(num, 12, generator=noise) * scale for num in (200, 50, 5)
    )
    baseline = Baseline.fit("a pet", samples, held_out, torch.ones(1, 12), num_components=6)
    tensors, values = baseline.pack()
    (comfy.home / "baseline.safetensors").write_bytes(pack_tensors(tensors, values))
    found = comfy.nodes["OffbeatNovelty"].measure(
        {"image_embeds": 2 * pictures}, "baseline.safetensors"
    )
    novelty, times, text = found["result"]
    told = baseline.describe(2 * pictures)
    assert novelty == pytest.approx(told["quantile"], abs=1e-7)
    assert times == pytest.approx(told["distance_median"] / baseline.ordinary_distance, rel=1e-6)
    assert found["ui"]["text"] == [text]
    with pytest.raises(comfy.files.OffbeatFileError, match="width 12"):
        comfy.nodes["OffbeatNovelty"].measure(
            {"image_embeds": pictures[:, 1:]}, "baseline.safetensors"
        )


def test_files_that_cannot_be_used_say_why(comfy):
    files, home = comfy.files, comfy.home
    data = encode_concept(concept(torch.ones(1, 4)), **MADE)[CONCEPT_FILE]
    whole = home / "x.safetensors"
    cases = [
        (data[:-3], "cannot be read"),
        (data[:-1] + bytes([data[-1] ^ 1]), "changed or damaged"),
        (b"", "cannot be read"),
    ]
    for content, says in cases:
        whole.write_bytes(content)
        with pytest.raises(files.OffbeatFileError, match=says):
            files.read_concept(whole)
    whole.write_bytes(data)
    for read, says in (
        (files.read_space, "train distok"),
        (files.read_baseline, "offbeat explore"),
    ):
        with pytest.raises(files.OffbeatFileError, match=says):
            read(whole)
    with pytest.raises(files.OffbeatFileError, match="somewhere in 'a pig'"):
        files.read_concept(whole).prompt("a pig")
    save_file({"a.lora_A.weight": torch.ones(1, 2)}, whole)
    with pytest.raises(files.OffbeatFileError, match="--format comfyui"):
        files.read_concept(whole)
    space = files.read_space(POCKET / "trained" / "distok.safetensors")
    for weights, says in (("owll", "owl"), ("pig=-1", "0 or more"), ("pig=x", "WORD=WEIGHT"),
                          (" , ", "expected words"), ("pig=0", "above 0")):  # fmt: skip
        with pytest.raises(files.OffbeatFileError, match=says):
            space.token(files.parse_weights(weights))


def test_rows_of_another_width_are_refused_not_left_out(comfy):
    """ComfyUI would draw without the concept, and say so in its log alone."""
    (comfy.home / "distok.safetensors").write_bytes(
        (POCKET / "trained" / "distok.safetensors").read_bytes()
    )
    clip = Clip(comfy.embeddings, {"l": 7})
    with pytest.raises(comfy.files.OffbeatFileError, match="clip_l 7"):
        comfy.nodes["OffbeatFuse"].fuse(clip, "distok.safetensors", "pig, owl", 1.0, "{concept}")
    data = encode_concept(concept(torch.ones(2, 6)), layout=[("clip_l", 6, 1.0)], **MADE)
    (comfy.home / "fox.safetensors").write_bytes(data[CONCEPT_FILE])
    for widths in ({"l": 7}, {"l": 6, "g": 4}):
        with pytest.raises(comfy.files.OffbeatFileError, match="another checkpoint"):
            comfy.nodes["OffbeatConcept"].encode(
                Clip(comfy.embeddings, widths), "fox.safetensors", ""
            )
    assert list(comfy.embeddings.iterdir()) == []


def test_each_list_holds_its_kind_alone(comfy):
    layout = [("clip_l", 6, 1.0)]
    fox = encode_concept(concept(torch.ones(2, 6)), layout=layout, **MADE)[CONCEPT_FILE]
    run = comfy.home / "fox-0" / "concepts" / "0001"
    run.mkdir(parents=True)
    (run / "concept.safetensors").write_bytes(fox)
    trained = (POCKET / "trained" / "distok.safetensors").read_bytes()
    (comfy.home / "distok.safetensors").write_bytes(trained)
    save_file({name: torch.ones(2) for name in comfy.files.BASELINE}, comfy.home / "b.safetensors")
    save_file({"unet.x.lora_A.weight": torch.ones(1, 2)}, comfy.home / "lora.safetensors")
    save_file({"emb_params": torch.ones(8, 768)}, comfy.embeddings / "EasyNegative.safetensors")
    save_file({f"model.{n}": torch.ones(2, 2) for n in range(9)}, comfy.home / "sd.safetensors")
    (comfy.home / "broken.safetensors").write_bytes(b"x" * 30)

    def choices(node, name):
        return comfy.nodes[node].INPUT_TYPES()["required"][name][0]

    own = "fox-0/concepts/0001/concept.safetensors"
    assert choices("OffbeatConcept", "concept") == ["EasyNegative.safetensors", own]
    assert choices("OffbeatDirection", "direction") == [own]
    assert choices("OffbeatFuse", "space") == ["distok.safetensors"]
    assert choices("OffbeatNovelty", "baseline") == ["b.safetensors"]


def test_a_direction_begins_at_the_plain_word(comfy):
    layout = [("clip_l", 6, 1.0)]
    rows = torch.randn(1, 6, generator=stream(3))
    fox = encode_concept(concept(rows), layout=layout, **MADE)[CONCEPT_FILE]
    (comfy.home / "concept.safetensors").write_bytes(fox)

    class Counting(Clip):
        def encode_from_tokens_scheduled(self, tokens):
            learned = sum(isinstance(word, torch.Tensor) for word in tokens["l"])
            states = torch.full((1, 4, 6), float(learned))
            return [[states, {"pooled_output": states[:, 0]}]]

    clip = Counting(comfy.embeddings, {"l": 6})
    for strength in (0.0, 0.5, 1.0, 2.0):
        ((states, extras),), text = comfy.nodes["OffbeatDirection"].go(
            clip, "concept.safetensors", strength, "a {concept}"
        )
        assert torch.equal(states, torch.full((1, 4, 6), strength))
        assert float(extras["pooled_output"].mean()) == strength
    assert text.startswith("a embedding:offbeat-")


def test_the_command_puts_the_nodes_into_comfyui(tmp_path):
    run = CliRunner().invoke
    done = run(app, ["comfyui", "install", str(tmp_path)])
    assert (done.exit_code, "custom_nodes" in done.output) == (2, True)
    (tmp_path / "custom_nodes").mkdir()
    for _ in range(2):  # again renews it
        assert run(app, ["comfyui", "install", str(tmp_path)]).exit_code == 0
    target = tmp_path / "custom_nodes" / "offbeat"
    assert {path.name for path in target.iterdir()} >= {"__init__.py", "files.py", "nodes.py"}
    (target / "pyproject.toml").write_text("another's")
    assert run(app, ["comfyui", "install", str(tmp_path)]).exit_code == 2


def test_the_pack_is_of_the_same_version():
    told = (PACK / "pyproject.toml").read_text()
    assert f'version = "{offbeat.__version__}"' in told

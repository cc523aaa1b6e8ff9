"""`offbeat verify` on tiny checkpoints of every form, and on ones with a fault."""

import pytest
import torch
from typer.testing import CliRunner

from offbeat import cli
from offbeat.backbones.verify import report, verify


@pytest.mark.parametrize(
    "kind",
    [
        "2.1",
        "2.2",
        "sd",
        "xl",
        "one-step",
        "sd3",
        "flux",
        "chroma",
        "z-image",
        "qwen-image",
        "sana",
    ],
)
def test_every_form_passes_every_check(tiny_of, kind):
    checks = verify(tiny_of(kind))
    assert {check.what: check.result for check in checks if check.passed is False} == {}
    assert sum(check.passed is True for check in checks) >= (6 if kind.startswith("2") else 5)


def test_a_fault_is_told_and_the_other_checks_go_on(tiny_of, monkeypatch):
    backbone = tiny_of("sd")
    monkeypatch.setattr(
        type(backbone), "decode", lambda self, latents: 1 - latents[:, :3].sigmoid()
    )
    failed = [check.what for check in verify(backbone) if check.passed is False]
    assert failed == ["pictures: those of the diffusers pipeline"]


def test_text_that_ignores_words_is_told(tiny_of, monkeypatch):
    backbone = tiny_of("xl")
    encode = type(backbone).encode_text

    def same(self, prompts, *, tokens=None):
        return encode(self, ["a cat"] * len(prompts))

    monkeypatch.setattr(type(backbone), "encode_text", same)
    failed = {check.what for check in verify(backbone) if check.passed is False}
    assert any("after a learned token" in what for what in failed)
    assert any("gradients reach" in what for what in failed)


def test_the_command_writes_a_report(tmp_path):
    out = tmp_path / "report.md"
    done = CliRunner().invoke(cli.app, ["verify", "pocket-sd", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_text() == done.stdout
    assert "| pictures: those of the diffusers pipeline | yes |" in done.stdout
    assert "NO" not in done.stdout


def test_a_report_is_one_table(tiny_of):
    checks = verify(tiny_of("flux"))
    assert len(report("x", checks).splitlines()) == 4 + len(checks)
    assert torch.is_grad_enabled()

"""The check of an accelerator, on the CPU at tiny size: so that it works where there is one."""

import gpu_check


def test_the_check_runs_here(capsys):
    assert gpu_check.main(["cpu", "--size", "tiny", "--forms", "sd,2.2"]) == 0
    said = capsys.readouterr().out
    for what in ("sd: generate, float16", "2.2: explore, bfloat16", "2.2: prior: the samples",
                 "2.2: fuse, bfloat16", "2.2: train, bfloat16", "sd: paint", "sd: fuse by MagicMix",
                 "sd: generate --compile", "| 20 prior samples | bfloat16 |",
                 "| gradient of a step, 4 noises, LoRA | float32 |"):  # fmt: skip
        assert what in said
    assert "| NO |" not in said

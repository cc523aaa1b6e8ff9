"""The check of an accelerator, on the CPU at tiny size: so that it works where there is one."""

import gpu_check


def test_the_check_runs_here(capsys):
    assert gpu_check.main(["cpu", "--size", "tiny", "--forms", "sd,2.2"]) == 0
    said = capsys.readouterr().out
    for what in ("sd: generate, float16", "2.2: explore, bfloat16", "2.2: prior: the samples",
                 "prior, tiny size, bfloat16"):  # fmt: skip
        assert what in said
    assert "| NO |" not in said

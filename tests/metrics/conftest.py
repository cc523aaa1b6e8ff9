"""Tiny random checkpoints of each form that metrics read, saved as the published ones are."""

import pytest
import torch


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A CLIP as transformers saves it."""
    import tiny_metrics

    return tiny_metrics.build_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")


@pytest.fixture(scope="session")
def pictures():
    """Six pictures of three sizes."""
    noise = torch.Generator().manual_seed(5)
    sizes = [(64, 64), (64, 64), (40, 56), (64, 64), (40, 56), (30, 20)]
    return [torch.rand(3, *size, generator=noise) for size in sizes]

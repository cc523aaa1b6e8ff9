import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

from offbeat.backbones.unclip import UnclipBackbone

torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(scope="session")
def pocket():
    return UnclipBackbone.load("pocket")

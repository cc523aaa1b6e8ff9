"""Exploring by what somebody likes: what the file of preferences must be."""

import pytest
import torch

import offbeat
from offbeat.errors import ConfigError, StoreError
from offbeat.files.preferences import SIDE, Preferences


def test_preferences_come_back_from_their_file(tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    images = torch.randint(256, (3, 3, SIDE, SIDE)) / 255
    given = Preferences(images, torch.tensor([0, 1]), torch.tensor([2, 0]))
    given.save(first)
    back = Preferences.load(first)
    back.save(second)
    assert first.read_bytes() == second.read_bytes()
    assert back.digest == given.digest


def test_a_taste_needs_a_file_candidates_and_a_search(tmp_path, pocket):
    file = tmp_path / "taste.safetensors"
    with pytest.raises(StoreError, match="cannot be read"):
        offbeat.explore("handbag", taste=file, backbone=pocket)
    file.write_bytes(b"{}" * 100)
    with pytest.raises(ConfigError, match="offbeat study taste"):
        offbeat.explore("handbag", taste=file, backbone=pocket)
    with pytest.raises(ConfigError, match="candidates"):
        offbeat.explore("handbag", candidates=1, taste=file, backbone=pocket)
    with pytest.raises(ConfigError, match="taste"):
        offbeat.explore("handbag", method="raw-prompt", taste=file, backbone=pocket)


@pytest.mark.parametrize("places", [([0], [3]), ([-1], [0]), ([], []), ([[0]], [[1]])])
def test_preferences_of_pictures_that_are_not_there_are_refused(tmp_path, places):
    winners, losers = (torch.tensor(part, dtype=torch.long) for part in places)
    file = tmp_path / "taste.safetensors"
    Preferences(torch.zeros(3, 3, SIDE, SIDE), winners, losers).save(file)
    with pytest.raises(ConfigError, match="offbeat study taste"):
        Preferences.load(file)

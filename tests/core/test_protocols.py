"""Protocols are few, and the names of before are still there for plug-ins."""

import pytest

from offbeat import protocols


def test_a_name_of_before_is_the_protocol_that_it_is_part_of_now():
    assert protocols.DrawsText is protocols.DrawingBackbone
    assert protocols.InvertsImages is protocols.DenoisingBackbone
    assert all(new in protocols.__all__ for new in protocols.BEFORE.values())
    assert not protocols.BEFORE.keys() & set(protocols.__all__)
    with pytest.raises(AttributeError, match="Mystery"):
        protocols.Mystery  # noqa: B018

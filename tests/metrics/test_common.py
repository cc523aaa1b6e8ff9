import math

import pytest
import torch

from offbeat.errors import ImageError, NotFiniteError, PromptError, RangeError, ShapeError
from offbeat.metrics import common


def test_interval_is_the_same_every_time_and_as_wide_as_the_normal_one():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1)).double() * 3 + 7
    low, high = common.bootstrap_interval(values)
    assert (low, high) == common.bootstrap_interval(values)
    half = 1.96 * float(values.std()) / 20
    assert low == pytest.approx(float(values.mean()) - half, abs=0.06)
    assert high == pytest.approx(float(values.mean()) + half, abs=0.06)


def test_one_value_has_no_interval():
    found = common.summarise("m", [0.5], better="higher", checkpoint="c")
    assert found.mean == 0.5
    assert all(math.isnan(end) for end in found.interval)
    assert found == common.summarise("m", [0.5], better="higher", checkpoint="c")


def test_a_value_that_is_no_number_is_refused():
    with pytest.raises(NotFiniteError, match="m: expected finite"):
        common.summarise("m", [0.5, math.nan], better="higher", checkpoint="c")


@pytest.mark.parametrize(
    ("images", "error"),
    [
        (None, ImageError),
        ([], ImageError),
        (torch.zeros(0, 3, 8, 8), ImageError),
        (torch.zeros(3, 8, 8), ShapeError),
        ([torch.zeros(1, 8, 8)], ShapeError),
        ([torch.full((3, 8, 8), math.nan)], NotFiniteError),
        ([torch.full((3, 8, 8), 1.5)], RangeError),
    ],
)
def test_what_is_no_picture_is_refused(images, error):
    with pytest.raises(error, match="images"):
        common.pictures(images)


def test_one_text_serves_all_and_a_wrong_number_is_refused():
    assert common.texts_for(["a"], 3) == ["a", "a", "a"]
    assert common.texts_for("a cat", 2) == ["a cat", "a cat"]
    for texts in (None, [], ["a", "b"], [" "]):
        with pytest.raises(PromptError, match="texts"):
            common.texts_for(texts, 3)


def test_sizes_are_encoded_apart_and_come_back_in_order():
    images = [torch.full((3, size, size), size / 100) for size in (8, 9, 8, 10, 8)]
    shapes = []

    def encode(batch):
        shapes.append(tuple(batch.shape))
        return batch.mean(dim=(1, 2, 3))[:, None]

    found = common.in_equal_sizes(images, encode, batch=2)
    torch.testing.assert_close(found[:, 0], torch.tensor([0.08, 0.09, 0.08, 0.10, 0.08]))
    assert shapes == [(2, 3, 8, 8), (1, 3, 8, 8), (1, 3, 9, 9), (1, 3, 10, 10)]

import torch

from offbeat.core.rng import stream, streams


def draw(generator):
    return torch.randn(4, generator=generator)


def test_a_named_stream_never_changes():
    """Saved runs are drawn again from these numbers: a change here breaks every one of them."""
    assert stream(7, "prior", 0).initial_seed() == 7170559262842272817


def test_streams_of_two_purposes_differ():
    seeds = [
        stream(*key).initial_seed()
        for key in ((0,), (1,), (0, "a"), (0, "b"), (0, "a", 1), (0, "a", "1"), (0, "a1"))
    ]
    assert len(set(seeds)) == len(seeds)


def test_sample_i_has_its_own_stream_in_a_batch_of_any_size():
    together = [draw(generator) for generator in streams(3, "prior", num=4)]
    later = [draw(generator) for generator in streams(3, "prior", num=2, start=2)]
    assert all(torch.equal(a, b) for a, b in zip(together[2:], later, strict=True))
    assert torch.equal(together[1], draw(stream(3, "prior", 1)))


def test_the_global_stream_is_left_alone():
    before = torch.get_rng_state()
    draw(stream(0, "x"))
    assert torch.equal(torch.get_rng_state(), before)

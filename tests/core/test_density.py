"""Densities against scipy and scikit-learn, and the invariants of the method's specification."""

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.covariance
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offbeat.core.density import (
    AvoidCluster,
    GaussianDensity,
    KernelDensity,
    PcaSpace,
    chi_square_cdf,
    chi_square_quantile,
    ledoit_wolf,
)
from offbeat.core.rng import stream
from offbeat.errors import ConfigError, NotFiniteError, RangeError, ShapeError

WIDTH = 12


@pytest.fixture(scope="module")
def samples():
    noise = torch.randn(400, WIDTH, generator=stream(0, "samples"))
    scales = torch.linspace(3, 0.2, WIDTH)
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=stream(0, "turn"))).Q
    return (noise * scales) @ turn + 5


@pytest.fixture(scope="module")
def density(samples):
    return GaussianDensity(PcaSpace.fit(samples, 6))


def test_axes_are_those_of_numpy(samples):
    space = PcaSpace.fit(samples, 6)
    centred = samples.double() - samples.double().mean(dim=0)
    values, vectors = np.linalg.svd(centred.numpy(), full_matrices=False)[1:]
    np.testing.assert_allclose(space.variances, values[:6] ** 2 / 399, rtol=1e-4)
    np.testing.assert_allclose(np.abs(space.axes.numpy() @ vectors[:6].T), np.eye(6), atol=1e-4)
    assert space.variance_kept == pytest.approx((values[:6] ** 2).sum() / (values**2).sum(), 1e-4)


def test_axes_do_not_depend_on_the_order_of_the_samples(samples):
    forward, backward = PcaSpace.fit(samples, 6), PcaSpace.fit(samples.flip(0), 6)
    torch.testing.assert_close(forward.axes, backward.axes, rtol=0, atol=1e-4)


def test_log_prob_is_scipys(samples, density):
    space = density.space
    points = space.project(samples[:20])
    theirs = scipy.stats.multivariate_normal(
        np.zeros(6), np.diag(space.variances.double().numpy())
    ).logpdf(points.double().numpy())
    np.testing.assert_allclose(density.log_prob(samples[:20]), theirs, rtol=1e-4)


def test_gradient_is_minus_the_whitened_offset_mapped_back(samples, density):
    image_embeds = samples[:3].clone().requires_grad_()
    density.log_prob(image_embeds).sum().backward()
    space = density.space
    expected = -(space.project(samples[:3]) / space.variances) @ space.axes
    torch.testing.assert_close(image_embeds.grad, expected, rtol=1e-4, atol=1e-5)


def test_a_step_down_the_creative_loss_goes_to_the_tail(samples, density):
    image_embeds = samples[:8].clone().requires_grad_()
    loss = density.log_prob(image_embeds).mean()
    (gradient,) = torch.autograd.grad(loss, image_embeds)
    moved = image_embeds.detach() - 0.01 * gradient
    assert float(density.log_prob(moved).mean()) < float(loss.detach())
    assert bool((density.squared_distance(moved) > density.squared_distance(samples[:8])).all())


def test_whitened_samples_have_unit_variance_and_lift_undoes_project(samples, density):
    space = density.space
    white = space.whiten(samples)
    torch.testing.assert_close(white.var(dim=0), torch.ones(6), rtol=1e-3, atol=1e-3)
    coordinates = torch.randn(4, 6, generator=stream(1))
    torch.testing.assert_close(
        space.project(space.lift(coordinates)), coordinates, rtol=1e-4, atol=1e-4
    )
    off_axis = samples[:5] - space.lift(space.project(samples[:5]))
    torch.testing.assert_close(space.residual_norm(samples[:5]), off_axis.norm(dim=1))


def test_drawn_samples_have_the_densitys_distance(density):
    drawn = density.sample(4000, generator=stream(2))
    distance = density.squared_distance(drawn)
    assert float(distance.mean()) == pytest.approx(6, abs=0.3)
    assert float((distance < chi_square_quantile(0.9, 6)).float().mean()) == pytest.approx(
        0.9, abs=0.02
    )


@pytest.mark.parametrize("count", [0, 12, 400])
def test_too_few_samples_or_too_many_axes_are_refused(samples, count):
    with pytest.raises(ConfigError, match="draw more samples or keep fewer axes"):
        PcaSpace.fit(samples[:12] if count == 12 else samples, count)


def test_bad_samples_are_refused(samples, density):
    with pytest.raises(NotFiniteError):
        PcaSpace.fit(samples.index_fill(0, torch.tensor([3]), math.nan), 6)
    with pytest.raises(ConfigError, match="identical"):
        PcaSpace.fit(torch.zeros(9, WIDTH), 2)
    with pytest.raises(ShapeError):
        density.log_prob(samples[:, :3])


@given(
    quantile=st.floats(1e-6, 1 - 1e-9),
    num_components=st.integers(1, 200),
)
@settings(max_examples=50, deadline=None)
def test_chi_square_is_scipys(quantile, num_components):
    ours = chi_square_quantile(quantile, num_components)
    assert ours == pytest.approx(scipy.stats.chi2.ppf(quantile, num_components), rel=1e-6, abs=1e-9)
    back = float(chi_square_cdf(torch.tensor(ours, dtype=torch.float64), num_components))
    assert back == pytest.approx(quantile, abs=1e-9)


@pytest.mark.parametrize("quantile", [0.0, 1.0, -0.5, 2.0, math.nan])
def test_a_quantile_outside_its_range_is_refused(quantile):
    with pytest.raises(RangeError, match=r"in \(0, 1\)"):
        chi_square_quantile(quantile, 50)


@given(
    count=st.integers(2, 60),
    width=st.integers(2, 20),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_ledoit_wolf_is_scikit_learns(count, width, seed):
    points = torch.randn(count, width, generator=stream(seed)) * torch.linspace(0.5, 2, width)
    theirs = sklearn.covariance.ledoit_wolf(points.double().numpy())[0]
    np.testing.assert_allclose(ledoit_wolf(points), theirs, rtol=1e-4, atol=1e-5)


def test_kernel_density_is_scipys(samples):
    space = PcaSpace.fit(samples, 3)
    density = KernelDensity(space, space.whiten(samples))
    points = space.whiten(samples[:20]).double().numpy()
    white = space.whiten(samples).double().numpy()
    kernel = density.bandwidth**2 * np.eye(3)
    parts = [scipy.stats.multivariate_normal(point, kernel).pdf(points) for point in white]
    expected = np.log(np.mean(parts, axis=0)) - 0.5 * float(space.variances.log().sum())
    np.testing.assert_allclose(density.log_prob(samples[:20]), expected, rtol=1e-4)
    assert density.bandwidth == pytest.approx(
        scipy.stats.gaussian_kde(white.T).scotts_factor(), rel=1e-6
    )
    assert density.sample(5, generator=stream(0)).shape == (5, WIDTH)


def test_kernel_density_refuses_many_dimensions(samples):
    space = PcaSpace.fit(samples, 9)
    with pytest.raises(ConfigError, match="at most 8"):
        KernelDensity(space, space.whiten(samples))


def test_leaving_a_cluster_needs_the_corrected_sign(density):
    """Eq. 7 as printed pulls samples into the unwanted cluster; ours must push them out."""
    unwanted = density.sample(200, generator=stream(3)) * 0.1 + density.space.mean * 0.9 + 0.3
    cluster = AvoidCluster.fit(density.space, unwanted)
    image_embeds = unwanted[:10].clone().requires_grad_()
    before = cluster.squared_distance(image_embeds).detach()
    (gradient,) = torch.autograd.grad(cluster.log_prob(image_embeds).sum(), image_embeds)
    pushed = cluster.squared_distance(unwanted[:10] - 0.01 * gradient)
    pulled = cluster.squared_distance(unwanted[:10] + 0.01 * gradient)
    assert bool((pushed > before).all())
    assert bool((pulled < before).all())


@pytest.mark.parametrize("count", [1, 2, 5, 200])
def test_a_cluster_of_any_size_holds_its_own_samples(samples, density, count):
    cluster = AvoidCluster.fit(density.space, samples[:count])
    own = cluster.log_prob(samples[:count])
    assert bool(torch.isfinite(own).all())
    assert float((own >= cluster.floor).float().mean()) >= 0.99
    far = samples[:count] + 100
    assert bool((cluster.log_prob(far) < cluster.floor).all())


def test_a_cluster_is_scipys_gaussian(samples, density):
    cluster = AvoidCluster.fit(density.space, samples[:50])
    covariance = (cluster.cholesky @ cluster.cholesky.T).double().numpy()
    white = density.space.whiten(samples[:9]).double().numpy()
    theirs = scipy.stats.multivariate_normal(cluster.mean.double().numpy(), covariance)
    np.testing.assert_allclose(cluster.log_prob(samples[:9]), theirs.logpdf(white), rtol=1e-4)


def test_a_cluster_of_nothing_is_refused(density):
    with pytest.raises(ShapeError, match="1 or more"):
        AvoidCluster.fit(density.space, torch.zeros(0, WIDTH))
    with pytest.raises(ShapeError):
        AvoidCluster.fit(density.space, torch.zeros(3, WIDTH + 1))

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from pyro_gen.data import (
    Binarize,
    Compose,
    Cut,
    Dequantize,
    DynamicBinarize,
    Flatten,
    JitteredBinarize,
    Logit,
    Standardize,
    StochasticBinarize,
    Transform,
    bits_per_dim,
)
from pyro_gen.data.transforms.binarisation import hashed_uniform

NAN = float("nan")
STANDARDIZE = Standardize(torch.tensor([0.2, 0.5, -1.0, 3.0]), torch.tensor([0.5, 2.0, 1.0, 7.0]))
GREY = torch.tensor([[0.0, 5.0, 15.0, 16.0], [16.0, 8.0, 1.0, 3.0]])
UNIT = torch.tensor([[0.01, 0.3, 0.5, 0.99], [0.7, 0.2, 0.0, 1.0]])
BIJECTIONS = [
    (Dequantize(17), GREY),
    (STANDARDIZE, UNIT),
    (Logit(0.05), UNIT),
    (Logit(1e-6), UNIT),
    (Compose([STANDARDIZE, STANDARDIZE]), UNIT),
    (Compose([Dequantize(17), STANDARDIZE]), GREY),
    (Compose([Dequantize(17), Logit(0.05)]), GREY),
    (Compose([Compose([Dequantize(17), Logit(0.01)]), STANDARDIZE]), GREY),
]
ALL = [
    *BIJECTIONS,
    (Binarize(8.0), GREY),
    (StochasticBinarize(17), GREY),
    (DynamicBinarize(17), GREY),
    (JitteredBinarize(8.0, 1.0), GREY),
]
IDS = [str(transform) for transform, _ in ALL]


def fresh() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def jacobian_error(transform: Transform, x: Tensor) -> float:
    """Largest difference, in nats, between the stated log-Jacobian and autograd's."""
    _, stated = transform.call_and_ladj(x, fresh())
    errors = []
    for i in range(len(x)):
        # The same draws at every call; the first i rows only take up theirs.
        def row(value: Tensor, i: int = i) -> Tensor:
            return transform(torch.cat([x[:i], value[None]]), fresh())[i]

        _, numeric = torch.linalg.slogdet(torch.autograd.functional.jacobian(row, x[i]))
        errors.append(abs(numeric.item() - stated[i].item()))
    return max(errors)


@pytest.mark.parametrize(("transform", "x"), BIJECTIONS, ids=IDS[: len(BIJECTIONS)])
def test_log_jacobian_is_autograds(transform: Transform, x: Tensor) -> None:
    assert jacobian_error(transform, x.double()) < 1e-9


def test_wrong_sign_of_a_jacobian_is_caught() -> None:
    class WrongSign(Logit):
        def log_abs_det_jacobian(self, x: Tensor) -> Tensor:
            return -super().log_abs_det_jacobian(x)

    assert jacobian_error(Compose([Dequantize(17), WrongSign(0.05)]), GREY.double()) > 1


@pytest.mark.parametrize(("transform", "x"), ALL, ids=IDS)
def test_missing_stays_missing_and_the_rest_is_as_without(transform: Transform, x: Tensor) -> None:
    holes = x.clone()
    holes[0, 1] = holes[1, 3] = NAN
    missing = holes.isnan()
    out = transform(holes, fresh())
    assert torch.equal(out.isnan(), missing)
    assert out.dtype == x.dtype and out.shape == x.shape
    if not isinstance(transform, StochasticBinarize):  # there the draw depends on the whole datum
        assert torch.equal(out[~missing], transform(x, fresh())[~missing])


@pytest.mark.parametrize(("transform", "x"), BIJECTIONS, ids=IDS[: len(BIJECTIONS)])
def test_missing_entries_add_nothing_to_the_jacobian(transform: Transform, x: Tensor) -> None:
    x = x.double()
    alone = [torch.where(torch.arange(4) == d, x, NAN) for d in range(4)]
    parts = sum(transform.call_and_ladj(part, fresh())[1] for part in alone)
    whole = transform.call_and_ladj(x, fresh())[1]
    assert whole.dtype == torch.float64 and whole.shape == (2,)
    assert torch.allclose(parts, whole, atol=1e-12)
    nothing = transform.call_and_ladj(torch.full_like(x, NAN), fresh())[1]
    assert torch.equal(nothing, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize(("transform", "x"), BIJECTIONS, ids=IDS[: len(BIJECTIONS)])
def test_inverse_restores(transform: Transform, x: Tensor) -> None:
    x = x.double()
    assert torch.allclose(transform.inverse(transform(x, fresh())), x, atol=1e-9)


@pytest.mark.parametrize("transform", [Binarize(0.5), StochasticBinarize(17), DynamicBinarize(17)])
def test_binarisation_is_no_bijection(transform: Transform) -> None:
    for ask in (transform.log_abs_det_jacobian, transform.call_and_ladj, transform.inverse):
        with pytest.raises(TypeError, match="not a bijection"):
            ask(torch.ones(2, 3))
    with pytest.raises(TypeError, match="not a bijection"):
        Compose([transform, Logit()]).call_and_ladj(torch.ones(2, 3))


def test_jacobian_that_hangs_on_a_draw_is_not_given_without_it() -> None:
    with pytest.raises(ValueError, match="call_and_ladj"):
        Compose([Dequantize(17), Logit(0.05)]).log_abs_det_jacobian(GREY)


def test_jacobians_do_not_disturb_the_random_state(untouched_rng: None) -> None:
    Compose([Dequantize(17), STANDARDIZE]).log_abs_det_jacobian(GREY)
    StochasticBinarize(17)(GREY)


def test_uniform_density_over_256_levels_takes_exactly_8_bits() -> None:
    x = torch.randint(256, (20, 3, 5)).float()
    y = Dequantize(256)(x)
    uniform = torch.distributions.Uniform(0.0, 1.0).log_prob(y).flatten(1).sum(1)
    bits = bits_per_dim(uniform, 15, Dequantize(256).log_abs_det_jacobian(x))
    assert bits.shape == (20,) and torch.allclose(bits, torch.full((20,), 8.0, dtype=torch.float64), atol=1e-12)
    # The other sign: 256 levels for less than nothing.
    assert bits_per_dim(uniform, 15, -Dequantize(256).log_abs_det_jacobian(x)).max() < 0


def test_bits_per_dim_through_a_logit() -> None:
    """The density of y that makes x uniform on the unit cube: 8 bits again, whatever the transform."""
    x = torch.randint(256, (20, 6)).double()
    y, ladj = Compose([Dequantize(256), Logit(0.05)]).call_and_ladj(x, fresh())
    # p(y) = p(u) |du/dy|, u = the dequantised data, with the derivative of the logit's inverse written out.
    log_p = (torch.sigmoid(y).log() + torch.sigmoid(-y).log() - math.log(0.9)).sum(1)
    assert torch.allclose(bits_per_dim(log_p, 6, ladj), torch.tensor(8.0, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("dims", [0, -1, 2.0, True])
def test_bits_per_dim_of_no_dimension(dims: int) -> None:
    with pytest.raises(ValueError, match="positive integer"):
        bits_per_dim(torch.zeros(3), dims)


def test_dequantize_never_leaves_its_level() -> None:
    """Float32 rounds 255 + u up to 256 for u near 1: a density on [0, 1) would call such a pixel impossible."""

    @dataclass(frozen=True)
    class Rounded(Dequantize):
        def _forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
            return (x + torch.rand(x.shape, generator=generator)) / self.levels

    x = torch.full((1000, 1000), 255.0)
    # Half of float32's steps near 256 round up: about 7.6 of 1e6 draws, none with probability 5e-4 (fixed seed).
    assert Rounded(256)(x, fresh()).max() == 1
    y = Dequantize(256)(x, fresh())
    assert y.max() < 1 and y.min() >= 255 / 256
    assert Dequantize(17)(torch.full((1000, 100), 16.0), fresh()).max() < 1


def z_of_mean(transform: Transform, levels: int) -> float:
    """Largest |z| of the mean of ones against x / (L - 1), over the levels but the first and last."""
    x = torch.arange(levels).float().expand(20000, levels)
    p = x[0, 1:-1] / (levels - 1)
    mean = transform(x, fresh())[:, 1:-1].mean(0)
    return ((mean - p) / (p * (1 - p) / 20000).sqrt()).abs().max().item()


# 15 means of 20000 draws, |z| < 4.5: false alarm 15 * 6.8e-6 = 1e-4.
def test_binarisation_draws_in_proportion_to_grey() -> None:
    assert z_of_mean(DynamicBinarize(17), 17) < 4.5
    assert z_of_mean(DynamicBinarize(18), 17) > 4.5  # the planted defect: x / L


def test_jittered_binarisation_moves_the_threshold_of_a_datum():
    grey = torch.tensor([6.0, 8.0, 9.5]).expand(20_000, 3)
    y = JitteredBinarize(8.0, 1.2)(grey, torch.Generator().manual_seed(0))
    exact = torch.distributions.Normal(0.0, 1.0).cdf((grey[0] - 8) / 1.2)

    def z(expected):  # largest of three z-scores: false-alarm rate 2e-5
        return ((y.mean(0) - expected) / (expected * (1 - expected) / len(y)).sqrt()).abs().max()

    assert z(exact) < 4.5
    assert z(torch.distributions.Normal(0.0, 1.0).cdf((grey[0] - 8) / 1.0)) > 4.5  # the planted defect: another scale
    assert bool((y.diff(dim=1) >= 0).all())  # one threshold for all entries of a datum
    with pytest.raises(ValueError, match="Binarize has no jitter"):
        JitteredBinarize(8.0, 0.0)


def test_black_and_white_are_certain() -> None:
    x = torch.tensor([0.0, 16.0]).expand(5000, 2)
    for transform in (DynamicBinarize(17), StochasticBinarize(17)):
        assert torch.equal(transform(x), x / 16)


def test_dynamic_draws_are_fresh_and_reproducible() -> None:
    x = torch.full((10, 50), 8.0)
    transform = DynamicBinarize(17)
    assert not torch.equal(transform(x), transform(x))
    assert torch.equal(transform(x, fresh()), transform(x, fresh()))
    torch.manual_seed(1)
    first = transform(x)
    torch.manual_seed(1)
    assert torch.equal(first, transform(x))


def test_stochastic_draw_belongs_to_the_datum() -> None:
    x = torch.randint(17, (2000, 8, 8)).float()
    transform = StochasticBinarize(17, seed=5)
    out = transform(x)
    order = torch.randperm(2000)[:300]
    assert torch.equal(transform(x[order]), out[order])
    assert torch.equal(transform(x.double()).float(), out)
    assert not torch.equal(StochasticBinarize(17, seed=6)(x), out)
    assert len(transform(x[:0])) == 0


def uniformity(u: Tensor) -> float:
    """Smallest p-value of: uniform margin, and uncorrelated with the next entry and with the next datum."""
    pairs = [(u[:, :-1], u[:, 1:]), (u[:-1], u[1:])]
    return min(
        stats.kstest(u.flatten().numpy(), "uniform").pvalue,
        *(stats.pearsonr(a.flatten().numpy(), b.flatten().numpy()).pvalue for a, b in pairs),
    )


def test_hashed_uniforms_are_uniform_and_uncorrelated() -> None:
    """Also where neighbouring data are nearly the same. False alarm: 3 tests at 1e-4 each, three data sets: 1e-3."""
    images = torch.zeros(400, 64)
    images[torch.arange(400), torch.arange(400) % 64] = 1.0 + torch.arange(400) // 64
    for data in (images, torch.arange(400.0)[:, None].expand(400, 64), torch.rand(400, 64)):
        u = hashed_uniform(data, 0)
        assert u.dtype == torch.float64 and u.min() >= 0 and u.max() < 1
        assert uniformity(u) > 1e-4
    # Another seed is another draw.
    assert stats.pearsonr(hashed_uniform(images, 0).flatten(), hashed_uniform(images, 1).flatten()).pvalue > 1e-4
    # The planted defect: the draw of the first datum for all.
    assert uniformity(hashed_uniform(images, 0)[:1].expand(400, 64)) < 1e-4


def test_standardize_fits_observed_moments() -> None:
    x = torch.randn(50, 3) * torch.tensor([1.0, 5.0, 0.1]) + torch.tensor([0.0, 100.0, -3.0])
    x[::7, 1] = NAN
    fitted = Standardize.fit(x)
    assert np.allclose(fitted.mean.numpy(), np.nanmean(x.numpy(), 0), rtol=1e-5)
    assert np.allclose(fitted.scale.numpy(), np.nanstd(x.numpy(), 0), rtol=1e-4)
    y = fitted(x)
    assert np.allclose(np.nanmean(y.numpy(), 0), 0, atol=1e-5)
    assert np.allclose(np.nanstd(y.numpy(), 0), 1, atol=1e-4)


def test_standardize_refuses_columns_without_scale() -> None:
    x = torch.randn(20, 3)
    x[:, 1] = 0.1  # whose mean in floating point need not be 0.1
    with pytest.raises(ValueError, match=r"1 of 3 .* one constant value .*index 1\)"):
        Standardize.fit(x)
    x[:, 1] = NAN
    with pytest.raises(ValueError, match=r"1 of 3 .* no observed value .*index 1\)"):
        Standardize.fit(x)
    with pytest.raises(ValueError, match=r"index \(0, 0\), \(0, 1\), .*\.\.\.\)"):
        Standardize.fit(torch.ones(4, 3, 3))


def test_errors_say_what_was_wrong() -> None:
    cases = [
        (Dequantize(17), torch.tensor([[0.5]]), "whole numbers"),
        (Dequantize(17), torch.tensor([[17.0]]), "values in"),
        (DynamicBinarize(17), torch.tensor([[255.0]]), "got 255"),
        (StochasticBinarize(2), torch.tensor([[-1.0]]), "got -1"),
        (Logit(), torch.tensor([[1.5]]), "got 1.5"),
        (STANDARDIZE, torch.zeros(2, 3), "event shape"),
        (Logit(), torch.tensor(0.5), "got a scalar"),
    ]
    for transform, x, message in cases:
        with pytest.raises(ValueError, match=message):
            transform(x)
    with pytest.raises(TypeError, match=r"as_tensor"):
        Binarize(1.0)(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"Standardize\.fit: .*as_tensor"):
        Standardize.fit(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="levels"):
        Dequantize(1)
    with pytest.raises(ValueError, match="alpha"):
        Logit(0.0)
    with pytest.raises(ValueError, match="at least one"):
        Compose([])
    with pytest.raises(TypeError, match="expected transforms"):
        Compose([torch.sigmoid])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="positive"):
        Standardize(torch.zeros(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="shape"):
        Standardize(torch.zeros(2), torch.ones(3))


def test_logit_keeps_its_digits_near_one() -> None:
    """In float32, 1 - s loses all digits of alpha = 1e-6 if s is rounded first."""
    x = torch.tensor([[0.0, 1.0]])
    exact = math.log1p(-1e-6) - math.log(1e-6)
    assert Logit(1e-6)(x)[0].tolist() == pytest.approx([-exact, exact], rel=1e-6)
    naive = torch.logit(1e-6 + (1 - 2e-6) * x)[0, 1].item()
    assert naive != pytest.approx(exact, rel=1e-4)


def test_cuts_are_quantiles_of_what_is_seen():
    x = torch.tensor([4.0, 1.0, NAN, 2.0, 3.0, 5.0, 6.0, 7.0, 8.0])
    cut = Cut.fit(x, 4)
    assert cut.levels_out == 4
    assert torch.equal(cut(x).nan_to_num(9.0), torch.tensor([1.0, 0, 9, 0, 1, 2, 2, 3, 3]))
    assert torch.equal(cut(x).nan_to_num(9.0), torch.from_numpy(np.digitize(x, cut.thresholds)).where(~x.isnan(), 9))
    with pytest.raises(ValueError, match="increase"):
        Cut.fit(torch.tensor([1.0, 1.0, 1.0, 2.0]), 4)
    with pytest.raises(TypeError, match="no log-Jacobian"):
        cut.log_abs_det_jacobian(x)


def test_flat_images_are_images_again():
    x = torch.randn(5, 2, 3)
    flat = Flatten((2, 3))
    assert torch.equal(flat.inverse(flat(x)), x) and flat(x)[1, 4] == x[1, 1, 1]
    assert torch.equal(flat.log_abs_det_jacobian(x), torch.zeros(5).double())
    with pytest.raises(ValueError, match=r"event shape \(6,\)"):
        flat(flat(x))

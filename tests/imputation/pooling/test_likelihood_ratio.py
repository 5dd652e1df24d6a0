"""Pooled likelihood-ratio tests: the formulas of mice and mitml, D1 where likelihoods are quadratic, the level."""

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from pyro_gen.imputation.pooling import d1, d3, d4, likelihood_ratio_test

OWN, AT_MEAN = [8.0, 10.5, 12.2, 9.1, 7.7], [7.0, 9.9, 11.0, 8.8, 6.1]


# As mice's D3 has it, line by line, for v above and below 4.
@pytest.mark.parametrize(("m", "k"), [(5, 3), (5, 1), (3, 2), (2, 1)])
def test_d3_is_that_of_the_formulas(m, k):
    dev_m, dev_l = sum(OWN[:m]) / m, sum(AT_MEAN[:m]) / m
    r = ((m + 1) / (k * (m - 1))) * (dev_m - dev_l)
    statistic = dev_l / (k * (1 + r))
    v = k * (m - 1)
    w = 4 + (v - 4) * (1 + (1 - 2 / v) * (1 / r)) ** 2 if v > 4 else v * (1 + 1 / k) * ((1 + 1 / r) ** 2) / 2
    test = d3(OWN[:m], AT_MEAN[:m], k)
    assert (test.statistic, test.df1, test.df2, test.riv) == pytest.approx((statistic, k, w, r), rel=1e-12)
    assert test.p_value == pytest.approx(stats.f.sf(statistic, k, w), rel=1e-10)


def test_d3_by_hand():
    # dbar = 10, dtilde = 8, m = 3, k = 2: r = 4 / (2 * 2) * 2 = 2, D3 = 8 / (2 * 3), t = 4: 4 (3/2) (3/2)^2 / 2 = 6.75.
    test = d3([9.0, 10.0, 11.0], [7.0, 8.0, 9.0], 2)
    assert (test.statistic, test.df2, test.riv) == pytest.approx((4 / 3, 6.75, 2.0), rel=1e-12)
    # dbar = 10, dtilde = 9, m = 5, k = 3: r = 6 / 12, D3 = 9 / 4.5 = 2, t = 12: 4 + 8 (1 + (5/6) 2)^2 = 4 + 512 / 9.
    test = d3([8.0, 9.0, 10.0, 11.0, 12.0], [9.0] * 5, 3)
    assert (test.statistic, test.df2, test.riv) == pytest.approx((2.0, 548 / 9, 0.5), rel=1e-12)


def test_d4_by_hand():
    # As mitml has it: dbar = 10, dhat = 8, m = 3, k = 2: r = 2, D4 = 8 / 6, df = 2 * 2 * (3/2)^2 = 9.
    test = d4([9.0, 10.0, 11.0], 8.0, 2)
    assert (test.statistic, test.df2, test.riv) == pytest.approx((4 / 3, 9.0, 2.0), rel=1e-12)
    assert test.p_value == pytest.approx(stats.f.sf(4 / 3, 2, 9), rel=1e-10)


def test_a_negative_increase_in_variance_is_none():
    for test in (d3([5.0, 5.0], [6.0, 6.0], 2), d4([5.0, 5.0], 6.0, 2)):
        assert test.riv == 0 and test.df2 == math.inf and test.p_value == pytest.approx(stats.chi2.sf(6.0, 2))


def normal(tables, k):
    """Means of normal variables with covariance one, of which the first k are 0 under the hypothesis."""

    def log_likelihood(x, mean):
        return -0.5 * float(((x - mean) ** 2).sum())

    def full(x):
        return x.mean(0), lambda mean: log_likelihood(x, mean)

    def null(x):
        return x.mean(0)[k:], lambda rest: log_likelihood(x, np.concatenate([np.zeros(k), rest]))

    return full, null


@pytest.mark.parametrize("method", ["D3", "D4"])
def test_of_a_quadratic_likelihood_it_is_the_wald_test(method):
    tables = [np.random.default_rng(i).normal(0.2, 1.0, (30, 3)) for i in range(6)]
    test = likelihood_ratio_test(tables, *normal(tables, 2), method=method)
    means = np.stack([x.mean(0)[:2] for x in tables])
    wald = d1(means, np.broadcast_to(np.eye(2) / 30, (6, 2, 2)))
    assert (test.statistic, test.riv) == pytest.approx((wald.statistic, wald.riv), rel=1e-10)
    assert test.method == method and test.df1 == 2
    assert test.df2 == pytest.approx(wald.df2 if method == "D3" else 10 * (1 + 1 / wald.riv) ** 2, rel=1e-10)


def regression_tables(m=5):
    """What is missing in x, drawn anew for each table."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=60)
    y = 0.3 * x + rng.normal(size=60)
    hole = rng.random(60) < 0.4
    return [
        pd.DataFrame({"y": y, "z": y**2 + x, "x": np.where(hole, 0.3 * y + rng.normal(size=60), x)}) for _ in range(m)
    ]


def test_a_linear_regression_is_that_of_mice():
    """Mice fits each table with the coefficients fixed at their means, and so its residual variance to the table."""
    tables, designs = regression_tables(), {"x + z": ["x", "z"], "1": []}

    def log_likelihood(table, columns, beta=None):
        a = np.column_stack([np.ones(60), *(table[c] for c in columns)])
        beta = np.linalg.lstsq(a, table["y"].to_numpy(), rcond=None)[0] if beta is None else beta
        residual = table["y"].to_numpy() - a @ beta
        return -30 * (math.log(2 * math.pi) + math.log(residual @ residual / 60) + 1), beta

    own, mean = np.zeros(5), np.zeros(5)
    for sign, columns in ((2, designs["x + z"]), (-2, designs["1"])):
        fits = [log_likelihood(table, columns) for table in tables]
        average = np.mean([beta for _, beta in fits], 0)
        own += sign * np.array([value for value, _ in fits])
        mean += sign * np.array([log_likelihood(table, columns, average)[0] for table in tables])
    expected = d3(own, mean, 2)
    test = likelihood_ratio_test(tables, *(lambda d, r=r: smf.ols(f"y ~ {r}", d).fit() for r in designs))
    assert (test.statistic, test.df2, test.riv) == pytest.approx((expected.statistic, expected.df2, expected.riv), 1e-9)
    assert expected.riv > 0.05


def test_several_equations_have_their_parameters_in_order():
    rng = np.random.default_rng(2)
    tables = [pd.DataFrame({"x": rng.normal(size=80), "k": rng.integers(0, 3, 80)}) for _ in range(3)]

    def by_hand(columns):
        def fit(table):
            a = np.column_stack([np.ones(len(table)), *(table[c] for c in columns)])
            params = smf.mnlogit("k ~ " + ("x" if columns else "1"), table).fit(disp=0).params.to_numpy().T.reshape(-1)

            def log_likelihood(theta):
                logits = np.column_stack([np.zeros(len(a)), a @ theta.reshape(2, -1).T])
                return float(np.sum(logits[np.arange(len(a)), table["k"]] - np.logaddexp.reduce(logits, 1)))

            return params, log_likelihood

        return fit

    formulas = [lambda d, r=r: smf.mnlogit(f"k ~ {r}", d).fit(disp=0) for r in ("x", "1")]
    for method in ("D3", "D4"):
        expected = likelihood_ratio_test(tables, by_hand(["x"]), by_hand([]), method=method)
        test = likelihood_ratio_test(tables, *formulas, method=method)
        assert (test.statistic, test.df1, test.riv) == pytest.approx((expected.statistic, 2, expected.riv), rel=1e-6)


def test_d4_does_not_depend_on_how_parameters_are_written():
    tables = [np.random.default_rng(i).exponential(1.3, 25) for i in range(4)]

    def exponential(transform, inverse):
        def full(x):
            return [transform(x.mean())], lambda t: float(-len(x) * np.log(inverse(t[0])) - x.sum() / inverse(t[0]))

        return full, lambda x: ([], lambda _: -float(x.sum()))

    models = [exponential(lambda s: s, lambda t: t), exponential(lambda s: 1 / s, lambda t: 1 / t)]
    mean, rate = (likelihood_ratio_test(tables, *model, method="D4").statistic for model in models)
    assert mean == pytest.approx(rate, rel=1e-12)
    mean, rate = (likelihood_ratio_test(tables, *model, method="D3").statistic for model in models)
    assert abs(mean - rate) > 1e-3


def rejections(pooled, runs=4000, m=10, k=3, missing=0.3):
    """How often a true hypothesis is rejected at 5%: normal likelihoods, the variance between of proper imputation."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(runs, k)) / math.sqrt(1 - missing)
    q = common[:, None] + rng.normal(size=(runs, m, k)) * math.sqrt(missing / (1 - missing))
    own, mean = (q**2).sum(-1), q.mean(1)
    at_mean = 2 * (q * mean[:, None]).sum(-1) - (mean**2).sum(-1, keepdims=True)
    return np.mean([pooled(a, b, k) < 0.05 for a, b in zip(own, at_mean, strict=True)])


@pytest.mark.parametrize(
    "pooled",
    [lambda a, b, k: d3(a, b, k).p_value, lambda a, b, k: d4(a, b.mean(), k).p_value],
    ids=["D3", "D4"],
)
def test_the_level_is_held(pooled):
    # Standard deviation 0.0034; false alarm below 1e-4 within 0.014.
    assert abs(rejections(pooled) - 0.05) < 0.014


def test_the_mean_statistic_does_not_hold_it():
    assert rejections(lambda a, b, k: stats.chi2.sf(a.mean(), k)) > 0.09


TABLES = [np.random.default_rng(i).normal(size=(20, 2)) for i in range(3)]
FULL, NULL = normal(TABLES, 1)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: likelihood_ratio_test(TABLES, FULL, NULL, method="D1"), ValueError, "choose one of 'D3', 'D4'"),
        (lambda: likelihood_ratio_test(TABLES[:1], FULL, NULL), ValueError, "got 1 table"),
        (lambda: likelihood_ratio_test(TABLES, NULL, FULL), ValueError, "the full model has 1 parameters and the null"),
        (
            lambda: likelihood_ratio_test(TABLES, FULL, lambda x: ([1.0], lambda t: 0.0)),
            ValueError,
            "not nested, or an optimisation",
        ),
        (
            lambda: likelihood_ratio_test([TABLES[0], TABLES[1][:, :1]], FULL, lambda x: ([], lambda t: -1e9)),
            ValueError,
            r"params of shapes \[\(1,\), \(2,\)\]",
        ),
        (lambda: likelihood_ratio_test(TABLES, lambda x: x.mean(), NULL), TypeError, "returned float64, expected"),
        (lambda: likelihood_ratio_test(TABLES, lambda x: (x.mean(0), lambda t: np.nan), NULL), ValueError, "is nan at"),
        (
            lambda: likelihood_ratio_test(
                [pd.Series(x[:, 0]) for x in TABLES],
                lambda x: ([x.mean()], lambda t: -float(((x - t[0]) ** 2).sum())),
                lambda x: ([], lambda t: -float((x**2).sum())),
                method="D4",
            ),
            TypeError,
            'not Series: use "D3"',
        ),
        (
            # Its likelihood at given coefficients takes another residual variance than its result.
            lambda: likelihood_ratio_test(
                regression_tables(2), lambda d: smf.glm("y ~ x", d).fit(), lambda d: smf.glm("y ~ 1", d).fit()
            ),
            ValueError,
            "it has parameters besides these",
        ),
        (lambda: d3([1.0, 2.0], [1.0], 1), ValueError, r"got shapes \(2,\) and \(1,\)"),
        (lambda: d3([1.0, np.nan], [1.0, 1.0], 1), ValueError, "not finite"),
        (lambda: d4([1.0], 1.0, 1), ValueError, "at least 2"),
        (lambda: d4([1.0, 2.0], np.inf, 1), ValueError, "not finite"),
    ],
)
def test_tests_that_cannot_be_made_say_why(run, error, message):
    with pytest.raises(error, match=message):
        run()

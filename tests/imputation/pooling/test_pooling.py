"""Rubin's rules against formulas written out once more, published numbers and simulated coverage."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from pyro_gen.imputation.pooling import (
    barnard_rubin,
    d1,
    d2,
    draws_needed,
    pool,
    pool_correlations,
    stack_posteriors,
)


def by_the_book(q, u, dfcom):
    """One parameter, one line for each formula of Rubin (1987) and Barnard & Rubin (1999), in plain Python."""
    m = len(q)
    qbar = sum(q) / m
    ubar = sum(u) / m
    b = sum((x - qbar) ** 2 for x in q) / (m - 1)
    t = ubar + (1 + 1 / m) * b
    riv = (1 + 1 / m) * b / ubar
    lambda_ = (1 + 1 / m) * b / t
    old = (m - 1) * (1 + 1 / riv) ** 2
    seen = (dfcom + 1) / (dfcom + 3) * dfcom * (1 - lambda_) if dfcom < math.inf else math.inf
    df = 1 / (1 / old + 1 / seen)
    fmi = (riv + 2 / (df + 3)) / (riv + 1)
    return {"qbar": qbar, "ubar": ubar, "b": b, "t": t, "riv": riv, "lambda_": lambda_, "df": df, "fmi": fmi}


@pytest.mark.parametrize("dfcom", [math.inf, 3.0, 23.0, 1000.0])
@pytest.mark.parametrize("m", [2, 5, 20])
def test_all_figures_are_those_of_the_formulas(m, dfcom):
    rng = np.random.default_rng(m)
    q, u = rng.normal(size=(m, 4)) * [1.0, 1e-3, 10.0, 0.1] + 2, rng.gamma(3.0, size=(m, 4))
    pooled = pool(q, u, df_complete=dfcom, names=list("abcd"))
    for i in range(4):
        for name, value in by_the_book(q[:, i].tolist(), u[:, i].tolist(), dfcom).items():
            assert getattr(pooled, name)[i] == pytest.approx(value, rel=1e-10, abs=1e-14), name
        half = stats.t.ppf(0.95, pooled.df[i]) * math.sqrt(pooled.t[i])
        assert pooled.intervals(0.9)[i] == pytest.approx([pooled.qbar[i] - half, pooled.qbar[i] + half], rel=1e-10)
        p = 2 * stats.t.cdf(-abs(pooled.qbar[i]) / math.sqrt(pooled.t[i]), pooled.df[i])
        assert pooled.p_values[i] == pytest.approx(p, rel=1e-9)


def test_a_small_case_by_hand():
    # Q = 1, 2, 3; U = 1/2: Qbar = 2, B = 1, T = 1/2 + 4/3 = 11/6, lambda = (4/3) / (11/6) = 8/11, riv = 8/3.
    # dfcom = 10: tmp = (3/11) 110 = 30, df = 2 * 30 / (13 * 2 + (64/121) * 30) = 7260/5066 = 3630/2533.
    pooled = pool([1, 2, 3], [0.5, 0.5, 0.5], df_complete=10, names=["x"])
    df = Fraction(3630, 2533)
    fmi = (Fraction(8, 3) + 2 / (df + 3)) / (Fraction(8, 3) + 1)
    expected = {"qbar": 2, "ubar": 0.5, "b": 1, "t": 11 / 6, "lambda_": 8 / 11, "riv": 8 / 3, "df": df, "fmi": fmi}
    for name, value in expected.items():
        assert getattr(pooled, name)[0] == pytest.approx(float(value), rel=1e-12), name


def test_the_example_of_the_manual_of_sas():
    """Means of Fitness in the documentation of PROC MIANALYZE, reading means and standard errors, EDF=30."""
    q = [
        [47.0120, 10.4441, 171.216],
        [47.2407, 10.5040, 171.244],
        [47.4995, 10.5922, 171.909],
        [47.1485, 10.5279, 171.146],
        [47.0042, 10.4913, 172.072],
    ]
    se = [
        [0.95984, 0.28520, 1.59910],
        [0.93540, 0.26661, 1.75638],
        [1.00766, 0.26302, 1.85795],
        [0.95439, 0.26405, 1.75011],
        [0.96528, 0.27275, 1.84807],
    ]
    pooled = pool(q, np.square(se), df_complete=30)
    # Between, within, total, degrees of freedom; the inputs are printed to five or six digits.
    assert pooled.b == pytest.approx([0.041478, 0.002948, 0.191086], rel=5e-4)
    assert pooled.ubar == pytest.approx([0.930853, 0.073142, 3.114442], rel=2e-5)
    assert pooled.t == pytest.approx([0.980626, 0.076679, 3.343744], rel=2e-5)
    assert pooled.df == pytest.approx([26.298, 26.503, 25.463], rel=1e-4)


def test_the_table_has_the_columns_of_mice_and_prints():
    pooled = pool([[1.0, 0.2], [1.4, 0.1]], [np.eye(2) * 0.1] * 2, names=["(Intercept)", "x"])
    assert list(pooled.summary().columns) == (
        ["term", "estimate", "std.error", "statistic", "df", "p.value", "conf.low", "conf.high", "fmi", "lambda", "riv"]
    )
    lines = str(pooled).splitlines()
    assert len(lines) == 4 and "(Intercept)" in lines[1] and lines[3].startswith("2 draws: ")


def test_tables_that_agree_leave_the_complete_data_interval():
    pooled = pool([0.5, 0.5, 0.5], [0.04, 0.04, 0.04], df_complete=20)
    assert pooled.lambda_[0] == pooled.riv[0] == 0
    assert pooled.df[0] == pytest.approx(20 * 21 / 23)
    assert pooled.t[0] == pytest.approx(0.04)
    large = pool([0.5, 0.5], [0.04, 0.04])
    assert large.df[0] == math.inf and large.fmi[0] == 0
    assert large.intervals()[0] == pytest.approx([0.5 - 1.959963985 * 0.2, 0.5 + 1.959963985 * 0.2])
    assert large.p_values[0] == pytest.approx(2 * stats.norm.sf(2.5))
    assert large.draws_needed() == 2 and large.enough()


def test_no_variance_within_is_all_missing_information():
    pooled = pool([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    assert pooled.lambda_[0] == 1 and pooled.riv[0] == math.inf and pooled.fmi[0] == pytest.approx(1.0)
    assert pooled.df[0] == 2


def test_covariances_give_the_total_covariance():
    rng = np.random.default_rng(0)
    q, a = rng.normal(size=(6, 3)), rng.normal(size=(6, 3, 5))
    u = a @ a.transpose(0, 2, 1)
    pooled = pool(q, u)
    assert pooled.covariance == pytest.approx(u.mean(0) + 7 / 6 * np.cov(q.T), rel=1e-12)
    assert np.diagonal(pooled.covariance) == pytest.approx(pooled.t, rel=1e-12)
    with pytest.raises(ValueError, match="variances alone"):
        _ = pool(q, np.ones((6, 3))).covariance


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0]], [[1.0]]), "1 table"),
        (([1.0, np.nan], [1.0, 1.0]), "estimate of 'q0' is nan in draw 1"),
        (([1.0, 2.0], [1.0, -1.0]), "variance of 'q0' is -1 in draw 1"),
        (([1.0, 2.0], [1.0, np.inf]), "variance of 'q0' is inf in draw 1"),
        (([[1.0, 2.0]] * 2, [[[1.0, np.nan], [0.0, 1.0]]] * 2), "covariance of 'q0' is nan in draw 0"),
        (([1.0, 2.0], [1.0, 1.0, 1.0]), "covariances: got shape"),
        (([], []), "estimates: got shape"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        pool(*arguments)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="2 names for 1"):
        pool([1, 2], [1, 1], names=["a", "b"])
    with pytest.raises(ValueError, match="df_complete"):
        pool([1, 2], [1, 1], df_complete=0)
    with pytest.raises(ValueError, match="level"):
        pool([1, 2], [1, 1]).intervals(95)


def coverage(rows=50, seen=30, m=5, runs=2000, between=True):
    """Of the 95% interval of a mean, the rest of the rows imputed from the posterior of a normal distribution."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(runs):
        x = rng.normal(size=seen)
        sigma2 = x.var(ddof=1) * (seen - 1) / rng.chisquare(seen - 1, m)
        mu = x.mean() + rng.normal(size=m) * np.sqrt(sigma2 / seen)
        filled = np.concatenate(
            [np.tile(x, (m, 1)), mu[:, None] + rng.normal(size=(m, rows - seen)) * np.sqrt(sigma2)[:, None]], 1
        )
        q, u = filled.mean(1), filled.var(1, ddof=1) / rows
        low, high = pool(q if between else np.full(m, q.mean()), u, df_complete=rows - 1).intervals()[0]
        hits += low <= 0 <= high
    return hits / runs


def test_intervals_cover():
    # The rate has a standard deviation of 0.0049; false alarm below 1e-4 within 0.02 of 0.95.
    assert abs(coverage() - 0.95) < 0.02


def test_intervals_without_the_variance_between_do_not_cover():
    assert coverage(between=False) < 0.93


# ----------------------------------------------------------------------------------------------------------------------
# Several parameters


def wald(m=6, k=3, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(m, k, k + 2))
    return 0.4 * rng.normal(size=(m, k)) + 0.5, a @ a.transpose(0, 2, 1) / 10


def d1_by_the_book(q, u, dfcom):
    m, k = q.shape
    qbar, ubar, b = q.mean(0), u.mean(0), np.cov(q.T)
    r = (1 + 1 / m) * np.trace(b @ np.linalg.inv(ubar)) / k
    f = qbar @ np.linalg.inv((1 + r) * ubar) @ qbar / k
    t = k * (m - 1)
    if dfcom == math.inf:
        return f, r, 4 + (t - 4) * (1 + (1 - 2 / t) / r) ** 2 if t > 4 else t * (1 + 1 / k) * (1 + 1 / r) ** 2 / 2
    # Reiter (2007), equations 1 and 2, term by term.
    a = r * t / (t - 2)
    v = (dfcom + 1) / (dfcom + 3) * dfcom
    w2, w4 = v - 2 * (1 + a), v - 4 * (1 + a)
    z = 1 / w4 + 1 / (t - 4) * (a**2 * w2 / ((1 + a) ** 2 * w4))
    z += 1 / (t - 4) * (8 * a**2 * w2 / ((1 + a) * w4**2) + 4 * a**2 / ((1 + a) * w4))
    z += 1 / (t - 4) * (4 * a**2 / (w4 * w2) + 16 * a**2 * w2 / w4**3)
    z += 1 / (t - 4) * (8 * a**2 / w4**2)
    return f, r, 4 + 1 / z


@pytest.mark.parametrize("dfcom", [math.inf, 80.0, 1e7])
def test_d1_is_that_of_the_formulas(dfcom):
    q, u = wald()
    test = d1(q, u, df_complete=dfcom)
    f, r, df = d1_by_the_book(q, u, dfcom)
    assert (test.statistic, test.riv, test.df2) == pytest.approx((f, r, df), rel=1e-10)
    assert test.df1 == 3 and test.p_value == pytest.approx(stats.f.sf(f, 3, df), rel=1e-9)
    if dfcom == 1e7:  # Reiter's degrees of freedom go over into those of Li et al.
        assert test.df2 == pytest.approx(d1_by_the_book(q, u, math.inf)[2], rel=1e-3)


def test_d1_of_few_draws_has_the_other_degrees_of_freedom():
    q, u = wald(m=3, k=2)
    assert d1(q, u).df2 == pytest.approx(d1_by_the_book(q, u, math.inf)[2], rel=1e-10)
    with pytest.raises(ValueError, match="at least 4 draws"):
        d1(q, u, df_complete=50)
    assert np.isfinite(d1(*wald(m=4, k=2), df_complete=500).df2)


def test_d1_of_one_parameter_is_the_square_of_its_t_test():
    q, u = wald()
    pooled = pool(q, u, df_complete=40, names=["a", "b", "c"])
    test = pooled.test("b", null=0.3)
    i = pooled.names.index("b")
    t = (pooled.qbar[i] - 0.3) / math.sqrt(pooled.t[i])
    assert test.statistic == pytest.approx(t**2) and test.df2 == pytest.approx(pooled.df[i])
    assert pooled.test("b").p_value == pytest.approx(pooled.p_values[i], rel=1e-9)


def test_linear_combinations_are_tested():
    q, u = wald()
    pooled = pool(q, u, names=["a", "b", "c"])
    turn = np.array([[1.0, -1.0, 0.0], [0.0, 2.0, 1.0]])
    expected = d1(q @ turn.T - [0.1, 0.2], turn @ u @ turn.T)
    assert pooled.test(turn, null=[0.1, 0.2]) == expected
    # The hypothesis that all are zero does not depend on the coordinates.
    mixed = pooled.test(np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 3.0]]))
    assert mixed.statistic == pytest.approx(pooled.test().statistic, rel=1e-10)
    assert pooled.test(["c", "a"]).statistic == pytest.approx(d1(q[:, [2, 0]], u[:, [[2], [0]], [2, 0]]).statistic)


def test_d2_is_that_of_the_formulas():
    chi2 = [8.0, 10.5, 12.2, 9.1, 7.7]
    root = [math.sqrt(x) for x in chi2]
    r = 1.2 * sum((x - sum(root) / 5) ** 2 for x in root) / 4
    test = d2(chi2, 3)
    assert test.riv == pytest.approx(r, rel=1e-10)
    assert test.statistic == pytest.approx((sum(chi2) / 5 / 3 - 6 / 4 * r) / (1 + r), rel=1e-10)
    assert test.df2 == pytest.approx(3 ** (-3 / 5) * 4 * (1 + 1 / r) ** 2, rel=1e-10)
    q, u = wald()
    statistics = [a @ np.linalg.inv(c) @ a for a, c in zip(q, u, strict=True)]
    assert pool(q, u).test(method="D2").p_value == pytest.approx(d2(statistics, 3).p_value, rel=1e-10)


def test_statistics_that_agree_are_a_chi_square_test():
    test = d2([5.0, 5.0, 5.0], 2)
    assert test.df2 == math.inf and test.p_value == pytest.approx(stats.chi2.sf(5.0, 2))
    assert "inf" in str(test)


def rejections(statistic, runs=4000, m=20, k=3, missing=0.3):
    """How often a true hypothesis is rejected at 5%, with the variance between that proper imputation has."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(runs, k)) / math.sqrt(1 - missing)  # of the estimate from what is seen
    q = common[:, None] + rng.normal(size=(runs, m, k)) * math.sqrt(missing / (1 - missing))
    u = np.broadcast_to(np.eye(k), (m, k, k))
    return np.mean([statistic(q[i], u) < 0.05 for i in range(runs)])


def test_d1_holds_its_level():
    # Standard deviation 0.0034; false alarm below 1e-4 within 0.014.
    assert abs(rejections(lambda q, u: d1(q, u).p_value) - 0.05) < 0.014


def test_a_wald_test_of_the_mean_table_does_not():
    wrong = rejections(lambda q, u: stats.chi2.sf(q.mean(0) @ np.linalg.solve(u.mean(0), q.mean(0)), q.shape[1]))
    assert wrong > 0.09


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: pool(*wald()).test(["x"]), "no parameter 'x'; there are q0, q1, q2"),
        (lambda: pool(*wald()).test(np.eye(2)), "shape"),
        (lambda: pool(*wald()).test(method="D3"), "choose one of 'D1', 'D2'"),
        (lambda: d1(np.ones((4, 2)), np.ones((4, 2, 2))), "singular"),
        (lambda: d1(np.ones(4), np.ones(4)), "expected \\(m, k\\)"),
        (lambda: d1(wald()[0], wald()[1] / 100, df_complete=8), "use D2"),
        (lambda: d2([1.0], 2), "at least 2"),
        (lambda: d2([1.0, np.nan], 2), "NaN"),
    ],
)
def test_tests_that_cannot_be_made_say_why(run, message):
    with pytest.raises(ValueError, match=message):
        run()


# ----------------------------------------------------------------------------------------------------------------------
# How many draws, correlations, posteriors


def test_draws_needed():
    assert [draws_needed(f) for f in (0.0, 0.05, 0.3, 0.5, 0.9)] == [2, 2, 19, 51, 163]
    assert draws_needed(0.5, cv=0.1) == 14
    with pytest.raises(ValueError, match="fmi"):
        draws_needed(1.2)
    with pytest.raises(ValueError, match="cv"):
        draws_needed(0.2, cv=0.0)


def test_a_pooled_result_says_whether_there_were_enough():
    rng = np.random.default_rng(0)
    for m, enough in ((5, False), (400, True)):
        pooled = pool(rng.normal(size=m) * math.sqrt(0.4), np.full(m, 0.6))
        fmi = pooled.fmi[0]
        upper = 1 / (1 + math.exp(-(math.log(fmi / (1 - fmi)) + 1.959963985 * math.sqrt(2 / m))))
        assert pooled.draws_needed() == draws_needed(upper)
        assert pooled.enough() == enough
        assert (f"; {pooled.draws_needed()} draws make that 5%" in str(pooled)) != enough


def test_standard_errors_repeat_as_they_should():
    # The coefficient of variation of sqrt(T) over many sets of m draws is FMI sqrt(1 / (2 (m - 1))), to leading order.
    rng = np.random.default_rng(0)
    m = draws_needed(0.4)
    t = 0.6 + (1 + 1 / m) * (rng.normal(size=(4000, m)) * math.sqrt(0.4)).var(1, ddof=1)
    assert np.sqrt(t).std() / np.sqrt(t).mean() == pytest.approx(0.05, rel=0.1)


def test_correlations_are_pooled_on_the_scale_of_fishers_z():
    r = [0.50, 0.55, 0.45, 0.52]
    found = pool_correlations(r, 103, names=["r"]).iloc[0]
    z = [math.atanh(x) for x in r]
    pooled = pool(z, [0.01] * 4)
    assert found["estimate"] == pytest.approx(math.tanh(sum(z) / 4), rel=1e-12)
    assert [found["conf.low"], found["conf.high"]] == pytest.approx(np.tanh(pooled.intervals()[0]).tolist(), rel=1e-12)
    assert found["p.value"] == pytest.approx(pooled.p_values[0])
    with pytest.raises(ValueError, match="between -1 and 1"):
        pool_correlations([1.0, 0.5], 10)
    with pytest.raises(ValueError, match="more than 3"):
        pool_correlations([0.1, 0.5], 3)


def test_stacked_posteriors_are_the_mixture():
    rng = np.random.default_rng(0)
    shifts = rng.normal(size=300)
    sizes = rng.integers(200, 1000, 300)  # a table with more draws must weigh no more
    posterior = stack_posteriors([rng.normal(s, 0.5, n) for s, n in zip(shifts, sizes, strict=True)], names=["mu"])
    expected = math.sqrt(0.25 + shifts.var())
    assert posterior.mean[0] == pytest.approx(shifts.mean(), abs=0.01)
    assert posterior.sd[0] == pytest.approx(expected, rel=0.01)
    for q in (0.025, 0.5, 0.975):  # of the mixture's own distribution function
        assert stats.norm.cdf(posterior.quantile(q)[0], shifts, 0.5).mean() == pytest.approx(q, abs=0.005)
    # Rubin's rules on the same posteriors: here all is normal, so the two agree.
    pooled = pool(posterior.means, posterior.variances)
    row = posterior.summary().iloc[0]
    assert row["rubin.std.error"] == pytest.approx(pooled.standard_error[0], rel=1e-12)
    assert row["sd"] == pytest.approx(pooled.standard_error[0], rel=0.01)
    assert [row["conf.low"], row["conf.high"]] == pytest.approx(pooled.intervals()[0].tolist(), abs=0.25)
    assert "mu" in str(posterior)


def test_few_stacked_posteriors_lack_2b_over_m():
    rng = np.random.default_rng(0)
    posterior = stack_posteriors([rng.normal(s, 0.01, 2000) for s in (-1.0, 0.0, 1.0)])
    row = posterior.summary().iloc[0]
    assert row["sd"] ** 2 == pytest.approx(2 / 3, rel=0.01) and row["rubin.std.error"] ** 2 == pytest.approx(
        4 / 3, rel=0.01
    )


def test_weights_matter_to_quantiles():
    # A hundred copies of 0 and two of 1, two tables: half of the mixture each.
    posterior = stack_posteriors([np.zeros(100), np.ones(2)])
    assert posterior.mean[0] == pytest.approx(0.5)
    assert [posterior.quantile(q)[0] for q in (0.0, 0.49, 0.5, 0.51, 1.0)] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("posteriors", [[], [[1.0]], [np.ones((3, 2)), np.ones((3, 1))], [[1.0, np.nan]]])
def test_bad_posteriors_are_named(posteriors):
    with pytest.raises(ValueError, match="posteriors:"):
        stack_posteriors(posteriors)


def test_degrees_of_freedom_at_the_edges():
    assert barnard_rubin(10, 0.0, 100.0) == pytest.approx(100 * 101 / 103)
    assert barnard_rubin(10, 1.0, 100.0) == 0
    assert barnard_rubin(10, 1e-8, 100.0) == pytest.approx(100 * 101 / 103, rel=1e-7)
    assert barnard_rubin(8, 0.2) == pytest.approx(7 / 0.04)

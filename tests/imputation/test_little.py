"""Little's test against a published result and a closed form, calibrated where holes fall at random."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from pyro_gen.imputation.amputation import MAR, MCAR, ampute
from pyro_gen.imputation.little import little_test

# Daily air quality in New York, May to September 1973 (R's data set airquality): ozone, solar radiation, wind,
# temperature; the last two columns are month and day.
AIR = """
41,190,7.4,67 36,118,8,72 12,149,12.6,74 18,313,11.5,62 -,-,14.3,56 28,-,14.9,66 23,299,8.6,65 19,99,13.8,59
8,19,20.1,61 -,194,8.6,69 7,-,6.9,74 16,256,9.7,69 11,290,9.2,66 14,274,10.9,68 18,65,13.2,58 14,334,11.5,64
34,307,12,66 6,78,18.4,57 30,322,11.5,68 11,44,9.7,62 1,8,9.7,59 11,320,16.6,73 4,25,9.7,61 32,92,12,61
-,66,16.6,57 -,266,14.9,58 -,-,8,57 23,13,12,67 45,252,14.9,81 115,223,5.7,79 37,279,7.4,76 -,286,8.6,78
-,287,9.7,74 -,242,16.1,67 -,186,9.2,84 -,220,8.6,85 -,264,14.3,79 29,127,9.7,82 -,273,6.9,87 71,291,13.8,90
39,323,11.5,87 -,259,10.9,93 -,250,9.2,92 23,148,8,82 -,332,13.8,80 -,322,11.5,79 21,191,14.9,77 37,284,20.7,72
20,37,9.2,65 12,120,11.5,73 13,137,10.3,76 -,150,6.3,77 -,59,1.7,76 -,91,4.6,76 -,250,6.3,76 -,135,8,75
-,127,8,78 -,47,10.3,73 -,98,11.5,80 -,31,14.9,77 -,138,8,83 135,269,4.1,84 49,248,9.2,85 32,236,9.2,81
-,101,10.9,84 64,175,4.6,83 40,314,10.9,83 77,276,5.1,88 97,267,6.3,92 97,272,5.7,92 85,175,7.4,89 -,139,8.6,82
10,264,14.3,73 27,175,14.9,81 -,291,14.9,91 7,48,14.3,80 48,260,6.9,81 35,274,10.3,82 61,285,6.3,84
79,187,5.1,87 63,220,11.5,85 16,7,6.9,74 -,258,9.7,81 -,295,11.5,82 80,294,8.6,86 108,223,8,85 20,81,8.6,82
52,82,12,86 82,213,7.4,88 50,275,7.4,86 64,253,7.4,83 59,254,9.2,81 39,83,6.9,81 9,24,13.8,81 16,77,7.4,82
78,-,6.9,86 35,-,7.4,85 66,-,4.6,87 122,255,4,89 89,229,10.3,90 110,207,8,90 -,222,8.6,92 -,137,11.5,86
44,192,11.5,86 28,273,11.5,82 65,157,9.7,80 -,64,11.5,79 22,71,10.3,77 59,51,6.3,79 23,115,7.4,76 31,244,10.9,78
44,190,10.3,78 21,259,15.5,77 9,36,14.3,72 -,255,12.6,75 45,212,9.7,79 168,238,3.4,81 73,215,8,86 -,153,5.7,88
76,203,9.7,97 118,225,2.3,94 84,237,6.3,96 85,188,6.3,94 96,167,6.9,91 78,197,5.1,92 73,183,2.8,93 91,189,4.6,93
47,95,7.4,87 32,92,15.5,84 20,252,10.9,80 23,220,10.3,78 21,230,10.9,75 24,259,9.7,73 44,236,14.9,81
21,259,15.5,76 28,238,6.3,77 9,24,10.9,71 13,112,11.5,71 46,237,6.9,78 18,224,13.8,67 13,27,10.3,76
24,238,10.3,68 16,201,8,82 13,238,12.6,64 23,14,9.2,71 36,139,10.3,81 7,49,10.3,69 14,20,16.6,63 30,193,6.9,70
-,145,13.2,77 14,191,14.3,75 18,131,8,76 20,223,11.5,68
"""


def airquality():
    values = [[float(v) if v != "-" else np.nan for v in row.split(",")] for row in AIR.split()]
    days = pd.date_range("1973-05-01", "1973-09-30")
    return pd.DataFrame(values, columns=["ozone", "solar", "wind", "temp"]).assign(month=days.month, day=days.day)


def test_littles_test_against_a_published_one():
    """naniar's documentation of mcar_test(airquality): statistic 35.1, df 14, p-value 0.00142."""
    table = airquality()
    assert table.shape == (153, 6) and table["ozone"].sum() == 4887 and table["solar"].sum() == 27146
    result = little_test(table)
    assert result.df == 14
    published = result.statistic * 153 / 152  # naniar leaves out the factor n / (n - 1) of the covariance
    assert round(published, 1) == 35.1
    assert round(scipy.stats.chi2.sf(published, 14), 5) == 0.00142


def test_littles_statistic_in_closed_form():
    """One column of two missing: the statistic compares the means of the other in both groups, and nothing else."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 1))
    y = np.hstack([x, x + rng.normal(size=(60, 1))])
    y[:20, 1] = np.nan
    expected = sum(len(part) * (part.mean() - x.mean()) ** 2 for part in (x[:20], x[20:])) / x.var(ddof=1)
    result = little_test(y)
    assert result.statistic == pytest.approx(expected, rel=1e-5) and result.df == 1
    moved = little_test(y * [1e-6, 1e6] + [100.0, -3.0])  # units do not matter, nor rows without any value
    assert little_test(np.vstack([y, np.full((5, 2), np.nan)])).statistic == pytest.approx(result.statistic, rel=1e-9)
    assert moved.statistic == pytest.approx(result.statistic, rel=1e-6)


def test_littles_test_is_calibrated_under_mcar_and_sees_mar():
    rng = np.random.default_rng(0)
    results, found = [], 0
    for seed in range(160):
        x = rng.normal(size=(200, 3)) @ [[1.0, 0.6, 0.2], [0.0, 0.8, 0.3], [0.0, 0.0, 1.0]]
        results.append(little_test(ampute(x, MCAR(0.25), seed=seed)))
        if seed < 20:
            found += little_test(ampute(x, MAR(0.4, columns=[1, 2], strength=2.0), seed=seed)).p_value < 0.01
    # False alarms: 1e-4, by the Kolmogorov-Smirnov test.
    assert scipy.stats.kstest([r.p_value for r in results], "uniform").pvalue > 1e-4
    # The twin: means known instead of estimated, three degrees of freedom more.
    wrong = [scipy.stats.chi2.sf(r.statistic, r.df + 3) for r in results]
    assert scipy.stats.kstest(wrong, "uniform").pvalue < 1e-6
    assert found == 20


def test_littles_test_of_levels():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "age": rng.integers(18, 90, 800),
            "city": rng.choice(["Bonn", "Rome", "Oslo"], 800),
            "smokes": rng.random(800) < 0.3,
        }
    )
    assert little_test(ampute(table, MCAR(0.2))).p_value > 1e-4
    assert little_test(ampute(table, MAR(0.3, columns=["age"], given=["city"]))).p_value < 1e-4
    table["constant"] = 1
    assert little_test(ampute(table, MCAR(0.2, columns=["age"]))).df == 3  # two levels of three, one of two, less age


def test_littles_test_says_what_it_cannot_do():
    x = np.random.default_rng(0).normal(size=(50, 2))
    with pytest.raises(ValueError, match="same holes"):
        little_test(x)
    apart = np.vstack(
        [np.column_stack([x[:, 0], np.full(50, np.nan)]), np.column_stack([np.full(50, np.nan), x[:, 1]])]
    )
    with pytest.raises(ValueError, match="never seen in the same row"):
        little_test(apart)
    twice = np.column_stack([x, x[:, 0]])
    twice[:10, 1] = np.nan
    with pytest.raises(ValueError, match="linearly"):
        little_test(twice)
    with pytest.raises(ValueError, match="two different values"):
        little_test(np.ones((5, 2)))

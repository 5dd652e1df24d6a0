import json
import math

import pytest
import torch

from pyro_gen.inference.likelihood.result import LogLikelihood


def make(**changes):
    fields = {
        "value": torch.tensor([-8.0, -4.0]),
        "standard_error": torch.tensor([0.3, 0.4]),
        "kind": "stochastic lower bound",
        "method": "ais",
        "event_dims": 3.0,
    }
    return LogLikelihood(**{**fields, **changes})


def test_conversions():
    result = make()
    assert result.value.dtype == torch.float64
    assert result.mean() == -6.0
    assert result.mean_standard_error() == pytest.approx(0.25)  # sqrt(0.09 + 0.16) / 2
    assert result.sampling_error() == pytest.approx(2.0)  # sqrt(8) / sqrt(2)
    assert result.perplexity() == pytest.approx(math.exp(2))
    assert result.bits_per_dim() == pytest.approx(2 / math.log(2))


def test_bits_per_dim_of_rescaled_data():
    # Uniform on [0, 256) is 8 bits per number; the program sees y = x / 256, whose density is 1.
    result = make(value=torch.zeros(5), standard_error=torch.zeros(5))
    jacobian = torch.full((5,), -3 * math.log(256))
    assert result.bits_per_dim(log_abs_det_jacobian=jacobian) == pytest.approx(8.0)
    assert result.bits_per_dim(log_abs_det_jacobian=-3 * math.log(256)) == pytest.approx(8.0)


def test_text_and_json():
    result = make(
        kind="sandwich",
        lower=torch.tensor([-9.0, -5.0]),
        upper=torch.tensor([-7.0, -3.0]),
        diagnostics={"gap": torch.tensor([2.0, 2.0]), "khat": torch.tensor([math.nan, math.nan])},
    )
    line = str(result)
    assert "\n" not in line and "-6.000 +- 0.250 nats per datum in [-7.000, -5.000]" in line
    out = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert out["lower"] == -7.0 and out["upper"] == -5.0 and out["diagnostics"] == {"gap": 2.0, "khat": None}
    assert make(value=torch.zeros(1), standard_error=torch.zeros(1)).to_dict()["sampling_error"] is None
    assert make(event_dims=math.nan).to_dict()["bits_per_dim"] is None  # of a density that is no program's


def test_refuses_another_kind():
    with pytest.raises(ValueError, match="sandwich"):
        make(kind="guess")


def test_evidence_of_a_data_set():
    one = make(value=torch.tensor([-61.25]), standard_error=torch.tensor([0.25]), unit="nats", event_dims=40.0)
    assert str(one) == "log-evidence -61.250 +- 0.250 nats (ais, stochastic lower bound)"
    assert one.to_dict()["unit"] == "nats" and one.to_dict()["data_set"] == 1
    assert one.bits_per_dim() == pytest.approx(61.25 / 40 / math.log(2))
    several = make(unit="nats per data set", kind="estimate")
    assert str(several).startswith("log-evidence -6.000 +- 0.250 nats per data set (ais, estimate; 2 data sets")
    with pytest.raises(ValueError, match="nats per data set"):
        make(unit="bits")


def test_bounds_that_cross_are_no_interval():
    def text(lower, upper, error=0.1):
        bounds = {"lower": torch.tensor([lower]), "upper": torch.tensor([upper])}
        return str(make(value=torch.zeros(1), standard_error=torch.tensor([error]), kind="sandwich", **bounds))

    assert "nats per datum, lower bound 0.150 above the upper -0.150 within their errors (ais" in text(0.15, -0.15)
    assert "lower bound 0.300 above the upper -0.300, more than their errors explain: take more chains" in text(
        0.3, -0.3
    )
    for lower, upper in ((-0.15, 0.15), (0.0001, -0.0001)):  # as printed, the last are one number
        assert f"in [{lower:.3f}, {upper:.3f}]" in text(lower, upper)

"""What is kept of torch in one place does what torch does."""

import pytest
import torch

from pyro_gen._internals import log1p_by_log


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log1p_by_a_logarithm_has_all_its_digits(dtype: torch.dtype) -> None:
    sizes = torch.logspace(-30, 4, 2001, dtype=torch.float64)
    y = torch.cat([sizes, -sizes[sizes < 1], torch.tensor([0.0, -1.0, torch.inf, torch.nan, -2.0])]).to(dtype)
    four_units = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(log1p_by_log(y), y.log1p(), rtol=four_units, atol=0, equal_nan=True)
    lost = (1 + y).log()  # the twin
    assert not torch.allclose(lost, y.log1p(), rtol=1e-2, atol=0, equal_nan=True)

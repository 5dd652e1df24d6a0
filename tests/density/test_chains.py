"""Functions of one chain, mapped over many: at once wherever torch can."""

import torch
from torch import Tensor

from pyro_gen.density.chains import vmap_or_loop


def test_what_torch_has_no_rule_for_is_mapped_all_the_same() -> None:
    """Its notice, an error here, would end in a loop: the function then runs once for each chain."""
    runs = []

    def one(z: Tensor) -> Tensor:
        runs.append(z)
        return torch.special.log_ndtr(z)

    z = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(vmap_or_loop(one, z), torch.special.log_ndtr(z))
    assert len(runs) == 1


def test_what_cannot_be_mapped_runs_in_turn() -> None:
    z = torch.tensor([-1.0, 2.0])
    assert vmap_or_loop(lambda v: v if v > 0 else -v, z).tolist() == [1.0, 2.0]

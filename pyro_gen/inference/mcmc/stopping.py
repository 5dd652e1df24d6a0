"""How many chains, and when there are draws enough.

Many chains on one graph cost little more than few where a gradient is small, know their metric sooner and so warm up in
fewer iterations; where a gradient is large each chain costs as much as the one before. So the number of chains is that
with which a run is expected to be over first. The run then ends when its draws are worth what is asked for.
"""

import math

import torch
from torch import Tensor

from pyro_gen.density import Density
from pyro_gen.inference.diagnose.statistics import worth
from pyro_gen.inference.mcmc.driver import default_warmup

__all__ = ["TARGET_ESS", "Watch", "cheapest_chains", "first_look", "last_look"]

TARGET_ESS = 1000.0
CHAINS = (64, 128, 256, 512)  # fewer could not learn a dense metric, more would repay themselves on a GPU alone
FIRST = 50  # draws of each chain at least: R-hat and autocorrelations need some
MOST = 100_000  # draws of all chains, beyond which more of them are not the way
WATCHED = 2**20  # numbers, of the coordinates that are watched


def first_look(chains: int, target: float) -> int:
    """After how many draws of each chain to look for the first time."""
    return max(FIRST, math.ceil(target / chains))


def last_look(chains: int, target: float) -> int:
    """After how many draws of each chain a run ends in any case."""
    return max(4 * first_look(chains, target), MOST // chains)


def cheapest_chains(density: Density, target: float = TARGET_ESS) -> int:
    """The number of chains with which a run to a target is expected to be over first.

    Arguments:
        density: The density.
        target: The effective sample size that is asked for.
    """
    return min(
        CHAINS,
        key=lambda c: (default_warmup(c) + first_look(c, target)) * density.seconds_per_gradient(c),
    )


class Watch:
    """Watches the coordinates in which chains move slowest.

    Arguments:
        target: The effective sample size that is asked for.
        state: That of another one, to go on with.
    """

    def __init__(self, target: float, state: dict[str, Tensor] | None = None) -> None:
        self.target = target
        self.columns: Tensor | None = None if state is None else state["columns"]
        self.draws: Tensor | None = None if state is None else state["draws"]
        self.worth = 0.0

    def state_dict(self) -> dict[str, Tensor]:
        """What it has seen."""
        return {} if self.columns is None or self.draws is None else {"columns": self.columns, "draws": self.draws}

    def add(self, z: Tensor) -> None:
        """Takes further draws, with shape :math:`(S, C, *B, D)`."""
        flat = z.flatten(2).double()
        if self.columns is None:
            self.columns = _slowest(flat)
        seen = flat[:, :, self.columns]
        self.draws = seen if self.draws is None else torch.cat([self.draws, seen])

    def more(self) -> int:
        """How many more draws of each chain are needed, about; 0 where the target is met and R-hat agrees."""
        if self.draws is None or self.draws.shape[-1] == 0:
            return 0
        count = len(self.draws)
        self.worth, agree = worth(self.draws.permute(2, 1, 0).numpy())
        if self.worth >= self.target:
            return 0 if agree else count
        needed = 1.1 * count * self.target / max(self.worth, 1.0) - count
        return min(max(math.ceil(needed), FIRST // 2), 4 * count)


def _slowest(flat: Tensor) -> Tensor:
    """The columns of draws (S, C, K) that are most correlated from one draw to the next: as many as can be watched."""
    draws, chains, columns = flat.shape
    most = max(1, WATCHED // (draws * chains))
    if columns <= most:
        return torch.arange(columns)
    centred = flat - flat.mean((0, 1))
    lagged = (centred[1:] * centred[:-1]).mean((0, 1)) / centred.square().mean((0, 1))
    return lagged.nan_to_num().topk(most).indices.sort().values

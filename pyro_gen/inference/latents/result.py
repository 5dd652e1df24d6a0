"""The posterior of local latent variables as a result: moments, probabilities and draws by name, for further use."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

if TYPE_CHECKING:
    import arviz as az
    import pandas as pd

__all__ = ["Latents", "Marginal"]

RELIABLE = 0.7  # the Pareto shape up to which importance sampling can be trusted


@dataclass(frozen=True)
class Marginal:
    """The posterior of one latent site, of each datum by itself.

    Attributes:
        draws: With shape :math:`(S, N, *)`, of equal weights.
        mean: With shape :math:`(N, *)`.
        sd: Standard deviations, with shape :math:`(N, *)`.
        values: The V values of a discrete variable, with shape :math:`(V, *event)`; ``None`` of a continuous one.
        probabilities: Those of the values, with shape :math:`(N, *, V)`, events left out.
    """

    draws: Tensor
    mean: Tensor
    sd: Tensor
    values: Tensor | None = None
    probabilities: Tensor | None = None

    @property
    def most_likely(self) -> Tensor:
        """The most likely value of a discrete variable, with the shape of one draw.

        Raises:
            ValueError: The variable is continuous.
        """
        if self.probabilities is None or self.values is None:
            raise ValueError("A continuous variable has no most likely value of positive probability: take its mean.")
        return self.values[self.probabilities.argmax(-1)]


class Latents(Mapping[str, Marginal]):
    """The posterior of the local latent variables of N data, by name of the site.

    Arguments:
        marginals: By name; missing values that feed a later density, labels say, by the name of their observe
            statement, with those that were seen at their value.
        method: How they were found: ``"exact"``, ``"guide"``, ``"hmc"``.
        ess: Effective sample sizes of the weighted draws, with shape :math:`(N,)`, where they are weighted.
        khat: Pareto shapes of the weights, with shape :math:`(N,)`: above 0.7 not to be trusted.
        annealed: Which data were drawn by annealed importance sampling, since the guide misses part of their posterior.
    """

    def __init__(
        self,
        marginals: Mapping[str, Marginal],
        method: str,
        ess: Tensor | None = None,
        khat: Tensor | None = None,
        annealed: Tensor | None = None,
    ) -> None:
        self._marginals = dict(marginals)
        self.method, self.ess, self.khat, self.annealed = method, ess, khat, annealed

    def __getitem__(self, name: str) -> Marginal:
        if name not in self._marginals:
            raise KeyError(f"there is no local latent variable {name!r}: they are {', '.join(self._marginals)}")
        return self._marginals[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._marginals)

    def __len__(self) -> int:
        return len(self._marginals)

    @property
    def rows(self) -> int:
        """The number N of data."""
        return len(next(iter(self._marginals.values())).mean)

    def to_numpy(self) -> dict[str, dict[str, npt.NDArray[Any]]]:
        """Arrays by name of the site: ``mean``, ``sd``, ``draws``, of discrete ones ``values``, ``probabilities``."""
        return {
            name: {key: v.detach().cpu().numpy() for key, v in vars(marginal).items() if v is not None}
            for name, marginal in self.items()
        }

    def to_pandas(self) -> "pd.DataFrame":
        """A row per datum: means and standard deviations, of discrete variables the probability of each value.

        Columns are ``z[0]``, ``z[0] sd``, ..., and ``k=0``, ``k=1``, ...; ``khat`` at the end, where weights have one.
        """
        import pandas as pd

        columns: dict[str, npt.NDArray[Any]] = {}
        for name, arrays in self.to_numpy().items():
            if "probabilities" in arrays:
                table = arrays["probabilities"]
                for place in np.ndindex(*table.shape[1:-1]):
                    for v, value in enumerate(arrays["values"]):
                        label = np.array2string(value, separator=",") if value.ndim else f"{value:g}"
                        columns[f"{_label(name, place)}={label}"] = table[(slice(None), *place, v)]
                continue
            for place in np.ndindex(*arrays["mean"].shape[1:]):
                columns[_label(name, place)] = arrays["mean"][(slice(None), *place)]
                columns[f"{_label(name, place)} sd"] = arrays["sd"][(slice(None), *place)]
        if self.khat is not None:
            columns["khat"] = self.khat.cpu().numpy()
        return pd.DataFrame(columns)

    def to_arviz(self) -> "az.InferenceData":
        """The draws as a group ``posterior`` of one chain, with a dimension ``data``."""
        import arviz as az
        import xarray as xr

        variables = {}
        for name, marginal in self.items():
            draws = marginal.draws.detach().cpu().numpy()
            names = [f"{name}_dim_{i}" for i in range(draws.ndim - 2)]
            variables[name] = (("chain", "draw", "data", *names), draws[None])
        size = len(next(iter(self.values())).draws)
        coords = {"chain": [0], "draw": np.arange(size), "data": np.arange(self.rows)}
        return az.InferenceData(posterior=xr.Dataset(variables, coords))

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        lines = [f"local latent variables of {self.rows} data, by {_WORDS[self.method]}"]
        for name, marginal in self.items():
            shape = tuple(marginal.mean.shape[1:])
            of = f" {shape}" if shape else ""
            if marginal.probabilities is not None:
                sure = marginal.probabilities.max(-1).values.double()
                lines.append(
                    f"  {name}{of}: {marginal.probabilities.shape[-1]} values; the most likely has probability "
                    f"{sure.mean():.3f} in the mean, {sure.min():.3f} at least"
                )
                continue
            sd = marginal.sd.double()
            lines.append(f"  {name}{of}: standard deviation {sd.mean():.3g} in the mean, {sd.max():.3g} at most")
        if self.khat is not None:
            bad = self.khat > RELIABLE
            if self.annealed is not None:
                if bool(self.annealed.any()):
                    lines.append(f"  {int(self.annealed.sum())} data drawn by annealed importance sampling instead")
                bad = bad & ~self.annealed
            if bool(bad.any()):
                lines.append(
                    f"  Pareto k-hat is above {RELIABLE} for {int(bad.sum())} data (the first is row "
                    f"{int(bad.nonzero()[0])}, counted from 0): the guide misses part of their posterior"
                )
        return "\n".join(lines)


_WORDS = {
    "exact": "sums over all values (exact)",
    "guide": "draws of the guide, weighted",
    "hmc": "Hamiltonian Monte Carlo",
}


def _label(name: str, place: tuple[int, ...]) -> str:
    return name if not place else f"{name}[{','.join(map(str, place))}]"

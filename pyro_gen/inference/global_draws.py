r"""Draws of what all data share, the global latent variables, from where they are: a posterior, or the guide.

With draws :math:`w_s` of :math:`p(w \mid D)`, of normalised weight :math:`\omega_s` where they are weighted, the mean
of a function is :math:`\sum_s \omega_s f(w_s)`. Its error takes autocorrelation within chains into account.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyro_gen.density.chains import vmap_or_loop
from pyro_gen.inference.diagnose.statistics import effective_draws_of_each
from pyro_gen.inference.likelihood.particles import resample
from pyro_gen.inference.proposals import guide_obstacle
from pyro_gen.inference.simulate import not_amortised
from pyro_gen.program import Program, fixed
from pyro_gen.traces import Structure, is_local, latent_sites, trace_side

__all__ = ["GUIDE_DRAWS", "Given", "GlobalDraws", "global_draws"]

GUIDE_DRAWS = 1000  # of the guide, where no number is asked for


@dataclass(frozen=True)
class GlobalDraws:
    """Draws of the global latent variables.

    Attributes:
        values: By name of the site, each with shape :math:`(S, *site)`, chain by chain.
        chains: How many chains they are of; S where each draw is independent of the others.
        log_weights: Their normalised logarithms, float64 with shape :math:`(S,)`; ``None`` where all are equal.
    """

    values: dict[str, Tensor]
    chains: int
    log_weights: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def select(self, index: Tensor, chains: int) -> "GlobalDraws":
        """Draws by number, as so many chains of equal weights."""
        return GlobalDraws({name: v[index.to(v.device)] for name, v in self.values.items()}, chains)

    def at_most(self, draws: int) -> "GlobalDraws":
        """So many draws, evenly over chains, where there are more; weighted ones are resampled."""
        if self.log_weights is not None:
            return self.equal(draws) if draws < len(self) else self
        length = len(self) // self.chains
        if draws >= len(self):
            return self
        chains = min(self.chains, draws)
        of_chain = _spread(length, draws // chains)
        index = _spread(self.chains, chains).unsqueeze(1) * length + of_chain
        return self.select(index.flatten(), chains)

    def equal(self, draws: int) -> "GlobalDraws":
        """So many draws of equal weights, some of them more than once where there are fewer."""
        if self.log_weights is not None:
            index = resample(self.log_weights.unsqueeze(1), draws)[:, 0]
            return self.select(index[torch.randperm(draws)], draws)
        return self.select(_spread(len(self), draws), draws)

    def log_mean(self, log_f: Tensor) -> tuple[Tensor, Tensor, float]:
        r"""The logarithm of the mean of positive functions, and its errors.

        Arguments:
            log_f: The logarithms of N functions at the draws, float64 with shape :math:`(S, N)`.

        Returns:
            The logarithms of the means :math:`m_n` and their standard errors, each with shape :math:`(N,)`; and the
            standard error of the mean of the logarithms over n, which share the draws.
        """
        return self.log_ratio(log_f, torch.zeros_like(log_f))

    def log_ratio(self, log_f: Tensor, log_w: Tensor) -> tuple[Tensor, Tensor, float]:
        r"""As :meth:`log_mean`, with weights besides, of each function by itself: :math:`\sum_s w_s f_s / \sum_s w_s`.

        Arguments:
            log_f: With shape :math:`(S, N)`.
            log_w: With shape :math:`(S, N)`.
        """
        base = torch.zeros(len(self), dtype=torch.float64) if self.log_weights is None else self.log_weights.cpu()
        share = (log_w + base.unsqueeze(1)).softmax(0)
        value = (share.log() + log_f).logsumexp(0)
        # Delta method: what each draw adds to the error of the logarithm, per datum and in the mean over the data.
        influence = share * torch.expm1(log_f - value).nan_to_num(nan=0.0)
        both = torch.cat([influence, influence.mean(1, keepdim=True)], 1)
        error = self._error_of_sum(both)
        return value, error[:-1], float(error[-1])

    def _error_of_sum(self, terms: Tensor) -> Tensor:
        """The standard error of sums over draws, (S, N) to (N): of means, S times the terms."""
        size = len(self)
        if size < 2:
            return torch.full((terms.shape[1],), math.nan, dtype=torch.float64)
        if self.chains == size or self.log_weights is not None:
            if 4 <= self.chains < size:  # islands of particles: those of one are not independent, the islands are
                terms = terms.unflatten(0, (self.chains, -1)).sum(1)
            return terms.square().sum(0).sqrt() * math.sqrt(len(terms) / (len(terms) - 1))
        by_chain = terms.unflatten(0, (self.chains, -1)).permute(2, 0, 1)  # (N, C, S / C)
        with np.errstate(invalid="ignore", divide="ignore"):
            effective = torch.from_numpy(effective_draws_of_each(by_chain.numpy()))
        return (size * terms.std(0)) / effective.sqrt()


def _spread(there: int, wanted: int) -> Tensor:
    """Numbers from 0 to ``there - 1``, evenly over them."""
    return torch.linspace(0, there - 1, wanted, dtype=torch.float64).round().long()


def global_draws(
    program: Program, kinds: Structure, x: Tensor, context: tuple[Any, ...], posterior: Any, verb: str
) -> GlobalDraws:
    """Draws of the global latent variables of a program, checked against its sites.

    From the guide they are drawn by the global generators. The program is in evaluation mode.

    Arguments:
        program: The program.
        kinds: What is known of its sites; some are global.
        x: Data for which the draws are to serve, with shape :math:`(N, *)`.
        context: What the model conditions on.
        posterior: The ``InferenceData`` of :func:`pyro_gen.posterior`; a mapping of draws by name of the site, each
            with shape :math:`(S, *site)`, taken for independent ones; or ``"guide"``.
        verb: What was called, for errors.

    Raises:
        ValueError: There are no draws of a site, or of one with another shape; the guide does not serve these rows.
    """
    if isinstance(posterior, str) and posterior != "guide":
        raise ValueError(
            f'{verb}(posterior={posterior!r}): give the result of pg.posterior, a mapping of draws by name, or "guide".'
        )
    if isinstance(posterior, str):
        return _of_guide(program, kinds, x, context)
    if isinstance(posterior, Mapping) and not hasattr(posterior, "posterior"):  # InferenceData is a mapping of groups
        found, chains, log_weights = _of_mapping(posterior, verb)
    else:
        found, chains, log_weights = _of_idata(posterior, kinds, verb)
    sites = latent_sites(trace_side(program, "model", x, *context))
    values = {}
    for name in kinds.global_:
        if name not in found:
            known = ", ".join(found) or "none"
            raise ValueError(
                f"{verb}: posterior= has no draws of '{name}', a global latent variable of {type(program).__name__} "
                f"(it has: {known}). Give the posterior of this program; a discrete variable that pg.posterior summed "
                'out is drawn by its method="gibbs".'
            )
        wanted, given = tuple(sites[name]["value"].shape), tuple(found[name].shape[1:])
        if given != wanted:
            raise ValueError(
                f"{verb}: posterior= has draws of '{name}' with shape {given}, and with these data {wanted} is its "
                "shape: it is a posterior of another program, or the variable grows with the data. Such data are "
                'predicted in one: give all rows at once, NaN where unknown, to pg.impute(method="hmc").'
            )
        values[name] = found[name].to(sites[name]["value"])
    return GlobalDraws(values, chains, log_weights)


def _of_mapping(posterior: Mapping[str, Any], verb: str) -> tuple[dict[str, Tensor], int, Tensor | None]:
    found = {name: torch.as_tensor(v) for name, v in posterior.items()}
    lengths = {len(v) if v.dim() else 0 for v in found.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"{verb}(posterior={{...}}): give draws of each variable with shape (S, ...), as many of each; their "
            f"shapes are {[tuple(v.shape) for v in found.values()]}."
        )
    return found, next(iter(lengths)), None


def _of_idata(posterior: Any, kinds: Structure, verb: str) -> tuple[dict[str, Tensor], int, Tensor | None]:
    group = getattr(posterior, "posterior", None)
    if group is None or not {"chain", "draw"} <= set(group.sizes):
        raise TypeError(
            f"{verb}(posterior={type(posterior).__name__}): give the InferenceData of pg.posterior, a mapping of draws "
            'by name of the site, or "guide".'
        )
    names = [name for name in group.data_vars if name in kinds.global_]
    arrays = {name: group[name].transpose("chain", "draw", ...).values for name in names or group.data_vars}
    values = {str(name): torch.tensor(v).flatten(0, 1) for name, v in arrays.items()}
    stats = getattr(posterior, "sample_stats", None)
    log_weights = None
    if stats is not None and "log_weight" in stats:
        weights = stats["log_weight"]
        if set(weights.dims) != {"chain", "draw"}:
            raise ValueError(f"{verb}: posterior= has weights per datum, so it is one of local latent variables alone.")
        log_weights = torch.tensor(weights.transpose("chain", "draw").values).double().flatten().log_softmax(0)
    return values, group.sizes["chain"], log_weights


def _of_guide(program: Program, kinds: Structure, x: Tensor, context: tuple[Any, ...]) -> GlobalDraws:
    if guide_obstacle(program, x, *context) == "other rows":
        raise not_amortised(program, len(x))

    def one(_: Tensor) -> dict[str, Tensor]:
        sites = latent_sites(trace_side(program, "guide", x, *context))
        if absent := [name for name in kinds.global_ if name not in sites]:
            raise ValueError(
                f"The guide of {type(program).__name__} does not sample the global latent variable '{absent[0]}': give "
                "posterior=, the result of pg.posterior, or the program a guide that does, by pg.with_guide."
            )
        return {name: sites[name]["value"] for name in kinds.global_ if not is_local(sites[name])}

    values = vmap_or_loop(one, torch.zeros(GUIDE_DRAWS), draws=True)
    return GlobalDraws(values, GUIDE_DRAWS)


class Given(Program):
    """A program with its global latent variables at given values: all that is left is local.

    Arguments:
        program: The program, which it shares.
        values: Values of the global latent sites by name.
    """

    def __init__(self, program: Program, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._adopt("_program", program)
        self._values = dict(values)
        self.event_shape = program.event_shape

    def check_inputs(self, x: Any, *context: Any) -> None:
        self._program.check_inputs(x, *context)

    def _with_values(self, side: str, *data: Any) -> Any:
        def is_given(msg: Any) -> bool:  # an autoguide draws an auxiliary variable beside it
            shared = msg["type"] == "sample" and msg["infer"].get("is_auxiliary") and not is_local(msg)
            return bool(msg["name"] in self._values or shared)

        program = self._modules["_program"]
        with pyro.poutine.block(hide_fn=is_given), fixed(self._values):
            return getattr(program, side)(*data)

    def model(self, x: Tensor, *context: Any) -> Any:
        return self._with_values("model", x, *context)

    def guide(self, x: Tensor, *context: Any) -> Any:
        return self._with_values("guide", x, *context)

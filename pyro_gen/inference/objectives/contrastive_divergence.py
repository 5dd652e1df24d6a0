r"""Contrastive divergence: the gradient of the likelihood, with draws of the model by a Markov chain.

With :math:`\log \tilde{p}(x) = \log p_0(x) - E(x)` the gradient of the log-likelihood of a datum is

.. math:: \nabla \log \tilde{p}(x) - \mathbb{E}_{y \sim p} \big[ \nabla \log \tilde{p}(y) \big] .

The draws y are the ends of chains of a few transitions: from the data themselves (Hinton, 2002), or from where the
chains were after the last step of training, since the model has moved little meanwhile (Tieleman, 2008). Of a datum
with missing entries, the first term is an expectation too, over chains that move these alone.
"""

from typing import Any

import torch
from torch import Tensor

from pyro_gen.density.energy import EnergyDensity, entries_of, sample_base, unnormalised_log_prob
from pyro_gen.density.inputs import rows_of
from pyro_gen.inference.mcmc.langevin import Langevin
from pyro_gen.inference.mcmc.sampler import Sampler
from pyro_gen.inference.mcmc.samplers import Kernel, make_sampler
from pyro_gen.inference.mcmc.single_site import SingleSiteGibbs
from pyro_gen.inference.objectives.base import Objective
from pyro_gen.observation import may_be_missing
from pyro_gen.program import Program, data_scale
from pyro_gen.registry import objective

__all__ = ["ContrastiveDivergence"]

CHAINS = 1000  # in the reservoir, by default


@objective
class ContrastiveDivergence(Objective):
    r"""The gradient of the likelihood of an unnormalised density, with draws by a Markov chain.

    The value of the loss is :math:`\log \tilde{p}` of the draws less that of the data, in nats: it is no bound, and
    where the fit is perfect it is about 0. What it is differentiated to is what counts.

    References:
        | Training Products of Experts by Minimizing Contrastive Divergence (Hinton, 2002)
        | https://doi.org/10.1162/089976602760128018
        | Training Restricted Boltzmann Machines using Approximations to the Likelihood Gradient (Tieleman, 2008)
        | https://doi.org/10.1145/1390156.1390290

    Arguments:
        steps: Transitions of a chain in each step of training. Their number is the bias: chains that start at the data
            do not see modes of the model that are far from them.
        persistent: Whether chains go on from step to step instead, and how many there are, 1000 if ``True``. They start
            at draws of the base distribution; each step of training moves as many of them as there are rows in the
            minibatch, chosen at random. They are kept in checkpoints. For programs without context.
        kernel: The transitions, as :func:`pyro_gen.inference.mcmc.make_sampler` takes them: the sampler is made for an
            :class:`~pyro_gen.density.energy.EnergyDensity`, in each step, and learns nothing. The default is the
            program's own :meth:`~pyro_gen.Program.kernel` where it has one, else
            :class:`~pyro_gen.inference.mcmc.langevin.Langevin` for real numbers, and
            :class:`~pyro_gen.inference.mcmc.single_site.SingleSiteGibbs` for entries of a few values each.
        sums: Whether missing entries of the data are summed out, by the program's
            :meth:`~pyro_gen.Program.log_sum`, in place of chains: of a deep Boltzmann machine with few units on top.

    Raises:
        ValueError: A number is not positive.
    """

    anneals = False
    kinds = ("unnormalised",)
    chains: Tensor | None

    def __init__(
        self, steps: int = 10, persistent: bool | int = False, kernel: Kernel | None = None, sums: bool = False
    ) -> None:
        super().__init__()
        for name, number in (("steps", steps), ("persistent", int(persistent))):
            if number < (name == "steps"):
                raise ValueError(f"{name}={number}: give a positive number.")
        self.steps, self.kernel, self.sums = steps, kernel, sums
        self.reservoir = CHAINS if persistent is True else int(persistent)
        self.register_buffer("chains", None)  # (M, *event), once they are there

    def prepare(self, program: Program, x: Tensor, *context: Any) -> None:
        """Starts the chains that persist, at draws of the base distribution.

        Arguments:
            program: The program.
            x: Some data, with shape :math:`(N, *)`.
            context: What the model conditions on.

        Raises:
            ValueError: There is a context, which chains would have to keep.
        """
        if not self.reservoir:
            return
        if context:
            raise ValueError(
                f"The chains of persistent={self.reservoir} would each need a context to keep, and "
                f"{type(program).__name__} has one for each datum: use persistent=False."
            )
        self.chains = sample_base(program, x.new_full((self.reservoir, *x.shape[1:]), torch.nan))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        chains = state_dict.get(f"{prefix}chains")
        if self.reservoir and chains is not None:  # of a run: there is room for them before they are copied
            self.chains = chains.clone()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def loss(self, program: Program, x: Tensor, *context: Any, kl_weight: Tensor | float = 1.0) -> Tensor:
        if self.reservoir and self.chains is None:
            self.prepare(program, x, *context)
        data, holes = x, may_be_missing(x)
        with torch.no_grad():
            if holes:
                data = sample_base(program, x, *context)
                if not self.sums:
                    data = self._moved(program, data, context, x.isnan())
            if self.chains is not None:
                chosen = torch.randperm(self.reservoir, device=x.device)[: len(x)]
                drawn = self._moved(program, self.chains[chosen], context)
                if self.training:
                    self.chains[chosen] = drawn
            else:
                drawn = self._moved(program, data, context)
        index = torch.arange(len(x), device=x.device).repeat(2)[: len(x) + len(drawn)]
        log_p = unnormalised_log_prob(program, torch.cat([data, drawn]), *rows_of(x, context, index))
        seen = program.log_sum(x, *context) if holes and self.sums else log_p[: len(x)]
        if seen is None:
            raise ValueError(
                f"ContrastiveDivergence(sums=True): this {type(program).__name__} does not know the sum over what is "
                "missing of these data, or it is too large: use sums=False, chains move it then."
            )
        return data_scale(x) * (len(x) * log_p[len(x) :].mean() - seen.sum())

    def _moved(self, program: Program, x: Tensor, context: tuple[Any, ...], moving: Tensor | None = None) -> Tensor:
        """Data after some transitions, of the entries that may move."""
        if self.kernel is None and program.has_kernel:
            free = torch.ones_like(x, dtype=torch.bool) if moving is None else moving
            for _ in range(self.steps):
                x = program.kernel(x.unsqueeze(0), free, 1.0, *context).squeeze(0)
            return x
        target = EnergyDensity(program, x, *context, moving=moving)
        sampler = self._sampler(target)
        z = x.flatten(1)
        if moving is not None:  # fixed entries have coordinates that nothing depends on
            z = torch.where(moving.flatten(1), z, torch.randn_like(z))
        state = sampler.init(z)
        for _ in range(self.steps):
            state, _ = sampler.step(state, None)
        return target.data(state.z).detach()

    def _sampler(self, target: EnergyDensity) -> Sampler:
        if self.kernel is not None:
            return make_sampler(self.kernel, target)
        entries = entries_of(target.program, target.x, *target.context)
        if entries.values is not None:
            return SingleSiteGibbs(target, entries.values)
        if not entries.real:
            raise ValueError(
                f"The base of {type(target.program).__name__} says neither that entries are any real numbers nor which "
                "values they take: give ContrastiveDivergence(kernel=...) that knows how they move."
            )
        return Langevin(target)

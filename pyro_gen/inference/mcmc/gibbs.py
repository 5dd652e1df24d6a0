r"""Gibbs sampling of blocks of sites, mixed with Hamiltonian Monte Carlo on the rest.

The density is made with ``hold``: the sites h that blocks update are held at values of their own for each chain, and
z is the rest. One transition updates each block in turn, and then z, each from or by a kernel that leaves invariant its
conditional

.. math:: p(h_b \mid h_{-b}, z, x) , \qquad p(z \mid h, x) ,

so that all together leave :math:`p(z, h \mid x)` invariant. A block is one of

- a function that draws from the conditional, exactly, for all chains at once;
- ``"enumerate"``, for a discrete site: with :math:`v_1, \dots, v_K` its possible values, an element e becomes
  :math:`v_k` with probability

  .. math:: \frac{p(h_e = v_k, h_{-e}, z, x)}{\sum_l p(h_e = v_l, h_{-e}, z, x)} .

The elements of a site inside of plates are usually independent given all else: the joint density is a product with one
factor for each of them. Then K evaluations of the factors update all elements at once. Whether it is so is not taken
on trust, since a model may couple the elements of a plate behind Pyro's back (by a sum, an index, or neighbours in a
factor): before the start random halves of the elements are changed in many chains, and no factor of the others may
move. If one does, and where elements are not in plates, they are updated one after another, by K evaluations each.

A discrete site that is not held is summed out, which mixes better wherever the sum can be done.

References:
    | Stochastic relaxation, Gibbs distributions, and the Bayesian restoration of images (Geman, Geman, 1984)
    | https://doi.org/10.1109/TPAMI.1984.4767596
    | Markov chains for exploring posterior distributions (Tierney, 1994)
    | https://doi.org/10.1214/aos/1176325750
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pyro_gen.density import Density, ProgramDensity
from pyro_gen.inference.mcmc import hmc
from pyro_gen.inference.mcmc.hmc import Evaluation, Point
from pyro_gen.inference.mcmc.sampler import HMC, Sampler

__all__ = ["Blocks", "Gibbs", "GibbsState", "held_names"]

Update = Callable[..., Mapping[str, Tensor]]
Blocks = Mapping[str | tuple[str, ...], Update | Literal["enumerate"]]

PROBES = 256  # chains in which elements of a site are changed to see if others depend on them
Values = dict[str, Tensor]


def held_names(blocks: Blocks) -> tuple[str, ...]:
    """The sites that blocks update: what to pass to :func:`pyro_gen.density.density` as ``hold``.

    Raises:
        TypeError: The blocks are no dictionary.
    """
    if not isinstance(blocks, Mapping):
        raise TypeError(
            f"blocks={blocks!r}: give a dictionary from sites to how they are updated, such as {{'z': 'enumerate'}}."
        )
    return tuple(name for key in blocks for name in _names(key))


def _names(key: str | tuple[str, ...]) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else tuple(key)


class GibbsState(NamedTuple):
    """Where the chains are.

    Attributes:
        z: Positions of the sites that are not held, with shape :math:`(C, *B, D)`.
        log_density: The joint log-densities, with shape :math:`(C, *B)`, in nats.
        held: Values of the held sites, in the order of ``density.hold``, each with shape :math:`(C, *B, *)`.
    """

    z: Tensor
    log_density: Tensor
    held: tuple[Tensor, ...]


class Gibbs(Sampler):
    r"""Gibbs sampling of blocks, mixed with adaptive Hamiltonian Monte Carlo on the rest.

    Arguments:
        density: A density with ``hold=held_names(blocks)``; all sites may be held.
        blocks: How to update which site, or sites together, in this order: ``"enumerate"``, or a function
            ``update(values, *data)`` that returns a dictionary of new values of just these sites. ``values`` has those
            of all latent and deterministic sites, each with shape :math:`(C, *B, *)` for C chains, and the function
            draws for all chains at once, by the global generator.
        options: Of :class:`pyro_gen.inference.mcmc.HMC`, for the rest.

    Raises:
        ValueError: Blocks and held sites do not match, a site cannot be enumerated, or an update returns what it
            should not.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyro_gen.density import density
        >>> from pyro_gen.inference.mcmc import run
        >>> def model(x):
        ...     weight = pyro.sample("weight", dist.Beta(2.0, 2.0))
        ...     loc = pyro.sample("loc", dist.Normal(0.0, 5.0))
        ...     with pyro.plate("data", len(x)):
        ...         outlier = pyro.sample("outlier", dist.Bernoulli(weight))
        ...         pyro.sample("x", dist.Normal(loc, 1 + 9 * outlier), obs=x)
        >>> blocks = {"outlier": "enumerate"}
        >>> target = density(model, torch.tensor([1.0, 0.5, 30.0]), hold=held_names(blocks))
        >>> samples = run(target, Gibbs, blocks=blocks, chains=64, warmup=100, draws=50)
        >>> samples.values["outlier"].shape, bool(samples.values["outlier"][..., 2].mean() > 0.99)
        (torch.Size([50, 64, 3]), True)
    """

    density: ProgramDensity

    def __init__(self, density: Density, *, blocks: Blocks, **options: Any) -> None:
        super().__init__(density)
        names = held_names(blocks)
        if not isinstance(density, ProgramDensity):
            raise ValueError("Gibbs sampling is for the density of a program: one of plain functions has no sites.")
        if sorted(names) != sorted(density.hold):
            raise ValueError(
                f"The blocks update the sites {sorted(names)}, and the density holds {sorted(density.hold)}: make it "
                "with hold=held_names(blocks)."
            )
        for key, update in blocks.items():
            if update == "enumerate":
                if len(_names(key)) > 1:
                    raise ValueError(f'The block {key} is to be enumerated: give each of its sites an "enumerate".')
                if density.held_sites[_names(key)[0]].support is None:
                    raise ValueError(f"The values of '{_names(key)[0]}' cannot be enumerated: give a function.")
            elif not callable(update):
                raise ValueError(f'The block {key} is {update!r}: give "enumerate" or a function.')
        self.blocks = dict(blocks)
        self.rest = HMC(density, **options)
        self.rest.target = self._target
        self._held: Values = {}
        self._independent: dict[str, bool] = {}

    def _target(self, z: Tensor) -> Evaluation:
        return *self.density.log_density_and_grad(z, held=self._held), ()

    def _point(self, z: Tensor) -> Point:
        """The chains given the values held now."""
        return hmc.init(z, self._target)

    def init(self, z: Tensor) -> GibbsState:
        self._held = self.density.draw_held(z)
        for key, update in self.blocks.items():
            name = _names(key)[0]
            if update == "enumerate":
                self._independent[name] = self._elements_are_independent(name, z)
        point = self.rest.init(z) if self.density.dim else self._point(z)
        return self._state(point)

    def place(self, z: Tensor) -> GibbsState:
        """With draws of the prior for the held sites."""
        self._held = self.density.draw_held(z)
        return self._state(self._point(z))

    def retempered(self, state: GibbsState) -> GibbsState:
        self._held = self.held(state)
        return self._state(self._point(state.z))

    def _state(self, point: Point) -> GibbsState:
        return GibbsState(point.z, point.log_density, tuple(self._held[name] for name in self.density.hold))

    def held(self, state: GibbsState) -> Values:
        return dict(zip(self.density.hold, state.held, strict=True))

    def step(self, state: GibbsState, progress: float | None) -> tuple[GibbsState, dict[str, Tensor]]:
        self._held = self.held(state)
        for key, update in self.blocks.items():
            if callable(update):
                self._held |= self._updated(key, update, state.z)
            else:
                self._enumerate(_names(key)[0], state.z)
        point = self._point(state.z)
        if not self.density.dim:
            return self._state(point), {"lp": point.log_density}
        point, figures = self.rest.step(point, progress)
        return self._state(point), figures

    def _updated(self, key: str | tuple[str, ...], update: Update, z: Tensor) -> Values:
        new = dict(update(self.density.constrain(z, held=self._held), *self.density.data))
        if sorted(new) != sorted(_names(key)):
            raise ValueError(f"The update of {sorted(_names(key))} returned values of {sorted(new)}.")
        for name, value in new.items():
            old = self._held[name]
            if value.shape != old.shape:
                raise ValueError(
                    f"The update of '{name}' returned values of shape {tuple(value.shape)}, where {tuple(old.shape)} "
                    "was expected: one for each chain."
                )
            new[name] = value.to(old)
        return new

    # Enumeration

    def _enumerate(self, name: str, z: Tensor) -> None:
        """Draws a discrete site from its conditional: element by element, but together where they are independent."""
        site = self.density.held_sites[name]
        batch = site.shape[: len(site.shape) - site.event_dim]
        together = self._independent[name]
        serial = [range(n) if not (together and d - len(batch) in site.plates) else None for d, n in enumerate(batch)]
        for place in itertools.product(*(s for s in serial if s is not None)):
            at = iter(place)
            index = tuple(slice(None) if s is None else next(at) for s in serial)
            candidates = self._candidates(name, index)
            log_weights = self._log_weights(name, z, candidates, together)
            # The largest of log-weights with Gumbel noise; where none is on the support, the element stays as it is.
            noise = torch.empty_like(log_weights).exponential_().clamp(min=1e-30).log()
            choice = (log_weights - noise).argmax(0)
            choice = torch.where((log_weights > -torch.inf).any(0), choice, len(log_weights))
            options = torch.cat([candidates, self._held[name].unsqueeze(0)])[self._at(index, 1)]
            choice = choice.reshape(choice.shape + (1,) * (options.dim() - 1 - choice.dim()))
            self._held[name] = self._held[name].clone()
            self._held[name][self._at(index)] = options.take_along_dim(choice.unsqueeze(0), 0).squeeze(0)

    def _at(self, index: tuple[Any, ...], leading: int = 0) -> tuple[Any, ...]:
        """An index of batch dimensions of a site, for a tensor with those of chains and data sets before them."""
        return (slice(None),) * (leading + 1 + len(self.density.batch_shape)) + index

    def _candidates(self, name: str, index: tuple[Any, ...]) -> Tensor:
        """The held values with each of the K possible ones at the index, with shape (K, C, *B, *)."""
        support = self.density.held_sites[name].support
        assert support is not None
        candidates = self._held[name].expand(len(support), *self._held[name].shape).clone()
        where = self._at(index, 1)
        shape = candidates[where].shape
        support = support.to(candidates)
        candidates[where] = support.reshape(
            len(support), *(1 for _ in range(len(shape) - support.dim())), *support.shape[1:]
        ).expand(shape)
        return candidates

    def _log_weights(self, name: str, z: Tensor, candidates: Tensor, together: bool) -> Tensor:
        """The joint log-density with each candidate, (K, C, *B), or its factors, (K, C, *B, *plates)."""
        count = len(candidates)

        def repeat(t: Tensor) -> Tensor:
            return t.expand(count, *t.shape).flatten(0, 1)

        held = {n: repeat(v) for n, v in self._held.items()} | {name: candidates.flatten(0, 1)}
        points = repeat(z)
        found = self._factors(name, points, held)[0] if together else self.density.log_density(points, held=held)
        log_weights: Tensor = torch.where(found.isnan(), -torch.inf, found).unflatten(0, (count, len(z)))
        return log_weights

    def _factors(self, name: str, z: Tensor, held: Values) -> tuple[Tensor, list[Tensor]]:
        """The factors of the joint density by element of the plates of a site, (C, *B, *plates), and all others.

        In nats. Plates of size 1 are left out of the shape.
        """
        site = self.density.held_sites[name]
        lead = 1 + len(self.density.batch_shape)
        batch = site.shape[: len(site.shape) - site.event_dim]
        sizes = [batch[p] for p in site.plates]
        factors, others = z.new_zeros(*z.shape[:-1], *sizes), []
        for log_prob in self.density.site_log_probs(z, held=held).values():
            own = range(-(log_prob.dim() - lead), 0)
            plates = [p + site.to_event for p in site.plates]
            if all(p in own and log_prob.shape[p] == n for p, n in zip(plates, sizes, strict=True)):
                beside = [d for d in own if d not in plates]
                factors = factors + (log_prob.sum(beside) if beside else log_prob)
            else:
                others.append(log_prob)
        return factors, others

    def _elements_are_independent(self, name: str, z: Tensor) -> bool:
        """Whether elements of the plates move no factor but their own: for many chains, half of them are changed.

        A random half, so that an element is changed and one that depends on it is not, in a quarter of the chains.
        """
        site = self.density.held_sites[name]
        assert site.support is not None
        if not site.plates:
            return False
        copies = math.ceil(PROBES / len(z))

        def repeat(t: Tensor) -> Tensor:
            return t.repeat(copies, *(1 for _ in t.shape[1:]))

        z, held = repeat(z), {n: repeat(v) for n, v in self._held.items()}
        values, support = held[name], site.support.to(held[name])
        batch = values.shape[: values.dim() - site.event_dim]
        own = range(len(site.shape) - site.event_dim)

        def any_values() -> Tensor:
            return support[torch.randint(len(support), batch, device=z.device)]

        def choose(shape: tuple[int, ...], a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            mask = torch.rand(shape, device=z.device) < 0.5
            return mask, torch.where(mask.reshape(shape + (1,) * site.event_dim), a, b)

        # From draws of the prior, which hold to what the model takes for possible, and from any others.
        _, values = choose((len(z), *(1 for _ in batch[1:])), values, any_values())
        elements = tuple(batch[d - len(own)] if d - len(own) in site.plates else 1 for d in own)
        half, changed = choose((*z.shape[:-1], *elements), any_values(), values)
        before, others = self._factors(name, z, held | {name: values})
        after, others_after = self._factors(name, z, held | {name: changed})
        after = torch.where(half.view_as(before), before, after)
        return all(_alike(a, b) for a, b in zip((before, *others), (after, *others_after), strict=True))

    def report(self) -> dict[str, Any]:
        return self.rest.report() if self.density.dim else {}

    def state_dict(self) -> dict[str, Any]:
        return self.rest.state_dict() if self.density.dim else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.density.dim:
            self.rest.load_state_dict(state)


def _alike(a: Tensor, b: Tensor) -> bool:
    # The same operations on the same numbers: at most the last bits differ, and no sum is there to hide the rest.
    return torch.allclose(a, b, rtol=4 * torch.finfo(a.dtype).eps, atol=0.0, equal_nan=True)

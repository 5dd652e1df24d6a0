r"""The contract: a generative program is a Pyro ``model``/``guide`` pair.

The model is the joint density of data and latent variables, the guide an approximation of the posterior,

.. math::
    p(x, z_{1:N}, w) = p(w) \prod_{n=1}^N p(z_n \mid w) \, p(x_n \mid z_n, w), \qquad
    q(z_{1:N}, w \mid x) \approx p(z_{1:N}, w \mid x) .

A latent variable inside the data plate is *local* (:math:`z_n`, one per datum), any other one is *global*
(:math:`w`). Everything else in this package -- training, likelihoods, generation, imputation -- is a function of such
a program, written once.

Parameters live on the module: a :class:`Program` is an ``nn.Module`` whose ``state_dict`` is the whole truth. Pyro's
global parameter store is never used.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Self

import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_gen._errors import AdviceError, shown
from pyro_gen._internals import own_modules, set_autoguide_model
from pyro_gen._random import exclusive, seeded
from pyro_gen.observation import called_with, missing_observed
from pyro_gen.parameters import ModuleParameters, Networks, OwnNetworks, standing_in
from pyro_gen.plates import DataPlates, data_scale, data_size, plate
from pyro_gen.traces import trace_pair

if TYPE_CHECKING:
    from pyro_gen.inference.objectives import Objective

__all__ = [
    "MissingParticles",
    "ModelGuide",
    "Program",
    "data_scale",
    "data_size",
    "fixed",
    "plate",
]


MissingParticles = Callable[[Tensor, tuple[Any, ...], int], tuple[Tensor, Tensor, Tensor]]
"""Makes particles of rows, see :meth:`Program.missing_particles`."""


class fixed(Messenger):
    """Effect handler: latent sites take the given values and stay latent (``condition`` would make them observed).

    Arguments:
        values: Values by site name; sites not named are sampled.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]


# ----------------------------------------------------------------------------------------------------------------------
# Program


def _advice_on_shape(given: tuple[int, ...], known: tuple[int, ...]) -> str:
    """What to do about data of one shape, where a datum has another."""
    if given == known:
        return ": of one datum give x[None]"
    if math.prod(given[1:]) == math.prod(known) and given[1:] != known:
        return f": give x.reshape{(given[0], *known)}"
    return ""


@contextmanager
def _local_parameters() -> Iterator[None]:
    with exclusive(), pyro.settings.context(module_local_params=True):
        yield


def _in_module_context(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``model`` or ``guide`` so that parameters and Bayesian weights are read from the module."""

    @functools.wraps(method)
    def wrapper(self: "Program", *args: Any, **kwargs: Any) -> Any:
        observing = missing_observed() if name == "model" else nullcontext()
        if name == "guide" and self.fill_missing is not None and self._reads_data() and isinstance(args[0], Tensor):
            args = (args[0].masked_fill(torch.isnan(args[0]), self.fill_missing), *args[1:])
        own = (_local_parameters(), self._pyro_context, OwnNetworks(self))
        with own[0], own[1], own[2], called_with(args), DataPlates(self, args), observing:
            return method(self, *args, **kwargs)

    return wrapper


class Program(PyroModule):
    """A generative model and its guide, as one module.

    Subclasses write :meth:`model` and, when there are latent variables, :meth:`guide` with the same arguments. Layers,
    ``nn.Parameter``, ``PyroParam`` and ``PyroSample`` attributes are set in ``__init__`` as in any Pyro module.

    Attributes:
        objective: What :func:`pyro_gen.fit` minimises by default, set in the class or on the instance; the ELBO where
            there is none.
        fill_missing: What the guide sees in the place of missing entries; ``None`` for NaN. The model sees NaN.
        event_shape: The shape of one datum, for generation; a mapping or a tuple of shapes where the data are several
            variables. :func:`pyro_gen.fit` sets it when the class does not.
        any_length: Whether data of any length are taken, which is the first size of ``event_shape``: sequences.
        hidden_variables: Of several variables the names of those that data may lack, the upper layers of a Boltzmann
            machine: nothing of them is ever observed.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> from pyro_gen import Program, observe
        >>> class Mean(Program):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.loc = torch.nn.Parameter(torch.zeros(2))
        ...     def model(self, x):
        ...         with self.plate(x):
        ...             return observe("x", dist.Normal(self.loc, 1.0).to_event(1), x)
        >>> Mean().model(torch.tensor([[0.5, torch.nan]])).shape
        torch.Size([1, 2])
    """

    objective: "Objective"  # no default here: a class attribute would hide the submodule that an assignment makes
    event_shape: Any = None
    any_length: bool = False
    hidden_variables: tuple[str, ...] = ()
    fill_missing: float | None = None

    def __init__(self) -> None:
        with _local_parameters():
            super().__init__()

    def _adopt(self, name: str, module: nn.Module) -> None:
        """Makes a module part of this one and leaves its sites their names, which PyroModule would change."""
        self._modules[name] = module
        self.__dict__.setdefault("_adopted", set()).add(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("model", "guide"):  # the method of the class would go before it without a word
            raise ValueError(
                f"self.{name} = {type(value).__name__}: {name} is a method of {type(self).__name__}. Another guide is "
                "given from outside: Program.from_functions(program.model, AutoNormal), or pg.with_guide(program, ...)."
            )
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_adopted", ()):
            return self._modules[name]
        if "_modules" not in self.__dict__ and not name.startswith("__"):
            raise AttributeError(
                f"{type(self).__name__} has no {name} yet: call super().__init__() first of all in its __init__."
            )
        return super().__getattr__(name)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("model", "guide"):
            owner = next(c for c in cls.__mro__ if name in c.__dict__)
            if owner is cls or not issubclass(owner, Program):  # class V(MyVAE, Program): that of MyVAE
                setattr(cls, name, _in_module_context(name, owner.__dict__[name]))

    @property
    def given_guide(self) -> Any:
        """The guide where it was given from outside, an autoguide or a :class:`ModelGuide` say; else ``None``."""
        return None

    def found_shape(self, event_shape: Any) -> None:
        """Takes the shape of some data for that of a datum to generate; data of other shapes are not refused for it.

        Arguments:
            event_shape: As the attribute.
        """
        self.event_shape = event_shape
        self.__dict__["_shape_found"] = True

    def check_inputs(self, x: Any, *context: Any) -> None:
        """Refuses data and context that the program does not take; what looks at data asks it before anything runs.

        This is for the number of things to condition on, by the arguments of :meth:`model`, and for the shape of a
        datum. Programs whose data or context have values of their own, labels say, override it.

        Arguments:
            x: The data, with shape :math:`(N, *)`, or several variables.
            context: What the model conditions on.

        Raises:
            ValueError: They do not fit; the error says what was given and what is expected.
        """
        self._check_number_of(context)
        if not isinstance(x, Tensor) or self.event_shape is None or self.__dict__.get("_shape_found"):
            return
        given, known = tuple(x.shape[1:]), tuple(self.event_shape)
        if given != known and not (self.any_length and len(given) == len(known) and given[1:] == known[1:]):
            sizes = ["T", *known[1:]] if self.any_length else known
            raise ValueError(
                f"{type(self).__name__} takes data of shape (N, {', '.join(map(str, sizes))}), and was given "
                f"{tuple(x.shape)}{_advice_on_shape(tuple(x.shape), known)}."
            )

    def _check_number_of(self, context: Sequence[Any]) -> None:
        arguments = inspect.signature(self._model_function).parameters.values()
        taken = [a for a in arguments if a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)][1:]  # after x
        needed = [a.name for a in taken if a.default is a.empty]
        any_number = any(a.kind is a.VAR_POSITIONAL for a in arguments)
        who = type(self).__name__
        if len(context) < len(needed):
            raise ValueError(
                f"{who} is conditional on {', '.join(needed)}, and was given {len(context) or 'no'} context: give each "
                "after the data, (x, ...) in training."
            )
        if len(context) > len(taken) and not any_number:
            takes = f"at most {len(taken)} ({', '.join(a.name for a in taken)})" if taken else "none"
            raise ValueError(
                f"{who} was given {len(context)} context beside the data and takes {takes}: leave it out, also of "
                "what a Dataset gives, or take a conditional program. Variables that are to be modelled together are "
                "one mapping of tensors by name."
            )

    @property
    def _model_function(self) -> Callable[..., Any]:
        """The function of data and context that :meth:`model` runs."""
        return self.model

    def model(self, x: Any, *context: Any) -> Any:
        """The generative story :math:`p(x, z, w)`.

        Arguments:
            x: The data, with shape :math:`(N, *)` and NaN where nothing was observed; several variables are a mapping
                or a tuple of such tensors, as they were given, each observed at a site of its own.
            context: What the model conditions on, each with shape :math:`(N, *)`.

        Returns:
            The data completed by :func:`pyro_gen.observe`, with the shape of ``x``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define model(self, x, *context).")

    def guide(self, x: Any, *context: Any) -> Any:
        """The approximate posterior :math:`q(z, w | x)`, with the arguments of :meth:`model`.

        The default is for models without latent variables.
        """

    def plate(self, x: Any, dim: int = -1) -> Any:
        """Creates the data plate of this program, see :func:`plate`."""
        return plate(x, dim)

    def _reads_data(self) -> bool:
        """Whether the guide computes from the data, and is none that runs the model to find its variables."""
        return not isinstance(self.given_guide, AutoGuide | ModelGuide)

    def marginal(self) -> "Program":
        r"""Returns a program of the same data without latent variables, :math:`p(x) = \int p(x, z) \, dz`.

        Programs whose latent variables integrate out in closed form override this; the returned program shares their
        parameters.

        Raises:
            ValueError: The marginal is not known in closed form.
        """
        raise AdviceError(
            f"{type(self).__name__} has latent variables and no closed-form marginal likelihood: "
            "estimate it with {method} where they are continuous, or {method_} with a guide that samples them.",
            method="ais",
            method_="iwae",
        )

    @property
    def has_kernel(self) -> bool:
        """Whether :meth:`kernel` moves the entries of this program; by default where its class defines one."""
        return type(self).kernel is not Program.kernel

    def kernel(self, x: Tensor, missing: Tensor, beta: float, *context: Any) -> Tensor:
        r"""Moves missing entries, for unnormalised programs that know a better way than entry by entry.

        Samplers of :func:`pyro_gen.sample`, :func:`pyro_gen.impute` and :func:`pyro_gen.log_partition` use it where a
        program has one, as the blocked Gibbs sampling of a Boltzmann machine.

        Arguments:
            x: Complete data of C chains, with shape :math:`(C, N, *)`.
            missing: Which entries of each datum are to be moved, with shape :math:`(N, *)`; others are left.
            beta: The inverse temperature: the move leaves base(x) exp(-beta E(x)) invariant, or what
                :meth:`tempered_factor` says.
            context: What the model conditions on.

        Returns:
            The data after the move, with shape :math:`(C, N, *)`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no kernel of its own.")

    def tempered_factor(self, x: Tensor, beta: float, *context: Any) -> Tensor:
        r"""The factor at an inverse temperature, for unnormalised programs whose kernel tempers more than a product.

        With hidden units summed out of :math:`E`, blocked Gibbs sampling by units that are tempered themselves leaves
        :math:`\mathrm{base}(x) \sum_h e^{-\beta E(x, h)}` invariant, and not a power of that sum.

        Arguments:
            x: Complete data, with shape :math:`(N, *)`.
            beta: The inverse temperature: at 0 the result is 0, at 1 the factor.
            context: What the model conditions on.

        Returns:
            :math:`\log f_\beta(x) - \log \mathrm{base}(x)` of the path along which :meth:`kernel` moves, with shape
            :math:`(N,)`, in nats.
        """
        raise NotImplementedError(f"{type(self).__name__} tempers its factor by a product.")

    def log_sum(self, x: Tensor, *context: Any) -> Tensor | None:
        r"""Sums the density over missing entries, for unnormalised programs that know how.

        :func:`pyro_gen.log_partition` and :func:`pyro_gen.log_likelihood` are then exact: with a Boltzmann machine of
        few hidden units, say, or a Markov random field on a graph of small width.

        Arguments:
            x: The data, with shape :math:`(N, *)` and NaN where missing.
            context: What the model conditions on.

        Returns:
            :math:`\log \sum \mathrm{base}(x) \, e^{-E(x)}` over the missing entries of each row, float64 with shape
            :math:`(N,)`, in nats; ``None`` where the sum is not known, or too large.
        """
        return None

    def draw_missing(self, x: Tensor, draws: int, *context: Any) -> Tensor | None:
        """Draws missing entries given the seen ones, for programs that know a way of their own to do so.

        :func:`pyro_gen.impute` takes it, and of unnormalised programs :func:`pyro_gen.sample`: no guide is asked and no
        chains run then. It draws by the global generator.

        Arguments:
            x: The data, with shape :math:`(N, *)` and NaN where missing.
            draws: The number S of draws of each row.
            context: What the model conditions on.

        Returns:
            Completed rows, with shape :math:`(S, N, *)`; ``None`` where this cannot be done.
        """
        return None

    def missing_particles(self, x: Tensor, *context: Any) -> MissingParticles | None:
        """How particles complete the rows of data, for programs that know a way along an order or a chain.

        :func:`pyro_gen.impute` draws by them, and :func:`pyro_gen.log_likelihood` has the likelihood of what is seen by
        their weights, see :mod:`pyro_gen.inference.likelihood.by_particles`.

        Arguments:
            x: The data, with shape :math:`(N, *)` and NaN where missing.
            context: What the model conditions on.

        Returns:
            A function of some rows, (n, *), a tuple of their context and the number S of particles of each. It draws
            by the global generator, and gives completed rows, (S, n, *), log-weights, float64 with shape (S, n), the
            mean of whose exponentials is an unbiased estimate of the density of what is seen, and how many particles
            of each row counted where fewest did, (n,). ``None`` where there is no such way.
        """
        return None

    def forward(self, method: str, *args: Any) -> Any:
        """Calls ``model`` or ``guide`` by name, so that ``torch.func.functional_call`` reaches both."""
        return getattr(self, method)(*args)

    def initialise(self, x: Any, *context: Any, seed: int = 0) -> Self:
        """Runs guide and model once, so that lazily created parameters exist (autoguides, plain functions).

        Arguments:
            x: Some data, with shape :math:`(N, *)`.
            context: What the model conditions on.
            seed: Seeds the draws of the run.

        Returns:
            The program itself.
        """
        with seeded(seed), torch.no_grad():
            trace_pair(self, x, *context)
        return self

    @staticmethod
    def from_functions(
        model: Callable[..., Any], guide: "Callable[..., Any] | type[AutoGuide] | None" = None
    ) -> "Program":
        """Creates a program from plain functions.

        Arguments:
            model: A function ``model(x, *context)`` with Pyro's primitives, or a module with methods ``model`` and
                ``guide``.
            guide: A function with the same arguments, a Pyro autoguide class or instance, a guide of
                :mod:`pyro_gen.inference.guides`, or ``None`` for a model without latent variables.

        Returns:
            A program that owns the parameters and networks of both functions (``pyro.param``, ``pyro.module``) from
            its first run on, those of the autoguide, and the module that a function is a method of. Copies have
            networks of their own.

        Example:
            >>> import pyro, torch
            >>> import pyro.distributions as dist
            >>> import pyro_gen as pg
            >>> def model(x):
            ...     loc = pyro.param("loc", torch.zeros(2))
            ...     with pg.plate(x):
            ...         return pg.observe("x", dist.Normal(loc, 1.0).to_event(1), x)
            >>> program = pg.Program.from_functions(model).initialise(torch.zeros(5, 2))
            >>> [tuple(p.shape) for p in program.parameters()]
            [(2,)]
        """
        if isinstance(model, nn.Module) and callable(own := getattr(model, "model", None)):
            guide = getattr(model, "guide", None) if guide is None else guide
            model = own
        if not callable(model) or not (guide is None or callable(guide)):
            raise TypeError(
                f"Program.from_functions({shown(model)}, {shown(guide)}): give a model function, and as a guide a "
                "function of the same arguments, a guide such as AutoNormal or MeanField(), or None."
            )
        return FunctionProgram(model, guide)


class ModelGuide(nn.Module):
    """A guide for any model: it runs the model to find the latent variables that it draws."""

    def forward(self, model: Callable[..., Any], x: Tensor, *context: Any) -> Any:
        """Draws the latent variables of a model, as sample sites of the same names.

        Arguments:
            model: The model, a function of the data and its context.
            x: The data, with shape :math:`(N, *)`.
            context: What the model conditions on.
        """
        raise NotImplementedError


class FunctionProgram(Program):
    """A program of plain functions, made by :meth:`Program.from_functions`."""

    def __init__(
        self, model: Callable[..., Any], guide: "Callable[..., Any] | type[AutoGuide] | AutoGuide | ModelGuide | None"
    ) -> None:
        super().__init__()
        self.params = nn.Module()
        self._networks = Networks()
        self._model = model
        if isinstance(owner := getattr(model, "__self__", None), nn.Module):
            self._adopt("_program", owner)
        if isinstance(guide, AutoGuide):
            if guide.prototype_trace is not None:
                raise ValueError(f"The {type(guide).__name__} has run before, outside of the program: give a new one.")
            for part in guide.modules():
                if isinstance(part, AutoGuide):  # its run of the model is to meet the parameters of this program
                    set_autoguide_model(part, (self._with_parameters(part.model),))
        elif isinstance(guide, type) and issubclass(guide, AutoGuide):
            guide = guide(self.model)
        elif isinstance(other := getattr(guide, "__self__", None), nn.Module) and other is not owner:
            self._adopt("_guide_program", other)
        self._guide: Any = guide

    @property
    def given_guide(self) -> Any:
        return self._guide

    @property
    def _model_function(self) -> Callable[..., Any]:
        return self._model

    @property
    def functions(self) -> list[Any]:
        """The model and, where there is one, the guide that it was made of."""
        return [function for function in (self._model, self._guide) if function is not None]

    @contextmanager
    def _parameters_of_functions(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name, network in own_modules(self.params).items():
                if network is not None and network is not self._networks[name]:
                    stack.enter_context(standing_in(network, self._networks[name]))
            stack.enter_context(ModuleParameters(self.params, self._networks, self))
            yield

    def _with_parameters(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any) -> Any:
            with _local_parameters(), self._pyro_context, self._parameters_of_functions():
                return function(*args)

        return wrapper

    def model(self, x: Tensor, *context: Any) -> Any:
        with self._parameters_of_functions():
            return self._model(x, *context)

    def guide(self, x: Tensor, *context: Any) -> Any:
        if isinstance(self._guide, AutoGuide):
            return self._guide(x, *context)
        if isinstance(self._guide, ModelGuide):
            return self._guide(self.model, x, *context)
        with self._parameters_of_functions():
            return None if self._guide is None else self._guide(x, *context)

r"""The posterior predictive distribution of new data.

.. math:: p(\tilde{x} \mid D) = \int p(\tilde{x} \mid w) \, p(w \mid D) \, dw ,

by draws of the global latent variables :math:`w`: for each of them new data, with local latent variables of their own.
What is seen of new data is kept, and what is missing of it is drawn given that and :math:`w_s`; it does not move
:math:`w`, which is known from D. For rows that shall, give them to :func:`pyro_gen.posterior` too.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_gen._random import seeded
from pyro_gen.density import any_missing, as_inputs, rows_of, sampling
from pyro_gen.density.finite import finite_sites
from pyro_gen.density.missing import latent_missing
from pyro_gen.inference.factors import refuse_data_factors
from pyro_gen.inference.global_draws import Given, GlobalDraws, global_draws
from pyro_gen.inference.likelihood.enumeration import probe
from pyro_gen.inference.likelihood_means import mean_of
from pyro_gen.inference.predicted_sites import leaves_outcome_out, predicted_sites
from pyro_gen.inference.predictive import impute, with_latents
from pyro_gen.inference.returned import require_completed
from pyro_gen.observation import assume_missing
from pyro_gen.packing import packs, unpacked_program
from pyro_gen.program import Program, fixed
from pyro_gen.traces import Structure, structure
from pyro_gen.variables import has_several

__all__ = ["predict"]

DRAWS, LOCAL_DRAWS = 1000, 100  # by default; where each draw of what is global has an inference of its own
RETURNS = ("draws", "mean", "inference_data")


@packs
def predict(
    program: Program | Callable[..., Any],
    x: Any = None,
    *context: Any,
    posterior: Any = "guide",
    draws: int | None = None,
    returns: str = "draws",
    coords: Mapping[str, Sequence[Any]] | None = None,
    seed: int = 0,
) -> Any:
    r"""Predicts new data by draws of the posterior predictive distribution.

    Arguments:
        program: The program that the posterior is of, or the plain Pyro model function.
        x: What is known of the new data: ``None`` for nothing, with as many rows as the context has; the number N of
            rows; or data with shape :math:`(N, *)` and NaN for what is to be predicted. A forecast of a series is what
            was seen of it with NaN behind. Several variables are a mapping or a tuple of such tensors. A plain model
            function in Pyro's order, ``model(covariates, outcome=None)``, is given what it takes: new covariates, and
            ``None`` for the outcome; the result is by name of the site where several are predicted.
        context: What the model conditions on, for the new data, each with shape :math:`(N, *)`.
        posterior: The ``InferenceData`` of :func:`pyro_gen.posterior`, a mapping of draws of the global latent
            variables by name, each with shape :math:`(S, *)`; or ``"guide"``, draws of the program's trained guide.
            Weighted draws are resampled.
        draws: The number S of draws of the new data: 1000, or 100 where something was seen of rows that have
            continuous local latent variables, which are then inferred for each draw.
        returns: ``"draws"``; ``"mean"``, the expectation, in which only the global latent variables are averaged over
            draws, where nothing was seen: an error smaller than that of a mean of draws; or ``"inference_data"``,
            draws in a group ``predictions``, to ``extend`` that of the posterior.
        coords: For ``"inference_data"``: labels by name of the dimension, of the rows, ``"data"``, say.
        seed: Seeds the draws; the caller's generators are left alone.

    Returns:
        Draws with shape :math:`(S, N, *)`, of several variables a mapping or a tuple of them; or their expectation
        with shape :math:`(N, *)`; or ``InferenceData``.

    Raises:
        ValueError: Nothing is to be predicted, or it is not known how many rows of which shape; the draws do not fit
            the program, or there are none.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> import pyro_gen as pg
        >>> def model(y, u):
        ...     slope = pyro.sample("slope", dist.Normal(0.0, 10.0))
        ...     with pg.plate(y):
        ...         return pg.observe("y", dist.Normal(slope * u, 0.1), y)
        >>> u = torch.linspace(-1, 1, 20)
        >>> idata = pg.posterior(model, 2 * u, u, progress=False)
        >>> new = torch.tensor([0.0, 3.0])
        >>> predict(model, None, new, posterior=idata).shape
        torch.Size([1000, 2])
        >>> mean = predict(model, None, new, posterior=idata, returns="mean")
        >>> bool((mean - torch.tensor([0.0, 6.0])).abs().max() < 0.05)
        True
    """
    if returns not in RETURNS:
        raise ValueError(f"predict(returns={returns!r}): choose one of {', '.join(RETURNS)}.")
    if draws is not None and draws < 1:
        raise ValueError(f"predict(draws={draws}): give a positive number.")
    if coords and returns != "inference_data":
        raise ValueError('predict(coords=...) labels InferenceData: give returns="inference_data".')
    if leaves_outcome_out(program, x, context):
        with seeded(seed):
            found = predicted_sites(program, (x, *context), posterior, draws or DRAWS, returns == "mean")
        return _of_sites(found, returns, coords)
    known: dict[str, Any] = {"posterior": posterior, "draws": draws, "returns": returns, "coords": coords, "seed": seed}
    if not isinstance(program, Program):
        return predict(Program.from_functions(program), x, *context, **known)
    _check_order(unpacked_program(program), x, context)
    x = _new_data(program, x, context, posterior)
    if has_several(x):
        return predict(program, x, *context, **known)
    x, *rest = as_inputs(program, x, *context)
    context = tuple(rest)
    if not bool(x.isnan().any()):
        raise ValueError(
            "predict: x has no NaN, so nothing of it is to be predicted: give None (or the number of rows) for x, and "
            "what the model conditions on behind it."
        )
    with (
        sampling(program, seed),
        latent_missing(program, x, *context),
    ):
        kinds = structure(program, x[:2], *rows_of(x, context, slice(2)))
        if kinds.kind == "unnormalised" and kinds.global_:
            refuse_data_factors(program, x, *context, verb="predict")
        if kinds.kind != "unnormalised" or kinds.global_:  # else chains complete the data by their density
            require_completed(program, x, context)
        drawn: Tensor | None = None
        if not kinds.global_:
            if not isinstance(posterior, str):
                raise ValueError(
                    f"predict: {type(program).__name__} has no global latent variable that a posterior could tell "
                    "of: leave posterior out."
                )
            mean = returns == "mean" and kinds.kind == "exact" and _unseen(x)
            drawn = None if mean else impute(program, x, *context, draws=draws or DRAWS, seed=seed)
            shared = GlobalDraws({"": torch.zeros(1)}, 1)
        else:
            shared = global_draws(program, kinds, x, context, posterior, "predict")
            # A missing covariate that the outcome depends on has no value in an expectation: it is drawn.
            mean = returns == "mean" and _unseen(x) and not any_missing(*context)
            drawn = None if mean else _draws(program, kinds, x, context, shared, draws, seed)
        if mean:
            return _expectation(program, x, context, shared.equal(draws or DRAWS) if kinds.global_ else shared)
    assert drawn is not None
    if returns == "mean":
        return torch.where(x.isnan(), drawn.double().mean(0).to(x.dtype), x)
    return drawn if returns == "draws" else _inference_data({"x": drawn}, coords)


def _check_order(program: Program, x: Any, context: tuple[Any, ...]) -> None:
    """Says how to call, where a model was given too little: the data come first, also where all are new."""
    signature = inspect.signature(getattr(program, "functions", [program.model])[0])
    try:
        signature.bind(x, *context)
    except TypeError as error:
        names = ", ".join(signature.parameters)
        others = "".join(f", {name}" for name in list(signature.parameters)[1:])
        raise ValueError(
            f"predict: the model takes ({names}), the data first, and was given {1 + len(context)} ({error}): for new "
            f"data it is predict(program, None{others}, posterior=...)."
        ) from None


def _new_data(program: Program, x: Any, context: tuple[Any, ...], posterior: Any) -> Any:
    if x is not None and (not isinstance(x, Integral) or isinstance(x, bool)):
        return x
    tensors = [c for c in context if hasattr(c, "shape") and len(c.shape)]
    if x is None and not tensors:
        raise ValueError("predict(x=None): the number of rows is that of the context, and there is none: give it as x.")
    if x is not None and x < 1:
        raise ValueError(f"predict(x={x}): the number of rows is a positive one.")
    shape = program.event_shape
    if shape is None:
        noted = getattr(getattr(posterior, "posterior", None), "attrs", {}).get("event_shape")
        shape = None if noted is None else json.loads(noted)
    if shape is None:
        raise ValueError(
            f"predict: {type(program).__name__} does not know the shape of one datum: set program.event_shape, or give "
            "x with shape (N, ...), NaN for what is to be predicted."
        )
    like = next((p for p in program.parameters() if p.is_floating_point()), torch.empty(0))
    rows = int(x) if x is not None else int(tensors[0].shape[0])

    def nothing(shape: Sequence[int]) -> Tensor:
        return torch.full((rows, *shape), torch.nan, dtype=like.dtype, device=like.device)

    if isinstance(shape, Mapping):
        return {name: nothing(each) for name, each in shape.items()}
    if any(not isinstance(each, int) for each in shape):
        return tuple(nothing(each) for each in shape)
    return nothing(shape)


def _unseen(x: Tensor) -> bool:
    return bool(x.isnan().all())


def _draws(
    program: Program,
    kinds: Structure,
    x: Tensor,
    context: tuple[Any, ...],
    shared: GlobalDraws,
    draws: int | None,
    seed: int,
) -> Tensor:
    """Completes the data at draws of the global latent variables, (S, N, *)."""
    continuous = set(kinds.local) - finite_sites(probe(program, x, *context)).keys()
    if not continuous or _unseen(x):
        return with_latents(program, x, context, shared.equal(draws or DRAWS).values)
    shared = shared.equal(draws or LOCAL_DRAWS)
    missing = x.isnan().flatten(1)
    partly = (missing.any(1) & ~missing.all(1)).nonzero()[:, 0]  # rows that tell of their local latent variables
    completed = with_latents(program, x, context, shared.values)
    y, of_y = x[partly], rows_of(x, context, partly)
    for s in range(len(shared)):
        given = Given(program, {name: v[s] for name, v in shared.values.items()}).eval()
        completed[s, partly] = impute(given, y, *of_y, draws=1, seed=seed + s)[0]
    return completed


def _expectation(program: Program, x: Tensor, context: tuple[Any, ...], shared: GlobalDraws) -> Tensor:
    total = torch.zeros_like(x, dtype=torch.float64)
    for s in range(len(shared)):
        with pyro.poutine.trace() as tape, fixed({n: v[s] for n, v in shared.values.items()}), assume_missing(False):
            program.model(x, *context)
        total += mean_of(program, tape.trace, x).double()
    return (total / len(shared)).to(x.dtype)


def _of_sites(found: Mapping[str, Tensor], returns: str, coords: Mapping[str, Sequence[Any]] | None) -> Any:
    if returns == "inference_data":
        return _inference_data(found, coords)
    out = {name: v.double().mean(0).to(v.dtype) for name, v in found.items()} if returns == "mean" else dict(found)
    return out if len(out) > 1 else next(iter(out.values()))


def _inference_data(drawn: Mapping[str, Tensor], coords: Mapping[str, Sequence[Any]] | None) -> Any:
    import arviz as az
    import xarray as xr

    variables: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for name, draws in drawn.items():
        dims = ["data", *(f"{name}_dim_{i}" for i in range(draws.dim() - 2))][: draws.dim() - 1]
        sizes |= dict(zip(dims, draws.shape[1:], strict=True))
        variables[name] = (("chain", "draw", *dims), draws.unsqueeze(0).cpu().numpy())
    for name, given in (coords or {}).items():
        if name not in sizes:
            raise ValueError(f"predict(coords): there is no dimension {name!r}: they are {', '.join(sizes)}.")
        if len(given) != sizes[name]:
            raise ValueError(f"predict(coords): {len(given)} labels for {name!r}, which is {sizes[name]} long.")
    labels = {name: range(size) for name, size in sizes.items()} | dict(coords or {})
    count = len(next(iter(drawn.values())))
    return az.InferenceData(predictions=xr.Dataset(variables, {"chain": [0], "draw": range(count), **labels}))

r"""Reference-based imputation: those who leave a trial go on as if they were in another arm.

Each row is a subject with measurements at visits :math:`1, \dots, D`, in arm a. In each arm they are normal,
:math:`x \sim \mathcal{N}(\mu_a, \Sigma_a)`, with a posterior over mean and covariance that is learnt from what was
observed in that arm, what is missing being missing at random. For a subject of arm a who was last seen at visit
:math:`l` each draw of the parameters, those of the reference arm r among them, makes a joint distribution of all
visits, before (b) and after (f) the last one seen:

.. math::
    \text{J2R, jump to reference:} \quad & \mu_b = \mu_{a,b}, \quad \mu_f = \mu_{r,f} \\
    \text{CIR, copy increments in reference:} \quad & \mu_b = \mu_{a,b}, \quad
        \mu_f = \mu_{a,l} + \mu_{r,f} - \mu_{r,l} \\
    \text{CR, copy reference:} \quad & \mu = \mu_r \\
    \text{MAR, missing at random:} \quad & \mu = \mu_a .

The covariance is :math:`\Sigma_r` in CR and :math:`\Sigma_a` in MAR. In J2R and CIR it is that of arm a before, with
the regression of what comes after on it, and the variance around that, of the reference arm,
:math:`G = R_{fb} R_{bb}^{-1}` with :math:`R = \Sigma_r`:

.. math::
    \Sigma_{bb} = \Sigma_{a,bb}, \qquad \Sigma_{fb} = G \, \Sigma_{a,bb}, \qquad
    \Sigma_{ff} = R_{ff} - G \, (R_{bb} - \Sigma_{a,bb}) \, G^\top .

What is missing is drawn from this distribution given what was observed in the row. Holes between visits that were
observed belong to what was before. Of a subject who was never seen, J2R, CIR and CR take the reference arm's whole
distribution. So the conditional mean after a J2R is :math:`\mu_{r,f} + G (x_b - \mu_{a,b})`, after a CR
:math:`\mu_{r,f} + G (x_b - \mu_{r,b})`: there subjects keep what they had gained.

Pooled by Rubin's rules, the standard error of a treatment effect is about what it would be with as much information
missing at random; over repeated trials the estimate varies less than that, since subjects of one arm borrow the mean
of the other (Cro et al., 2019).

References:
    | Analysis of longitudinal trials with protocol deviation: a framework for relevant, accessible assumptions, and
      inference via multiple imputation (Carpenter, Roger & Kenward, 2013)
    | https://doi.org/10.1080/10543406.2013.834911
    | Information-anchored sensitivity analysis: theory and application (Cro, Carpenter & Kenward, 2019)
    | https://arxiv.org/abs/1805.05795
    | rbmi: reference based multiple imputation, statistical specifications (Gower-Page, Noci & Wolbers, 2022)
    | https://doi.org/10.21105/joss.04251
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_gen._random import fork, seeded
from pyro_gen.data.column import Column
from pyro_gen.data.scaling import Scaling
from pyro_gen.data.schema import Schema
from pyro_gen.distributions.gaussian import draw_given
from pyro_gen.imputation.completed import Completed
from pyro_gen.models.tabular.gaussian import TableGaussian
from pyro_gen.models.tabular.parts.normal_posterior import normal_of_draw

__all__ = ["STRATEGIES", "adjusted", "impute_by_reference"]

STRATEGIES = ("J2R", "CR", "CIR", "MAR")
Moments = tuple[Tensor, Tensor]  # a mean (D) and a covariance (D, D)


def impute_by_reference(
    table: Any,
    visits: Sequence[str],
    *,
    arm: str,
    reference: Any,
    strategy: str | Mapping[Any, str] = "J2R",
    draws: int = 20,
    seed: int = 0,
    schema: Mapping[str, str | Column] | Schema | None = None,
) -> Completed:
    r"""Imputes the visits of a trial after dropout by the reference arm.

    Arguments:
        table: One row a subject: a data frame, or an array, whose columns are called x0, x1, ... What was observed
            after a deviation and is not to count has to be made missing before.
        visits: The columns of the measurements, in the order of time, a baseline first. They are real and in one unit,
            for increments to be comparable: take logarithms before where these are nearer to normal.
        arm: The column of the arms, without holes.
        reference: The reference arm, a value of that column. Its own subjects are imputed as missing at random.
        strategy: ``"J2R"``, ``"CIR"``, ``"CR"`` or ``"MAR"``; or one for each arm, by arm, ``"MAR"`` where none is
            given.
        draws: The number m of completed tables. There are 50 draws of the parameters; more tables share them.
        seed: Seeds all draws; the caller's generators are left alone.
        schema: The kinds of columns by name, where they are not to be read off the table; or a whole schema.

    Returns:
        The completed tables, ready for an analysis, such as ``.fit(ancova).pool()``, or for ``.delta`` besides.

    Raises:
        TypeError: If ``visits`` is one text.
        ValueError: If there is no such column, arm or strategy, a visit has no observed value in some arm or is of
            another kind, or a column that is no visit has holes; or there is to be no draw.

    Example:
        >>> import numpy as np, pandas as pd
        >>> rng = np.random.default_rng(0)
        >>> drug = np.repeat([0, 1], 200)
        >>> week4 = rng.normal(0, 1, 400) - 1 * drug
        >>> week8 = week4 + rng.normal(0, 0.5, 400) - 1 * drug
        >>> table = pd.DataFrame({"arm": np.where(drug, "drug", "placebo"), "week4": week4, "week8": week8})
        >>> table.loc[200:299, "week8"] = np.nan  # half of those on the drug leave
        >>> def effect(t):
        ...     return t.week8[t.arm == "drug"].mean() - t.week8[t.arm == "placebo"].mean(), 0.01
        >>> for strategy in ("MAR", "CIR", "J2R"):
        ...     completed = impute_by_reference(
        ...         table, ["week4", "week8"], arm="arm", reference="placebo", strategy=strategy
        ...     )
        ...     print(strategy, round(2 * float(completed.fit(effect).pool().qbar[0])) / 2)  # to a half
        MAR -2.0
        CIR -1.5
        J2R -1.0
    """
    if draws < 1:
        raise ValueError(f"impute_by_reference(draws={draws}): give a positive number.")
    if isinstance(visits, str):
        raise TypeError(f"visits={visits!r}: give a sequence of columns, such as [{visits!r}].")
    if not isinstance(schema, Schema):
        schema = Schema.infer(table, schema)
    visits = list(visits)
    index = _visits(schema, visits, arm)
    encoded = schema.encode(table)
    _check_holes(schema, encoded, visits, arm)
    arms = {level: code for code, level in enumerate(_column(schema, arm).levels)}
    if reference not in arms:
        raise ValueError(f"reference={reference!r}: no such arm; there are {_listed(arms)}.")
    strategies = {**_strategies(strategy, arms), reference: "MAR"}  # with itself all are the same
    group = encoded[:, schema.names.index(arm)]
    columns = Schema(tuple(schema.columns[i] for i in index))
    scaling = Scaling.fit(columns, encoded[:, index])
    x = scaling.forward(encoded[:, index])
    programs: dict[Any, TableGaussian] = {}
    state = seed
    for level, code in arms.items():
        state = fork(state)
        own = x[group == code]
        if empty := [name for name, column in zip(visits, own.T, strict=True) if bool(column.isnan().all())]:
            raise ValueError(f"arm {level!r} has no observed value at visit {_listed(empty)}: leave the visit out.")
        programs[level] = TableGaussian(scaling.columns).fit_posterior(own, seed=state)
    missing = encoded.isnan()
    cells = []
    with seeded(fork(state)), torch.no_grad():
        for s in programs[reference].draw_indices(draws):
            moments = {level: _moments(program, s, scaling) for level, program in programs.items()}
            complete = encoded.clone()
            for level, code in arms.items():
                rows = (group == code).nonzero()
                drawn = _complete(encoded[rows, index], moments[level], moments[reference], strategies[level])
                complete[rows, index] = drawn
            cells.append(complete[missing])
    info = {"method": "reference-based", "reference": reference, "strategy": strategies, "seed": seed}
    return Completed.from_cells(torch.stack(cells), missing, schema=schema, like=table, info=info)


def adjusted(strategy: str, own: Moments, reference: Moments, seen: int) -> Moments:
    r"""The distribution of all visits of a subject who was last seen at visit :math:`l`.

    Arguments:
        strategy: One of :data:`STRATEGIES`.
        own: Mean and covariance of the subject's arm, with shapes :math:`(D)` and :math:`(D, D)`.
        reference: The same of the reference arm.
        seen: The number l of visits up to the last one seen.

    Returns:
        Mean and covariance.

    Example:
        >>> eye = torch.eye(3)
        >>> own, reference = (torch.tensor([1.0, 3.0, 5.0]), eye), (torch.tensor([2.0, 6.0, 10.0]), eye)
        >>> [adjusted(name, own, reference, 1)[0].tolist() for name in STRATEGIES]
        [[1.0, 6.0, 10.0], [2.0, 6.0, 10.0], [1.0, 5.0, 9.0], [1.0, 3.0, 5.0]]
    """
    loc, covariance = own
    if strategy == "MAR" or seen == len(loc):
        return own
    if strategy == "CR" or seen == 0:
        return reference
    ref_loc, ref = reference
    step = loc[seen - 1] - ref_loc[seen - 1] if strategy == "CIR" else 0.0
    before = covariance[:seen, :seen]
    gain = torch.linalg.solve(ref[:seen, :seen], ref[:seen, seen:]).mT  # G
    across = gain @ before
    after = ref[seen:, seen:] - gain @ (ref[:seen, :seen] - before) @ gain.mT
    joint = torch.cat([torch.cat([before, across.mT], 1), torch.cat([across, after], 1)])
    return torch.cat([loc[:seen], ref_loc[seen:] + step]), joint


def _moments(program: TableGaussian, s: int, scaling: Scaling) -> Moments:
    """The s-th draw of mean and covariance, in the unit of the visits: standardised ones have no common increments."""
    loc, covariance = normal_of_draw(program.posterior_draws, s)
    scale = loc.new_tensor(scaling.scale)
    return loc * scale + loc.new_tensor(scaling.loc), covariance * scale * scale.unsqueeze(-1)


def _complete(x: Tensor, own: Moments, reference: Moments, strategy: str) -> Tensor:
    """Draws what is missing in rows (N, D) of one arm."""
    places = torch.arange(1, x.shape[1] + 1)
    last = torch.where(x.isnan(), 0, places).max(1).values
    noise = torch.randn_like(x)
    complete = x.clone()
    for seen in last.unique().tolist():
        rows = (last == seen).nonzero()[:, 0]
        complete[rows] = draw_given(x[rows], *adjusted(strategy, own, reference, seen), noise[rows])
    return complete


# ----------------------------------------------------------------------------------------------------------------------
# What the user gives


def _column(schema: Schema, name: str) -> Column:
    if name not in schema.names:
        raise ValueError(f"no column {name!r}; there are {_listed(schema.names)}.")
    return schema.columns[schema.names.index(name)]


def _visits(schema: Schema, visits: list[str], arm: str) -> list[int]:
    if not visits or len(set(visits)) < len(visits) or arm in visits:
        raise ValueError(
            f"visits={visits}: give columns in the order of time, each once, and without that of the arms."
        )
    for name in visits:
        if (kind := _column(schema, name).kind) != "real":
            raise ValueError(
                f"visit {name!r} is {kind}, and visits are normal: say schema={{{name!r}: 'real'}} if it is nearly so, "
                "else transform it before."
            )
    if not _column(schema, arm).discrete:
        raise ValueError(f"arm {arm!r} is {_column(schema, arm).kind}: say schema={{{arm!r}: 'nominal'}}.")
    return [schema.names.index(name) for name in visits]


def _check_holes(schema: Schema, encoded: Tensor, visits: list[str], arm: str) -> None:
    holes = [name for name, column in zip(schema.names, encoded.T, strict=True) if bool(column.isnan().any())]
    if arm in holes:
        raise ValueError(f"arm {arm!r} has missing entries: a subject without an arm cannot be imputed.")
    if others := [name for name in holes if name not in visits]:
        raise ValueError(
            f"{_listed(others)} has missing entries and is no visit: impute it before, or leave the column out."
        )


def _strategies(strategy: str | Mapping[Any, str], arms: Mapping[Any, int]) -> dict[Any, str]:
    if isinstance(strategy, str):
        found = dict.fromkeys(arms, strategy)
    else:
        if unknown := [level for level in strategy if level not in arms]:
            raise ValueError(f"strategy: no arm {_listed(unknown)}; there are {_listed(arms)}.")
        found = {level: strategy.get(level, "MAR") for level in arms}
    if wrong := [name for name in found.values() if name not in STRATEGIES]:
        raise ValueError(f"strategy={wrong[0]!r}: choose one of {', '.join(STRATEGIES)}.")
    return found


def _listed(things: Any) -> str:
    return ", ".join(map(repr, things))

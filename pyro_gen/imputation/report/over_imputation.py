"""Over-imputation: observed cells are hidden, and imputed, to see where they fall among their draws."""

from typing import TYPE_CHECKING, Any

import torch

from pyro_gen.imputation.amputation.columnwise import MCAR
from pyro_gen.imputation.amputation.holes import ampute
from pyro_gen.imputation.report.summary import spread_out
from pyro_gen.imputation.scores.calibration import pit

if TYPE_CHECKING:
    from pyro_gen.imputation.imputer import Imputer

__all__ = ["over_impute"]

IMPUTED_ROWS = 2000  # with hidden cells, that are imputed


def over_impute(
    imputer: "Imputer", table: Any, *, share: float = 0.1, draws: int = 99, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Hides observed cells, has them imputed by an imputer that never saw them, and looks where they fall.

    It needs no truth besides the table itself. It measures the draws for cells that could have been observed; those
    that are really missing may be different. What was chosen, the programs and their weights, is not chosen again: each
    program that was kept learns once, from the table without the hidden cells.

    Arguments:
        imputer: One that is fitted, and stays as it is.
        table: The table that it was fitted to.
        share: Of the observed cells, to hide.
        draws: The number of draws that hidden cells are compared with.
        seed: Seeds what is hidden.

    Returns:
        By column, of numbers or of ordered levels, ``pit``, where each hidden cell lies among its draws, from 0 to 1,
        see :func:`pyro_gen.imputation.scores.pit`, and ``coverage95``, the share of them that lie in the central 95%:
        what :func:`report` takes as ``calibration``. Among draws that are the same as it a cell lies anywhere, at
        random. So 95% is right for levels and counts too, whose intervals, ends included, hold more than they promise.
        Empty where the table is too small to hide a cell and learn from the others.

    Example:
        >>> import numpy as np
        >>> from pyro_gen.imputation.imputer import Imputer
        >>> x = np.random.default_rng(0).normal(size=(300, 2))
        >>> x[:30, 0] = np.nan
        >>> found = over_impute(Imputer("gaussian", random_state=0).fit(x), x)
        >>> 0.85 < found["x1"]["coverage95"] <= 1.0
        True
    """
    schema = imputer.schema_
    hollow = ampute(table, MCAR(share), seed=seed)
    truth, seen = schema.encode(table), ~schema.encode(hollow).isnan()
    rows = spread_out((~seen & ~truth.isnan()).any(1).nonzero()[:, 0].numpy(), IMPUTED_ROWS)
    if len(rows) == 0 or bool((seen.sum(0) == 0).any()):
        return {}
    learner = imputer.refit(hollow)
    part = hollow.iloc[rows] if hasattr(hollow, "iloc") else hollow[rows]
    completed = learner.impute(part, draws=draws)
    holes = torch.as_tensor(completed.missing)
    values = truth[rows][holes]  # NaN where nothing was hidden, as it was missing before
    drawn = torch.stack([completed.cells(k) for k in range(draws)])
    places = pit(drawn, values, seed=seed)
    owner = holes.nonzero()[:, 1]
    found: dict[str, dict[str, Any]] = {}
    for d, column in enumerate(schema.columns):
        mine = (owner == d) & ~values.isnan()
        if column.kind not in ("binary", "nominal") and bool(mine.any()):
            inside = (places[mine] - 0.5).abs() <= 0.475
            found[column.name] = {"coverage95": float(inside.double().mean()), "pit": places[mine].tolist()}
    return found

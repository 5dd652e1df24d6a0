r"""Classes of directed acyclic graphs that no complete data tell apart, as partially directed graphs; their distance.

Two graphs are equivalent if they have the same adjacencies and the same colliders :math:`i \to k \gets j` with i and j
not adjacent. The completed graph of a class has an arrow where all of its members agree, and a line elsewhere. An arrow
stays where turning it would make or unmake a collider (it is strongly protected). Where directions are known otherwise,
some agree by one rule more, the fourth of Meek's.

References:
    | A characterization of Markov equivalence classes for acyclic digraphs (Andersson et al., 1997)
    | https://doi.org/10.1214/aos/1031833662
    | Causal inference and causal explanation with background knowledge (Meek, 1995)
    | https://arxiv.org/abs/1302.4972
    | Characterization and greedy learning of interventional Markov equivalence classes (Hauser & Buhlmann, 2012)
    | https://www.jmlr.org/papers/v13/hauser12a.html
"""

import numpy as np
import numpy.typing as npt

__all__ = ["completed", "distance"]

Bools = npt.NDArray[np.bool_]


def completed(graphs: npt.ArrayLike, known: npt.ArrayLike | None = None) -> Bools:
    r"""The completed partially directed graph of each directed acyclic graph.

    Arguments:
        graphs: Whether there is an edge from i to j, with shape (\*, d, d).
        known: Pairs whose direction is told by more than such data, with shape (d, d): by rows in which one of the two
            was set by intervention, or by knowledge. Their arrows stay.

    Returns:
        The same with both directions of each line, (\*, d, d).

    Example:
        >>> chain = np.zeros((3, 3), dtype=bool)
        >>> chain[0, 1] = chain[1, 2] = True
        >>> completed(chain).astype(int)
        array([[0, 1, 0],
               [1, 0, 1],
               [0, 1, 0]])
    """
    given = np.asarray(graphs, dtype=bool)
    arrows = given.reshape(-1, *given.shape[-2:])
    near = arrows | arrows.swapaxes(1, 2)
    apart = ~near & ~np.eye(arrows.shape[-1], dtype=bool)
    told = arrows & (np.zeros(arrows.shape[1:], dtype=bool) if known is None else np.asarray(known, dtype=bool))
    while True:
        kept = told | _protected(arrows, near, apart)
        if (kept == arrows).all():
            break
        arrows = kept
    pattern: Bools = arrows | (near & ~arrows.swapaxes(1, 2))
    return pattern.reshape(given.shape)


def _protected(arrows: Bools, near: Bools, apart: Bools) -> Bools:
    """Which arrows a -> b are strongly protected where the rest of the adjacent pairs are lines, (G, d, d)."""
    a, n = arrows.astype(np.float32), apart.astype(np.float32)
    transposed = a.swapaxes(1, 2)
    before = transposed @ n > 0  # c -> a, c and b apart
    collider = n @ a > 0  # c -> b, c and a apart
    through = a @ a > 0  # a -> c -> b
    kept: Bools = arrows & (before | collider | through)
    lines = near & ~arrows & ~arrows.swapaxes(1, 2)
    g, i, j = np.nonzero(arrows & ~kept)
    for part in np.array_split(np.arange(len(g)), max(1, len(g) // 20000)):
        # a - c -> b and a - e -> b, c and e apart; or a - c -> e -> b, a and e adjacent, c and b apart (Meek)
        aside, into = lines[g[part], i[part]], arrows[g[part], :, j[part]]
        middle = (aside & into).astype(np.float32)
        pairs = np.einsum("ec,ecf,ef->e", middle, n[g[part]], middle, optimize=True)
        first = (aside & apart[g[part], :, j[part]]).astype(np.float32)
        second = (near[g[part], i[part]] & into).astype(np.float32)
        pairs += np.einsum("ec,ecf,ef->e", first, a[g[part]], second, optimize=True)
        kept[g[part], i[part], j[part]] = pairs > 0
    return kept


def distance(first: npt.ArrayLike, second: npt.ArrayLike) -> npt.NDArray[np.int64]:
    r"""The structural Hamming distance: pairs of nodes whose edges differ, an arrow against a line, or turned, as one.

    Arguments:
        first: Completed graphs, with shape (\*, d, d); :func:`completed` makes them.
        second: As many, or one.

    Returns:
        The numbers, (\*).
    """
    differ = np.asarray(first, dtype=bool) != np.asarray(second, dtype=bool)
    pairs: npt.NDArray[np.int64] = (differ | differ.swapaxes(-1, -2)).sum((-1, -2)) // 2
    return pairs

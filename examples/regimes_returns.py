"""Calm and turmoil in daily returns: hidden states with holidays as holes and with outliers, and how many there are.

The returns are simulated, so the truth is known: a market that is calm most of the time (standard deviation 1%) and now
and then turbulent (3%), with the heavy tails of Student's t, and a tenth of the days without a price. States that are
normal need a third one for the outliers; states that are Student-t do not.
"""

import numpy as np
import pandas as pd

import pyro_gen as pg
from pyro_gen.pictures import write


def returns(days: int, seed: int) -> tuple[pd.Series, np.ndarray]:
    """Returns in percent, by date, and the state of each day."""
    rng = np.random.default_rng(seed)
    state = np.zeros(days, dtype=int)
    for t in range(1, days):
        leaves = rng.random() < (0.02, 0.05)[state[t - 1]]
        state[t] = 1 - state[t - 1] if leaves else state[t - 1]
    x = np.array([1.0, 3.0])[state] * rng.standard_t(4, size=days) / np.sqrt(2)
    x[rng.random(days) < 0.1] = np.nan
    return pd.Series(x, index=pd.bdate_range("2023-01-02", periods=days), name="return"), state


def main() -> dict[str, float]:
    x, state = returns(300, seed=3)
    found = pg.structure.find_regimes(x, emission="student_t", max_states=3)
    print(found.summary())
    normal = pg.structure.find_regimes(x, max_states=3)

    spread = found.regimes_["scale of return"]
    turmoil = int(spread.argmax())
    probability = found.probabilities_[:, turmoil]
    print(f"saved {write(found.plot(), 'outputs/regimes_returns.png')}")
    numbers = {
        "probability_of_2": found.number_probabilities_[2],
        "its_error": found.number_errors_[2],
        "probability_of_2_if_normal": normal.number_probabilities_[2],
        "days_in_the_right_state": float(((probability > 0.5) == state).mean()),
        "brier_score": float(np.mean((probability - state) ** 2)),
        "scale_of_calm": spread.min(),
        "scale_of_turmoil": spread.max(),
        "r_hat": max(found.r_hat_.values()),
    }
    for name, value in numbers.items():
        print(f"{name} {value:.3f}")
    return numbers


if __name__ == "__main__":
    main()

r"""What a hidden Markov model emits in a state: laws by name, of D entries that are independent given the state.

===========  ==========================================================================================================
normal       :math:`x \sim \mathcal{N}(\mu_k, \sigma_k^2)`
student_t    :math:`x \sim t_\nu(\mu_k, \sigma_k)`, one :math:`\nu > 1` for all
poisson      :math:`x \sim \operatorname{Poisson}(e^{\lambda_k})`
categorical  :math:`x \sim \operatorname{Categorical}(\operatorname{softmax} \phi_k)`, levels 0, 1, ..., L - 1
===========  ==========================================================================================================

Of the first two, location and scale are about the mean of the data and in units of their standard deviation.
"""

__all__ = ["EMISSIONS", "check_emission"]

EMISSIONS = ("normal", "student_t", "poisson", "categorical")


def check_emission(name: str, emission: str, levels: int | None) -> None:
    """Refuses what is no emission, and numbers of levels that do not fit it; ``name`` is that of the class."""
    if emission not in EMISSIONS or (emission == "categorical") != (levels is not None):
        raise ValueError(
            f"{name}(emission={emission!r}, levels={levels}): choose one of {', '.join(EMISSIONS)}, and give "
            "the number of levels with categorical alone."
        )

"""A model zoo for probabilistic programming on Pyro: model/guide pairs, trained, measured and put to work.

Example:
    >>> import pyro_gen as pg
    >>> digits = pg.data.load("digits", transform=pg.data.Binarize(8))
    >>> vae = pg.models.VAE(digits.event_shape, latent=8)
    >>> result = pg.fit(vae, digits.train, epochs=2, progress=False)
    >>> pg.sample(vae, 3).shape
    torch.Size([3, 8, 8])
"""

import importlib
from typing import TYPE_CHECKING, Any

from pyro_gen._version import __version__

if TYPE_CHECKING:
    from pyro_gen import data, distributions, evaluation, heads, imputation, inference, models, structure, tasks, zoo
    from pyro_gen.evaluation.comparison import compare
    from pyro_gen.evaluation.conformance import check_program
    from pyro_gen.imputation import Imputer
    from pyro_gen.inference import (
        FitResult,
        LogLikelihood,
        arithmetic,
        bdmc,
        check_guide,
        diagnose,
        fit,
        impute,
        interpolate,
        latents,
        log_evidence,
        log_likelihood,
        log_partition,
        loo,
        posterior,
        predict,
        reconstruct,
        sample,
        sbc,
        with_guide,
        with_noise,
    )
    from pyro_gen.observation import observe
    from pyro_gen.program import Program, plate
    from pyro_gen.saving import load
    from pyro_gen.sequences import lengths, scan, steps

# Where each name lives. It is imported when it is first asked for, so that a script which only trains does not wait for
# pandas, scikit-learn and matplotlib.
_MODULES = {
    "pyro_gen.evaluation.comparison": ("compare",),
    "pyro_gen.evaluation.conformance": ("check_program",),
    "pyro_gen.imputation": ("Imputer",),
    "pyro_gen.inference": (
        *("FitResult", "LogLikelihood", "arithmetic", "bdmc", "check_guide", "diagnose", "fit", "impute"),
        *("interpolate", "latents"),
        *(
            "log_evidence",
            "log_likelihood",
            "log_partition",
            "loo",
            "posterior",
            "predict",
            "reconstruct",
            "sample",
            "sbc",
            "with_guide",
            "with_noise",
        ),
    ),
    "pyro_gen.observation": ("observe",),
    "pyro_gen.program": ("Program", "plate"),
    "pyro_gen.saving": ("load",),
    "pyro_gen.sequences": ("lengths", "scan", "steps"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
_PACKAGES = (
    *("data", "distributions", "evaluation", "heads", "imputation"),
    *("inference", "models", "structure", "tasks", "zoo"),
)

__all__ = [
    "FitResult",
    "Imputer",
    "LogLikelihood",
    "Program",
    "__version__",
    "arithmetic",
    "bdmc",
    "check_guide",
    "check_program",
    "compare",
    "data",
    "diagnose",
    "distributions",
    "evaluation",
    "fit",
    "heads",
    "imputation",
    "impute",
    "inference",
    "interpolate",
    "latents",
    "lengths",
    "load",
    "log_evidence",
    "log_likelihood",
    "log_partition",
    "loo",
    "models",
    "observe",
    "plate",
    "posterior",
    "predict",
    "reconstruct",
    "sample",
    "sbc",
    "scan",
    "steps",
    "structure",
    "tasks",
    "with_guide",
    "with_noise",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"pyro_gen.{name}")
    if name in _HOMES:
        value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return value
    raise AttributeError(f"module 'pyro_gen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

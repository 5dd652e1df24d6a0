"""A model zoo for probabilistic programming on Pyro: model/guide pairs, trained, measured and put to work.

Example:
    >>> import pyro_gen as pg
    >>> digits = pg.data.load("digits", transform=pg.data.Binarize(8))
    >>> vae = pg.models.VAE(digits.event_shape, latent=8)
    >>> result = pg.fit(vae, digits.train, epochs=2, progress=False)
    >>> pg.sample(vae, 3).shape
    torch.Size([3, 8, 8])
"""

from pyro_gen import data, distributions, evaluation, imputation, inference, models, zoo
from pyro_gen._version import __version__
from pyro_gen.evaluation.conformance import check_program
from pyro_gen.imputation import Imputer
from pyro_gen.inference import (
    FitResult,
    LogLikelihood,
    bdmc,
    check_guide,
    diagnose,
    fit,
    impute,
    log_evidence,
    log_likelihood,
    posterior,
    reconstruct,
    sample,
    sbc,
    with_guide,
)
from pyro_gen.likelihoods import observe
from pyro_gen.program import Program, plate
from pyro_gen.targets import load

__all__ = [
    "FitResult",
    "Imputer",
    "LogLikelihood",
    "Program",
    "__version__",
    "bdmc",
    "check_guide",
    "check_program",
    "data",
    "diagnose",
    "distributions",
    "evaluation",
    "fit",
    "imputation",
    "impute",
    "inference",
    "load",
    "log_evidence",
    "log_likelihood",
    "models",
    "observe",
    "plate",
    "posterior",
    "reconstruct",
    "sample",
    "sbc",
    "with_guide",
    "zoo",
]

"""Inference for any program: training, likelihoods and evidence, posteriors, calibration, generation."""

from pyro_gen.inference import guides, mcmc
from pyro_gen.inference.arithmetic import arithmetic
from pyro_gen.inference.calibration import Calibration, sbc
from pyro_gen.inference.diagnose import Diagnosis, diagnose, summary
from pyro_gen.inference.guides import GuideReport, check_guide, with_guide
from pyro_gen.inference.interpolation import interpolate
from pyro_gen.inference.latents import Latents, latents
from pyro_gen.inference.likelihood.api import log_likelihood
from pyro_gen.inference.likelihood.bdmc import bdmc
from pyro_gen.inference.likelihood.evidence import log_evidence
from pyro_gen.inference.likelihood.held_out import loo
from pyro_gen.inference.likelihood.partition import log_partition
from pyro_gen.inference.likelihood.result import LogLikelihood
from pyro_gen.inference.noise import with_noise
from pyro_gen.inference.objectives import (
    ELBO,
    IWAE,
    MMD,
    VIMCO,
    Adversarial,
    BetaTCVAE,
    ContrastiveDivergence,
    CycleConsistent,
    DiffusionELBO,
    DReG,
    EnumELBO,
    ExactLikelihood,
    FactorVAE,
    InfoVAE,
    LeaveOneOut,
    NoiseContrastive,
    Objective,
    OneOrder,
    Player,
    PseudoLikelihood,
    RelaxedELBO,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunctionELBO,
    ScoreMatching,
    SemiSupervisedELBO,
    Sinkhorn,
    WakeSleep,
    WassersteinAutoencoder,
)
from pyro_gen.inference.posterior import posterior
from pyro_gen.inference.predict import predict
from pyro_gen.inference.predictive import impute, reconstruct, sample
from pyro_gen.inference.svi import FitResult, NonFiniteLossError, fit

__all__ = [
    "ELBO",
    "IWAE",
    "MMD",
    "VIMCO",
    "Adversarial",
    "BetaTCVAE",
    "Calibration",
    "ContrastiveDivergence",
    "CycleConsistent",
    "DReG",
    "Diagnosis",
    "DiffusionELBO",
    "EnumELBO",
    "ExactLikelihood",
    "FactorVAE",
    "FitResult",
    "GuideReport",
    "InfoVAE",
    "Latents",
    "LeaveOneOut",
    "LogLikelihood",
    "NoiseContrastive",
    "NonFiniteLossError",
    "Objective",
    "OneOrder",
    "Player",
    "PseudoLikelihood",
    "RelaxedELBO",
    "Renyi",
    "ReweightedWakeSleep",
    "ScoreFunctionELBO",
    "ScoreMatching",
    "SemiSupervisedELBO",
    "Sinkhorn",
    "WakeSleep",
    "WassersteinAutoencoder",
    "arithmetic",
    "bdmc",
    "check_guide",
    "diagnose",
    "fit",
    "guides",
    "impute",
    "interpolate",
    "latents",
    "log_evidence",
    "log_likelihood",
    "log_partition",
    "loo",
    "mcmc",
    "posterior",
    "predict",
    "reconstruct",
    "sample",
    "sbc",
    "summary",
    "with_guide",
    "with_noise",
]

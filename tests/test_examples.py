"""Every example runs, and its numbers are what they should be."""

import importlib.util
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

# Bounds on the numbers each example returns. Seeds are fixed; the bounds leave room for other versions of torch.
EXPECTED: dict[str, dict[str, tuple[float, float]]] = {
    "bayesian_network_query": {
        "lung_given_breath": (0.1027, 0.1029),  # exact, as in pgmpy
        "lung_given_all": (0.578, 0.58),
        "tub_given_all": (0.289, 0.291),
        "smoker_seen": (0.909, 0.9092),  # 10/11
        "smoker_done": (0.4999, 0.5001),
        "lost_by_holes": (0.0, 0.01),
        "lost_by_complete_rows": (0.01, 0.03),
    },
    "clusters_wine": {
        "probability_of_3": (0.95, 1.0),
        "rand_index": (0.93, 1.0),
        "expected_loss": (0.05, 0.3),
        "probability_of_3_with_holes": (0.8, 1.0),
        "rand_index_with_holes": (0.8, 1.0),
        "rand_index_of_rival": (0.3, 0.65),
    },
    "communities_karate": {
        "clubs_right_of_34": (32, 32),
        "profile_log_likelihood": (-739.4, -739.38),
        "probability_of_one_group": (0.45, 0.7),  # .58 by long chains
        "probability_of_two": (0.25, 0.45),
        "description_length": (222.89, 222.8903),
        "davis_two": (0.97, 1.0),
        "davis_wrong": (0, 0),
        "auroc_of_hidden_edges": (0.92, 0.96),
        "auroc_of_common_neighbours": (0.94, 0.95),
    },
    "ising": {
        "hot_energy": (0.86, 0.9),  # exactly 0.8775
        "hot_z": (-4.0, 4.0),
        "critical_energy": (1.38, 1.46),
        "critical_z": (-4.0, 4.0),
        "cold_energy": (1.73, 1.76),
        "cold_z": (-4.0, 4.0),
        "log_z_off": (-0.25, 0.25),
        "log_z_error": (0.0, 0.1),
        "ess": (32, 128),
        "filled_right": (0.85, 1.0),
    },
    "rbm_digits": {
        "log_likelihood": (-19.0, -18.2),
        "independent_pixels": (-25.6, -25.0),
        "log_z_off": (-0.1, 0.1),
        "gap": (-0.15, 0.15),
        "pixels_right": (0.75, 0.9),
        "pixels_right_by_chance": (0.6, 0.75),
    },
    "regimes_nile": {
        "year": (1899, 1899),
        "probability": (0.73, 0.77),
        "one_change": (0.69, 0.73),
        "year_with_holes": (1897, 1901),
        "one_change_with_holes": (0.45, 0.65),
        "year_of_states": (1897, 1901),
        "level_in_1980": (798.2, 798.6),  # Durbin & Koopman's forecast
        "its_deviation": (136.0, 138.0),
    },
    "regimes_returns": {
        "probability_of_2": (0.7, 0.99),
        "its_error": (0.0, 0.15),
        "probability_of_2_if_normal": (0.1, 0.6),
        "days_in_the_right_state": (0.84, 0.91),
        "brier_score": (0.07, 0.11),
        "scale_of_calm": (0.65, 0.95),  # that of the simulation is .71
        "scale_of_turmoil": (1.5, 2.0),  # 2.12
        "r_hat": (0.9, 1.1),
    },
    "compare_regressions": {
        "evidence_of_all": (93.0, 97.0),
        "loo_of_all": (0.33, 0.36),
        "loo_minus_held_out": (0.12, 0.2),
        "weight_of_nothing": (0.0, 0.01),
        "effective_parameters": (9.5, 12.5),
        "influential": (0, 0),
    },
    "custom_program": {
        "failures": (0, 0),
        "untrained": (-60.0, -40.0),
        "trained": (-21.8, -20.5),  # independent pixels have -25.3
    },
    "deep_markov_music": {
        "nats_per_step": (2.9, 3.9),  # without latent variables 2.5
        "exact_law": (3.91, 3.93),
        "off_next_step": (0.0, 0.25),
        "off_last_step": (0.1, 0.5),
        "coverage_of_90": (0.65, 0.95),
    },
    "diffusion_digits": {
        "bits_per_dim": (2.0, 2.15),  # the bound
        "bits_of_independent": (2.43, 2.44),
        "pixels_right": (0.75, 0.9),
        "pixels_right_by_chance": (0.65, 0.8),
    },
    "discrete_latents": {
        "score_function": (-19.4, -18.2),
        "awake": (-18.4, -17.4),
        "awake_and_asleep": (-18.5, -17.5),
    },
    "eight_schools": {
        "centred_problems": (1, 6),
        "non_centred_problems": (0, 0),
        "centred_bfmi": (0.05, 0.3),
        "non_centred_bfmi": (0.85, 1.1),
        "centred_log_evidence": (-31.7, -31.0),  # by quadrature -31.3
        "non_centred_log_evidence": (-31.7, -31.0),
        "evidence_z": (-5.0, 5.0),
        "mu": (4.2, 4.6),  # posteriordb has 4.41
        "tau": (3.4, 3.8),  # posteriordb has 3.60
    },
    "custom_imputation": {
        "missing_hours": (0.3, 0.7),
        "slope": (1.3, 1.75),
        "standard_error": (0.06, 0.16),
        "slope_of_complete_rows": (1.2, 1.5),
        "covers": (1, 1),
    },
    "energy_2d": {
        "energy_based": (-1.15, -0.95),
        "standard_error": (0.0, 0.03),
        "gaussian": (-1.93, -1.91),
        "log_z_off": (-0.06, 0.06),  # of the sum over a grid
        "gap": (-0.08, 0.08),
        "mean_off": (0.0, 0.12),
        "upper_share": (0.3, 0.7),
        "upper_share_of_grid": (0.3, 0.7),
    },
    "energy_digits": {
        "log_likelihood": (-20.3, -18.6),
        "gap": (-0.3, 0.3),
        "independent_pixels": (-25.4, -25.1),
        "pixels_right": (0.74, 0.88),
        "pixels_right_by_chance": (0.6, 0.75),
    },
    "joint_energy": {
        "accuracy": (0.95, 1.0),
        "auroc_of_unseen_digits": (0.88, 0.98),  # with 1 and 7 left out .92, with 3 and 8 .92
        "drawn_digits_recognised": (0.85, 1.0),
        "sure_of_seen": (0.97, 1.0),
        "sure_of_unseen": (0.8, 0.96),
    },
    "evidence_model_choice": {
        "degree": (3, 3),
        "log_bayes_factor_3_to_2": (10.6, 11.6),  # exact: 11.07
        "log_bayes_factor_3_to_5": (3.0, 4.3),  # exact: 3.66
        "largest_z": (0.0, 6.0),  # of 12 estimates, half of them with 7 degrees of freedom
    },
    "factor_analysis": {
        "factors": (2, 8),
        "validation": (-12.3, -11.4),  # one factor has -12.4
        "test": (-16.7, -15.4),  # a full Gaussian, fitted without holes, has -15.9
        "rmse": (0.6, 0.85),  # in standard deviations
        "rmse_of_the_mean": (0.95, 1.05),
        "coverage_90": (0.82, 0.95),
    },
    "flow_density": {  # in nats; the entries are not independent, and the gaussian is full
        "affine": (-1.6, -1.1),
        "affine_integral": (0.98, 1.01),
        "spline": (-1.25, -0.9),
        "spline_integral": (0.98, 1.01),
        "continuous": (-1.3, -0.9),
        "continuous_integral": (0.98, 1.01),
        "gaussian": (-1.93, -1.91),
    },
    "flow_guide": {
        "khat_mean_field": (0.7, 2.0),
        "khat_flow": (-1.0, 0.7),
        "gap_mean_field": (0.5, 1.2),
        "gap_flow": (-0.1, 0.1),
    },
    "forecast_co2": {
        "crps": (0.33, 0.38),  # parts per million; statsmodels' maximum, trained on the same years, has 0.363
        "crps_seasonal_naive": (0.44, 0.46),
        "log_density": (-0.97, -0.88),  # nats a month; statsmodels' -0.959
        "log_density_seasonal_naive": (-1.29, -1.25),
        "joint_log_density": (-0.32, -0.2),
        "coverage_90": (0.75, 0.95),  # variances are those of the maximum; statsmodels' 0.82
        "coverage_90_decade": (0.8, 1.0),
    },
    "forecast_sunspots": {  # nats a year; of nominally 80% of the years
        "nats_per_year_of_autoregression": (-4.5, -4.38),
        "nats_per_year_of_WaveNet": (-4.35, -4.05),
        "coverage_of_autoregression": (0.67, 0.87),
        "coverage_of_WaveNet": (0.48, 0.78),
    },
    "gan_digits": {
        "as_asked": (0.85, 1.0),  # real digits 0.98
        "translated": (0.9, 1.0),
    },
    "gan_modes": {
        "ring_modes": (8, 8),
        "ring_good": (0.85, 0.99),  # of the mixture itself 0.989
        "grid_modes": (23, 25),
        "grid_good": (0.55, 0.99),
        "grid_log_likelihood": (-3.0, 0.0),  # under the same noise the mixture itself has -0.26
    },
    "graph_of_cells": {
        "auroc_of_edges": (0.99, 1.0),
        "distance": (0, 1),
        "expected_distance": (0.0, 1.0),
        "edges_of_no_direction": (16, 17),
        "direction_of_edges_that_were_acted_on": (0.95, 1.0),
        "the_same_without": (0.4, 0.8),
        "edges_of_no_direction_left": (0, 1),
    },
    "hierarchical_schools": {
        "pooled": (-1.2, -1.16),
        "partial": (-1.16, -1.12),
        "gain_on_pooled": (0.02, 0.06),  # three standard errors over 0
        "gain_on_apart": (0.0, 0.03),
        "gain_on_apart_small": (0.05, 0.2),
        "tau": (0.22, 0.35),
    },
    "hierarchical_vae": {
        "ELBO: log p": (-25.6, -20.0),  # independent pixels have -25.3: no layer is used
        "ELBO: upper": (0.0, 0.3),
        "free bits: log p": (-19.3, -17.9),
        "free bits: upper": (1.0, 3.0),
        "DReG: log p": (-18.8, -17.6),
        "DReG: upper": (0.0, 2.0),
    },
    "impute_images": {
        "half_log_loss": (0.22, 0.32),
        "half_log_loss_of_frequencies": (0.37, 0.42),
        "half_brier": (0.065, 0.1),
        "half_calibration_error": (0.0, 0.05),
        "lower_log_loss": (0.26, 0.36),
        "lower_log_loss_of_frequencies": (0.37, 0.42),
        "lower_brier": (0.08, 0.115),
        "lower_calibration_error": (0.0, 0.05),
    },
    "impute_table": {
        "rows_without_holes": (552, 552),
        "selfLR_truth": (0.972, 0.974),
        "selfLR_pooled": (0.86, 0.98),
        "selfLR_pooled_error": (0.04, 0.065),
        "selfLR_rows_without_holes": (0.494, 0.496),  # eleven of its standard errors off
        "selfLR_missing_information": (0.2, 0.4),
        "income_truth": (0.07, 0.071),
        "income_pooled": (0.05, 0.085),
        "income_rows_without_holes": (0.034, 0.035),
    },
    "impute_time_series": {
        "hidden": (155, 155),
        "rmse": (0.34, 0.43),
        "rmse_linear": (0.523, 0.525),
        "rmse_kalman": (0.35, 0.39),  # of statsmodels
        "crps": (0.18, 0.24),
        "crps_linear": (0.403, 0.405),
        "coverage_90": (0.82, 0.97),
    },
    "conditional_inpainting": {
        "conditional_vae": (-15.0, -13.4),
        "plain_network": (-17.0, -15.3),
        "vae": (-15.3, -13.6),
    },
    "pixel_cnn_digits": {
        "log_likelihood": (-15.0, -13.7),
        "lower_half": (-7.3, -6.0),
        "accuracy": (0.92, 0.98),
    },
    "label_latents": {
        "accuracy": (0.68, 0.88),
        "relabelled": (0.95, 1.0),
        "spread": (0.03, 0.15),  # 0.002 with ten characteristics and without free bits: no style
    },
    "latent_arithmetic": {
        "before": (1.4, 2.4),  # distances of the mean threes to the mean eight
        "half_way": (0.9, 1.9),
        "after": (0.5, 1.3),
    },
    "mnar": {
        "rmse_mean": (1.796, 1.797),
        "rmse_random": (0.85, 1.1),
        "rmse_selection": (0.5, 0.85),
        "mean_random": (-0.45, -0.3),  # the truth: 0
        "mean_selection": (-0.3, 0.0),
        "tipping_shift": (0.4, 0.75),
        "true_shift": (0.65, 0.9),
        "doubtful_low": (-1.0, -0.3),
        "doubtful_high": (0.3, 1.5),
    },
    "predict_regression": {
        "gain_left_out": (0.05, 0.12),
        "gain_held_out": (0.12, 0.21),
        "coverage_gaussian": (0.88, 0.96),
        "coverage_student": (0.88, 0.96),
        "largest_khat": (-0.5, 0.7),
    },
    "score_sde_2d": {
        "log_likelihood": (0.6, 1.1),  # the mixture itself has 1.075
        "flow": (0.9, 0.995),  # of the mixture itself 0.989
        "euler-maruyama": (0.93, 0.998),
        "predictor-corrector": (0.95, 0.999),
        "above": (0.35, 0.65),
        "distance": (1.9, 2.1),
    },
    "semi_supervised": {
        "accuracy": (0.82, 0.9),  # of one draw of the labels; 0.87 in the mean over five
        "logistic_regression": (0.8, 0.83),
        "gain": (0.0, 0.08),
    },
    "switching_nile": {
        "order_1": (0.55, 0.6),  # in closed form 0.575
        "single": (-640.0, -639.9),  # statsmodels has -639.953
        "two_means": (-629.5, -628.6),  # the supremum is -628.70
        "first_dry_year": (1899, 1899),
        "moving_level": (-640.2, -638.4),  # a level that always moves has -640.91
        "its_error": (0.0, 0.15),
        "effective_paths": (100.0, 2000.0),
        "move_in_1899": (0.85, 1.0),
        "move_in_1899_with_holes": (0.6, 1.0),
        "forecast_of_1975": (840.0, 880.0),
        "its_deviation": (115.0, 140.0),
    },
    "topics_deep": {  # of other versions of Python other docstrings
        "perplexity": (640.0, 800.0),
        "perplexity_of_frequencies": (780.0, 950.0),
        "coherence": (0.15, 0.4),
        "coherence_of_best": (0.4, 0.9),
    },
    "text_characters": {  # of other versions of Python other docstrings
        "perplexity": (5.0, 6.9),
        "perplexity_of_1": (18.0, 24.0),
        "perplexity_of_2": (10.5, 14.0),
        "perplexity_of_3": (6.8, 8.5),
    },
    "topics_docstrings": {  # of other versions of Python other docstrings
        "perplexity": (480.0, 600.0),
        "perplexity_of_rival": (550.0, 690.0),
        "perplexity_of_frequencies": (780.0, 950.0),
        "coherence": (0.12, 0.35),
        "alike": (0.5, 1.0),
        "mail": (1, 5),
    },
    "vae_digits": {
        "elbo": (-19.6, -18.0),
        "iwae": (-18.6, -17.2),
        "ais": (-18.6, -17.2),
        "bdmc_gap": (-0.02, 0.2),
        "mixture_of_bernoullis": (-18.5, -17.9),
    },
    "vq_digits": {
        "words_used": (12, 16),
        "bits_after_step_1": (2.05, 2.25),
        "bits_after_step_2": (2.05, 2.2),
    },
}


def test_every_example_is_listed() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(EXPECTED), "name the bounds of its numbers in EXPECTED"


# Those that take more than 20 seconds of a quiet core, or half of that where a shorter one is of the same family.
LONG = {
    *("clusters_wine", "deep_markov_music", "diffusion_digits", "discrete_latents", "energy_digits", "gan_digits"),
    *("gan_modes", "hierarchical_vae", "joint_energy", "label_latents", "mnar", "pixel_cnn_digits", "regimes_returns"),
    *("score_sde_2d", "semi_supervised", "switching_nile", "text_characters", "topics_docstrings"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in sorted(EXPECTED)]
)
def test_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Its forecasts would take more temperatures than there are, and impute says so.
    short = pytest.warns(UserWarning, match="would take about") if name == "deep_markov_music" else nullcontext()
    with short:
        numbers = run(EXAMPLES / f"{name}.py")
    for key, (low, high) in EXPECTED[name].items():
        assert low <= numbers[key] <= high, f"{key} = {numbers[key]}, expected between {low} and {high}"
    picture = tmp_path / "outputs" / f"{name}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    if name == "discrete_latents":
        assert numbers["awake"] > numbers["score_function"] + 0.4
    if name == "flow_guide":
        for key in ("flow_a", "flow_b", "hmc_a", "hmc_b"):  # the posterior's standard deviations are 0.7 and 0.9
            assert abs(numbers[key] - numbers[f"exact_{key[-1]}"]) < 0.1, key
        assert abs(numbers["mean_field_a"] - numbers["exact_a"]) > 0.2
    if name == "energy_2d":  # five standard errors of 2000 draws
        assert abs(numbers["upper_share"] - numbers["upper_share_of_grid"]) < 0.056
    if name == "diffusion_digits":
        assert numbers["pixels_right"] > numbers["pixels_right_by_chance"] + 0.05
    if name == "impute_images":
        assert numbers["half_spread"] < numbers["lower_spread"]
    if name == "impute_table":
        assert (tmp_path / "outputs/impute_table.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    if name == "conditional_inpainting":
        assert numbers["conditional_vae"] > numbers["plain_network"] + 1
    if name == "vq_digits":
        assert numbers["bits_after_step_2"] < numbers["bits_after_step_1"]
    if name == "latent_arithmetic":
        assert numbers["after"] < 0.75 * numbers["before"]
    if name == "topics_deep":
        assert numbers["perplexity"] < 0.95 * numbers["perplexity_of_frequencies"]
    if name == "text_characters":
        assert numbers["perplexity"] < 0.9 * numbers["perplexity_of_3"]
    if name == "topics_docstrings":
        assert numbers["perplexity"] < 0.95 * numbers["perplexity_of_rival"]
    if name == "vae_digits":
        assert numbers["elbo"] < numbers["iwae"] <= numbers["ais"] + 0.1


def run(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.stem)
def test_examples_are_short(path: Path) -> None:
    assert len([line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]) <= 75

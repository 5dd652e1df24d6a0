"""Document completion: halves of documents, their perplexity, and the measure of the zoo."""

import math

import pytest
import torch
from torch import Tensor

import pyro_gen as pg
from pyro_gen.data.prepared import Prepared
from pyro_gen.data.small import normal_rows
from pyro_gen.evaluation.completion import completion_perplexity, halves
from pyro_gen.models import Gaussian, LatentDirichletAllocation
from pyro_gen.registry import MEASURES


def test_halves_are_fair_and_add_up(untouched_rng: None) -> None:
    x = torch.full((200, 10), 5.0)
    x[0, 0] = torch.nan
    seen, held = halves(x, seed=1)
    assert torch.equal((seen + held).nan_to_num(5.0), x.nan_to_num(5.0)) and held[0, 0] == 0
    assert abs(float(held.sum()) - 5000) < 5 * 2500**0.5  # false alarms: 6e-7
    assert not torch.equal(held, halves(x, seed=2)[1])


def test_the_perplexity_of_the_truth_is_that_of_its_entropy() -> None:
    p = torch.tensor([0.5, 0.25, 0.25])
    held = 100 * p.repeat(4, 1)
    value, error = completion_perplexity(held, p.expand(4, 3))
    assert value == pytest.approx(2**1.5) and error == pytest.approx(0, abs=1e-9)
    worse, error = completion_perplexity(held, torch.full((4, 3), 1 / 3))
    assert worse == pytest.approx(3) and error < 1e-6
    uneven, error = completion_perplexity(torch.tensor([[8.0, 0], [0, 8.0]]), torch.tensor([[0.9, 0.1], [0.9, 0.1]]))
    assert uneven == pytest.approx(math.exp(-(math.log(0.9) + math.log(0.1)) / 2)) and error > 1


def test_the_measure_takes_topic_models() -> None:
    x = torch.tensor([[6.0, 5, 0, 0], [0, 0, 5, 6]]).repeat(30, 1)

    def prepared(test: Tensor) -> Prepared:
        return Prepared(test, None, test, None, None, None, None)

    measure = MEASURES["completion_perplexity"].function
    program = LatentDirichletAllocation(4, 2)
    untrained = measure(program, prepared(x)).value
    found = measure(program.initialise(x), prepared(x))
    assert 1.9 < found.value < 2.3 < untrained < 5 and found.method == "document completion"
    with pytest.raises(ValueError, match="completion is for topic models"):
        measure(pg.models.Gaussian(2), prepared(normal_rows(5, 2)))
    assert not hasattr(Gaussian, "word_probabilities")

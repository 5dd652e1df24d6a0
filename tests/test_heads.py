"""Heads of labels and of mixtures; the others are known by what their families make of them."""

import pyro.distributions as dist
import pytest
import torch

import pyro_gen as pg
from pyro_gen.distributions import DiscretizedLogistic
from pyro_gen.heads import LabelHead, label, make_head


def test_a_label_is_categorical_and_unknown_where_it_is_nan():
    head = label(3)
    assert isinstance(head, LabelHead) and head.features == (3,) and head.event_shape == ()
    h = torch.randn(4, 3)
    y = torch.tensor([0.0, 2.0, torch.nan, 1.0])

    class Labels(pg.Program):
        def model(self, x):
            with self.plate(x):
                return pg.observe("y", head(h[: len(x)]), x)

    found = pg.log_likelihood(Labels(), y).value
    expected = h.log_softmax(-1).gather(1, y.nan_to_num().long()[:, None])[:, 0]
    torch.testing.assert_close(found.float(), torch.where(y.isnan(), 0.0, expected))
    assert head(h).mean.isnan().all()  # a label is no quantity
    assert isinstance(head(h), dist.Categorical)


def test_indicators_feed_a_decoder_and_are_zero_where_a_label_is_not_known():
    y = torch.tensor([[1.0, torch.nan], [0.0, 2.0]])
    assert torch.equal(label(3).one_hot(y), torch.tensor([[[0, 1, 0], [0, 0, 0]], [[1, 0, 0], [0, 0, 1.0]]]))
    assert label(3).one_hot(torch.tensor([2])).dtype == torch.float32


def test_a_head_starts_at_the_shares_of_the_labels():
    y = torch.tensor([0.0, 0.0, 0.0, 1.0, torch.nan])
    assert torch.allclose(label(2)(label(2).marginal_features(y)).probs, torch.tensor([3.5, 1.5]) / 5)


@pytest.mark.parametrize("classes", [1, 0, True, 2.0])
def test_a_number_of_classes_is_checked(classes):
    with pytest.raises(ValueError, match="number of classes, 2 or more"):
        label(classes)


def test_options_of_a_censored_head_are_those_of_the_head_inside_it():
    head = make_head("censored", (3,), low=0.0, scale=0.3).head
    assert torch.allclose(head(torch.zeros(3)).stddev, torch.tensor(0.3))
    with pytest.raises(TypeError, match=r"argument 'scal': .* 'normal' has the options scale, min_scale"):
        make_head("censored", (3,), low=0.0, scal=0.3)


# The head gives weights first, then locations, then scales; the twin takes them in another order.
@pytest.mark.parametrize("twin", [False, True])
def test_a_mixture_of_discretised_logistics_is_the_weighted_sum_of_its_components(twin):
    h = torch.randn(4, 6, 3, dtype=torch.float64)  # two components, three entries
    logits, loc, log_scale = h.unflatten(1, (3, 2)).roll(int(twin), 1).unbind(1)
    x = torch.randint(5, (4, 3)).double()
    law = DiscretizedLogistic(2 * (1 + loc), log_scale.exp(), 5)
    known = (logits.softmax(1) * law.log_prob(x.unsqueeze(1)).exp()).sum(1).log().sum(1)
    found = make_head("discretized_logistic_mixture", (3,), levels=5, components=2)(h).log_prob(x)
    assert torch.allclose(found, known) is not twin


def test_a_mixture_starts_near_the_marginal_and_with_components_that_differ():
    x = torch.tensor([[0.0], [1.0], [8.0], [9.0]]).repeat(10, 1)
    head = make_head("discretized_logistic_mixture", (1,), levels=10, components=3)
    start = head(head.marginal_features(x))
    assert start.mean.item() == pytest.approx(4.5, abs=0.2)
    assert start.base_dist.component_distribution.loc.unique().numel() == 3


def test_a_mixture_of_one_component_starts_as_the_discretised_logistic() -> None:
    x = torch.tensor([[0.0], [1.0], [8.0], [9.0]])
    one = make_head("discretized_logistic_mixture", (1,), levels=10, components=1)
    known = make_head("discretized_logistic", (1,), levels=10)
    laws = one(one.marginal_features(x)), known(known.marginal_features(x))
    assert torch.allclose(laws[0].log_prob(x), laws[1].log_prob(x))

"""Agreement of classes, on programs that draw real digits: what is asked for, or the next digit; true translations."""

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_gen as pg
from pyro_gen.data.prepared import Prepared
from pyro_gen.evaluation.agreement import label_agreement, translation_agreement
from pyro_gen.evaluation.samples import digits_classifier
from pyro_gen.models import CycleGAN


class Memory(pg.Program):
    """Draws a test digit of the label, or of another."""

    def __init__(self, off: int) -> None:
        super().__init__()
        self.event_shape, self.off = torch.Size([8, 8]), off
        self.weight = nn.Parameter(torch.ones(()))
        data = pg.data.load("digits")
        assert data.test_target is not None
        self.digits = [data.test[data.test_target == k] for k in range(10)]

    def model(self, x: Tensor, label: Tensor) -> Tensor:
        of = [self.digits[(int(k) + self.off) % 10] for k in label]
        drawn = torch.stack([d[i % len(d)] for i, d in enumerate(of)])
        with self.plate(x):
            return pg.observe("x", dist.Delta(self.weight * drawn, event_dim=2), x)


def test_labels_that_are_drawn_and_labels_that_are_not() -> None:
    entry = pg.zoo.Entry.parse(
        "x",
        'title = "x"\n[program]\nmodel = "DCGAN"\n[data]\nname = "digits"\nform = "given_label"\n'
        '[figure]\nmeasure = "label_agreement"\nat_least = 0.9\nsource = "x"\n',
    )
    data = pg.zoo.prepare(entry)
    assert data.train.shape == (1437, 8, 8) and data.context[0].shape == (1437,) and data.rows == 360
    found = label_agreement(Memory(0), data, draws=400)
    # The classifier's own accuracy, on digits that are drawn again and again.
    assert found.value > 0.95 and abs(found.value - digits_classifier().accuracy) < 0.03
    assert label_agreement(Memory(1), data, draws=400).value < 0.05
    with pytest.raises(ValueError, match="given_label"):
        label_agreement(Memory(0), data._replace(test_context=()))


def test_true_translations_agree_and_others_do_not() -> None:
    x = pg.data.load("digits_negatives").test
    data = Prepared(x, None, x, None, None, None, None, (x,), (x,))
    for place, agrees in ((1, True), (3, False)):  # the other way round is upside down
        cycle = CycleGAN((2, 8, 8), ())
        with torch.no_grad():
            for net, k in ((cycle.to_b, place), (cycle.to_a, 4 - place)):
                weight, bias = net.parameters()
                weight.copy_(-torch.eye(8)[k : k + 1])
                bias.fill_(1.0)
        found = translation_agreement(cycle, data)
        assert (found.value == pytest.approx(1.0)) if agrees else (found.value < 0.5)


def test_no_training_digit_is_in_both_domains_and_test_rows_are_pairs() -> None:
    data = pg.data.load("digits_negatives")
    upright = torch.stack([data.train[:, 0], 1 - torch.rot90(data.train[:, 1], -1, (1, 2))])
    assert torch.cdist(upright[0].flatten(1), upright[1].flatten(1)).min() > 0.1
    assert torch.allclose(data.test[:, 0], 1 - torch.rot90(data.test[:, 1], -1, (1, 2)))

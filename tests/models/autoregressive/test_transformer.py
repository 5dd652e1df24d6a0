"""The causal transformer: what a position sees, its blocks against torch's own, draws from what is kept."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import pyro_gen as pg
from pyro_gen._random import seeded
from pyro_gen.models import CausalTransformer
from pyro_gen.models.autoregressive import transformer

NAN = torch.nan


def moved(program: CausalTransformer, scale: float = 0.5) -> CausalTransformer:
    with seeded(1), torch.no_grad():
        for parameter in program.parameters():
            parameter.add_(scale * torch.randn_like(parameter) / parameter.shape[-1:].numel() ** 0.5)
    return program.double().eval()


def influence(program: CausalTransformer) -> Tensor:
    """Whether the law of an entry (row) depends on the value of another (column)."""
    x = torch.randn(5, program.entries, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: program.network(v, 0, None).loc.sum(0), x)
    return (jacobian != 0).any(1)


# The twin is a network whose inputs are not moved by one, so that an entry sees itself.
@pytest.mark.parametrize("moved_by_one", [True, False])
def test_an_entry_has_a_law_given_all_before_it_and_no_other(moved_by_one) -> None:
    program = moved(CausalTransformer(7, 8, depth=2, heads=2, likelihood="normal"))
    if not moved_by_one:
        whole = program.network
        program.network = lambda x, m, c: whole(torch.cat([x[:, 1:], x[:, :1]], 1), m, c)  # type: ignore[method-assign]
    assert torch.equal(influence(program), torch.ones(7, 7).tril(-1).bool()) is moved_by_one


# An implementation of another's: a layer of torch with a causal mask, which has no bias of distances.
@pytest.mark.parametrize("norm_first", [True, False])
def test_a_block_is_a_layer_of_torch_with_its_norms_first(norm_first) -> None:
    block = transformer.Block(6, 8, 2, 0.0, 1).double()
    layer = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", norm_first=norm_first, batch_first=True).double()
    attention, network = layer.self_attn, block.network
    pairs = [
        (attention.in_proj_weight, block.qkv.weight),
        (attention.in_proj_bias, block.qkv.bias),
        (attention.out_proj.weight, block.out.weight),
        (attention.out_proj.bias, block.out.bias),
        (layer.linear1.weight, network[0].weight),
        (layer.linear1.bias, network[0].bias),
        (layer.linear2.weight, network[2].weight),
        (layer.linear2.bias, network[2].bias),
    ]
    with torch.no_grad():
        for theirs, ours in pairs:
            theirs.copy_(ours)
    h = torch.randn(3, 6, 8, dtype=torch.float64)
    mask = torch.full((6, 6), -torch.inf, dtype=torch.float64).triu(1)
    assert torch.allclose(block(h), layer(h, mask, is_causal=True), atol=1e-12) is norm_first
    with torch.no_grad():
        block.back[:, 1] = 3.0  # the entry before weighs more, so the others are left
    assert not torch.allclose(block(h), layer(h, mask, is_causal=True), atol=1e-3)


PROGRAMS = {
    "bernoulli": lambda: CausalTransformer(9, 8, depth=2, heads=2),
    "conditional": lambda: CausalTransformer(9, 8, depth=1, heads=2, context=2),
    "categorical": lambda: CausalTransformer((3, 3), 8, depth=1, heads=2, likelihood="categorical", levels=4),
    "discretised": lambda: CausalTransformer(9, 8, depth=1, heads=1, likelihood="discretized_logistic", levels=5),
    "normal": lambda: CausalTransformer(9, 8, depth=1, heads=1, likelihood="normal", scale="entry"),
    "limits of each entry": lambda: CausalTransformer(
        9, 8, depth=1, heads=1, likelihood="censored", low=torch.linspace(-1, 0, 9)
    ),
}


# Laws in float64 are the same up to rounding, so discrete draws are the same, too; the twin's positions are one late.
@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("make", PROGRAMS.values(), ids=PROGRAMS)
def test_draws_from_kept_keys_and_values_are_those_of_the_whole_network(make, late, monkeypatch) -> None:
    program = moved(make())
    start = transformer.CachedPositions.__init__

    def begin(self, *args) -> None:
        start(self, *args)
        self.program = copy.deepcopy(self.program)
        with torch.no_grad():
            self.program.positions.copy_(self.program.positions.roll(late, 0))

    monkeypatch.setattr(transformer.CachedPositions, "__init__", begin)
    law = program.observed(60, torch.randn(60, 2).double() if program.context else None)
    x = torch.full((60, *program.event_shape), NAN, dtype=torch.float64)
    x.flatten(1)[:30, :3] = 1.0  # seen
    draws = []
    for steps in (law.steps, None):
        law.steps = steps
        with seeded(3):
            draws.append(law.marginalise(x)[2]())
    assert torch.allclose(draws[0], draws[1], atol=1e-9) is (late == 0)
    assert torch.equal(draws[0][~x.isnan()], x[~x.isnan()])


def test_drawing_from_what_is_kept_takes_a_fifth_of_the_work() -> None:
    law, work = CausalTransformer(64, 16, depth=2, heads=2).eval().observed(60), []
    for steps in (law.steps, None):
        law.steps = steps
        with FlopCounterMode(display=False) as counter:
            law.sample()
        work.append(counter.get_total_flops())
    assert work[1] > 5 * work[0] > 0


def test_a_shorter_sequence_has_the_density_of_its_entries_and_is_continued() -> None:
    program = moved(CausalTransformer(6, 8, depth=1, heads=2))
    x = torch.tensor([[1.0, 0.0, 1.0, 1.0, NAN, NAN], [0.0, 1.0, NAN, NAN, NAN, NAN]]).double()
    filled = x.nan_to_num(1.0)
    each = program.network(filled, 0, None).log_prob(filled)
    expected = torch.stack([each[0, :4].sum(), each[1, :2].sum()])
    assert torch.allclose(pg.log_likelihood(program, x).value, expected.detach())
    draws = pg.impute(program, x, draws=4)
    assert torch.equal(draws[:, ~x.isnan()], x[~x.isnan()].expand(4, -1))
    assert draws.isnan().sum() == 0


def test_heads_divide_the_width() -> None:
    with pytest.raises(ValueError, match="heads that divide the width"):
        CausalTransformer(4, 6, heads=4)

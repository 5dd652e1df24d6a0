"""Discrete networks against sums over all assignments, pgmpy's answers and the truncated factorisation."""

import itertools
import json
from pathlib import Path

import pytest
import torch

import pyro_gen as pg
from pyro_gen.models import DiscreteBayesianNetwork
from pyro_gen.models.bayesian_network.parts import law
from pyro_gen.models.bayesian_network.parts.elimination import log_marginal

ANSWERS = json.loads((Path(__file__).parent / "pgmpy_queries.json").read_text())
SPRINKLER = {"rain": [], "sprinkler": ["rain"], "wet": ["sprinkler", "rain"]}


def random_network(seed, size=6):
    """A network whose nodes are listed in no particular order, with up to three parents and two to four levels each."""
    g = torch.Generator().manual_seed(seed)
    rank = torch.randperm(size, generator=g).tolist()
    parents = {}
    for i in range(size):
        above = [j for j in range(size) if rank[j] < rank[i] and torch.rand((), generator=g) < 0.6][:3]
        parents[f"n{i}"] = [f"n{j}" for j in above]
    levels = {f"n{i}": 2 + int(torch.randint(0, 3, (), generator=g)) for i in range(size)}
    tables = {}
    for name, above in parents.items():
        table = torch.rand([levels[n] for n in (*above, name)], generator=g, dtype=torch.float64).square()
        tables[name] = table / table.sum(-1, keepdim=True)
    return DiscreteBayesianNetwork.from_tables(parents, tables)


def joint_table(network, without=()):
    """The product of all conditional probabilities, node by node, (*levels of all nodes)."""
    nodes, tables = list(network.parents), {n: t.detach() for n, t in network.tables.items()}
    joint = torch.ones([len(network.levels[n]) for n in nodes], dtype=torch.float64)
    for values in itertools.product(*(range(n) for n in joint.shape)):
        of = dict(zip(nodes, values, strict=True))
        for name in (n for n in nodes if n not in without):
            joint[values] *= tables[name][tuple(of[n] for n in (*network.parents[name], name))]
    return joint


def conditional(network, joint, targets, given):
    """Of a table over all nodes, (*levels of the targets)."""
    nodes = list(network.parents)
    table = joint[tuple(given.get(n, slice(None)) for n in nodes)]
    free = [n for n in nodes if n not in given]
    table = table.sum([i for i, n in enumerate(free) if n not in targets]) if len(free) > len(targets) else table
    kept = [n for n in free if n in targets]
    table = table.permute([kept.index(n) for n in targets])
    return table / table.sum()


@pytest.mark.parametrize("seed", range(5))
def test_queries_are_sums_over_all_assignments(seed):
    network = random_network(seed)
    joint = joint_table(network)
    assert abs(joint.sum() - 1) < 1e-12
    moved = 0.0
    for targets, given in [
        (["n0"], {}),
        (["n3", "n1"], {"n5": 1}),
        (["n2"], {"n0": 0, "n4": 1}),
        (["n5", "n2", "n4"], {}),
    ]:
        found = network.query(targets, given=given)
        assert torch.allclose(found, conditional(network, joint, targets, given), rtol=0, atol=1e-12)
        forgotten = conditional(network, joint, targets, {})
        moved = max(moved, float((found - forgotten).abs().max()))
        seen = joint[tuple(given.get(n, slice(None)) for n in network.parents)].sum().log()
        assert abs(network.log_probability(given) - seen) < 1e-12
        best = {n: int(v) for n, v in network.most_probable(given).items()}
        assert all(best[n] == v for n, v in given.items())
        left = joint[tuple(given.get(n, slice(None)) for n in network.parents)]
        assert abs(joint[tuple(best.values())] - left.max()) < 1e-15
    assert moved > 1e-3  # the twin: evidence that was not entered


@pytest.mark.parametrize("name", ["asia", "sachs", "insurance"])
def test_published_networks_answer_as_in_pgmpy(name):
    network = DiscreteBayesianNetwork.from_bif(name)
    answers = [a for a in ANSWERS if a["network"] == name]
    moved = 0.0
    for answer in answers:
        targets, given = answer["variables"], answer["given"]
        expected = torch.tensor(answer["values"], dtype=torch.float64)
        for dim, target in enumerate(targets):
            states = answer["states"][target]
            expected = expected.index_select(dim, torch.tensor([states.index(s) for s in network.levels[target]]))
        assert torch.allclose(network.query(targets, given), expected, rtol=0, atol=1e-10)
        moved = max(moved, float((network.query(targets) - expected).abs().max()))
        if "most_probable" in answer:
            theirs = network.log_probability({**given, **answer["most_probable"]})
            assert abs(network.log_probability(network.most_probable(given)) - theirs) < 1e-10
    assert len(answers) == 12 and moved > 0.05  # the twin: without what is given


def test_rows_of_evidence_are_answered_at_once():
    network = random_network(1)
    rows = {"n0": torch.tensor([0, 1, 1]), "n3": 1}
    found = network.query(["n4", "n2"], given=rows)
    for i in range(3):
        one = network.query(["n4", "n2"], given={"n0": int(rows["n0"][i]), "n3": 1})
        assert torch.allclose(found[i], one, rtol=0, atol=1e-14)


@pytest.mark.parametrize("seed", range(4))
def test_interventions_are_the_truncated_factorisation(seed):
    network = random_network(seed)
    node = next(
        n
        for n in reversed(list(network.parents))
        if network.parents[n] and any(n in above for above in network.parents.values())
    )
    target = network.parents[node][0]
    cut = joint_table(network, without=[node])
    for other in (n for n in network.parents if n != node):
        found = network.query(other, do={node: 1})
        assert torch.allclose(found, conditional(network, cut, [other], {node: 1}), rtol=0, atol=1e-12)
    # What is above is left alone; seeing the value (the twin) is not setting it.
    assert torch.allclose(network.query(target, do={node: 1}), network.query(target), rtol=0, atol=1e-12)
    assert not torch.allclose(network.query(target, given={node: 1}), network.query(target), rtol=0, atol=1e-4)


def holed(network, n, share, seed=0):
    x = pg.sample(network, n, seed=seed)
    missing = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < share
    missing[0] = True
    return x.masked_fill(missing, torch.nan)


def test_missing_values_are_summed_out():
    network = random_network(2)
    joint = joint_table(network)
    x = holed(network, 60, 0.5)
    expected = torch.stack([joint[tuple(slice(None) if v.isnan() else int(v) for v in row)].sum().log() for row in x])
    found = pg.log_likelihood(network, x)
    assert found.kind == "exact"
    assert torch.allclose(found.value, expected, rtol=0, atol=1e-10)
    filled = pg.log_likelihood(network, x.nan_to_num()).value  # the twin: zeros where nothing was seen
    assert (filled - expected)[1:].abs().max() > 0.5


def test_missing_values_of_a_large_network_are_summed_out():
    network = DiscreteBayesianNetwork.from_bif("insurance")
    x = holed(network, 5, 0.4)
    rows = [{n: int(v) for n, v in zip(network.parents, row, strict=True) if not v.isnan()} for row in x]
    expected = torch.stack([network.log_probability(given) for given in rows])
    assert torch.allclose(pg.log_likelihood(network, x).value, expected, rtol=0, atol=1e-10)


def test_rows_are_summed_some_at_a_time(monkeypatch):
    network = random_network(2)
    x = holed(network, 30, 0.5)
    whole, drawn = pg.log_likelihood(network, x).value, pg.impute(network, x, draws=1, seed=0)
    tables = []
    monkeypatch.setattr(law, "CELLS", 1000)
    monkeypatch.setattr(law, "log_marginal", lambda f, n: tables.append(f) or log_marginal(f, n))
    assert torch.allclose(pg.log_likelihood(network, x).value, whole, rtol=0, atol=1e-14)
    assert len(tables) > 3
    again = pg.impute(network, x, draws=1, seed=0)
    assert again.shape == drawn.shape and not bool(again.isnan().any())


def test_completions_are_draws_given_what_was_seen():
    """Each frequency of 4,000 is within 5 standard errors: 12 of them, so a correct program fails in 1 of 10^5."""
    network = random_network(3)
    joint = joint_table(network)
    row = torch.tensor([torch.nan, 1.0, torch.nan, 0.0, torch.nan, torch.nan], dtype=torch.float64)
    given = {f"n{i}": int(v) for i, v in enumerate(row) if not v.isnan()}
    drawn = pg.impute(network, row.expand(4000, 6).contiguous(), draws=1, seed=0)[0]
    assert bool((drawn[:, [1, 3]] == row[[1, 3]]).all())
    far = 0.0
    for name in ("n0", "n2", "n4", "n5"):
        p = conditional(network, joint, [name], given)
        share = torch.bincount(drawn[:, int(name[1])].long(), minlength=len(p)) / len(drawn)
        assert bool(((share - p).abs() < 5 * (p * (1 - p) / len(drawn)).sqrt() + 1e-9).all())
        prior = conditional(network, joint, [name], {})  # the twin: draws that do not know what was seen
        far = max(far, float(((share - prior).abs() / (prior * (1 - prior) / len(drawn)).sqrt()).max()))
    assert far > 10


def test_closed_form_is_the_posterior_mean():
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    network = DiscreteBayesianNetwork.from_data(x, {"a": [], "b": ["a"]}, {"a": 2, "b": 2}, equivalent_sample_size=2.0)
    assert torch.allclose(network.tables["a"], torch.tensor([4 / 6, 2 / 6]))
    assert torch.allclose(network.tables["b"], torch.tensor([[1.5 / 4, 2.5 / 4], [1.5 / 2, 0.5 / 2]]))
    again = DiscreteBayesianNetwork.from_data(x.long(), network.parents, network.levels, equivalent_sample_size=2.0)
    assert torch.equal(again.tables["b"], network.tables["b"])


def test_training_with_holes_finds_the_maximum_of_the_likelihood():
    """Of p(a) p(b | a) where a is missing in some rows: the gradient is 0, and rows with holes have moved the fit."""
    truth = DiscreteBayesianNetwork.from_tables(
        {"a": [], "b": ["a"]},
        {"a": torch.tensor([0.3, 0.7]), "b": torch.tensor([[0.9, 0.1], [0.2, 0.8]])},
    )
    x = pg.sample(truth, 400, seed=0)
    x[x[:, 1] == 0, 0] = torch.where(torch.arange(int((x[:, 1] == 0).sum())) % 4 > 0, torch.nan, x[x[:, 1] == 0, 0])
    network = DiscreteBayesianNetwork(truth.parents, truth.levels)
    pg.fit(network, x, epochs=150, batch_size=400, lr=0.1, seed=0)
    loss = -pg.log_likelihood(network, x).mean()
    n = [[float(((x[:, 0] == a) & (x[:, 1] == b)).sum()) for b in (0, 1)] for a in (0, 1)]
    holes = float(x[:, 0].isnan().sum())  # all of them with b = 0
    joint = torch.tensor(n)
    joint[:, 0] *= 1 + holes / joint[:, 0].sum()  # the maximum: the share of a among b = 0 is that of the rows seen
    joint = joint / joint.sum()
    assert torch.allclose(network.query(["a", "b"]).float(), joint, atol=2e-3)
    complete = DiscreteBayesianNetwork.from_data(x[~x[:, 0].isnan()], truth.parents, truth.levels)
    assert -pg.log_likelihood(complete, x).mean() > loss + 0.02  # the twin: complete rows only


def test_cells_that_are_impossible_stay_so_in_training():
    network = DiscreteBayesianNetwork.from_bif("asia")
    x = holed(network, 50, 0.5)
    before = network.tables["lung"].detach().clone()
    pg.fit(network, x, epochs=3, lr=1e-2, seed=0)
    assert bool((network.tables["either"] == torch.tensor([[[1, 0], [1, 0]], [[1, 0], [0, 1]]])).all())
    assert not torch.equal(network.tables["lung"], before)
    assert all(bool(p.isfinite().all()) for p in network.parameters())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DiscreteBayesianNetwork({"a": ["b"], "b": ["a"]}, {"a": 2, "b": 2}), "make a circle"),
        (lambda: DiscreteBayesianNetwork({"a": ["c"]}, {"a": 2}), "'c', a parent of 'a', is no node"),
        (lambda: DiscreteBayesianNetwork({"ab": [], "c": "ab"}, {"ab": 2, "c": 2}), "give a list of names"),
        (lambda: DiscreteBayesianNetwork({"a": []}, {}), "levels of 'a'"),
        (lambda: DiscreteBayesianNetwork({}, {}), "There is no node"),
        (lambda: DiscreteBayesianNetwork.from_bif("asai"), "asia, insurance, sachs"),
        (lambda: random_network(0).query("n9"), "'n9' is no node"),
        (lambda: random_network(0).query("n1", given={"n1": 0}), "is a target, and given"),
        (lambda: random_network(0).query("n1", given={"n2": "yes"}), "'yes' is no value of 'n2'"),
        (lambda: random_network(0).query("n1", given={"n2": 7}), "7 is no value of 'n2'"),
        (lambda: random_network(0).do({f"n{i}": 0 for i in range(6)}), "There is no node"),
        (
            lambda: DiscreteBayesianNetwork.from_bif("asia").query("xray", given={"either": "no", "lung": "yes"}),
            "has probability 0",
        ),
        (
            lambda: DiscreteBayesianNetwork.from_data(torch.tensor([[torch.nan]]), {"a": []}, {"a": 2}),
            "train by pg.fit instead",
        ),
        (lambda: DiscreteBayesianNetwork.from_data(torch.tensor([[2.0]]), {"a": []}, {"a": 2}), "2.0 is no value"),
        (
            lambda: DiscreteBayesianNetwork.from_tables({"a": []}, {"a": torch.tensor([0.5, 0.6])}),
            "sum to 1 along its last dimension",
        ),
        (
            lambda: DiscreteBayesianNetwork.from_tables({"a": [], "b": ["a"]}, {"a": torch.ones(2) / 2}),
            "The table of 'b'|levels of 'b'",
        ),
    ],
)
def test_mistakes_get_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()

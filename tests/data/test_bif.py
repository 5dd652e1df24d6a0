"""Reading networks from BIF files."""

import pytest
import torch

from pyro_gen.data.bif import network_file, read_bif

TEXT = """
network "of rain" { property author nobody; }
// one comment
variable rain { type discrete [ 2 ] { no, yes }; }
variable "wet grass" { type discrete [ 3 ] { dry, damp, wet }; property place (1, 2); }
probability ( rain ) { table 0.8, 0.2; }
probability ( "wet grass" | rain ) {
  ( yes ) 0.1, 0.3, 0.6; /* the order of the rows is free */
  ( no ) 0.9, 0.1, 0.0;
}
"""


def written(tmp_path, text):
    path = tmp_path / "net.bif"
    path.write_text(text)
    return path


def test_reads_names_and_tables(tmp_path):
    parents, levels, tables = read_bif(written(tmp_path, TEXT))
    assert parents == {"rain": (), "wet grass": ("rain",)}
    assert levels == {"rain": ("no", "yes"), "wet grass": ("dry", "damp", "wet")}
    assert torch.equal(tables["wet grass"], torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.3, 0.6]], dtype=torch.float64))


@pytest.mark.parametrize(("name", "nodes", "edges"), [("asia", 8, 8), ("sachs", 11, 17), ("insurance", 27, 52)])
def test_published_networks_are_whole(name, nodes, edges):
    parents, _, tables = read_bif(network_file(name))
    assert (len(parents), sum(map(len, parents.values()))) == (nodes, edges)
    assert all(float((t.sum(-1) - 1).abs().max()) < 1e-6 for t in tables.values())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("( no ) 0.9, 0.1, 0.0;", "", "3 numbers for each of the 2 combinations"),
        ("( no ) 0.9, 0.1, 0.0;", "( no ) 0.9, 0.1;", "3 numbers for each of the 2 combinations"),
        ("| rain )", "| snow )", "names 'snow', which is no variable"),
        ("probability ( rain ) { table 0.8, 0.2; }", "", "no probability of 'rain'"),
        ("( yes ) 0.1", "default 0.1", "starts with 'default'"),
        ("variable rain { type discrete [ 2 ] { no, yes }; }", "variable rain { type real; }", "a discrete variable"),
    ],
)
def test_mistakes_get_a_sentence(tmp_path, old, new, words):
    with pytest.raises(ValueError, match=words):
        read_bif(written(tmp_path, TEXT.replace(old, new)))

"""``pyro-gen structure`` as a user types it."""

from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from tests.cli.shell import err_line, run, run_json


def test_clusters_of_a_file_with_holes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    kind = np.arange(40) % 2
    table = pd.DataFrame(6.0 * kind[:, None] + rng.normal(size=(40, 2)), columns=["<b>", "width"])
    table.iloc[0, 0] = np.nan
    table["colour"] = np.where(kind == 0, "red", "blue")
    table.to_csv("rows.csv", index=False)
    words = ["structure", "clusters", "rows.csv", "--max-clusters", "3", "--draws", "8"]
    found = run_json(capsys, *words, "--out", "c.csv", "--plot", "c.png", "--report", "c.html")
    assert found["number"] == 2 and found["sizes"] == [20, 20] and found["number_probabilities"]["2"] > 0.8
    labels = pd.read_csv("c.csv")
    assert len(labels) == 40 and ((labels["cluster"] == labels["cluster"][0]) == (kind == 0)).all()
    assert Path("c.png").read_bytes().startswith(b"\x89PNG")
    page = Path("c.html").read_text(encoding="utf-8")
    assert "2 with probability" in page and "&lt;b&gt;" in page and "<b>" not in page and "red (100%)" in page
    words[4:] = ["2", "--draws", "4"]
    code, text, _ = run(capsys, *words, "--out", "c.csv", "--overwrite")
    assert code == 0 and text.startswith("Clusters of 40 rows: 2 with probability")


def test_communities_of_an_edge_list_of_a_matrix_and_of_a_data_set(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = nx.planted_partition_graph(2, 12, 0.7, 0.03, seed=0)
    edges = pd.DataFrame([(f"<{u}>", f"<{v}>", 1) for u, v in graph.edges], columns=["who", "whom", "times"])
    edges.loc[len(edges)] = ["<0>", "<23>", np.nan]
    edges.to_csv("edges.csv", index=False)
    words = ["structure", "communities", "edges.csv", "--weight", "times", "--draws", "4"]
    found = run_json(capsys, *words, "--out", "c.csv", "--plot", "c.png", "--report", "c.html")
    assert found["number"] == 2 and found["sizes"] == [12, 12] and found["method"] == "merge-split"
    assert len(found["links"]) == 1 and found["links"][0]["probability"] < 0.3
    table = pd.read_csv("c.csv").set_index("node")
    assert (table.loc["<0>", "group"] == table.loc["<5>", "group"]) and len(table) == 24
    assert Path("c.png").read_bytes().startswith(b"\x89PNG")
    page = Path("c.html").read_text(encoding="utf-8")
    assert "24 nodes" in page and "&lt;5&gt;" in page and "<5>" not in page
    matrix = nx.to_pandas_adjacency(graph, dtype=int).rename(index=str, columns=str)
    matrix.rename_axis("node").to_csv("matrix.csv")
    code, text, _ = run(capsys, "structure", "communities", "matrix.csv", "--draws", "4")
    assert code == 0 and text.startswith("Communities of 24 nodes and")
    graph = nx.Graph([(f"node {u}", f"node {v}") for u, v in graph.edges])
    nx.set_edge_attributes(graph, 1, "weight")
    nx.write_gml(graph, "network.gml")
    code, text, _ = run(capsys, "structure", "communities", "network.gml", "--draws", "4")
    assert code == 0 and text.startswith("Communities of 24 nodes and") and "weight='weight' does" in text
    Path("bad.gml").write_text("no graph", encoding="utf-8")
    assert "bad.gml: not read as a graph" in err_line(capsys, "structure", "communities", "bad.gml")
    assert "not read as a graph" in err_line(capsys, "structure", "communities", "none.graphml")
    davis = run_json(capsys, "structure", "communities", "davis", "--draws", "4")
    assert davis["number"] >= 2 and sum(davis["sizes"]) == 32


def test_graph_of_a_file_of_words_and_of_a_data_set(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=80)
    table = pd.DataFrame(
        {"<b>": a, "c": a + 0.5 * rng.normal(size=80), "sex": np.where(rng.random(80) < 0.5, "m", "f")}
    )
    table["set"] = ["c"] * 30 + [None] * 50
    table.loc[:29, "c"] = rng.normal(size=30)
    table.to_csv("rows.csv", index=False)
    words = ["structure", "graph", "rows.csv", "--draws", "10", "--targets", "set", "--forbid", "sex,c"]
    found = run_json(capsys, *words, "--out", "g.csv", "--plot", "g.png", "--report", "g.html")
    first = found["edges"][0]
    assert (first["source"], first["target"], first["representative"]) == ("<b>", "c", "->")
    assert pd.read_csv("g.csv")["probability"][0] > 0.9
    assert Path("g.png").read_bytes().startswith(b"\x89PNG")
    page = Path("g.html").read_text(encoding="utf-8")
    assert "3 columns (1 of categories) in 80 rows" in page and "&lt;b&gt;" in page and "<b>" not in page
    assert "two columns with a comma" in err_line(capsys, *words, "--require", "sex")
    assert "no such column" in err_line(capsys, "structure", "graph", "rows.csv", "--targets", "sett")
    code, text, _ = run(capsys, "structure", "graph", "iris", "--kind", "gaussian", "--draws", "10")
    assert code == 0 and text.startswith("Gaussian graphical model of 4 columns in 120 rows")


def test_bad_networks_get_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.DataFrame({"a": ["x", "x"], "b": ["x", "y"]}).to_csv("loop.csv", index=False)
    assert "'x' has an edge to itself" in err_line(capsys, "structure", "communities", "loop.csv")
    np.save("odd.npy", np.triu(np.ones((3, 3)), 1))
    assert "not symmetric" in err_line(capsys, "structure", "communities", "odd.npy")
    assert "matrix" in err_line(capsys, "structure", "communities", "digits")


def test_bad_input_gets_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [5.0, 5.0, 5.0]}).to_csv("flat.csv", index=False)
    assert "column 'b' is 5 in every row" in err_line(capsys, "structure", "clusters", "flat.csv")
    Path("twice.csv").write_text("a,a\n1,2\n3,4\n")
    assert err_line(capsys, "structure", "clusters", "twice.csv") == "error: twice.csv: duplicate column name 'a'.\n"
    assert "ends in .html" in err_line(capsys, "structure", "clusters", "flat.csv", "--report", "page.txt")


def test_regimes_of_a_file_with_dates_and_holes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    state = np.arange(60) // 20 % 2
    flow = pd.Series(5.0 * state + rng.normal(size=60)).mask(rng.random(60) < 0.2)
    table = pd.DataFrame({"day": pd.date_range("2024-03-01", periods=60), "<b>": flow})
    table.to_csv("flow.csv", index=False)
    words = ["structure", "regimes", "flow.csv", "--max-states", "2", "--draws", "8"]
    found = run_json(capsys, *words, "--out", "r.csv", "--plot", "r.png", "--report", "r.html")
    assert found["number"] == 2 and found["number_probabilities"]["2"] > 0.9 and found["number_errors"]["2"] < 0.1
    assert found["regimes"][0]["mean of <b>"] < found["regimes"][1]["mean of <b>"]
    steps = pd.read_csv("r.csv", index_col="day")
    assert steps.index[0] == "2024-03-01" and (steps["regime"] == state).mean() > 0.9
    assert np.allclose(steps[["probability 0", "probability 1"]].sum(axis=1), 1)
    assert Path("r.png").read_bytes().startswith(b"\x89PNG")
    page = Path("r.html").read_text(encoding="utf-8")
    assert "2 with probability" in page and "&lt;b&gt;" in page and "<b>" not in page and "2024-03-21" in page
    code, text, _ = run(capsys, "structure", "regimes", "flow.csv", "--kind", "changes")
    assert code == 0 and "before 2024-03-21" in text and "before 2024-04-10" in text


def test_regimes_of_several_series_in_one_file_and_of_a_data_set(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(1)
    flow = np.concatenate([rng.normal(size=15), rng.normal(6, 1, size=15), rng.normal(size=20)])
    pd.DataFrame(
        {"year": [*range(1990, 2020), *range(2000, 2020)], "river": ["Po"] * 30 + ["Don"] * 20, "flow": flow}
    ).to_csv("rivers.csv", index=False)
    words = ["structure", "regimes", "rivers.csv", "--kind", "changes"]
    found = run_json(capsys, *words, "--index", "year", "--series", "river", "--out", "r.csv")
    assert [(r["series"], r["from"]) for r in found["regimes"]] == [(0, "1990"), (0, "2005"), (1, "2000")]
    assert pd.read_csv("r.csv")["series"].tolist() == [0] * 30 + [1] * 20
    assert "column 'river' holds no numbers" in err_line(capsys, *words)
    assert "no column 'yaer'" in err_line(capsys, *words, "--index", "yaer")
    found = run_json(capsys, "structure", "regimes", "nile", "--kind", "changes")
    assert found["regimes"][1]["from"] == "28" and "name columns" in err_line(
        capsys, "structure", "regimes", "nile", "--index", "year"
    )


def test_series_without_an_answer_get_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.DataFrame({"a": [1.0]}).to_csv("one.csv", index=False)
    assert "minimum of 2 is required" in err_line(capsys, "structure", "regimes", "one.csv")
    pd.DataFrame({"a": [1.0, 2.5]}).to_csv("half.csv", index=False)
    words = ["structure", "regimes", "half.csv"]
    assert "0, 1, 2, ..., not 2.5" in err_line(capsys, *words, "--emission", "poisson")


def test_factors_of_a_file_with_holes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 1))
    table = pd.DataFrame(z * [1.0, -1.0, 1.0] + 0.5 * rng.normal(size=(60, 3)), columns=["<b>", "width", "depth"])
    table.iloc[0, 0] = np.nan
    table.to_csv("rows.csv", index=False)
    words = ["structure", "factors", "rows.csv", "--max-factors", "1", "--draws", "20"]
    found = run_json(capsys, *words, "--out", "f.csv", "--plot", "f.png", "--report", "f.html")
    assert found["number"] == 1 and found["number_probabilities"]["1"] > 0.9 and len(found["loadings"]) == 6
    scores = pd.read_csv("f.csv")
    assert list(scores.columns) == ["factor0", "sd of factor0"]
    assert abs(np.corrcoef(scores["factor0"], z[:, 0])[0, 1]) > 0.8
    assert Path("f.png").read_bytes().startswith(b"\x89PNG")
    page = Path("f.html").read_text(encoding="utf-8")
    assert "1 with probability" in page and "&lt;b&gt;" in page and "<b>" not in page
    code, text, _ = run(capsys, *words, "--out", "f.csv", "--overwrite")
    assert code == 0 and text.startswith("Factors of 3 columns: 1 with probability")

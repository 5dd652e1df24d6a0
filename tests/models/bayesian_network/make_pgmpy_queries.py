"""Writes pgmpy_queries.json: answers of pgmpy (1.1.2) to random queries of published networks.

Run by hand, where pgmpy is installed. The rows of the tables of sachs sum to one within 1e-7; pgmpy is given them
normalised, as they are here.
"""

import gzip
import json
import random
from pathlib import Path

HERE = Path(__file__).parent
QUERIES = {"asia": 12, "sachs": 12, "insurance": 12}


def main():
    import pgmpy.utils
    from pgmpy.inference import VariableElimination
    from pgmpy.readwrite import BIFReader

    files = Path(pgmpy.utils.__file__).parent / "example_models"
    rng = random.Random(0)
    found = []
    for name, count in QUERIES.items():
        text = gzip.decompress((files / f"{name}.bif.gz").read_bytes()).decode()
        network = BIFReader(string=text).get_model()
        for cpd in network.get_cpds():
            cpd.normalize()
        elimination = VariableElimination(network)
        sample = network.simulate(count, seed=0, show_progress=False)
        for i in range(count):
            nodes = sorted(network.nodes())
            rng.shuffle(nodes)
            targets, known = nodes[: 1 + i % 3], nodes[3 : 3 + i % 6]
            given = {n: str(sample.iloc[i][n]) for n in known}  # of one row, so it is possible
            factor = elimination.query(targets, evidence=given, show_progress=False)
            record = {
                "network": name,
                "given": given,
                "variables": factor.variables,
                "states": {n: network.get_cpds(n).state_names[n] for n in targets},
                "values": factor.values.tolist(),
            }
            if name != "insurance":  # pgmpy makes the table of all nodes for it
                rest = [n for n in nodes if n not in given]
                answer = elimination.map_query(rest, evidence=given, show_progress=False)
                record["most_probable"] = {n: str(value) for n, value in answer.items()}
            found.append(record)
    (HERE / "pgmpy_queries.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

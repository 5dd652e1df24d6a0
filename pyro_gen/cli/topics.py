"""``pyro-gen structure topics``: what documents are about, with its uncertainty."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_gen.cli.inputs import read_data
from pyro_gen.cli.options import DataRoot, Json, Overwrite, Part, Report, Seed
from pyro_gen.cli.outputs import Results


def command(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A folder of .txt files, a .txt file with a text a line, a table of counts with a row for each "
            "document and a column for each word, or a data set of counts, docstrings say.",
        ),
    ],
    part: Annotated[Part, typer.Option(help="Which part of a named data set.")] = Part.train,
    topics: Annotated[int | None, typer.Option(min=1, help="Their number; left out, it is chosen.")] = None,
    chains: Annotated[int, typer.Option(min=1, help="Chains that are sampled.")] = 4,
    draws: Annotated[int, typer.Option(min=4, help="Draws of each chain.")] = 25,
    stop_words: Annotated[str, typer.Option(help="Of texts, what is left out: english or none.")] = "english",
    min_documents: Annotated[int, typer.Option(min=1, help="Of texts, words that fewer have are left out.")] = 2,
    out: Annotated[Path | None, typer.Option(help="A .csv file: the shares of topics in each document.")] = None,
    plot: Annotated[Path | None, typer.Option(help="A .png, .pdf or .svg file: the words of topics.")] = None,
    report: Report = None,
    overwrite: Overwrite = False,
    data_root: DataRoot = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Find the topics of documents: their number, their words, and the shares of topics in each document."""
    results = Results(out, plot, report)
    results.check((data,), overwrite)
    if stop_words not in ("english", "none"):
        raise ValueError(f"--stop-words {stop_words}: give english or none.")
    name, documents = _read(data, part, data_root)

    import pandas as pd

    from pyro_gen.structure.topic_pages import topics_page
    from pyro_gen.structure.topics import Topics

    found = Topics(topics, chains, draws, None if stop_words == "none" else stop_words, min_documents, seed)
    found.fit(documents, progress=not as_json)

    def table() -> pd.DataFrame:
        shares = {f"topic {k}": share for k, share in enumerate(found.shares_.T)}
        return pd.DataFrame({"document": found.documents_, **shares})

    results.write(found, table, lambda path: topics_page(found, path, data=name))
    topics_in_words = [f"  {k:>3} {row['prevalence']:6.1%}  {row['words']}" for k, row in found.table(6).iterrows()]
    words = "\n".join([found.summary(), *topics_in_words])
    results.tell({"data": name, **_figures(found), "seed": seed}, words, as_json)


def _figures(found: Any) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "number": found.n_topics_,
        "topics": found.table().to_dict("records"),
        "r_hat": found.r_hat_,
    }
    if found.n_topics is None:
        figures |= {"perplexities": found.perplexities_, "number_probabilities": found.number_probabilities_}
    return figures


def _read(data: str, part: Part, data_root: Path | None) -> tuple[str, Any]:
    """The name of the documents, and what :class:`pyro_gen.structure.Topics` takes of them."""
    import pandas as pd

    path = Path(data)
    if path.is_dir() or path.suffix == ".txt":
        return data, path
    if len(path.parts) > 1 and not path.exists():
        raise ValueError(f"{data}: no such file or folder.")
    read = read_data(data, part, data_root, False, None, to_train=False)
    x = read.x.flatten(1).double().numpy()
    return read.name, pd.DataFrame(x, columns=list(read.columns or map(str, range(x.shape[1]))))

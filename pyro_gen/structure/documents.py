"""Documents as counts of words: from a matrix, from texts, or from a folder of text files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse
import torch
from sklearn.feature_extraction.text import CountVectorizer

from pyro_gen.models.topic.parts.gibbs import Corpus

__all__ = ["Documents", "as_corpus", "is_text", "read_documents", "texts_of"]

WORD = r"[^\W\d_]{3,}"  # three letters or more


class Documents(NamedTuple):
    """Counts of words in documents.

    Attributes:
        counts: With shape (N, V), sparse; counts that were not seen are in ``missing`` and 0 here.
        missing: Document and word of counts that were not seen, with shape (2, L).
        words: The V words.
        names: The N documents.
    """

    counts: Any
    missing: npt.NDArray[np.int64]
    words: tuple[str, ...]
    names: tuple[str, ...]


def is_text(data: Any) -> bool:
    """Whether documents are given as texts, a folder or a file of texts."""
    if isinstance(data, str | Path):
        return True
    if not isinstance(data, Sequence | pd.Series | np.ndarray) or getattr(data, "ndim", 1) != 1:
        return False
    return any(isinstance(one, str) for one in data)


def texts_of(data: Any) -> tuple[list[str], tuple[str, ...]]:
    """Texts and their names: of a folder its .txt files, of a file its lines, of a series or a sequence its entries.

    Raises:
        ValueError: There is no such file or folder, it has no text, or an entry is no text.
    """
    if isinstance(data, str | Path):
        path = Path(data)
        if path.is_dir():
            files = sorted(path.rglob("*.txt"))
            if not files:
                raise ValueError(f"{path}: no .txt file in this folder or below it; a document is such a file.")
            texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
            return texts, tuple(file.relative_to(path).with_suffix("").as_posix() for file in files)
        if not path.is_file():
            raise ValueError(f"{path}: no such folder or file; give a folder of .txt files or a file of lines.")
        lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return lines, tuple(f"line {i + 1}" for i in range(len(lines)))
    texts = list(data)
    wrong = next((i for i, one in enumerate(texts) if not isinstance(one, str)), None)
    if wrong is not None:
        raise ValueError(f"document {wrong} is {texts[wrong]!r}, no text: leave it out.")
    names = data.index if isinstance(data, pd.Series) else range(len(texts))
    return texts, tuple(map(str, names))


def counter(stop_words: str | Sequence[str] | None, min_documents: int) -> CountVectorizer:
    """What counts words of three letters or more, without those that say nothing, and rare ones."""
    stop = stop_words if stop_words is None or isinstance(stop_words, str) else list(stop_words)
    return CountVectorizer(token_pattern=WORD, stop_words=stop, min_df=min_documents)


def read_documents(data: Any, vectorizer: CountVectorizer, words: Sequence[str] | None = None) -> Documents:
    """Counts of words in documents.

    Arguments:
        data: A matrix of counts with shape (N, V), NaN where one was not seen: an array, a tensor, a scipy matrix or a
            data frame with words as columns; or texts, see :func:`texts_of`.
        vectorizer: What counts words in texts, :func:`counter`.
        words: The vocabulary of a fitted model; ``None``: the data's own.

    Raises:
        ValueError: A number is no count, there is no document or no word, or the words are others than those fitted.
    """
    if is_text(data):
        texts, names = texts_of(data)
        try:
            counts = vectorizer.transform(texts) if words is not None else vectorizer.fit_transform(texts)
        except ValueError as error:
            if "vocabulary" not in str(error) and "terms" not in str(error):
                raise
            raise ValueError(
                f"none of the {len(texts)} documents has a word that counts: three letters or more, no stop word, in "
                f"{vectorizer.min_df} documents or more."
            ) from None
        own = tuple(map(str, vectorizer.get_feature_names_out()))
        return Documents(counts.tocsr(), np.zeros((2, 0), dtype=np.int64), own, names)
    columns = tuple(map(str, data.columns)) if isinstance(data, pd.DataFrame) else None
    labels = tuple(map(str, data.index)) if isinstance(data, pd.DataFrame) else None
    matrix: Any = data.tocsr() if scipy.sparse.issparse(data) else _dense(data)
    if matrix.ndim == 1:
        raise ValueError(f"documents have shape {matrix.shape}. Reshape your data: a row a document, a column a word.")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(
            f"documents have shape {tuple(matrix.shape)}: give counts (documents, words), 1 of each at least, or texts."
        )
    values = matrix.data if scipy.sparse.issparse(matrix) else matrix
    missing = np.isnan(values)
    bad = ~missing & ((values < 0) | (values != np.round(values)) | np.isinf(values))
    if bad.any():
        raise ValueError(f"{values[bad][0]:g} is no count of a word: give integers from 0 on, or NaN where not seen.")
    if words is not None and columns is not None and columns != tuple(words):
        strange = next((c for c in columns if c not in words), None)
        what = f"{strange!r} is no word of the topics" if strange is not None else "another order or number of words"
        raise ValueError(f"the columns are not those fitted ({what}): give the {len(words)} words in their order.")
    if words is not None and matrix.shape[1] != len(words):
        raise ValueError(
            f"X has {matrix.shape[1]} features, but Topics is expecting {len(words)} features as input, a word each."
        )
    cells = np.zeros((2, 0), dtype=np.int64)
    if missing.any():
        if scipy.sparse.issparse(matrix):
            coo = matrix.tocoo()
            at = np.isnan(coo.data)
            cells = np.stack([coo.row[at], coo.col[at]]).astype(np.int64)
        else:
            cells = np.stack(np.nonzero(missing)).astype(np.int64)
    counts = scipy.sparse.csr_matrix(matrix)
    counts.data = np.nan_to_num(counts.data)
    counts.eliminate_zeros()
    own = tuple(words) if words is not None else columns or tuple(f"word {v}" for v in range(matrix.shape[1]))
    return Documents(counts, cells, own, labels or tuple(map(str, range(matrix.shape[0]))))


def _dense(data: Any) -> npt.NDArray[np.float64]:
    try:
        return np.asarray(data, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            "documents are neither a matrix of counts (documents, words) nor texts: give one of these, or the folder "
            "of text files."
        ) from None


def as_corpus(documents: Documents, length: tuple[float, float]) -> Corpus:
    """The cells that are not zero, as the sampler takes them; the lengths' Gamma law has parameters ``length``."""
    cells = documents.counts.tocoo()
    return Corpus(
        torch.as_tensor(cells.row.astype(np.int64)),
        torch.as_tensor(cells.col.astype(np.int64)),
        torch.as_tensor(cells.data.astype(np.int64)),
        documents.counts.shape,
        torch.as_tensor(documents.missing),
        torch.tensor(length),
    )

r"""Data sets of many Parquet files, larger than memory: learnt from a sample, imputed file by file.

Programs learn from rows out of some row groups, drawn at random, for a few ten thousand rows say what there is to say.
Then each file is completed by itself, a batch of rows at a time, on as many machines as there are. Each row has a seed,
made of the file it lies in, its batch, and what it holds: whoever completes a file, and how often, writes the same.

A file is written under another name and takes its own when it is whole. So what has its name is finished: whoever
starts again after a crash goes on with what is left.

The engine is Dask: its scheduler gives the tasks of a worker that dies to the others, it runs on a laptop's processes
and on the queues of clusters alike, and it is Python through and through, where Ray brings daemons of its own.
"""

from pyro_gen.imputation.partitions.folder import impute_partitions, imputer_of

__all__ = ["impute_partitions", "imputer_of"]

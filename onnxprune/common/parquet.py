"""Parquet files, whose sizes are looked at before they are read."""

from pathlib import Path


def unpacked_bytes(path: Path) -> int:
    """What a Parquet file says that its columns take in memory, at least.

    Strings that occur often are stored once, so that a column may take more: the rows times the largest width of one
    of a fixed size count too.

    Raises:
        ImportError: there is no pyarrow.
        OSError, ValueError: it is none, or a damaged one; pyarrow's own errors are of these.
    """
    import pyarrow.parquet as pq

    head = pq.read_metadata(path)
    groups = [head.row_group(index) for index in range(head.num_row_groups)]
    return max(sum(group.total_byte_size for group in groups), head.num_rows * head.num_columns * 8)

"""``.parquet``: a table whose column "text" holds a document a row."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from mlm_jax.common.errors import UserError, one_line
from mlm_jax.data.text.formats.parquet_pages import page_sizes
from mlm_jax.data.text.reading import PACKINGS, Wanted, checked_text, too_large

PAGE_DOCUMENTS = 16  # of the largest documents that a page, which is unpacked as a whole, may have the size of
ROWS = 16  # read at once: so many of the largest documents must fit into memory


def read(file: Path, wanted: Wanted) -> Generator[str, None, None]:
    """Yield the texts of a table.

    Raises:
      UserError: there is no column "text", a row has no text, or the file is not whole.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.suffix in PACKINGS:
        raise UserError("Parquet files are compressed inside", file=file, remedy="unpack it")
    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            if "text" not in names:
                raise UserError(
                    f'no column "text", only {one_line(", ".join(names))}', file=file, remedy='name the column "text"'
                )
            _check_row_groups(table.metadata, wanted.most_bytes, file)
            row = 0
            for batch in table.iter_batches(batch_size=ROWS, columns=["text"]):
                for value in batch.column(0):
                    row += 1
                    yield checked_text(value.as_py(), wanted.most_bytes, file, where=f"row {row}")
    except (pa.ArrowException, OSError, ValueError) as error:  # UnicodeDecodeError is one of the last kind
        raise UserError(
            f"this is not a whole Parquet file: {one_line(error)}", file=file, remedy="fetch or write the file again"
        ) from error


def _check_row_groups(metadata: Any, most_bytes: int, file: Path) -> None:
    """Refuse a group of rows whose texts have more bytes than the limit on average, or a page that is too large for memory."""
    before = 0
    with file.open("rb") as stream:
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            rows = f"rows {before + 1} to {before + group.num_rows}"
            for column in (group.column(number) for number in range(group.num_columns)):
                if column.path_in_schema != "text":
                    continue
                if column.total_uncompressed_size > max(group.num_rows, 1) * most_bytes:
                    raise too_large(f"a text in {rows}", most_bytes, file)
                if column.total_uncompressed_size > PAGE_DOCUMENTS * most_bytes:  # else no page can be larger
                    for size in page_sizes(stream, column):
                        if size > PAGE_DOCUMENTS * most_bytes:
                            raise UserError(
                                f"a page of {size:,} bytes in {rows}: more than {PAGE_DOCUMENTS} times "
                                "data.max_document_bytes",
                                file=file,
                                remedy="write the file with smaller data pages, or raise data.max_document_bytes",
                            )
            before += group.num_rows

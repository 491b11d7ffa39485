"""``.parquet``: a table with one document per row, in the column "text", unless the source names another column."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from mlm_jax.common.errors import UserError, one_line
from mlm_jax.data.text.fields import fits, value_of
from mlm_jax.data.text.formats.parquet_pages import page_sizes
from mlm_jax.data.text.reading import PACKINGS, Wanted, checked_text, too_large

PAGE_DOCUMENTS = 16  # largest size of a page, which is decompressed as a whole, as a multiple of the largest document
ROWS = 16  # rows read at a time: as many of the largest documents must fit into memory


def read(file: Path, wanted: Wanted) -> Generator[str, None, None]:
    """Yield the texts of a table, except rows whose columns do not meet ``wanted.where``.

    Raises:
      UserError: there is no such column, a row has no text, or the file is damaged; or as :func:`.fields.fits`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.suffix in PACKINGS:
        raise UserError("Parquet files are compressed inside", file=file, remedy="unpack it")
    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            fields = [*dict.fromkeys([wanted.field, *wanted.where])]  # "metadata.url" is part of the column "metadata"
            for field in fields:
                if field.partition(".")[0] not in names:
                    raise UserError(
                        f'no column "{field}", only {one_line(", ".join(names))}',
                        file=file,
                        remedy='name the column in the source: {"files": …, "field": "content"}',
                    )
            _check_row_groups(table.metadata, wanted, file)
            row = 0
            for batch in table.iter_batches(batch_size=ROWS, columns=fields):
                for entry in batch.to_pylist():
                    row += 1
                    where = f"row {row}"
                    if not wanted.where or fits(entry, wanted, file, f"{where}: "):
                        text = value_of(entry, wanted.field, file, f"{where}: ")
                        yield checked_text(text, wanted.most_bytes, file, where=where)
    except (pa.ArrowException, OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(
            f"this is not a whole Parquet file: {one_line(error)}", file=file, remedy="fetch or write the file again"
        ) from error


def _check_row_groups(metadata: Any, wanted: Wanted, file: Path) -> None:
    """Check that the average text of each row group is within the limit, and that no page is too large for memory.

    Raises:
      UserError: a text or a page is too large.
    """
    before, most_bytes = 0, wanted.most_bytes
    with file.open("rb") as stream:
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            rows = f"rows {before + 1} to {before + group.num_rows}"
            for column in (group.column(number) for number in range(group.num_columns)):
                if column.path_in_schema != wanted.field:
                    continue
                if column.total_uncompressed_size > max(group.num_rows, 1) * most_bytes:
                    raise too_large(f"a text in {rows}", most_bytes, file)
                if column.total_uncompressed_size > PAGE_DOCUMENTS * most_bytes:  # otherwise no page can be too large
                    for size in page_sizes(stream, column):
                        if size > PAGE_DOCUMENTS * most_bytes:
                            raise UserError(
                                f"a page of {size:,} bytes in {rows}: more than {PAGE_DOCUMENTS} times "
                                "data.max_document_bytes",
                                file=file,
                                remedy="write the file with smaller data pages, or raise data.max_document_bytes",
                            )
            before += group.num_rows

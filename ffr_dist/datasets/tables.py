"""Columns of a publisher's table (CSV or parquet), as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ffr_dist.errors import DataError
from ffr_dist.store import open_input

if TYPE_CHECKING:
    import pyarrow as pa


def read_columns(table: str, names: Sequence[str], cure: str) -> dict[str, list[str]]:
    """The named columns of a ``.csv`` with a header line, or of a ``.parquet``.

    Cells read as a recipe writes them: 1 for 1.0, true for True, nothing for a missing one. ``cure`` says what to do
    where a column is missing.
    """
    import pyarrow as pa  # noqa: PLC0415 (a recipe is read without it)

    names = list(dict.fromkeys(names))
    with open_input(table) as file:
        body = pa.py_buffer(file.read())
    try:
        present = _column_names(table, body)
        absent = [name for name in names if name not in present]
        if absent:
            raise DataError(f"{table} has no column {', '.join(absent)}; it has {', '.join(present)}. {cure}")
        twice = [name for name in names if present.count(name) > 1]
        if twice:
            raise DataError(f"{table} has more than one column {', '.join(twice)}; rename one of them")
        columns = _columns(table, body, names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{table} cannot be read as a table: {error}") from error
    if not columns.num_rows:
        raise DataError(f"{table} has no rows")
    return {name: [cell_text(value) for value in columns[name].to_pylist()] for name in names}


def _column_names(table: str, body: pa.Buffer) -> list[str]:
    from pyarrow import BufferReader, csv, parquet  # noqa: PLC0415 (as above)

    if table.endswith(".csv"):
        return list(csv.open_csv(BufferReader(body)).schema.names)
    return list(parquet.read_schema(BufferReader(body)).names)


def _columns(table: str, body: pa.Buffer, names: Sequence[str]) -> pa.Table:
    from pyarrow import BufferReader, csv, parquet, string  # noqa: PLC0415 (as above)

    if table.endswith(".csv"):
        texts = csv.ConvertOptions(include_columns=names, column_types=dict.fromkeys(names, string()))
        return csv.read_csv(BufferReader(body), convert_options=texts)
    return parquet.read_table(BufferReader(body), columns=names)


def cell_text(value: object) -> str:
    """A cell as a recipe writes it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)

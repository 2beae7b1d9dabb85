"""flywheel's tables as numpy arrays."""
import os
from typing import Any, Dict, List, Optional


def read_table(path: str, name: Optional[str] = None, columns: Optional[List[str]] = None) -> Dict[str, Any]:
    """Reads the newest version of the Delta table `path` (or `path/name`): numpy arrays by column.

    Needs the extra `tables` (`pip install flywheel[tables]`).
    """
    try:
        from deltalake import DeltaTable
        from deltalake.query import QueryBuilder
    except ImportError as error:
        raise ImportError("read_table needs the packages deltalake and numpy: pip install 'flywheel[tables]'") from error
    import numpy

    table = DeltaTable(os.path.join(path, name) if name else path)
    chosen = columns or [column.name for column in table.schema().fields]
    known = {column.name for column in table.schema().fields}
    unknown = [column for column in chosen if column not in known]
    if unknown:
        raise KeyError(f"the table has no column {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    listed = ", ".join('"' + column.replace('"', '""') + '"' for column in chosen)
    batches = list(QueryBuilder().register("t", table).execute(f"select {listed} from t"))
    arrays: Dict[str, Any] = {}
    for index, column in enumerate(chosen):
        values = [value for batch in batches for value in batch.column(index).to_pylist()]
        # numpy's own bytes would lose zeros at the end.
        binary = any(isinstance(value, (bytes, list, dict)) for value in values)
        arrays[column] = numpy.array(values, dtype=object if binary else None)
    return arrays

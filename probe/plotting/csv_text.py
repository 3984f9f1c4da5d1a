"""Tables as CSV with full precision; texts are written so that no spreadsheet runs them as formulas."""

from typing import TYPE_CHECKING, Any

from probe.texts import cell

if TYPE_CHECKING:
    import pandas as pd


def to_csv(table: "pd.DataFrame") -> str:
    """Return a table as CSV, without its index."""
    import pandas as pd

    rows = table.reset_index(drop=True)
    columns = [rows.iloc[:, at] for at in range(rows.shape[1])]
    safe = {at: each.astype(object).map(_cell) if _holds_text(each) else each for at, each in enumerate(columns)}
    return pd.DataFrame(safe, index=rows.index).to_csv(index=False, header=[cell(str(name)) for name in table.columns])


def _holds_text(column: "pd.Series") -> bool:
    import pandas as pd

    kind = column.dtype
    return isinstance(kind, pd.CategoricalDtype) or pd.api.types.is_string_dtype(kind) or kind.kind == "O"


def _cell(value: Any) -> Any:
    """Return a number or missing value unchanged, and any other value as a safe text."""
    import pandas as pd

    is_value = isinstance(value, bool | int | float) or value is None or value is pd.NA or value is pd.NaT
    return value if is_value else cell(str(value))

r"""Tables as LaTeX: booktabs rules, escaped texts, and the title as caption.

A document needs `\usepackage{booktabs}`, and `longtable` for a table with more than `LONG` rows.
"""

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from probe.texts import REPLACED, visible

if TYPE_CHECKING:
    import pandas as pd

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\symbol{34}",
    "`": r"\textasciigrave{}",
    "\u2212": r"\ensuremath{-}",
    "\u2013": r"\textendash{}",
    "\u2014": r"\textemdash{}",
    "\u2016": r"\ensuremath{\Vert}",
    "\u2020": r"\dag{}",
    "\u2026": r"\dots{}",
    "\u0394": r"\ensuremath{\Delta}",
    "\u03b1": r"\ensuremath{\alpha}",
    "\u03b2": r"\ensuremath{\beta}",
    "\u00d7": r"\ensuremath{\times}",
    "\u2264": r"\ensuremath{\leq}",
    "\u2265": r"\ensuremath{\geq}",
    "\u00a0": "~",
}
"""LaTeX code for characters that LaTeX would interpret or that its usual fonts lack."""
LONG = 40
"""Maximum number of rows of a table on one page."""
DIGITS = 4


def escape_latex(text: str) -> str:
    """Escape a text so that LaTeX prints it literally, on one line.

    Control and other invisible characters (`visible`) become a space.
    """
    plain = "".join(SPECIAL.get(letter, letter) for letter in visible(text).replace(REPLACED, " "))
    return re.sub(r"([-',])(?=\1)", r"\1{}", plain)


def to_latex(table: "pd.DataFrame", caption: str = "", label: str = "") -> str:
    r"""Return a table as LaTeX (booktabs): numbers right-aligned with four significant digits, texts left-aligned.

    Args:
        table: the table, without its index.
        caption: caption of the table, as plain text.
        label: name for `\ref`; only its letters, digits and hyphens are kept.
    """
    import pandas as pd

    aligned = "".join(
        "r" if pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind) else "l"
        for kind in table.dtypes
    )
    head = _row([escape_latex(str(name)) for name in table.columns])
    body = [_row([_cell(value) for value in row]) for row in table.itertuples(index=False, name=None)]
    about = [rf"\caption{{{escape_latex(caption)}}}"] if caption else []
    name = "".join(letter for letter in label if letter.isascii() and (letter.isalnum() or letter == "-"))
    about += [rf"\label{{tab:{name}}}"] if name else []
    if len(body) > LONG:
        ends = [r"\toprule", head, r"\midrule"]
        named = [*about[:-1], about[-1] + r" \\"] if about else []
        lines = [rf"\begin{{longtable}}{{{aligned}}}", *named, *ends, r"\endhead", *body, r"\bottomrule"]
        return "\n".join([*lines, r"\end{longtable}", ""])
    lines = [r"\begin{table}", r"\centering", *about, rf"\begin{{tabular}}{{{aligned}}}", r"\toprule", head]
    return "\n".join([*lines, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _row(cells: Sequence[str]) -> str:
    line = " & ".join(cells) + r" \\"
    return "{}" + line if line.startswith(("[", "*")) else line  # else read as an argument of the line break before it


def _cell(value: Any) -> str:
    import pandas as pd

    if pd.api.types.is_bool(value):
        return str(value)
    if pd.api.types.is_integer(value):
        return f"${value}$" if value < 0 else str(value)
    if pd.api.types.is_float(value) and math.isfinite(value):
        text = f"{float(value):.{DIGITS}g}"
        mantissa, mark, power = text.partition("e")
        return f"${mantissa} \\cdot 10^{{{int(power)}}}$" if mark else f"${text}$" if value < 0 else text
    missing = value is None or value is pd.NA or value is pd.NaT or (pd.api.types.is_float(value) and math.isnan(value))
    return "" if missing else escape_latex(str(value))

"""What an audit found: its table, how many differences chance alone would give, its sentence, and its JSON file.

A measure changed where the whole 95 % interval of its difference lies beyond the smallest effect that counts
(`probe.stats.beyond`, `probe.terms.smallest_effect`): one percentage point of a rate, if no other is chosen. Of m
independent measures that differ by no more at most 0.05 m do so. Therefore each row has besides

    smallest    the smallest effect that counts, in the unit of the row
    p           the two-sided level at which the interval would reach the smallest effect, if the estimate were normal
                with the half width of the interval towards 0: below 0.05 exactly where the measure changed
    q           p adjusted for all rows by Benjamini and Hochberg (1995, JRSS B 57:289): among the rows with q < 0.05
                one in twenty is expected to be a false alarm at most
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr
from scipy.stats import false_discovery_control

from probe import stats
from probe.errors import ConfigError, DataError
from probe.numbers import in_percent, in_unit
from probe.runs.directories import roots, within
from probe.runs.schema import RESULTS, dumps
from probe.runs.storage import disk, write_atomic
from probe.terms import DIFFERENCE, RATES, SMALLEST, smallest_effect
from probe.untrusted import read_json, sendable, short

FORMAT = 1
"""Of the JSON file."""
FILE, PAGE = "audit.json", "audit.html"
"""Names in an audit's folder."""
AUDITS = "audits"
"""The folder of audits in the results, or in a folder of runs."""
HOME = Path(RESULTS) / AUDITS
"""Where audits are saved, below the working directory."""
LEVEL = 0.05
FEWEST = 10
"""Items without which a difference is shown and not tested: intervals of fewer are too narrow."""
Z = 1.959963984540054
_TEXTS = ("metric", "part", "questions", "title", "unit", "better")
_NUMBERS = (
    *("base", "base_low", "base_high", "aligned", "aligned_low", "aligned_high"),
    *("difference", "difference_low", "difference_high"),
)
COLUMNS = ("metric", "part", "questions", "measure", "title", "unit", "better", *_NUMBERS, "n")
"""Columns of the table before `add_tests`."""
CORPUS = ("texts", "tokens", "kl", "kl_low", "kl_high", "kl_reverse")
BLOCKS = ("block", "weights", "weights_share", "residual", "residual_low", "residual_high")


@dataclass(frozen=True)
class Audit:
    """What changed from a base to an aligned model."""

    rows: pd.DataFrame
    """One row a measure: metric (its name), part, questions (the set, or `world`), measure (whether the audit is about
    it), title, unit, better (higher, lower or neither), base, aligned and difference with their 95 % intervals
    (`_low`, `_high`; the difference is paired), n (items), smallest, p and q (see the module)."""
    corpus: pd.DataFrame
    """KL(aligned || base) in nats a token by kind of text, `all` first: kind, texts, tokens, kl, kl_low, kl_high,
    kl_reverse. Empty where the tokenizers differ."""
    blocks: pd.DataFrame
    """One row a block: block, weights (norm of the change over that of the base), weights_share (of the whole squared
    change), residual (the same ratio of the residual stream behind the block where an answer begins, mean over
    prompts) with residual_low and residual_high. Empty where the architectures differ."""
    notes: tuple[str, ...] = ()
    """What is left out, and why."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """models (label, ref, fingerprint, method; base first), sets, n, only, seed, smallest_effect, seconds, created,
    key."""

    @property
    def names(self) -> tuple[str, str]:
        """Labels of base and aligned model."""
        base, aligned = (str(model["label"]) for model in self.meta["models"])
        return base, aligned

    @property
    def tested(self) -> pd.DataFrame:
        """The rows whose difference has an interval, over at least `FEWEST` items."""
        return self.rows[self.rows["p"].notna()]

    @property
    def changed(self) -> pd.DataFrame:
        """The rows whose whole interval lies beyond the smallest effect that counts, the surest first."""
        rows = self.tested
        rows = rows[stats.beyond(rows["difference_low"], rows["difference_high"], rows["smallest"])]
        return rows.sort_values("p", kind="stable")

    @property
    def smallest(self) -> float:
        """The smallest change of a rate that counts."""
        return _share(self.meta.get("smallest_effect"))

    @property
    def limit(self) -> str:
        """The smallest change of a rate that counts, in words."""
        return in_percent(self.smallest, 3).replace("%", "pp")

    def count_from(self, smallest: float) -> "Audit":
        """The same numbers with another smallest effect that counts.

        Args:
            smallest: of rates, see `probe.terms.smallest_effect`.

        Raises:
            ConfigError: it is not between 0 and 1.
        """
        check_smallest(smallest)
        return replace(
            self, rows=add_tests(self.rows, smallest), meta={**self.meta, "smallest_effect": float(smallest)}
        )

    @property
    def sentence(self) -> str:
        """What changed, in words."""
        base, aligned = self.names
        measures, changed = self.rows[self.rows["measure"]], self.changed
        moved = changed[changed["measure"]].sort_index().to_dict("records")
        others = changed[~changed["measure"]]
        if moved:
            parts = [f"{row['title']} {describe(row)}" for row in moved]
            first = f"{aligned} against {base}: {'; '.join(parts)}."
        else:
            none = f"of none of the {len(measures)} measures a change beyond {self.limit} is shown"
            first = f"{aligned} against {base}: {none}."
        m = len(self.tested[~self.tested["measure"]])
        sure = f", {(others['q'] < LEVEL).sum()} of them also after correction" if len(others) else ""
        rest = f" Of {m} further measures {len(others)} changed{sure}; chance alone gives at most {LEVEL * m:.1f}."
        return first + rest if m else first

    def to_json(self) -> str:
        """The file, as docs/audit.md describes it."""
        tables = {name: getattr(self, name).to_dict("records") for name in ("rows", "corpus", "blocks")}
        counts = {"comparisons": len(self.tested), "expected_false_alarms": LEVEL * len(self.tested)}
        about = {"format": FORMAT, "sentence": self.sentence, **counts, **tables}
        return dumps({**about, "notes": list(self.notes), "meta": dict(self.meta)}, indent=1) + "\n"

    @property
    def folder(self) -> Path:
        """Where it is saved by default."""
        base, aligned = (name if name.strip(".") else "model" for name in self.names)
        return HOME / f"{base}-{aligned}-{self.meta['key']}"

    def save(self, folder: Path | None = None) -> Path:
        """Write the JSON file and the HTML file; gives the folder.

        Raises:
            RunError: the disk refuses.
        """
        from probe.audit.html_file import audit_html

        folder = folder or self.folder
        with disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / FILE, self.to_json().encode())
            write_atomic(folder / PAGE, audit_html(self).encode())
        return folder


def describe(row: Mapping[Any, Any]) -> str:
    """Both values of a row and their difference: `from 34 % to 46 %, +12 pp [3, 21]`."""
    nan = float("nan")
    before, after = (in_unit(row["unit"], row[name], nan, nan) for name in ("base", "aligned"))
    return f"from {before} to {after} ({change(row)})"


def level(q: float) -> str:
    """An adjusted level as a person reads it; empty where there is none."""
    return "" if q != q else "< 0.001" if q < 0.001 else f"{q:.2g}"


def change(row: Mapping[Any, Any]) -> str:
    """The difference of a row with its interval, in its unit."""
    unit = DIFFERENCE if row["unit"] in RATES else row["unit"]
    return in_unit(unit, row["difference"], row["difference_low"], row["difference_high"], sign=True)


def check_smallest(smallest: float) -> None:
    """Refuse a smallest effect that is none.

    Raises:
        ConfigError: it is not from 0 up to, and without, 1.
    """
    if not 0 <= smallest < 1:
        raise ConfigError(f"The smallest effect is {smallest}; expected a share from 0 to below 1, such as {SMALLEST}.")


def add_tests(rows: pd.DataFrame, smallest: float = SMALLEST) -> pd.DataFrame:
    """The table with the columns smallest, p and q; p and q are NaN without an interval, or with few items (`FEWEST`).

    Args:
        rows: with the columns `COLUMNS`.
        smallest: of rates, see `probe.terms.smallest_effect`.
    """
    gap, low, high = (rows[name].to_numpy(dtype=float) for name in _NUMBERS[-3:])
    values = zip(rows["unit"], rows["base"], rows["aligned"], strict=True)
    least = np.array([smallest_effect(str(unit), sides, smallest) for unit, *sides in values], dtype=float)
    towards = np.maximum(np.where(gap > 0, gap - low, high - gap), 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        p = np.where(np.abs(gap) <= least, 1.0, 2 * ndtr(-Z * (np.abs(gap) - least) / towards))
    p = np.where(np.isfinite(low) & np.isfinite(high) & (rows["n"].to_numpy(dtype=float) >= FEWEST), p, np.nan)
    known, q = ~np.isnan(p), np.full(len(p), np.nan)
    if known.any():
        q[known] = false_discovery_control(p[known])
    return rows.assign(smallest=least, p=p, q=q)


def read_audit(path: Path) -> Audit:
    """An audit from its JSON file, or from the folder that holds it.

    What changed is decided anew, by the smallest effect that the file names, or the usual one.

    Raises:
        DataError: there is none, or it is damaged or newer.
    """
    file = path / FILE if path.is_dir() else path
    try:
        values = sendable(read_json(file))
    except OSError as error:
        raise DataError(
            f"`{path}` holds no {FILE} that can be read ({error.strerror}): give a folder that `probe audit` wrote."
        ) from None
    except ValueError as error:
        raise DataError(f"`{file}` is cut short or damaged ({short(error)}): run the audit again.") from None
    if isinstance(values, dict) and isinstance(values.get("format"), int) and values["format"] > FORMAT:
        raise DataError(
            f"`{file}` has format {values['format']} and this version of Probe reads up to {FORMAT}: read it with the"
            " version that wrote it or a newer one."
        )
    try:
        rows = read_table(values["rows"], {**dict.fromkeys(_TEXTS, str), **dict.fromkeys((*_NUMBERS, "n"), float)})
        rows = rows.assign(measure=[bool(row["measure"]) for row in values["rows"]])
        corpus = read_table(values["corpus"], {"kind": str, **dict.fromkeys(CORPUS, float)})
        corpus = corpus.astype({"texts": int, "tokens": int})
        blocks = read_table(values["blocks"], dict.fromkeys(BLOCKS, float)).astype({"block": int})
        meta = values["meta"]
        texts = [model[name] for model in meta["models"] for name in ("label", "fingerprint")]
        if len(texts) != 4 or not all(isinstance(text, str) for text in texts):
            raise ValueError("it does not name two models")
        notes = tuple(str(note) for note in values["notes"])
        str(meta["key"]), float(meta["seconds"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"`{file}` is no audit ({type(error).__name__}: {reason}): run the audit again.") from None
    rows = add_tests(rows[list(COLUMNS)].astype({"n": int}), _share(meta.get("smallest_effect")))
    return Audit(rows, corpus, blocks, notes, meta)


def _share(value: Any) -> float:
    """A smallest effect as a file holds it; the usual one where it is none."""
    usual = isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1
    return SMALLEST if usual else float(value)


def read_table(records: Any, columns: Mapping[str, type]) -> pd.DataFrame:
    """Records as a table with columns of texts and of numbers, null as NaN.

    Raises:
        KeyError, TypeError, ValueError: a value is missing or of another kind.
    """
    if not isinstance(records, list):
        raise ValueError("its rows are no list")
    nan = float("nan")
    data = {
        name: [str(row[name]) if kind is str else nan if row[name] is None else float(row[name]) for row in records]
        for name, kind in columns.items()
    }
    return pd.DataFrame(data, columns=list(columns)).astype(
        {name: float for name, kind in columns.items() if kind is float}
    )


def audit_files() -> list[Path]:
    """Files of audits in `HOME`, and in the folder `audits` of each folder of runs."""
    homes = [HOME, *(root / AUDITS for root in roots())]
    return [file for home in homes for file in home.glob(f"*/{FILE}") if home == HOME or within(file)]


def stored_audits(files: Sequence[Path] | None = None) -> dict[Path, Audit]:
    """Audits that can be read by their folders, newest first: of the files, by default of `audit_files`."""
    audits: dict[Path, Audit] = {}
    for file in audit_files() if files is None else files:
        try:
            audits[file.parent] = read_audit(file)
        except DataError:
            continue
    return dict(sorted(audits.items(), key=lambda pair: str(pair[1].meta.get("created")), reverse=True))

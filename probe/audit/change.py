"""Result of an audit: its table, the differences expected by chance, its sentence, and its JSON file.

Each difference has one of three verdicts: changed, equivalent or undecided (see `probe.audit.verdict`). Verdicts are
recomputed from the stored numbers whenever an audit is read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pandas as pd

from probe.audit.config import MARGIN
from probe.audit.verdict import (
    CHANGED,
    DIFFERENCES,
    EQUIVALENT,
    INNER_ENDS,
    SWAPS,
    UNDECIDED,
    UNKNOWN,
    add_verdicts,
)
from probe.errors import DataError
from probe.numbers import in_percent, in_unit
from probe.plotting.names import file_name
from probe.runs.directories import roots, within
from probe.runs.schema import RESULTS, dumps
from probe.runs.storage import disk, write_atomic
from probe.terms import DIFFERENCE, RATES, SMALLEST, smallest_effect
from probe.untrusted import read_json, refuse_newer, sendable, short

FORMAT = 1
"""Version of the JSON file's format."""
FILE, PAGE = "audit.json", "audit.html"
"""Names of the files in an audit's folder."""
HTML = "probe.audit.figures:audit_html"
"""Function that makes the HTML file, by name, since its module draws audits and so imports this one."""
AUDITS = "audits"
"""Folder of audits among the results, or in a folder of runs."""
HOME = Path(RESULTS) / AUDITS
"""Folder below the working directory where audits are saved."""
_TEXTS = ("metric", "part", "questions", "title", "unit", "better")
_NUMBERS = (
    *("base", "base_low", "base_high", "aligned", "aligned_low", "aligned_high"),
    *DIFFERENCES,
)
COLUMNS = ("metric", "part", "questions", "measure", "title", "unit", "better", *_NUMBERS, "n")
"""Columns that every version stored."""
TESTS = (*INNER_ENDS, *SWAPS, "same_as")
"""Columns that older versions did not store; `add_verdicts` reads a table that has them."""
FORM = ("form", "form_low", "form_high")
"""Columns of an audit of models with different chat templates: the effect of the chat template alone on the base."""
SEEN = ("seen", "unseen", "unseen_low", "unseen_high")
"""Columns of an audit of runs with a record of their data (`probe.audit.seen`): number of questions in the data, and
the difference over the others.
"""
OPTIONAL = ("chance", *FORM, *SEEN)
"""Columns that only some audits have."""
CORPUS = ("texts", "tokens", "kl", "kl_low", "kl_high", "kl_reverse")
OLDER = (
    "This audit was made by an older version: its p values follow from the 95 % intervals, and “equivalent”"
    " requires that these lie within the margin."
)
"""Note on an audit without swaps and inner intervals."""
MOST_NAMED = 3
"""Largest number of further measures that the sentence names."""
LARGEST = 1e100
"""Largest absolute value accepted from a file; larger ones belong to no measure and overflow in figures."""
BLOCKS = ("block", "weights", "weights_share", "residual", "residual_low", "residual_high")


@dataclass(frozen=True)
class Audit:
    """Result of an audit: what changed from a base to an aligned model."""

    rows: pd.DataFrame
    """Table with one row per measure: metric (its name), part, questions (the set, or `world`), measure (whether it is
    one of the audit's main measures), title, unit, better (higher, lower or neither), base, aligned and difference with
    their 95 % intervals (`_low`, `_high`; the difference is paired), n (pairs behind the difference), the bounds of its
    90 % interval (`_low90`, `_high90`), p, p_corrected and critical (`probe.audit.swaps`), same_as (the metric that is
    the same statistic and represents it), smallest, margin, mde, cannot_show and verdict (`probe.audit.verdict`); if
    the chat templates differ: form, form_low and form_high (change of the base from its own chat template to the
    aligned model's); if there are choices: chance (value of random guessing); if runs have a record of their data: seen
    (questions of the part that the data contain), unseen, unseen_low and unseen_high (the difference over the others).
    """
    corpus: pd.DataFrame
    """Table of KL(aligned || base) in nats per token by kind of text, `all` first: kind, texts, tokens, kl, kl_low,
    kl_high, kl_reverse. Empty if the tokenizers differ.
    """
    blocks: pd.DataFrame
    """Table with one row per block: block, weights (norm of the change over that of the base), weights_share (share of
    the whole squared change), residual (the same ratio for the residual stream after the block at the position where an
    answer begins, mean over prompts) with residual_low and residual_high. Empty if the architectures differ.
    """
    notes: tuple[str, ...] = ()
    """Notes on what is left out, and why."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Facts about the audit: models (label, ref, fingerprint, method; base first), sets, n, only, seed,
    smallest_effect, margin, by_chance (`expected` number of rows called different although nothing is, and the bounds
    `low` and `high` that 95 of 100 such audits lie within), seconds, created, key.
    """

    @property
    def names(self) -> tuple[str, str]:
        """Labels of base and aligned model."""
        base, aligned = (str(model["label"]) for model in self.meta["models"])
        return base, aligned

    @property
    def counted(self) -> pd.DataFrame:
        """The rows except those that duplicate the statistic of another row."""
        return self.rows[self.rows["same_as"] == ""].astype({"measure": bool})  # also without any row

    @property
    def tested(self) -> pd.DataFrame:
        """Counted rows whose difference has an interval and enough pairs."""
        return self.counted[self.counted["p"].notna()]

    @property
    def changed(self) -> pd.DataFrame:
        """Tested rows that changed, smallest p-value first."""
        rows = self.counted[self.counted["verdict"] == CHANGED]
        return rows.sort_values(["p_corrected", "p"], kind="stable")

    @property
    def smallest(self) -> float:
        """Smallest change of a rate that counts."""
        return _share(self.meta.get("smallest_effect"), SMALLEST)

    @property
    def margin(self) -> float:
        """Margin of a rate within which two models are equivalent."""
        return _share(self.meta.get("margin"), MARGIN) or MARGIN

    @property
    def limit(self) -> str:
        """Smallest change of a rate that counts, in words."""
        return points(self.smallest)

    @property
    def asked_in(self) -> str:
        """Sentence that names the chat template of both models; empty if they have the same one."""
        base, aligned = self.names
        forms = {
            "base": f"Both models were asked in the prompt form of {base}, because their chat templates differ.",
            "aligned": f"Both models were asked in the prompt form of {aligned}, because their chat templates differ.",
            "own": "Each model was asked in its own prompt form, so a difference may come from the prompts.",
        }
        said = forms.get(str(self.meta.get("form")), "")
        return (
            f"{said} “The form alone” is the effect on {base} of being asked in the form of {aligned}." if said else ""
        )

    @property
    def by_chance(self) -> str:
        """Sentence on the number of rows that chance alone would call different; empty if it was not stored."""
        found = self.meta.get("by_chance")
        if not isinstance(found, Mapping) or not all(
            isinstance(found.get(key), int | float) and 0 <= found[key] < 1e9 for key in ("expected", "low", "high")
        ):
            return ""
        return f"{found['expected']:.1f} ({found['low']:.0f} to {found['high']:.0f} in 95 of 100 audits)"

    def count_from(self, smallest: float, margin: float | None = None) -> "Audit":
        """Return the same measurements with verdicts for another smallest effect and another margin.

        Args:
            smallest: smallest change of a rate that counts (see `probe.terms.smallest_effect`).
            margin: equivalence margin of a rate; unchanged if not given.

        Raises:
            ConfigError: one of them is not between 0 and 1.
        """
        margin = self.margin if margin is None else margin
        asked = {"smallest_effect": float(smallest), "margin": float(margin)}
        return replace(self, rows=add_verdicts(self.rows, smallest, margin), meta={**self.meta, **asked})

    @property
    def shift(self) -> str:
        """Sentence on a shift of next tokens that no measure of the audit accounts for; empty if there is none.

        Present if no row changed, and the whole interval of KL over all texts, or else over one kind, lies above the
        smallest effect in nats per token.
        """
        if len(self.changed):
            return ""
        least = smallest_effect("nats a token", share=self.smallest)
        large = self.corpus[self.corpus["kl_low"] > least]
        if not len(large):
            return ""
        whole = large[large["kind"] == "all"]
        row = (whole if len(whole) else large.sort_values("kl_low", ascending=False)).iloc[0]
        where = "all texts" if row["kind"] == "all" else f"texts of the kind {row['kind']}"
        kl = in_unit("nats", row["kl"], row["kl_low"], row["kl_high"])
        return (
            f" The next-token distributions changed (KL {kl} nats a token over {where}) and no measure accounts"
            " for it: run `probe compare` on your texts to locate the change."
        )

    @property
    def sentence(self) -> str:
        """Sentence on what changed, what is equivalent and what is undecided."""
        base, aligned = self.names
        measures = self.counted[self.counted["measure"]]
        by_verdict = {
            name: measures[measures["verdict"] == name].to_dict("records")
            for name in (CHANGED, EQUIVALENT, UNDECIDED, UNKNOWN)
        }
        parts = [f"{row['title']} {describe(row)}" for row in by_verdict[CHANGED]]
        if not parts and len(measures):
            parts.append(f"none of the {len(measures)} measures is shown to change by more than {self.limit}")
        if by_verdict[EQUIVALENT]:
            parts.append(f"equivalent within {points(self.margin)}: {_titles(by_verdict[EQUIVALENT])}")
        if by_verdict[UNDECIDED]:
            each = [f"{row['title']}{_finds(row)}" for row in by_verdict[UNDECIDED]]
            parts.append(f"undecided: {', '.join(each)}")
        if by_verdict[UNKNOWN]:
            parts.append(f"not known: {_titles(by_verdict[UNKNOWN])}")
        first = f"{aligned} against {base}: {'; '.join(parts or ['nothing was measured'])}."
        others = self.tested[~self.tested["measure"]]
        if not len(others):
            return first + self.shift
        counts = [int((others["verdict"] == name).sum()) for name in (CHANGED, EQUIVALENT, UNDECIDED)]
        changed = self.changed[~self.changed["measure"]].head(MOST_NAMED)
        each = [f"{row['title']} {change(row)}" for row in changed.to_dict("records")]
        named = f" ({'; '.join(each)})"
        more = ", the surest" if counts[0] > len(changed) else ""
        rest = (
            f" Of {len(others)} further measures {counts[0]} changed{f'{more}{named}' if counts[0] else ''},"
            f" {counts[1]} are equivalent and {counts[2]} undecided."
        )
        if self.by_chance:
            rest += f" By chance alone {self.by_chance} of all {len(self.tested)} would be called different."
        return first + rest + self.shift

    def to_json(self) -> str:
        """Return the text of the JSON file, as docs/audit.md describes it."""
        tables = {name: getattr(self, name).to_dict("records") for name in ("rows", "corpus", "blocks")}
        about = {"format": FORMAT, "sentence": self.sentence, "comparisons": len(self.tested), **tables}
        return dumps({**about, "notes": list(self.notes), "meta": dict(self.meta)}, indent=1) + "\n"

    @property
    def folder(self) -> Path:
        """Folder where it is saved by default."""
        return HOME / f"{'-'.join(map(file_name, self.names))}-{self.meta['key']}"

    def save(self, folder: Path | None = None) -> Path:
        """Write the JSON file and the HTML file, and return the folder.

        Raises:
            RunError: the folder cannot be written.
        """
        folder = folder or self.folder
        with disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / FILE, self.to_json().encode())
            write_atomic(folder / PAGE, resolve_name(HTML)(self).encode())
        return folder


def describe(row: Mapping[Any, Any]) -> str:
    """Format both values of a row and their difference: `from 34 % to 46 %, +12 pp [3, 21]`."""
    nan = float("nan")
    before, after = (in_unit(row["unit"], row[name], nan, nan) for name in ("base", "aligned"))
    guess = float(row.get("chance", nan))
    by_chance = "" if guess != guess else f"; guessing gives {in_unit(row['unit'], guess, nan, nan)}"
    return f"from {before} to {after} ({change(row)}{by_chance})"


def level(p: float) -> str:
    """Format a corrected p-value; empty if there is none."""
    return "" if p != p else "< 0.001" if p < 0.001 else f"{p:.2g}"


def form_effect(row: Mapping[Any, Any]) -> str:
    """Return the effect of the chat template alone on the base in a row, in its unit; empty if unknown."""
    return _beside(row, FORM)


def unseen_change(row: Mapping[Any, Any]) -> str:
    """Return the difference of a row over questions not seen in training; empty if unknown."""
    return _beside(row, SEEN[1:])


def _beside(row: Mapping[Any, Any], names: Sequence[str]) -> str:
    """Format a further difference of a row in its unit; empty if the row has none."""
    if names[0] not in row or row[names[0]] != row[names[0]]:
        return ""
    return in_unit(DIFFERENCE if row["unit"] in RATES else row["unit"], *(row[name] for name in names), sign=True)


def points(share: float) -> str:
    """Format a difference of rates in words, such as `5 pp`."""
    return in_percent(share, 3).replace("%", "pp")


def shown_mde(row: Mapping[Any, Any]) -> str:
    """Return the minimum detectable effect of a row in its unit; a dash if there is none."""
    size = float(row["mde"])
    if size == float("inf"):
        return "\u221e"
    if size != size:
        return "\u2014"
    if row["unit"] in (*RATES, DIFFERENCE):
        return f"{100 * size:.0f} pp" if size >= 0.0095 else points(float(f"{size:.1g}"))
    return in_unit(str(row["unit"]), size, None, None)


def _finds(row: Mapping[Any, Any]) -> str:
    """Say which difference an undecided row could have detected, and which change it could not show."""
    side = f"; no {row['cannot_show']} could show" if row["cannot_show"] else ""
    finds = shown_mde(row)
    unit = f" {row['unit']}" if row["unit"] not in (*RATES, DIFFERENCE, "") else ""
    found = "finds no change" if finds in "\u221e\u2014" else f"finds {finds}{unit}"
    return f" ({found}{side})"


def _titles(rows: Sequence[Mapping[Any, Any]]) -> str:
    return ", ".join(str(row["title"]) for row in rows)


def change(row: Mapping[Any, Any]) -> str:
    """Format the difference of a row with its interval, in its unit."""
    unit = DIFFERENCE if row["unit"] in RATES else row["unit"]
    return in_unit(unit, row["difference"], row["difference_low"], row["difference_high"], sign=True)


def read_audit(path: Path) -> Audit:
    """Read an audit from its JSON file, or from the folder that holds it.

    The verdicts are recomputed with the smallest effect and the margin in the file, or the default ones. A file of an
    older version has neither swaps nor inner intervals: see `probe.audit.verdict.add_verdicts`; a note says so.

    Raises:
        DataError: the file does not exist, is damaged, or has a newer format.
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
    if isinstance(values, dict) and isinstance(values.get("format"), int):
        refuse_newer(f"`{file}`", "format", values["format"], FORMAT, DataError)
    try:
        rows = read_table(values["rows"], {**dict.fromkeys(_TEXTS, str), **dict.fromkeys((*_NUMBERS, "n"), float)})
        rows = rows.assign(measure=[bool(row["measure"]) for row in values["rows"]], same_as="")
        older = not all(name in row for row in values["rows"] for name in TESTS)
        if not older:
            numbers = dict.fromkeys((*INNER_ENDS, *SWAPS), float)
            rows = rows.assign(**read_table(values["rows"], {**numbers, "same_as": str}))
        rows = rows.reindex(columns=[*COLUMNS, *(TESTS if not older else ("same_as",))])
        there = [name for name in OPTIONAL if any(name in row for row in values["rows"])]
        missing = dict.fromkeys(there)
        rows = rows.assign(**read_table([missing | row for row in values["rows"]], dict.fromkeys(there, float)))
        corpus = read_table(values["corpus"], {"kind": str, **dict.fromkeys(CORPUS, float)})
        corpus = corpus.astype({"texts": int, "tokens": int})
        blocks = read_table(values["blocks"], dict.fromkeys(BLOCKS, float)).astype({"block": int})
        meta = values["meta"]
        texts = [model[name] for model in meta["models"] for name in ("label", "fingerprint")]
        if len(texts) != 4 or not all(isinstance(text, str) for text in texts):
            raise ValueError("it does not name two models")
        notes = tuple(str(note) for note in values["notes"]) + ((OLDER,) if older else ())
        str(meta["key"]), float(meta["seconds"])
        found = Audit(rows.astype({"n": int}), corpus, blocks, notes, meta)
        return replace(found, rows=add_verdicts(found.rows, found.smallest, found.margin))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"`{file}` is not an audit ({type(error).__name__}: {reason}): run the audit again.") from None


def _share(value: Any, usual: float) -> float:
    """Return a share from a file; the default if it is not valid."""
    none = isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1
    return usual if none else float(value)


def read_table(records: Any, columns: Mapping[str, type]) -> pd.DataFrame:
    """Return records as a table with columns of texts and numbers; null becomes NaN.

    Raises:
        KeyError, TypeError, ValueError: a value is missing, of another type, or larger than any measure.
    """
    if not isinstance(records, list):
        raise ValueError("its rows are not a list")
    data = {
        name: [str(row[name]) if kind is str else _number(row[name]) for row in records]
        for name, kind in columns.items()
    }
    return pd.DataFrame(data, columns=list(columns)).astype(
        {name: float for name, kind in columns.items() if kind is float}
    )


def _number(value: Any) -> float:
    number = float("nan") if value is None else float(value)
    if LARGEST < abs(number) < float("inf"):
        raise ValueError(f"it holds the number {number:g}")
    return number


def audit_files() -> list[Path]:
    """Return the files of audits in `HOME`, and in the subfolder `audits` of each folder of runs."""
    homes = [HOME, *(root / AUDITS for root in roots())]
    return [file for home in homes for file in home.glob(f"*/{FILE}") if home == HOME or within(file)]


def stored_audits(files: Sequence[Path] | None = None) -> dict[Path, Audit]:
    """Load the readable audits by folder, newest first: those in `files`, by default in `audit_files`."""
    audits: dict[Path, Audit] = {}
    for file in audit_files() if files is None else files:
        try:
            audits[file.parent] = read_audit(file)
        except DataError:
            continue
    return dict(sorted(audits.items(), key=lambda pair: str(pair[1].meta.get("created")), reverse=True))

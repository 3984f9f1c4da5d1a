"""`probe audit BASE ALIGNED`: measures what alignment changed, from the two models alone."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from probe.audit.config import AuditSettings
from probe.commands.opened import give_world, named_world, open_models
from probe.commands.tables import at_terminal, draw, grid, remark, safe, tsv
from probe.errors import ConfigError
from probe.numbers import in_percent, in_unit
from probe.options import parse
from probe.texts import say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from probe.audit.bound import Bound, Within
    from probe.audit.change import Audit


def audit(argv: list[str]) -> int:
    """Measure what alignment changed in a model: `probe audit BASE ALIGNED`."""
    import tyro

    @dataclass(frozen=True, kw_only=True)
    class AuditOptions(AuditSettings):
        """Audit a base and an aligned model: behaviour before and after, next tokens, and internal differences.

        It needs only two models: models without a world are asked Probe's built-in question sets (sycophancy,
        hallucination, calibration, chain of thought, and two controls), two models of one world the questions of that
        world. Results are stored, so the same command resumes after an interruption and prints a finished audit at
        once. With --logs it needs no models: the audit is one of their logs of another harness.

        Exit status: 0; 1 if a bound of --fail-if is broken, --require-within is not shown, or such a value could not be
        computed; 2 if an input cannot be used.
        """

        base: tyro.conf.Positional[str]
        """Model to compare against: a run, a checkpoint, a Hugging Face folder or hub id."""
        aligned: tyro.conf.Positional[str]
        """Aligned model, in the same forms; also an adapter (LoRA)."""
        logs: bool = False
        """Read BASE and ALIGNED as logs of one task, by Inspect, lm-evaluation-harness or as rows (see `probe logs`),
        and audit their scores."""
        cluster: str = ""
        """Metadata field of the logs whose values are clusters of items that are not independent; needs --logs."""
        fail_if: tuple[str, ...] = ()
        """Changes that must not occur, such as 'sycophancy>+0.05' or 'sums<-0.1' (rates from 0 to 1): the exit status
        is 1 if the whole 95 % interval of the difference lies beyond the bound.
        """
        require_within: tuple[str, ...] = ()
        """Changes that must be shown to be small, such as 'sums:0.05': the exit status is 1 unless the 90 % interval of
        the difference lies within the margin on both sides, so fewer questions make a pass harder.
        """
        world: str | None = None
        """World of models that have none, such as a copy of a checkpoint: a run of this world, or its world.json."""
        again: bool = False
        """Measure everything again even if results are stored."""
        json: bool = False
        """Print the JSON file instead of a table."""
        out: Path | None = None
        """Folder for audit.json and audit.html (default: results/audits/BASE-ALIGNED-KEY)."""

    settings = parse(AuditOptions, argv, "probe audit")
    if settings.cluster and not settings.logs:
        raise ConfigError("--cluster names a field of logs: give it with --logs.")

    from probe.runs.storage import check_folder

    if settings.out is not None:
        check_folder(settings.out)
    gates = settings.fail_if, settings.require_within
    found, limits = (_audit_of_logs if settings.logs else _audit_of_models)(settings, *gates)
    for note in filter(None, (found.asked_in, *found.notes)):
        say(f"probe: note: {note}", error=True)
    folder = found.save(settings.out)
    if settings.json:
        say(found.to_json().rstrip())
    else:
        show(found)
        remark(f"Saved in {folder} (audit.json, audit.html)")
    _name_idle(limits.bounds, found.rows.to_dict("records"))
    broken = [sentence for bound in limits.bounds if (sentence := bound.broken(found))]
    missed = [sentence for margin in limits.margins if (sentence := margin.broken(found))]
    for what, sentences in (("bound broken", broken), ("not shown", missed)):
        for sentence in sentences:
            say(f"probe: {what}: {sentence}", error=True)
    return 1 if broken or missed else 0


class Limits(NamedTuple):
    """Bounds on the changes of an audit."""

    bounds: "list[Bound]"
    """Changes that must not occur."""
    margins: "list[Within]"
    """Changes that must be shown to be small."""


def _limits(fail_if: "Sequence[str]", require_within: "Sequence[str]", names: "Sequence[str]") -> Limits:
    """Read the bounds.

    Raises:
        ConfigError: a bound has another form, or names no metric.
    """
    from probe.audit.bound import read_bound, read_within

    return Limits([read_bound(text, names) for text in fail_if], [read_within(text, names) for text in require_within])


def _audit_of_logs(settings: Any, fail_if: "Sequence[str]", require_within: "Sequence[str]") -> "tuple[Audit, Limits]":
    """Return the audit of two logs, and the bounds on their scores.

    Raises:
        ConfigError: an option needs models, or a bound names no score of both logs.
        DataError: a log cannot be read, or no items can be paired.
    """
    from probe.logs.log_formats import read_log
    from probe.logs.paired_logs import choose_scores, compare_logs

    for name in ("only", "n", "form", "world", "again"):
        if getattr(settings, name) != getattr(type(settings), name):
            raise ConfigError(f"--{name} is for an audit that asks models: leave it out, or leave out --logs.")
    base, aligned = (read_log(Path(place)) for place in (settings.base, settings.aligned))
    limits = _limits(fail_if, require_within, choose_scores(base, aligned))
    asked = {name: getattr(settings, name) for name in ("cluster", "seed", "smallest_effect", "margin")}
    return compare_logs(base, aligned, **asked).audit, limits


def _audit_of_models(
    settings: Any, fail_if: "Sequence[str]", require_within: "Sequence[str]"
) -> "tuple[Audit, Limits]":
    """Return the stored audit of two models, or measure it, and the bounds on its measures.

    Raises:
        ConfigError: the models cannot be audited together, or a bound names no measure of this audit.
        ModelError: a model cannot be loaded.
    """
    world = named_world(settings.world)
    open_models((settings.base, settings.aligned))

    from probe.audit.bound import unknown
    from probe.audit.inspection import audit_models, base_room, stored_audit, work_left
    from probe.audit.plan import find_words, names_of_metrics, plan_parts
    from probe.commands.progress import Progress, clock
    from probe.model.rewards import analysable_together
    from probe.runs.directories import WORK

    asked = AuditSettings(**{each.name: getattr(settings, each.name) for each in fields(AuditSettings)})
    gates = fail_if or require_within
    limits = _limits(fail_if, require_within, names_of_metrics() if gates else [])
    base, aligned = analysable_together((settings.base, settings.aligned))
    give_world((base, aligned), world)
    parts = plan_parts(base, aligned, settings.only, settings.n)
    planned = [metric.name for part in parts for metric in part.metrics()] if gates else []
    for name in [*(each.metric for each in limits.bounds), *(each.metric for each in limits.margins)]:
        if name not in planned:
            raise unknown(name, planned, "is not measured by the parts of this audit")
    out = [] if settings.out is None else [settings.out]
    found = None if settings.again else stored_audit(base, aligned, asked, out)
    if found is not None:
        made = str(found.meta.get("created", "")).replace("T", " ").removesuffix("+00:00")
        say(
            f"probe: this is the stored audit of {made} UTC, and nothing was measured now; --again measures it again",
            error=True,
        )
        return found, limits
    work = work_left(base, aligned, asked)
    about = f"this takes about {clock(work.seconds)}, estimated from how fast the models read"
    say(f"probe: {about}; Ctrl-C stops it at any time", error=True)
    if work.parts:
        say(
            f"probe: no result is stored with the models or in {WORK.absolute()} for: {', '.join(work.parts)}",
            error=True,
        )
    say(f"probe: {find_words(parts, settings.smallest_effect)}", error=True)
    room = base_room(base, aligned, asked).to_dict("records")
    for row in room:
        if row["measure"] and row["cannot_show"]:
            at = in_unit(row["unit"], row["base"], None, None)
            say(f"probe: {row['title']}: the base is at {at}, so no {row['cannot_show']} can show", error=True)
    _name_idle(limits.bounds, room)
    try:
        with Progress("Audit") as bar:
            found = audit_models(
                base, aligned, asked, again=settings.again, tick=bar.tick, at=lambda what: bar.at(what, 1, 1)
            )
    except KeyboardInterrupt:
        say("probe: the answers so far are kept: run the same command to continue", error=True)
        raise
    return found, limits


def _name_idle(bounds: "Sequence[Bound]", rows: "Sequence[Mapping[Any, Any]]") -> None:
    """Name the bounds that can never be broken, given the values of the base."""
    by_name = {row["metric"]: row for row in rows}
    for bound in bounds:
        sentence = bound.never(by_name[bound.metric]) if bound.metric in by_name else ""
        if sentence:
            say(f"probe: note: {sentence}", error=True)


def show(found: "Audit") -> None:
    """Print the sentence and the tables; if standard output is not a terminal, every row as TSV."""
    remark(found.sentence)
    if not at_terminal():
        names = list(map(str, found.rows.columns))
        say(tsv([dict(zip(names, row, strict=True)) for row in found.rows.itertuples(index=False)]))
        return
    for table in grids(found):
        draw(table)
        say("")


def grids(found: "Audit") -> "list[Table]":
    """Return tables of the measures with internal changes, KL by kind of text, and the blocks that changed most."""
    from probe.audit.change import change, form_effect, points, shown_mde

    base, aligned = found.names
    shown = found.rows["measure"] | found.rows.index.isin(found.changed.index)
    rows, others = found.rows[shown].to_dict("records"), found.counted[~shown]["verdict"]
    alike = int((others == "equivalent").sum())
    rest = (
        f"of {len(others)} further measures {alike} are equivalent within {points(found.margin)} (of a rate) and"
        f" {len(others) - alike} undecided: audit.json has them"
        if len(others)
        else ""
    )
    first = grid("What changed, what is equivalent, what is undecided", rest)
    for name in ("measure", "questions"):
        first.add_column(name)
    for name in (base, aligned, "difference"):
        first.add_column(safe(name), justify="right")
    forms = "form" in found.rows
    if forms:
        first.add_column("the form alone", justify="right")
    first.add_column("verdict")
    first.add_column("finds", justify="right")
    first.add_column("name", style="dim")
    for row in rows:
        values = [in_unit(row["unit"], *(row[f"{side}{end}"] for end in ("", "_low", "_high"))) for side in _SIDES]
        side = f"; no {row['cannot_show']}" if row["cannot_show"] else ""
        alone = (form_effect(row),) if forms else ()
        texts = (
            row["title"],
            row["questions"],
            *values,
            change(row),
            *alone,
            row["verdict"],
            f"{shown_mde(row)}{side}",
        )
        first.add_row(*map(safe, (*texts, row["metric"])))
    corpus = _grid("KL of next tokens, nats a token", found.corpus.to_dict("records"), "kind", "kl")
    blocks = found.blocks.sort_values("weights", ascending=False).head(5).sort_values("block")
    inner = grid("Blocks whose weights changed most")
    for name in ("block", "weights, % of the base's norm", "residual stream, % [95 %]"):
        inner.add_column(name, justify="right")
    for row in blocks.to_dict("records"):
        ends = (row["residual"], row["residual_low"], row["residual_high"])
        inner.add_row(str(row["block"]), in_percent(row["weights"]).removesuffix(" %"), safe(in_unit("share", *ends)))
    return [first, *([corpus] if len(found.corpus) else []), *([inner] if len(blocks) else [])]


_SIDES = ("base", "aligned")


def _grid(title: str, records: "list[dict[Any, Any]]", name: str, value: str) -> "Table":
    table = grid(safe(title))
    table.add_column(name)
    table.add_column("KL(aligned \u2225 base) [95 %]", justify="right")
    table.add_column("tokens", justify="right")
    for row in records:
        ends = (row[value], row[f"{value}_low"], row[f"{value}_high"])
        table.add_row(safe(row[name]), safe(in_unit("nats", *ends)), f"{int(row['tokens']):,}")
    return table

"""Results over questions as versions of Probe stored them that did not tell agreement from mention."""

from dataclasses import replace

from probe.experiments.registry import find_experiment
from probe.experiments.result import Result
from probe.experiments.run import finish
from probe.sycophancy import beliefs
from probe.sycophancy.repeated_turns import KINDS

ADDED = ("agreement", "mention", "authority", "changed", "order")
"""First words of the columns and metrics that came later."""


def older(result: Result) -> Result:
    """A result with the paper's conditions alone."""
    kept = [*beliefs.PUBLISHED, KINDS[beliefs.DOUBT]]
    added = [name for name in result.items if name.startswith(ADDED)]
    items = result.items[result.items["kind"].isin(kept)].drop(columns=added)
    tables = {name: table for name, table in result.tables.items() if name in ("templates", "flips", "pressure")}
    summary = result.summary[~result.summary["metric"].str.startswith(ADDED)]
    return finish(find_experiment("sycophancy"), replace(result, items=items, tables=tables, summary=summary))

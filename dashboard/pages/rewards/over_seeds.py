"""Where policies end over several trainings: each seed against its own base and reward model, as the runs logged it."""

import pandas as pd

from dashboard import data
from dashboard.components.figure import figure
from dashboard.components.table import show_table
from dashboard.markdown import note
from dashboard.pages.rewards.choices import Detail, Scene
from dashboard.pages.rewards.compute import policies
from dashboard.seed_groups import SeedGroup, by_member, cautions, seed_groups
from probe.rewards.figures import ends_over_trainings
from probe.runs.reader import Run
from probe.seeds.group_tables import over_trainings
from probe.seeds.t_intervals import OverTrainings
from probe.terms import logged, term

LOGGED = ("kl_to_reference", "expected_reward", "expected_gold", "kl_to_optimal")
"""What a run logs of its place: exact, on 64 fixed questions."""
SAMPLED = "_reward"
"""How the headline figures of rewards end."""


PROXY = "the proxy reward is what the method itself optimised"


def groups_of(scene: Scene) -> list[SeedGroup]:
    """Return the placed policies that are groups of seeds."""
    groups = by_member(seed_groups(scene.shared.store))
    found = {group.label: group for each in policies(scene.shared) if (group := groups.get(each.label))}
    return [group for group in found.values() if group.several]


def draw_over_seeds(scene: Scene, found: list[SeedGroup]) -> Detail:
    """Draw a figure and a table of where policies end, as means over trainings with t intervals."""
    look = scene.shared.store.style()
    summaries = {group.name: [summary(run) for run in group.group.runs] for group in found}
    parts = [over_trainings(summaries[each.name], each.group.units).assign(run=each.name) for each in found]
    table = pd.concat(parts, ignore_index=True)
    table = table[["run", "metric", "value", "ci_low", "ci_high", "n", "apart"]]
    seeds = pd.concat(
        [
            each.assign(run=group.name, seed=run.seed)
            for group in found
            for run, each in zip(group.group.runs, summaries[group.name], strict=True)
        ],
        ignore_index=True,
    )[["run", "seed", "metric", "value"]]
    rewards = [name for name in ("expected_reward", "expected_gold") if name in set(table["metric"])]
    if rewards and "kl_to_reference" in set(table["metric"]):
        titles = {name: logged(name, ("rlhf",)).label for name in (*rewards, "kl_to_reference")}
        chart = ends_over_trainings(table, seeds, {group.name: look[group.label] for group in found}, titles)
        figure(
            chart.update_layout(height=380),
            table,
            "over-trainings",
            title="Where trainings end",
            source=scene.source | {"intervals": "95 % t intervals over trainings"},
        )
    rows = {(row["run"], row["metric"]): row for row in table.to_dict("records")}
    lines = []
    for group in found:
        line = {"policy": group.name, "seeds": len(group.members)}
        for metric in dict.fromkeys((*LOGGED, *table["metric"])):
            words = logged(metric, ("rlhf",)) if metric in LOGGED else term(metric)
            row = rows.get((group.name, metric))
            if row:
                line[words.label] = OverTrainings.of(row).format(words.unit)
        lines.append(line)
    show_table(pd.DataFrame(lines), hide_index=True, key="rew-seeds")
    note(
        "Means over trainings with 95 % t intervals; faint: each training, against its base and by its reward model."
        f" Exact: the last evaluation that a training logged, on 64 fixed questions; {PROXY}. Sampled: headline"
        f" figures. The figures above are of one training. {cautions(found)}"
    )
    return Detail({"over-trainings": table})


def summary(run: Run) -> pd.DataFrame:
    """Return the last logged place of a run and its rewards: metric, value, ci_low, ci_high, n."""
    frame = data.metrics(run)
    rows = frame[frame["kl_to_reference"].notna()] if "kl_to_reference" in frame else frame.iloc[:0]
    last = [(name, float(rows[name].iloc[-1])) for name in LOGGED if name in rows and len(rows)]
    exact = pd.DataFrame(last, columns=["metric", "value"]).assign(ci_low=float("nan"), ci_high=float("nan"), n=64)
    sampled = run.headline[run.headline["metric"].str.endswith(SAMPLED)]
    return pd.concat([exact, sampled], ignore_index=True) if len(sampled) else exact

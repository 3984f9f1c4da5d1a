"""The Rewards page in words: its sentence, what the fits say, definitions and the Python lines."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from probe.plotting.intervals import format_interval
from probe.rewards.figures import records
from probe.rewards.frontiers import FORMS, Fit
from probe.rewards.moves import describe_move, join_moves

EQUATIONS = [
    r"\pi^*_\beta(y \mid x) = \pi_{ref}(y \mid x)\, e^{R(x,y)/\beta} / Z(x), \qquad"
    r"\mathrm{KL}(\pi \,\|\, \pi^*_\beta) = \mathrm{KL}(\pi \,\|\, \pi_{ref}) - \mathbb{E}_\pi[R]/\beta + \log Z",
    r"d = \sqrt{\mathrm{KL}}, \qquad R_{bon} = d\,(a - b\,d), \qquad R_{rl} = d\,(a - b \log d)",
]

DEFINITION = """
*Proxy* is the reward model's scalar at the end of the text, in nats of Bradley-Terry log-odds: only differences between
completions of one prompt mean something. The *true reward* (gold) is the world's verifier: +1 true, 0 abstains, -1
otherwise. All policies stand on the same 64 questions; KL and expected rewards are given that the answer is one of the
listed ones (hover tells how often it is). *Excess* is the distance to the nearest optimum over all beta. A policy with
less reward than the base has no such optimum: all its KL is excess. The points of the fits are what runs logged on
questions of their own kinds.
"""

CLEAR = 0.01
"""Reward above the base's that makes a peak worth a word."""


def code_lines(
    source: Mapping[str, str],
    kinds: Sequence[str],
) -> str:
    """Python lines that make what the page shows.

    Args:
        source: references of base, aligned and reward, as far as they are there.
        kinds: of the world's questions; empty without a world.
    """
    lines = ["import probe"]
    lines += [f"{name} = probe.LM.load({source[name]!r})" for name in ("base", "aligned") if name in source]
    lines += [f"reward = probe.RewardModel.load({source['reward']!r})"] if "reward" in source else []
    by = "proxy" if "reward" in source else "gold"
    if kinds:
        judge = '"proxy": model_reward(reward), ' if "reward" in source else ""
        lines += [
            "",
            "from probe.rewards.answers import verifier_reward",
            "from probe.rewards.frontiers import ask, field_of, model_reward, place",
            "from probe.world import of",
            f"asked = ask(of(base), {tuple(kinds)!r})",
            f'field = field_of(base, of(base), asked, {{{judge}"gold": verifier_reward(of(base))}})',
            f"field.frontier({by!r}), field.best_of_n({by!r})",
        ]
        lines += [f"place(field.answers.score(aligned), field, {by!r}).row()"] if "aligned" in source else []
    if "reward" in source and kinds:
        lines += [
            "",
            "from probe.rewards.frontiers import fit",
            'points = field.best_of_n("proxy")',
            'fit(points["d"][1:], points["gold"][1:], "bon", origin=points["gold"][0]).row()',
        ]
    return "\n".join(lines)


def fit_table(fits: Mapping[tuple[str, str], Fit]) -> pd.DataFrame:
    """Return a table of the fitted numbers, with their intervals as text."""
    rows = []
    for (series, reward), fit in fits.items():
        numbers = {"a": format_interval(*fit.a), "b": format_interval(*fit.b), "peak at d": _peak(fit)}
        rows.append({"series": series, "reward": reward, "form": FORMS[fit.form], **numbers, "rmse": fit.rmse})
    return pd.DataFrame(rows)


def _peak(fit: Fit) -> str:
    if not fit.peak_is_seen or fit.top.value <= CLEAR:
        return "none within the points"
    return fit.peak.format()


def place_words(table: pd.DataFrame, chosen: str | None, by: str, proxy: str | None) -> str:
    """Say what the chosen policy earned and spent; without one, say which policy is nearest to the optimum."""
    rows, kind = table.set_index("run"), "true" if by == "gold" else by
    if chosen not in rows.index:
        others = rows.iloc[1:]
        if not len(others):
            return "No run came from this base model; train one, or choose the model that your runs started from."
        gaining = others[others[f"gain_{by}"] > 0]
        if not len(gaining):
            return f"No run has more {kind} reward than the base model."
        nearest = str(gaining["excess"].idxmin())
        off = _nats(gaining.loc[nearest], "excess")
        of = f"Of the runs that gain {kind} reward, " * (len(gaining) < len(others))
        return (
            f"{of}{nearest} is nearest to the exact frontier of the {kind} reward: it spends {off} more KL than needed."
        )
    row = records(rows.loc[[str(chosen)]])[0]
    moves = [describe_move(row, "gain_proxy", f"the proxy ({proxy})", "nats")] if proxy else []
    moves.append(describe_move(row, "gain_gold", "the true reward", "score"))
    summary = f"{chosen} {join_moves(moves)}"
    if row[f"gain_{by}"] <= 0:
        return f"{summary}; it spends {_nats(row, 'kl')} of KL and gains no {kind} reward."
    return f"{summary}; it spends {_nats(row, 'excess')} more KL than the optimum of the {kind} reward."


def _nats(row: Any, name: str) -> str:
    return f"{format_interval(float(row[name]), float(row[name + '_low']), float(row[name + '_high']))} nats"


def fit_words(fits: Mapping[tuple[str, str], Fit]) -> str:
    """Where the true reward peaks, series by series."""
    parts = []
    for (series, reward), fit in fits.items():
        if reward != "gold":
            continue
        end = float(fit.predict(fit.d.max())) - fit.origin
        if fit.peak_is_seen and fit.top.value > CLEAR:
            parts.append(f"{series}: the true reward peaks at d = {format_interval(*fit.peak)}")
        else:
            way = "rises" if end > 0 else "falls"
            parts.append(f"{series}: the true reward {way} by {abs(end):.2f} to d = {fit.d.max():.2f}")
    return (
        f"{'; '.join(parts)}. Least squares from the base's reward; a star marks a peak within the points. Points of"
        " one training are not independent of each other, so the intervals of a and b are too narrow."
    )

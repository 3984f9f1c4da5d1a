"""Results of analyses that come with the sample runs: what pages show of a pair by default, where it takes long.

Which analyses these are, and with which inputs, follows from their records. The prompt is a captured one in which a
user states an opinion, as on the pages; a head is the one that the page enlarges. Left out are analyses that depend on
all runs at hand, and those of one site, which a reader picks in a figure.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import probe
from probe.analyses.analysis_record import PAIR, Analysis
from probe.analyses.catalogue import MODULES, find_analysis
from probe.analyses.stored_results import file_name, is_storable, obtain_result
from probe.attention.reading import Attentions, head_name
from probe.commands.progress import Progress, say
from probe.errors import ProbeError
from probe.model.references import REAL_MODEL
from probe.model.rewards import analysable
from probe.plotting.notebook import Look
from probe.runs.addresses import is_run
from probe.runs.schema import RESULTS
from probe.world import of

if TYPE_CHECKING:
    from probe.model.lm import LM


class Pair(NamedTuple):
    """Names of two runs that pages compare by default, and of the reward model that belongs to them."""

    base: str
    aligned: str
    reward: str


WORLD = Pair("base", "dpo-agreeable", "reward-agreeable")
REAL = Pair(REAL_MODEL, "real-agreeable", "real-reward")
SITE, RUNS = {"layer", "head"}, {"among", "policies", "trainings"}
"""Inputs of an analysis of one site, and inputs that list runs."""


class Wanted(NamedTuple):
    """A result that a page shows by default."""

    analysis: Analysis
    values: Mapping[str, Any]
    lms: "tuple[LM, ...]"

    @property
    def home(self) -> Path:
        """Folder of the results of its last model."""
        return Path(cast("Path", self.lms[-1].run_dir)) / RESULTS

    @property
    def name(self) -> str:
        """Name of its file."""
        return file_name(self.analysis, self.values, *self.lms)


def store(folder: Path, pair: Pair) -> None:
    """Compute the results of a pair, if its runs exist, and store those there that take long and are not stored."""
    if not all(is_run(folder / name) for name in pair):
        return
    for each in list_wanted(folder, pair):
        try:
            with Progress(f"{each.analysis.title} of {each.home.parent.name}") as bar:
                obtain_result(each.analysis, each.values, *each.lms, home=each.home, tick=bar.tick)
        except ProbeError as error:  # the page states it too
            say(f"{each.analysis.title}: {error}")


def list_wanted(folder: Path, pair: Pair) -> Iterator[Wanted]:
    """Yield the results that pages show of a pair by default; none is computed."""
    base, aligned, reward = (analysable(str(folder / name)) for name in pair)
    chat = of(base) is None and all(lm.tokenizer.chat_template is not None for lm in (base, aligned))
    asked = {"prompt": default_prompt(folder / pair.aligned), "chat": chat}
    head = enlarged_head(base, aligned, asked)
    for analysis in map(find_analysis, MODULES):
        takes = analysis.inputs.keys()
        if not analysis.models or not is_storable(analysis) or takes >= SITE or takes & RUNS:
            continue
        given: dict[str, Any] = {name: asked[about] for name in takes if (about := analysis.option_of(name)) in asked}
        given |= {"head": head} if "head" in takes else {}
        shown: tuple[LM, ...] = (base, aligned)
        groups = [shown] if analysis.models == PAIR else [(base,), (aligned,)]
        if analysis.page == "rewards" and analysis.models != PAIR:  # of the base, or of a prompt's tokens
            shown = (reward, base, aligned) if "prompt" in takes else (base,)
            groups = [shown[:1]]
        given |= {"reward": Path(reward.ref)} if analysis.page == "rewards" and "reward" in takes else {}
        for lms in groups:
            try:
                values = analysis.settled(given, *shown) if analysis.beside is not None else given
                values = analysis.complete(values, *(shown if shown[0] is reward else lms))
            except ProbeError:  # the models have no such result
                continue
            yield Wanted(analysis, values, lms)


def default_prompt(run: Path) -> str:
    """Return the first captured prompt of a run in which a user states an opinion, else the first."""
    texts = [prompt.text for prompt in probe.open_run(run).captures().prompts]
    return next((text for text in texts if " i think " in text), texts[0])


def enlarged_head(base: "LM", aligned: "LM", asked: Mapping[str, Any]) -> str:
    """Return the head that the page of attention enlarges: the one that moved most between the models."""
    read = find_analysis("read_attention")
    results = [read.run(lm, **read.settled(asked, base, aligned)) for lm in (base, aligned)]
    (found,) = read.together(results, [Look(name, "#000000") for name in PAIR])
    return head_name(cast("Attentions", found).head())

"""What the tabs of Side by side share: the two models, the keys of their widgets, and long work that is asked for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dashboard.markdown import finding
from dashboard.state import SharedChoices

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.model.lm import LM

TAB = "compare_tab"
"""The key of the open tab."""
PROMPT_TAB = "One prompt"
"""The first tab."""
WEIGHTS_TAB = "Weights"
"""The tab that two reward models have too."""
EXPERIMENT, SPACING, METRICS = "line_experiment", "line_spacing", "line_metrics"
"""Keys of the experiment along the line, of the distance of its alphas, and of the metrics that are drawn."""
LINE = (EXPERIMENT, SPACING, METRICS)
"""Keys of the tab of the line between the models."""


@dataclass(frozen=True)
class Pair:
    """The two models of the page."""

    shared: SharedChoices
    base: "LM"
    aligned: "LM"
    refs: tuple[str, str]
    """What loads them."""
    names: tuple[str, str]
    """How the page calls them."""
    colours: tuple[str, str]
    answer: "DeltaGenerator"
    """Where the sentence of a tab goes."""

    @property
    def lms(self) -> "tuple[LM, LM]":
        """Base and aligned."""
        return self.base, self.aligned

    @property
    def source(self) -> dict[str, object]:
        """Provenance of figures."""
        return {"base": self.refs[0], "aligned": self.refs[1]}

    @property
    def loads(self) -> str:
        """The Python line that loads both."""
        load = "probe.LM.load" if self.base.readout == "tokens" else "probe.model.rewards.analysable"
        return f"base, aligned = {load}({self.refs[0]!r}), {load}({self.refs[1]!r})"

    def tell(self, sentence: str) -> None:
        """Show the sentence that opens the page."""
        with self.answer:
            finding(sentence)

    def write(self, what: str) -> bool:
        """Whether both models write tokens; where they read one number, the page says that there is no `what`."""
        if self.base.readout == "tokens":
            return True
        self.tell(
            f"{self.names[0]} and {self.names[1]} give one number and write nothing, so there is no {what}: open "
            f"{PROMPT_TAB} or {WEIGHTS_TAB}, or choose two language models."
        )
        return False

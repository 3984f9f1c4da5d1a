"""What the tabs of Side by side share: the two models, the keys of their widgets, and long work that is asked for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dashboard.markdown import finding
from dashboard.state import CHAT, SharedChoices

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.model.lm import LM

TAB = "compare_tab"
"""The key of the open tab."""
PROMPT_TAB = "One prompt"
"""The first tab."""
WEIGHTS_TAB = "Weights"
"""The tab that two reward models have too."""
AUTHOR, POSITION, COMPLETION = "text", "position", "completion"
"""Keys of whose continuation is shown, of the token that figures emphasise, and of what follows a reward's prompt."""
COMPARED = "_compared"
"""What the first tab compared last: another comparison chooses its own token."""
TEMPERATURE, LENGTH, SEED = "temperature", "length", "seed"
"""Keys of how continuations are written."""
ONE_PROMPT = (AUTHOR, POSITION, COMPLETION, TEMPERATURE, LENGTH, SEED, CHAT["compare"])
"""Keys of the first tab."""
FILE, N, SAMPLE_SEED, ANSWERS = "corpus_file", "corpus_n", "corpus_seed", "corpus_answers"
"""Keys of the corpus: its file, how many texts, the seed of their choice, and whether only answers count."""
LIST, KIND, SCORE = "corpus_list", "corpus_kind", "corpus_score"
"""Keys of what is ranked, of the kind of texts, and of the score of tokens."""
CORPUS = (FILE, N, SAMPLE_SEED, ANSWERS, LIST, KIND, SCORE)
"""Keys of the tab Over a corpus."""
HEAD_PART, WEIGHT_LIST = "weights_part", "weights_list"
"""Keys of the part of a head that is drawn, and of what is ranked."""
WEIGHTS = (HEAD_PART, WEIGHT_LIST)
"""Keys of the tab Weights."""
EXPERIMENT, SPACING, METRICS = "line_experiment", "line_spacing", "line_metrics"
"""Keys of the experiment along the line, of the distance of its alphas, and of the metrics that are drawn."""
LINE = (EXPERIMENT, SPACING, METRICS)
"""Keys of the tab of the line between the models."""
POLICY, REPLIES, REWARD, TYPED_REWARDS, SCALE = (
    *("gradient_policy", "gradient_answers", "gradient_reward", "gradient_rewards", "gradient_scale"),
)
"""Keys of the model that takes the step, of its answers, of who rewards them, of typed rewards, and of the colours."""
GRADIENT = (POLICY, REPLIES, REWARD, TYPED_REWARDS, SCALE, CHAT["compare"])
"""Keys of the tab Gradient."""
TOKEN_FILE, TOKEN_N, TOKEN_BLOCK, TOKEN_POSITION, STEER_FILE = (
    *("first_file", "first_n", "first_block", "first_position", "first_pairs"),
)
"""Keys of the texts whose first tokens are read, of block and position, and of the pairs that steering moves."""
FIRST_TOKENS = (TOKEN_FILE, TOKEN_N, TOKEN_BLOCK, TOKEN_POSITION, STEER_FILE)
"""Keys of the tab First tokens."""
PAIR_FILE, PAIR_N, PART_KINDS, RANDOM = "parts_file", "parts_n", "parts_kinds", "parts_random"
"""Keys of the pairs of answers, of how many, of the kinds of parts, and of whether random directions are drawn."""
TRANSPLANTS = (PAIR_FILE, PAIR_N, PART_KINDS, RANDOM)
"""Keys of the tab Transplants."""


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

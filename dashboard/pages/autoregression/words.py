"""The Autoregression page in words: its sentence, those of its parts, and definitions."""

from typing import TYPE_CHECKING

from dashboard.pages.autoregression.choices import Question
from probe.autoregression.lags import ORDER, RESAMPLED, Orders, Profiles

if TYPE_CHECKING:
    from probe.autoregression.lags import EffectiveOrder, LagProfile

EQUATIONS = [
    r"\text{E1}\quad x_{t+1} \sim \pi_t = \mathrm{softmax}\big(W_{out} f_\theta(x_{t-\Delta+1:t}) + b_{out}\big)",
    RESAMPLED,
    ORDER,
]
DEFINITION = """
A language model is an autoregression: the next token is drawn from a distribution $\\pi_t$ that is a nonlinear function
of the tokens before. **Lag** 0 is the last token read, so a chain of order *m* has influence at the lags 0 to *m* - 1.

**By resampling**: a token is replaced by draws from the texts' own tokens (for one text: from the vocabulary); the
influence is the mean KL of what the model then expects. **By the Jacobian**: the Frobenius norm of the derivative of
the probabilities (of a scalar model: of its number) by the token's embedding, root of the mean square over positions,
whole or by random directions. It is a slope at the text as it is, and its unit belongs to the model: compare its shape
between models, not its height.

**Effective order**: the context is cut to its last *m* tokens, which then stand at the first positions; only positions
where something is cut count, so fewer texts reach a larger *m*. **Kept** tokens at the start are neither changed nor
cut: the beginning token, or a heading without which a text would be of another kind.

Means are over texts (within each text over positions), intervals are 95 % bootstrap over texts; for one text over its
positions.
"""


def sentence(question: Question, orders: "list[EffectiveOrder]", profiles: "list[LagProfile]") -> str:
    """How far back every model looks that is drawn: its effective order, or the lag that moves its number most."""
    parts = [Orders.clause(side.name, each) for side, each in zip(question.writers, orders, strict=True)]
    parts += [
        Profiles.clause(side.name, each)
        for side, each in zip(question.sides, profiles, strict=True)
        if side.lm.readout != "tokens"
    ]
    return "; ".join(parts) + "."

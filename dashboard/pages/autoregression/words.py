"""The Autoregression page in words: its sentence, those of its parts, and definitions."""

from typing import TYPE_CHECKING

from dashboard.pages.autoregression.choices import Question, Side
from probe.autoregression.lags import ORDER, RESAMPLED, Orders, Profiles
from probe.numbers import rate
from probe.plotting.intervals import percent

if TYPE_CHECKING:
    from probe.autoregression.lags import EffectiveOrder, LagProfile
    from probe.autoregression.snowballs import Snowball

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
SNOWBALL = """
Each prompt is continued twice; one token of the answer is exchanged. With a world the clean branch has the truth there
and the other the wrong value that the model holds likeliest (of a sum with steps the first result); else it is the
model's choice against its second choice. *Same text after it*: both branches read what the model wrote after the clean
token. *Each goes on alone*: greedily, each after its own token. KL is that of the next-token distributions, clean from
wrong; nothing counts after an end token. Means over prompts with bootstrap intervals, shares with Wilson's.
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


def snowball_sentence(sides: list[Side], snowballs: "list[Snowball]") -> str:
    """Say in a sentence what the snowball shows."""
    parts = []
    for side, each in zip(sides, snowballs, strict=True):
        errors = each.later_errors()
        rows = each.summary()
        free = rows[(rows["quantity"] == "free_kl") & (rows["n"] > 0)]
        if errors["wrong"].value == errors["wrong"].value:  # not NaN
            wrong, clean = errors["wrong"], errors["clean"]
            parts.append(
                f"{side.name} gets {percent(*wrong)} of the "
                f"later tokens wrong after one wrong token, and {rate(clean.value)} after the true one"
            )
        elif len(free):
            top = free.iloc[int(free["value"].to_numpy().argmax())]
            parts.append(
                f"where each branch of {side.name} goes on alone, they are furthest apart {int(top['step'])} tokens "
                f"after the wrong one ({top['value']:.2g} nats)"
            )
        else:
            parts.append(f"{side.name} writes nothing after the exchanged token")
    return "; ".join(parts) + "."

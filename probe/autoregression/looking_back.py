"""Influence of every lag, and distance to the full context, on the same texts: how far back a model looks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd

import probe.world
from probe.analyses.analysis_record import Input, Prompt
from probe.analyses.catalogue import analysis
from probe.autoregression.lags import (
    DOCUMENTS,
    LARGE,
    ORDER,
    RESAMPLED,
    SEED,
    EffectiveOrder,
    LagProfile,
    Orders,
    Pool,
    Profiles,
    effective_order,
    jacobian_profile,
    lag_profile,
    order_tokens,
    profile_tokens,
)
from probe.errors import DataError
from probe.model.lm import LM
from probe.model.pace import seconds_to_read
from probe.model.text import encode
from probe.plotting.notebook import Beside, Drawable, alone, titled
from probe.rows import read_documents
from probe.ticks import Tick, ignore, part

if TYPE_CHECKING:
    import plotly.graph_objects as go

THE_PROMPT, ALL = "the prompt", "all documents"
HEADING = {"markov": 3}
"""Number of tokens in the heading of a kind of document, such as "chain 1 :"."""
EPSILONS = (0.001, 0.01, 0.03, 0.1, 0.3)
"""Tolerances in nats."""
RESAMPLING, JACOBIAN = "resampling", "Jacobian"
BACKWARD = 3
"""Time for a text forwards and backwards, divided by that of reading it."""
HEIGHT = 300
"""Height of the figures in pixels."""
AUTOREGRESSION = (
    r"\text{E1}\quad x_{t+1} \sim \pi_t = \mathrm{softmax}\big(W_{out} f_\theta(x_{t-\Delta+1:t}) + b_{out}\big)"
)


def documents_of(*lms: LM, prompt: str) -> list[str]:
    """Return the kinds of documents that the models' world writes, all of them together first, and the prompt."""
    world = next(filter(None, map(probe.world.of, lms)), None)
    kinds = [kind for kind, share in world.config.mixture.items() if share > 0] if world else []
    return [*([ALL] if len(kinds) > 1 else []), *kinds, *([THE_PROMPT] if prompt.strip() else [])]


def usual_documents(*lms: LM, prompt: str) -> str | None:
    """Return the kind of documents read by default; None if there is none."""
    return next(iter(documents_of(*lms, prompt=prompt)), None)


def measures_of(*lms: LM) -> list[str]:
    """Return the available measures of influence: a model with a scalar output has a Jacobian but no KL."""
    return [RESAMPLING, JACOBIAN] if all(lm.readout == "tokens" for lm in lms) else [JACOBIAN]


def usual_measure(*lms: LM) -> str:
    """Return the default measure of influence."""
    return measures_of(*lms)[0]


def usual_draws(*lms: LM) -> int:
    """Return the default number of draws, which is smaller for a large model."""
    return 1 if any(lm.n_parameters > LARGE for lm in lms) else 4


def usual_longest(*lms: LM) -> int:
    """Return the default number of lags and context lengths."""
    return 12 if any(lm.n_parameters > LARGE for lm in lms) else 16


def usual_keep(*lms: LM, documents: str | None) -> int:
    """Return the default number of kept tokens at the start: the beginning-of-text token and a heading."""
    begins = min(int(encode(lm.tokenizer, "")[:1] == [lm.tokenizer.bos_token_id]) for lm in lms)
    return begins + HEADING.get(documents or "", 0)


Tolerance = Annotated[float, Input("Tolerance", key="lag_epsilon", choices=lambda found: EPSILONS)]
"""Tolerance in nats: smaller distances count as none."""


@dataclass(frozen=True)
class Reach(Drawable):
    """Lag profile and effective order of a model."""

    profile: LagProfile
    """Influence by lag."""
    order: EffectiveOrder | None
    """Distance to the full context; None for a model with a scalar output, which has no distribution."""
    n_texts: int
    """Number of texts read."""
    ids: tuple[int, ...]
    """Token ids of the first text."""

    def sentence(self, epsilon: Tolerance = 0.01) -> str:
        """State how far back the model looks.

        Args:
            epsilon: tolerance in nats; smaller distances count as none.
        """
        return Reaches((self,), alone()).sentence(epsilon)

    def figures(self, epsilon: float = 0.01) -> "dict[str, go.Figure]":
        """Draw the influence by lag, and the distance to the full context by its length."""
        return Reaches((self,), alone()).figures(epsilon)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return both curves and the measurements behind them."""
        return self.profile.tables() | ({} if self.order is None else self.order.tables())


class Reaches(Beside[Reach]):
    """Lag profiles and effective orders of one model or several on the same texts."""

    @property
    def hooked(self) -> Sequence[int]:
        """Token ids of the first text if all models read the same ids, otherwise none."""
        return self.results[0].ids if len({each.ids for each in self.results}) == 1 else ()

    def _orders(self, epsilon: float) -> Orders | None:
        """Return the effective orders of the models that have a distribution."""
        pairs = [(look, each.order) for look, each in zip(self.looks, self.results, strict=True) if each.order]
        if not pairs:
            return None
        return Orders(tuple(order.at(epsilon) for _, order in pairs), tuple(look for look, _ in pairs))

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Notes that explain the curves."""
        count, orders = self.results[0].n_texts, any(each.order for each in self.results)
        of = f"{count} documents" if count > 1 else "one text"
        opening = "Left: how" if orders else "How"
        lead = (
            f"{opening} much the token k places before the last token read changes the next-token prediction, on {of}."
        )
        cut = (
            " Right: KL from the full prediction when only the last m tokens are read. The ring is the effective"
            " order: the smallest m with KL at or below the tolerance \u03b5 (dotted on the left)."
            if orders
            else " These models output one number, so there is no distribution and no KL."
        )
        return (f"{lead}{cut} Points are means with 95 % intervals; fewer texts reach the longer lags.",)

    def sentence(self, epsilon: float = 0.01) -> str:
        """State for every model its effective order, or the lag with the largest influence on its scalar output."""
        orders = self._orders(epsilon)
        parts = (
            [Orders.clause(look.name, each) for look, each in zip(orders.looks, orders.results, strict=True)]
            if orders
            else []
        )
        parts += [
            Profiles.clause(look.name, each.profile)
            for look, each in zip(self.looks, self.results, strict=True)
            if each.order is None
        ]
        return "; ".join(parts) + "."

    def figures(self, epsilon: float = 0.01) -> "dict[str, go.Figure]":
        """Draw the influence by lag, and the distance to the full context by its length."""
        from probe.autoregression.figures import lag_curves

        orders = self._orders(epsilon)
        lengths = [each.order for each in orders.results] if orders and len(orders.looks) == len(self.looks) else []
        how = RESAMPLING if self.results[0].profile.measure == "resampling" else JACOBIAN
        chart = lag_curves([each.profile.by_lag() for each in self.results], self.looks, orders=lengths)
        charts = {"lags": titled(chart, f"Lag profile by {how}", HEIGHT)}
        if orders:
            context = orders.figures()["context"]
            charts["context"] = context.update_layout(height=HEIGHT)
        return charts

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return both curves."""
        tables = self.tables()
        return {"Lags": tables["lags"]} | ({"Contexts": tables["context"]} if "context" in tables else {})


def same_measure(
    lms: Sequence[LM], *, prompt: str, documents: str | None = None, n: int = DOCUMENTS, **others: Any
) -> Mapping[str, Any]:
    """Return one measure for all models if one has a scalar output, and texts for those without a world."""
    found: dict[str, Any] = {}
    if any(lm.readout != "tokens" for lm in lms):
        found |= {"measure": JACOBIAN, "of": "logits"}
    owner = next((lm for lm in lms if probe.world.of(lm) is not None), None)
    if owner is not None and documents != THE_PROMPT and any(probe.world.of(lm) is None for lm in lms):
        found["texts"] = tuple(read_texts(owner, prompt, documents, n))
    return found


def read_texts(lm: LM, prompt: str, documents: str | None, n: int) -> list[str]:
    """Return the documents of a kind that the model's world writes, or the prompt.

    Raises:
        DataError: the model has no world, and there is no prompt.
    """
    world = probe.world.of(lm)
    if documents == THE_PROMPT or world is None:
        if not prompt.strip():
            raise DataError("There is no prompt, and no world whose documents could be read: give a prompt.")
        return [prompt]
    kind = usual_documents(lm, prompt=prompt) if documents is None else documents
    return list(islice((each.text for each in world.documents(SEED) if kind in (ALL, each.kind)), n))


def _texts(lm: LM, prompt: str, documents: str | None, n: int, texts: Path | Sequence[str] | None) -> list[str]:
    if isinstance(texts, Path):
        return list(read_documents(texts))
    return list(texts or read_texts(lm, prompt, documents, n))


def _few(lm: LM, texts: Sequence[str]) -> tuple[int | None, int | None]:
    """Return the number of positions in each text at which tokens are replaced and contexts truncated; None is all."""
    large = lm.n_parameters > LARGE
    if len(texts) == 1 and not large:
        return None, None
    return (3, 2) if large else (4, 3)


def look_seconds(
    lm: LM,
    *,
    prompt: str,
    documents: str | None,
    measure: str,
    n: int,
    draws: int,
    longest: int,
    texts: Path | Sequence[str] | None,
    **rest: Any,
) -> float:
    """Estimate the seconds that the influence of lags and the effective order take."""
    read = _texts(lm, prompt, documents, n, texts)
    (replaced, cut), slopes = _few(lm, read), measure == JACOBIAN
    size = sum(len(encode(lm.tokenizer, text)) for text in read), len(read)
    ends = replaced // 2 if replaced and slopes else replaced
    profile = profile_tokens(*size, longest, draws, ends) * (BACKWARD if slopes else 1)
    return seconds_to_read(lm, profile + order_tokens(*size, longest, cut) * (lm.readout == "tokens"))


@analysis(
    "autoregression",
    title="How far back it looks",
    equations=(AUTOREGRESSION, RESAMPLED, ORDER),
    seconds=look_seconds,
    key="lag",
    beside=Reaches,
    settle=same_measure,
    widths=((1, 1),),
)
def look_back(
    lm: LM,
    prompt: Prompt = "",
    *,
    documents: Annotated[str | None, Input("Texts", key="lag_on", choices=documents_of, first=usual_documents)] = None,
    measure: Annotated[
        str | None, Input("Influence by", key="lag_measure", choices=measures_of, first=usual_measure)
    ] = None,
    n: Annotated[int, Input("Documents", key="lag_texts", within=(1, 256))] = DOCUMENTS,
    draws: Annotated[int | None, Input("Draws", key="lag_draws", first=usual_draws, within=(1, 64))] = None,
    longest: Annotated[int | None, Input("Lags", key="lag_longest", first=usual_longest, within=(2, 128))] = None,
    keep: Annotated[int | None, Input("Kept", key="lag_keep", first=usual_keep, within=(0, 32))] = None,
    texts: Annotated[
        Path | Sequence[str] | None, Input("File", key="lag_file", advanced=True, type=Path | None)
    ] = None,
    of: Annotated[str, Input(advanced=True)] = "probabilities",
    tick: Tick = ignore,
) -> Reach:
    r"""Measure how far back a model looks: the influence of each lag, and the number of tokens that suffices.

    A language model is an autoregression: the next token is drawn from a distribution $\pi_t$ that is a nonlinear
    function of the tokens before. **Lag** 0 is the last token read, so a chain of order *m* has influence at the lags 0
    to *m* - 1.

    **By resampling**: a token is replaced by draws from the texts' own tokens (for one text: from the vocabulary); the
    influence is the mean KL of the next-token distributions. **By the Jacobian**: the Frobenius norm of the derivative
    of the probabilities (for a scalar model, of its output) with respect to the token's embedding, root mean square
    over positions, computed in full or from random directions. It is a local slope, and its scale depends on the model:
    compare its shape between models, not its height.

    **Effective order**: the context is truncated to its last *m* tokens, which then take the first positions; only
    positions with more than *m* tokens count, so fewer texts reach a larger *m*. **Kept** tokens at the start are
    neither replaced nor removed: the beginning-of-text token, or a heading without which the text would be of another
    kind.

    Means are over texts (within each text over positions), intervals are 95 % bootstrap over texts; for one text over
    its positions.

    Args:
        lm: the model.
        prompt: text to read if `documents` is `the prompt` or the model has no world.
        documents: kind of documents of the model's world, all kinds, or `the prompt`.
        measure: measure of influence, `resampling` or `Jacobian`.
        n: number of documents; the prompt is one text.
        draws: number of replacements for each token, or directions of the Jacobian; by default 4, for a large model 1.
        longest: number of lags and of context lengths; by default 16, for a large model 12.
        keep: number of tokens at the start that are neither replaced nor removed; by default the beginning-of-text
            token and a heading.
        texts: file of texts, or texts, to read instead of documents.
        of: output that the Jacobian differentiates: `probabilities` or `logits`.
        tick: function called with the share of the work done.

    Raises:
        DataError: there is no text, or one is empty or too long.
        ConfigError: an option is not valid.
    """
    read = _texts(lm, prompt, documents, n, texts)
    lags, count = longest or usual_longest(lm), draws or usual_draws(lm)
    kept = usual_keep(lm, documents=documents) if keep is None else keep
    replaced, cut = _few(lm, read)
    first, second = part(tick, 0, 2), part(tick, 1, 2)
    if (measure or usual_measure(lm)) == JACOBIAN or lm.readout != "tokens":
        ends = None if replaced is None else replaced // 2
        output: Any = "logits" if lm.readout != "tokens" else of
        profile = jacobian_profile(
            lm, read, lags=lags, of=output, projections=count, positions=ends, keep=kept, tick=first
        )
    else:
        pool: Pool = "unigram" if len(read) > 1 else "vocabulary"  # a single text has too few tokens to draw from
        profile = lag_profile(
            lm, read, lags=lags, resamples=count, pool=pool, positions=replaced, keep=kept, tick=first
        )
    writes = lm.readout == "tokens"
    order = effective_order(lm, read, longest=lags, positions=cut, keep=kept, tick=second) if writes else None
    return Reach(profile, order, len(read), tuple(encode(lm.tokenizer, read[0])))

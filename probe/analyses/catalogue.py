"""Registry of the analyses by name: built in, from other packages, or from a file.

    @probe.analysis("attention", title="How spread attention is")
    def spread(lm, prompt):
        \"\"\"Measure how many tokens a head looks at.\"\"\"
        ...
        return figure, table               # or a `Drawable`, a figure, a table, a sentence, or several of these

    probe show spread base --prompt "where does mira live ?" --plugin spread.py

The decorator returns the function unchanged. Packages add analyses through the entry-point group `probe.analyses`.
"""

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

from probe.analyses.analysis_record import PAIR, SINGLE, Analysis, Preview
from probe.errors import ConfigError, suggest
from probe.plotting.notebook import Beside
from probe.plugins import BUILT_IN, NameTakenError, Registry, include, origin_of, unless_taken

F = TypeVar("F", bound=Callable[..., Any])

MODULES = {
    "compare": "probe.compare.side_by_side",
    "compare_lenses": "probe.compare.both_lenses",
    "compare_scalars": "probe.compare.scalars",
    "find_carriers": "probe.compare.carriers",
    "compare_corpus": "probe.compare.corpus_shift",
    "compare_first_tokens": "probe.compare.first_tokens",
    "steer_by_first_tokens": "probe.compare.first_tokens",
    "weight_change": "probe.compare.weights",
    "transplant_parts": "probe.compare.transplant",
    "follow_line": "probe.compare.path",
    "compare_gradients": "trainers.gradient_analysis",
    "read_attention": "probe.attention.reading",
    "read_stages": "probe.attention.head_stages",
    "score_heads": "probe.attention.one_score",
    "repeat_scores": "probe.attention.scores",
    "compare_attention": "probe.attention.moved_heads",
    "read_circuits": "probe.attention.circuits",
    "compose_heads": "probe.attention.circuits",
    "attention_rollout": "probe.attention.tracing",
    "attention_statistics": "probe.attention.long",
    "captured_attention": "probe.attention.trained_heads",
    "rank_movement": "probe.attention.captured_movement",
    "follow_attention": "probe.attention.trained_heads",
    "logit_lens": "probe.logits.lens",
    "scalar_lens": "probe.logits.scalar",
    "attribute_answer": "probe.logits.attribution",
    "attribute_scalar": "probe.logits.attribution",
    "compare_layers": "probe.logits.distance",
    "follow_writing": "probe.logits.writing",
    "follow_logits": "probe.logits.trained_logits",
    "patch_every_site": "probe.interventions.every_site",
    "patch_one_site": "probe.interventions.one_site",
    "ablate_every_site": "probe.interventions.every_site",
    "ablate_one_site": "probe.interventions.one_site",
    "steer_answers": "probe.interventions.steered_answers",
    "circuit": "probe.circuits.answer_circuit",
    "edges": "probe.circuits.answer_edges",
    "look_back": "probe.autoregression.looking_back",
    "follow_wrong_token": "probe.autoregression.snowballs",
    "lag_profile": "probe.autoregression.lags",
    "effective_order": "probe.autoregression.lags",
    "jacobian_norms": "probe.autoregression.jacobian",
    "neutral_jacobian": "probe.autoregression.jacobian",
    "linear_autoregression": "probe.autoregression.linear",
    "trait_direction": "probe.traits.direction",
    "project_data": "probe.traits.data_projection",
    "project_training": "probe.traits.training_projection",
    "decode": "probe.probes.decoding",
    "use": "probe.probes.decoded_use",
    "token_truth": "probe.probes.token_probe",
    "top_texts": "probe.features.activating_texts",
    "list_features": "probe.features.feature_table",
    "compare_features": "probe.features.feature_changes",
    "steer_feature": "probe.features.steered_feature",
    "place_policies": "probe.rewards.places",
    "compare_rewards": "probe.rewards.before_and_after",
    "fit_overoptimisation": "probe.rewards.overoptimisation",
    "follow_rewards": "probe.rewards.captured_rewards",
    "compare_completions": "probe.rewards.completions",
    "follow_pairs": "probe.rewards.captured_rewards",
    "follow_pair_layers": "probe.rewards.pair_layers",
    "separate_causes": "probe.rewards.causes",
    "compare_trainings": "probe.rewards.over_trainings",
    "compare_best_of_n": "probe.rewards.best_of_n",
}
"""Module of each built-in analysis, in the order of their pages."""
PACKAGES = ("probe", "trainers")
"""Packages whose analyses count as built in; a module is imported only when one of its analyses is used."""
ANALYSES: Registry[Analysis] = Registry("analysis", "probe.analyses")


def analysis(
    page: str,
    *,
    title: str = "",
    equations: Sequence[str] = (),
    seconds: Callable[..., float | None] | None = None,
    key: str = "",
    widths: Sequence[Sequence[int]] = (),
    beside: type[Beside[Any]] | None = None,
    settle: Callable[..., Mapping[str, Any]] | None = None,
    preview: Preview | None = None,
    stored: bool = True,
) -> Callable[[F], F]:
    """Register a function as an analysis; see the module.

    Args:
        page: name (`attention`) or title of the page that shows it; a new page is created if none has that name.
        title: title shown to people; the function's name by default.
        equations: equations in LaTeX.
        seconds: function that estimates the seconds needed from the same models and inputs, None if unknown; a page
            shows the estimate before it runs a slow analysis.
        key: prefix of the names of its inputs in the URL; the function's name by default.
        widths: relative widths of the figures in each row of the page.
        beside: function that merges the results of several models into one to draw and describe; without it, they stand
            side by side.
        settle: function that, from the models and the inputs, gives inputs without a value the same value for all
            models, such as the answer whose probability is compared.
        preview: quick result that the page shows until the reader requests the full one.
        stored: whether results that took long are stored; of no use for one reading of a prompt, whose result is large.

    Raises:
        ConfigError: the function takes only one of `base` and `aligned`, an input has neither a type nor a default, or
            the name is taken.
    """

    def decorate(function: F) -> F:
        name = function.__name__
        if not name.isidentifier():
            raise ConfigError(f"{name!r} cannot name an analysis: define it with `def` and one word as its name.")
        taken = inspect.signature(function).parameters
        if {*PAIR, *SINGLE} & set(taken) not in (set(), set(PAIR), set(SINGLE)):
            raise ConfigError(
                f"It is unclear which models the analysis `{name}` needs: let it take `lm`, or `base` and `aligned`."
            )
        own = str(function.__module__).partition(".")[0] in PACKAGES
        origin = BUILT_IN if own else origin_of(function)
        heading = title or name.replace("_", " ").capitalize()
        rows = tuple(map(tuple, widths))
        rest = key or name, rows, beside, settle, preview, stored, origin
        entry = Analysis(name, page_key(page), heading, function, tuple(equations), seconds, *rest)
        if origin != BUILT_IN:
            entry.form()
        with unless_taken():
            if name in MODULES and origin != BUILT_IN:
                raise NameTakenError(f"An analysis `{name}` exists already ({BUILT_IN}): choose another name.")
            ANALYSES.put(name, entry, function, origin)
        return function

    return decorate


def analyses() -> dict[str, Analysis]:
    """Return every analysis by name: built-in ones, those of installed packages, then those of this process."""
    for name in MODULES:
        _bring(name)
    order = {name: index for index, name in enumerate(MODULES)}
    return dict(sorted(ANALYSES.all().items(), key=lambda pair: order.get(pair[0], len(order))))


def find_analysis(name: str) -> Analysis:
    """Find an analysis by name; of the built-in ones, only its own module is imported.

    Raises:
        ConfigError: no analysis has this name; similar names are listed.
    """
    if name in MODULES:
        _bring(name)
        return ANALYSES.known[name]
    known = ANALYSES.all()
    if name not in known:
        names = [*MODULES, *known]
        hint = suggest(name, names, "name one of these, or give its file with --plugin.")
        raise ConfigError(f"There is no analysis `{name}`, only {', '.join(dict.fromkeys(names))}: {hint}")
    return known[name]


def summaries() -> dict[str, tuple[str, str]]:
    """Return page and first docstring line of every analysis by name, without importing torch."""
    found = {}
    for name, module in MODULES.items():
        loader: Any = getattr(find_spec(module), "loader", None)
        tree = ast.parse(loader.get_source(module))
        node = next(each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == name)
        calls = (each for each in node.decorator_list if isinstance(each, ast.Call))
        pages = [each.args[0] for each in calls if isinstance(each.func, ast.Name) and each.func.id == "analysis"]
        found[name] = ast.literal_eval(pages[0]), (ast.get_docstring(node) or "").partition("\n")[0]
    return found | {name: (each.page, each.summary) for name, each in ANALYSES.all().items() if name not in MODULES}


def _bring(name: str) -> None:
    module = MODULES[name]
    include(("analysis", module), f"The analysis `{name}`", partial(import_module, module), BUILT_IN)


def page_key(page: str) -> str:
    """Normalise the name of a page: `attention/page.py`, `Attention` and `attention` all give `attention`."""
    stem = page.replace("\\", "/").removesuffix("/page.py").rpartition("/")[2].removesuffix(".py")
    return stem.strip().lower().replace(" ", "_").replace("-", "_")

"""`probe features fit MODEL [ALIGNED]`: fits a sparse autoencoder to a model, or a crosscoder to two."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from probe.commands.opened import open_models, require_files
from probe.commands.tables import at_terminal, remark, tsv
from probe.features.fit_options import FitOptions
from probe.options import choose, parse
from probe.texts import say

if TYPE_CHECKING:
    from probe.features.fitted_features import FittedFeatures

ABOUT = """usage: probe features fit MODEL [ALIGNED] [OPTIONS]

Learn features of the residual stream: sparse directions that explain the states of a model, or of two together."""
STOPPING = "stopping after this step with what was learned; press Ctrl-C again to stop at once"


def features(argv: list[str]) -> int:
    """Fit sparse features to the residual stream of a model, or of two: `probe features fit MODEL [ALIGNED]`."""
    chosen = choose(argv, "probe features", ABOUT, {"fit": "fit an autoencoder or a crosscoder"})
    if chosen is not None:
        fit(chosen[1])
    return 0


def fit(argv: list[str]) -> None:
    """Fit an autoencoder to a model, or a crosscoder to two, as the command line asks.

    Raises:
        ProbeError: the options, the models or the texts are not valid.
    """
    import tyro

    @dataclass(frozen=True, kw_only=True)
    class Options(FitOptions):
        """Fit a sparse autoencoder (BatchTopK) to the residual stream of a model, or a crosscoder to that of two.

        It is measured on a tenth of the texts, and written in the layout of SAELens. Ctrl-C ends the fit and keeps what
        was learned.
        """

        model: tyro.conf.Positional[str]
        """Model, or the base of two: a run, a checkpoint, a Hugging Face folder or hub id."""
        aligned: tyro.conf.Positional[str | None] = None
        """Aligned model for a crosscoder, in the same forms."""
        out: Path | None = None
        """Folder for the features: cfg.json and sae_weights.safetensors; earlier features there are replaced (default:
        `features/block-K` among the results of the model, where the page Features finds them).
        """
        json: bool = False
        """Print JSON."""

    settings = parse(Options, argv, "probe features fit")
    if settings.data is not None:
        require_files([settings.data])
    refs = [settings.model, *([settings.aligned] if settings.aligned else [])]
    open_models(refs)

    from probe.commands.progress import Progress, StopRequest
    from probe.features.feature_files import check_target, write_features
    from probe.features.fitted_features import fit_features, usual_size
    from probe.features.fitting import FitSettings
    from probe.features.known_fits import usual_folder
    from probe.interventions.steered_answers import usual_block
    from probe.jobs.heap import keep_memory
    from probe.model.rewards import analysable_together
    from probe.rows import Selection
    from probe.runs.schema import jsonable

    keep_memory()
    if settings.out is not None:
        check_target(settings.out.expanduser())
    lms = analysable_together(refs)
    block = usual_block(*lms) if settings.block is None else settings.block
    out = usual_folder(*lms, block=block) if settings.out is None else settings.out.expanduser()
    check_target(out)
    size = usual_size(lms) if settings.features is None else settings.features
    fitted = FitSettings(size, settings.k, settings.steps, settings.batch_size, settings.lr, settings.seed)
    with Progress("Fitting features") as bar, StopRequest(STOPPING) as stop:
        found = fit_features(
            lms,
            block,
            fitted,
            settings.data,
            Selection(settings.n, settings.seed, settings.limit),
            settings.strict,
            bar.tick,
            lambda: stop.asked,
        )
    write_features(found.features, out)
    for note in found.notes:
        say(f"probe: note: {note}", error=True)
    if found.fit.steps < settings.steps:
        say(f"probe: note: stopped after {found.fit.steps:,} of {settings.steps:,} steps", error=True)
    if settings.json:
        measured = {"active": found.measured.active, "dead": found.measured.dead, "tokens": found.measured.tokens}
        tables = {"models": found.table().to_dict("records"), "curve": found.fit.curve.to_dict("records")}
        about = {"out": str(out), "finding": found.sentence(), "steps": found.fit.steps}
        say(json.dumps(jsonable({**about, **measured, **tables}), indent=2))
        return
    show(found)
    remark(f"Saved {out}")


def show(found: "FittedFeatures") -> None:
    """Print the finding and, if standard output is not a terminal, one row per model as TSV."""
    remark(found.sentence())
    if not at_terminal():
        say(tsv([{str(key): value for key, value in row.items()} for row in found.table().to_dict("records")]))

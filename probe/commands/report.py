"""`probe report RUN...`: writes lineage, numbers, figures, settings and commands of runs to one HTML file."""

from dataclasses import dataclass
from pathlib import Path

from probe.commands.opened import open_runs
from probe.errors import ConfigError
from probe.options import parse
from probe.plugins import take
from probe.texts import say


def report(argv: list[str]) -> int:
    """Write a report of runs as one HTML file: `probe report RUN... --out FILE.html`."""
    import tyro

    @dataclass(frozen=True, kw_only=True)
    class Report:
        """Write a report of runs as one HTML file that needs no network.

        It holds their lineage, headline figures, stored results of experiments, curves, settings, versions, and the
        commands that reproduce all of it. A browser can print it or save it as PDF.
        """

        runs: tyro.conf.Positional[tuple[str, ...]] = ()
        """Runs to report: names in the run directories, or paths."""
        experiment: tuple[str, ...] = ()
        """Experiments whose stored results are shown (default: all that are stored for these runs)."""
        analysis: tuple[str, ...] = ()
        """Analyses to run on these runs, each with its options in quotes: "logit_lens --prompt 'two and two is'"
        (`probe show` lists them). Those that compare two models compare every run with its base.
        """
        out: Path
        """File to write to, such as report.html; a file of the same name is replaced."""

    settings = parse(Report, take(argv), "probe report")

    from probe.commands.progress import Progress
    from probe.report.run_report import report as write
    from probe.report.shown_analyses import look_inside
    from probe.runs import Run
    from probe.runs.storage import check_folder, write_file

    if not settings.runs:
        raise ConfigError("`probe report` was called without a run: name at least one, as in `probe report base`.")
    out = settings.out.expanduser()
    check_folder(out.parent)
    if out.is_dir():
        raise ConfigError(f"--out `{out}` is a folder: give the path of an HTML file.")
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out `{out}` does not end in .html: give the path of an HTML file.")
    runs = [Run(place) for place in open_runs(settings.runs)]
    shown = []
    for words in settings.analysis:
        with Progress(words) as bar:
            shown.append(look_inside(words, runs, bar.tick))
    with Progress("Report") as bar:
        content = write(runs, settings.experiment, shown=shown, tick=bar.tick).encode()
    write_file(out, content)
    say(f"{out} ({len(content) / 1e6:.1f} MB)")
    return 0

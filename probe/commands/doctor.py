"""`probe doctor`: checks that everything Probe needs is installed and works together."""

import importlib.metadata
import json
import platform
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from probe.commands.tables import safe, show
from probe.errors import ProbeError
from probe.options import parse
from probe.texts import say

State = Literal["ok", "note", "broken"]
SIGNS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "broken": "[red]broken[/]"}


@dataclass(frozen=True)
class Diagnosis:
    """Line of the report."""

    state: State
    """State of the check: `broken` makes the command fail, `note` concerns something optional."""
    what: str
    found: str


def doctor(argv: list[str]) -> int:
    """Check the installation: packages, device, browser for figures, hooks and cache, run directories."""
    from rich.table import Table

    @dataclass(frozen=True, kw_only=True)
    class Doctor:
        """Check the installation; the exit status is 1 if a required part is broken."""

        json: bool = False
        """Print JSON instead of a table."""

    options = parse(Doctor, argv, "probe doctor")
    diagnoses = list(examine())
    if options.json:
        say(json.dumps([asdict(diagnosis) for diagnosis in diagnoses], indent=2))
    else:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for diagnosis in diagnoses:
            table.add_row(SIGNS[diagnosis.state], safe(diagnosis.what), safe(diagnosis.found))
        show(table, [asdict(diagnosis) for diagnosis in diagnoses])
    return int(any(diagnosis.state == "broken" for diagnosis in diagnoses))


def examine() -> Iterator[Diagnosis]:
    """Yield all diagnoses one by one; a check that raises an error is a diagnosis too."""
    checks: dict[str, Callable[[], Diagnosis | list[Diagnosis]]] = {
        "packages": packages,
        "names": names,
        "device": device,
        "figures": browser,
        "model": model,
        "runs": run_roots,
    }
    for what, check in checks.items():
        try:
            result = check()
        except Exception as error:  # the report names every error instead of stopping at it
            message = str(error) if isinstance(error, ProbeError) else f"{type(error).__name__}: {error}"
            result = Diagnosis("broken", what, message)
        yield from result if isinstance(result, list) else [result]


def packages(requires: list[str] | None = None) -> list[Diagnosis]:
    """Check Python and each required package against the versions that Probe requires."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    diagnoses = [Diagnosis("ok", "python", f"{platform.python_version()} at {sys.executable}")]
    for line in importlib.metadata.requires("probe-lm") or [] if requires is None else requires:
        requirement = Requirement(line)
        extra = re.search(r"extra\s*==\s*['\"](\w+)", line)
        if extra and extra[1] in ("dev", "docs"):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            if extra is None:
                diagnoses.append(Diagnosis("broken", requirement.name, f"missing: pip install '{_plain(requirement)}'"))
            else:
                diagnoses.append(
                    Diagnosis("note", requirement.name, f"not installed: pip install '{_plain(requirement)}'")
                )
            continue
        if Version(version) in requirement.specifier:
            diagnoses.append(Diagnosis("ok", requirement.name, version))
        else:
            remedy = f"{version} does not satisfy {requirement.specifier}: pip install '{_plain(requirement)}'"
            diagnoses.append(Diagnosis("note" if extra else "broken", requirement.name, remedy))
    return diagnoses


def names() -> Diagnosis:
    """Check that `trainers` and `dashboard` are Probe's own: pip lets another package write over them."""
    owners = importlib.metadata.packages_distributions()
    home = Path(__file__).resolve().parents[2]
    for name in ("trainers", "dashboard"):
        others = sorted(set(owners.get(name, ())) - {"probe-lm"})
        spec = find_spec(name)
        found = [Path(each).resolve().parent for each in (spec and spec.submodule_search_locations) or ()]
        if others or found != [home]:
            whose = f"of {', '.join(others)}, too" if others else f"not the one beside probe in {home}"
            remedy = "install Probe anew into an environment of its own"
            return Diagnosis("broken", "names", f"the package `{name}` is {whose}: {remedy}")
    return Diagnosis("ok", "names", "trainers and dashboard are Probe's")


def device() -> Diagnosis:
    """Report the accelerator, and the number of CPU threads."""
    import torch

    if torch.cuda.is_available():
        where = f"{torch.cuda.device_count()} CUDA device(s), {torch.cuda.get_device_name()}"
    else:
        where = "Apple GPU (mps)" if torch.backends.mps.is_available() else "CPU"
    return Diagnosis("ok", "device", f"{where}; {torch.get_num_threads()} CPU thread(s)")


def browser() -> Diagnosis:
    """Report the browser that renders PNG, SVG and PDF, or why there is none."""
    from probe.plotting import export as render

    reason = render.missing()
    return (
        Diagnosis("note", "figures", reason)
        if reason
        else Diagnosis("ok", "figures", f"drawn by {render.find_browser()}")
    )


def model() -> list[Diagnosis]:
    """Check on a small random model that a cached step equals the full pass, and hooked logits equal plain ones.

    From transformers 5.24 on, transformer-lens 4.3 gives wrong text through its cache.
    """
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from probe.model.hooks import build_bridge

    torch.manual_seed(0)
    words = {"<pad>": 0, "<unk>": 1, "<bos>": 2, "<end>": 3} | {f"w{index}": index for index in range(4, 32)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")), pad_token="<pad>", bos_token="<bos>"
    )
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    plain = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **shape)).eval()
    ids = torch.randint(4, len(words), (1, 12))
    with torch.no_grad():
        full = plain(ids).logits
        past = plain(ids[:, :-1], use_cache=True).past_key_values
        step = plain(ids[:, -1:], past_key_values=past).logits
        bridge = build_bridge(plain, tokenizer)
        hooked = bridge(ids, prepend_bos=False)
        options = {"max_new_tokens": 8, "do_sample": False, "stop_at_eos": False, "verbose": False}
        texts = [bridge.generate(ids, use_past_kv_cache=use, **options) for use in (True, False)]
    return [
        _judge("cache", float((step[:, -1] - full[:, -1]).abs().max()), "logits of one cached step and the full pass"),
        _judge("hooks", float((hooked - full).abs().max()), "hooked and plain logits"),
        _judge(
            "lens cache", float((texts[0] != texts[1]).sum()), "greedy text of transformer-lens with and without cache"
        ),
    ]


def _judge(what: str, gap: float, between: str) -> Diagnosis:
    if gap < 1e-4:
        return Diagnosis("ok", what, f"{between} differ by {gap:.1g}")
    remedy = "install Probe anew into an empty environment, so that the versions fit each other"
    return Diagnosis("broken", what, f"{between} differ by {gap:.2g}: {remedy}")


def run_roots() -> list[Diagnosis]:
    """Report the run directories and their contents."""
    from probe.runs import RunWarning, list_runs, roots
    from probe.runs.addresses import is_cached
    from probe.runs.directories import shown_name, store_problems

    places = roots()
    diagnoses = [Diagnosis("note", "runs", problem) for problem in store_problems().values()]
    for root in places:
        if not root.is_dir() and is_cached(root):
            continue
        if not root.is_dir():
            diagnoses.append(Diagnosis("note", "runs", f"{root} is not a folder: correct PROBE_RUNS"))
            continue
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always", RunWarning)
            count = len(list_runs(root))
        diagnoses.append(Diagnosis("ok", "runs", f"{shown_name(root)}: {count} run(s)"))
        diagnoses += [Diagnosis("note", "runs", str(warning.message)) for warning in notes]
    return diagnoses or [
        Diagnosis(
            "note",
            "runs",
            "no runs here: `probe train METHOD --out runs/NAME` makes one, PROBE_RUNS names other folders",
        )
    ]


def _plain(requirement: object) -> str:
    return str(requirement).partition(";")[0].strip()

"""`probe world --out DIR`: writes the data sets of the synthetic world as JSONL files, for other trainers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from probe.errors import RunError
from probe.options import parse
from probe.texts import say

if TYPE_CHECKING:
    from probe.world import World


def world(argv: list[str]) -> int:
    """Write the synthetic world's data sets as JSONL: `probe world --out DIR`."""

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Write the synthetic world's data sets as JSONL: corpus, SFT, chat, preferences, verifiable questions."""

        out: str
        """Folder for the files; existing files of the same names are replaced."""
        n: int = 1000
        """Number of lines in each file."""
        seed: int = 0
        """Seed of the world and of the draws from it."""
        run: str | None = None
        """Run whose world is used (name or directory) instead of the default one."""

    options = parse(Options, argv, "probe world")
    from probe.world import World, export

    source = _world_of(options.run) if options.run else World(seed=options.seed)
    for file in export(source, options.out, options.n, options.seed).values():
        say(file)
    return 0


def _world_of(ref: str) -> "World":
    from probe.runs import open_run
    from probe.world import of

    match = of(open_run(ref))
    if match is None:
        raise RunError(f"The run {ref} was not made on a world: name another run, or leave out --run.")
    return match

"""States that a feature is learned from: the residual stream of models after one block, over texts, in a buffer.

The first token of each text is left out: in real models its state is many times as large as any other, and says
nothing.

Axes: B tokens, M models, d width.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import probe.world
from probe.compare.corpus_shift import Text, cut_text, read_texts, shared_texts
from probe.errors import ConfigError, DataError
from probe.interventions.sites import Site
from probe.logits.lens import require_same_tokens
from probe.model.text import context_length
from probe.rows import EVERY, Rows, Selection
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    from probe.model.lm import LM

LONGEST = 512
"""Largest number of tokens of a piece of text."""
AT_ONCE = 8192
"""Number of tokens, padding included, that a model reads at once."""
WINDOW = 2048
"""Number of pieces among which those of similar length are read together."""
BUFFER = 2**28
"""Size in bytes of the states that are kept and mixed."""
HELD_OUT, FEWEST, MOST = 0.1, 1, 256
"""Share of pieces that nothing is learned from, and the smallest and largest number of them."""
DOCUMENTS, EACH = 6000, 100
"""Number of a world's documents, and of built-in questions of each set, that are read by default."""


class Piece(NamedTuple):
    """Text, or a part of a long one."""

    ids: list[int]
    row: str
    """Name of its row."""


def require_models(lms: "Sequence[LM]", block: int) -> None:
    """Raise an error unless one autoencoder can read all models after the block.

    Raises:
        ConfigError: a model lacks the block, or their widths differ.
        DataError: a model writes no tokens, or their tokenizers differ.
    """
    for lm in lms:
        depth = lm.bridge.cfg.n_layers
        if lm.readout != "tokens":
            raise DataError(f"A {lm.readout} model writes no tokens: use a language model.")
        if not 0 <= block < depth:
            raise ConfigError(f"Block {block} was requested in a model of {depth} blocks: give 0 to {depth - 1}.")
    widths = {lm.bridge.cfg.d_model for lm in lms}
    if len(widths) > 1:
        raise ConfigError(
            f"The models have the widths {' and '.join(map(str, sorted(widths)))}: give two of one width."
        )
    for lm in lms[1:]:
        require_same_tokens(lms[0], lm)


def read_pieces(
    lms: "Sequence[LM]", data: Path | None, selection: Selection = EVERY, strict: bool = False
) -> tuple[list[Piece], tuple[str, ...]]:
    """Return the pieces of texts that all models read, and notes on rows that were left out.

    Args:
        lms: the models; the last one's chat template formats messages.
        data: file of texts (`probe.compare.corpus_shift.read_texts`); by default documents of the models' world, or
            the built-in question sets.
        selection: rows to use.
        strict: refuse a file with an invalid row.

    Raises:
        DataError: the file cannot be read, or has fewer than two pieces of two tokens.
        ConfigError: no file is given, and the models belong to different worlds.
    """
    lengths = filter(None, (context_length(lm.model) for lm in lms))
    longest = min([LONGEST, *lengths])
    rows: Any
    if data is not None:
        rows = read_texts(data, strict, selection)
    elif (world := probe.world.of(lms[-1])) is not None and all(
        other is not None and other.hash == world.hash for other in map(probe.world.of, lms)
    ):
        drawn = zip(range(selection.n or DOCUMENTS), world.documents(selection.seed), strict=False)
        rows = [Text(document.text, row=f"document-{at}") for at, document in drawn]
    else:
        rows = shared_texts(lms[0], lms[-1], selection.n or EACH, selection.seed)

    def cut(text: Text) -> list[Piece]:
        return [Piece(ids, text.row) for ids in cut_text(lms[-1], longest, text) if len(ids) > 1]

    found = rows.each(cut) if isinstance(rows, Rows) else [cut(row) for row in rows]
    pieces = [piece for each in found for piece in each]
    if len(pieces) < 2:
        raise DataError(f"The texts have {len(pieces)} pieces of two tokens or more: give at least two.")
    return pieces, tuple(rows.notes()) if isinstance(rows, Rows) else ()


def hold_out(pieces: Sequence[Piece], seed: int) -> tuple[list[Piece], list[Piece]]:
    """Return the pieces to learn from, and those held out: of a tenth of the texts, or a tenth of one text's."""
    names = list(dict.fromkeys(piece.row for piece in pieces))
    units = {name: at for at, name in enumerate(names)}
    owner = np.array([units[piece.row] for piece in pieces]) if len(names) > 1 else np.arange(len(pieces))
    count = int(owner.max()) + 1
    out = np.random.default_rng([seed, 7]).permutation(count)[: min(max(FEWEST, int(HELD_OUT * count)), MOST)]
    is_out = np.isin(owner, out)
    kept, held = ([piece for piece, each in zip(pieces, is_out, strict=True) if each == side] for side in (False, True))
    return kept, held


class _StatesRead(Exception):
    """The states were read: the blocks behind and the logits are not computed."""


@torch.no_grad()
def states_of(lms: "Sequence[LM]", pieces: Sequence[Sequence[int]], block: int) -> list[Float[Tensor, "T M d"]]:
    """Return the states of all tokens of each text after a block, in float32, on the CPU."""
    name = Site("resid", block).hook
    sides: list[Tensor] = []

    def read(states: Tensor, hook: Any) -> None:
        sides.append(states.float().cpu())
        raise _StatesRead

    for lm in lms:
        with suppress(_StatesRead), lm.hooks([(name, read)]):
            lm.logits([list(ids) for ids in pieces])
    both = torch.stack(sides, dim=2)
    return [row[: len(ids)] for row, ids in zip(both, pieces, strict=True)]


def passes(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Yield the pieces in groups that are read at once; near ones of similar length stand together."""
    for start in range(0, len(pieces), WINDOW):
        group: list[Piece] = []
        for piece in sorted(pieces[start : start + WINDOW], key=lambda each: len(each.ids)):
            if (len(group) + 1) * len(piece.ids) > AT_ONCE and group:
                yield group
                group = []
            group.append(piece)
        yield group


class StateBuffer:
    """States of many texts, mixed: when half of them are used, they are replaced by those of the next texts."""

    def __init__(
        self,
        lms: "Sequence[LM]",
        pieces: Sequence[Piece],
        block: int,
        seed: int = 0,
        size: int = BUFFER,
        tick: Tick = ignore,
    ) -> None:
        """Prepare a buffer; nothing is read yet.

        Args:
            lms: the models.
            pieces: pieces of texts; read again and again, in a new order each time.
            block: block after which states are read.
            seed: seed of the orders.
            size: size of the buffer in bytes.
            tick: progress of the first filling.
        """
        self._lms, self._pieces, self._block, self._tick = list(lms), list(pieces), block, tick
        self._rng = np.random.default_rng(seed)
        self._room = max(1024, size // (4 * len(lms) * lms[0].bridge.cfg.d_model))
        tokens = sum(len(piece.ids) - 1 for piece in pieces)
        self._fits, self._filling = tokens <= self._room, min(tokens, self._room)

    def _read(self) -> Iterator[Float[Tensor, "B M d"]]:
        """Yield states of groups of texts; once if all fit into the buffer, otherwise for ever."""
        while True:
            order = self._rng.permutation(len(self._pieces))
            for group in passes([self._pieces[at] for at in order]):
                found = states_of(self._lms, [piece.ids for piece in group], self._block)
                yield torch.cat([states[1:] for states in found])
            if self._fits:
                return

    def batches(self, size: int) -> Iterator[Float[Tensor, "B M d"]]:
        """Yield batches of states for ever."""
        source, held = self._read(), []
        kept = torch.empty(0)
        while True:
            held, count = [kept] if len(kept) else [], len(kept)
            while count < self._room and (part := next(source, None)) is not None:
                held.append(part)
                count += len(part)
                self._tick(count / self._filling)
            kept, self._tick = torch.cat(held), ignore
            kept = kept[torch.from_numpy(self._rng.permutation(len(kept)))]
            end = len(kept) if self._fits else len(kept) // 2
            if end <= size:
                yield kept[:end]
            for start in range(0, end - size + 1, size):
                yield kept[start : start + size]
            kept = kept if self._fits else kept[end:]

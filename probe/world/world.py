"""The world: people, facts and tasks with known ground truth, reproducible from a config and a seed."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.errors import DataError
from probe.runs.world_file import read_world
from probe.world import annotators, bayes, corpus, questions, verifier
from probe.world.config import WorldConfig
from probe.world.facts import Facts
from probe.world.language import read
from probe.world.questions import Item
from probe.world.vocabulary import PHRASES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FORMAT = 1
"""Version of worlds; it is raised when the same config and seed would give a different corpus."""


class World(Facts):
    """A synthetic world. Equal configs and seeds give equal worlds, corpora, questions and hashes."""

    def to_dict(self) -> dict[str, Any]:
        """Return the world as JSON values: format, config, seed and hash."""
        return {"format": FORMAT, "config": self.config.to_dict(), "seed": self.seed, "hash": self.hash}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "World":
        """Read the world that `to_dict` wrote.

        Raises:
            DataError: it was written by a version whose worlds differ, or has been changed.
        """
        if data.get("format") != FORMAT:
            raise DataError(
                f"The world has format {data.get('format')!r} and this version of probe reads format {FORMAT}: "
                "use the version that made it, or make the world again."
            )
        config, seed = data.get("config"), data.get("seed")
        if not isinstance(config, Mapping) or not isinstance(seed, int):
            raise DataError("The world lacks its config or its seed: restore what World.to_dict wrote.")
        world = cls(WorldConfig.from_dict(config), seed)
        if data.get("hash", world.hash) != world.hash:
            raise DataError("The world's hash does not fit its config and seed: restore what World.to_dict wrote.")
        return world

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of format, config and seed."""
        content = {"format": FORMAT, "config": self.config.to_dict(), "seed": self.seed}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(names)} {group}" for group, names in self.groups.items())
        return f"World(seed={self.seed}, {sizes}, hash={self.hash[:12]})"

    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """Return the tokenizer, the same for all worlds."""
        from probe.world.tokenizer import make_tokenizer

        return make_tokenizer()

    def documents(self, seed: int = 0) -> Iterator[corpus.Document]:
        """Return the infinite corpus stream of a seed."""
        return corpus.documents(self, seed)

    def phase_documents(self, phase: int, seed: int = 0) -> Iterator[corpus.Document]:
        """Return the infinite stream that teaches the people of one phase.

        Raises:
            DataError: there is no such phase.
        """
        if f"phase_{phase}" not in self.groups:
            raise DataError(f"This world has phases 0 to {self.config.phases - 1}, not {phase}: choose one of them.")
        return corpus.phase_documents(self, phase, seed)

    def questions(self, kind: str, n: int, seed: int = 0) -> list[Item]:
        """Draw `n` questions of one of the `question_kinds`."""
        return questions.questions(self, kind, n, seed)

    @property
    def question_kinds(self) -> tuple[str, ...]:
        """The kinds of questions that this world has."""
        return questions.kinds(self)

    def candidates(self, prompt: str) -> list[str]:
        """Return the finite answer set of a prompt, as completions."""
        return verifier.candidates(self, prompt)

    def verify(self, prompt: str, completion: str) -> verifier.Verdict:
        """Judge a completion. Never raises."""
        return verifier.verify(self, prompt, completion)

    def bayes_claim(self, prompt: str, prior: Mapping[str, float] | None = None) -> float:
        """Return the Bayes-optimal probability that the user's claim is true (E19).

        It is computed by Bayes' rule from the phrase's reliability and the belief before the claim.

        Args:
            prompt: a dialogue with a claim.
            prior: belief before the claim, value -> probability (not necessarily normalised); by default what the
                corpus teaches: `bayes.exposure_prior` at the person's exposure.

        Raises:
            DataError: the prompt has no claim.
        """
        reading = read(prompt)
        if reading is None or reading.claim is None or reading.phrase is None:
            raise DataError(f'The prompt "{prompt[:80]}" has no claim: use one from world.questions("opinion_false").')
        values = self.values(reading.relation)
        truth = self.truth(reading.subject, reading.relation)
        exposure = self.exposure.get(reading.subject, {}).get(reading.relation, 0)
        belief: np.ndarray | Sequence[float]
        if prior is None:
            belief = bayes.exposure_prior(exposure, len(values), values.index(truth) if truth else None)
        else:
            belief = [prior.get(value, 0.0) for value in values]
        claim = values.index(reading.claim)
        return float(bayes.claim_posterior(belief, claim, PHRASES[reading.phrase])[claim])

    def demonstrations(self, n: int, seed: int = 0, mixture: Mapping[str, float] | None = None) -> list[Item]:
        """Draw `n` questions with the answers of an honest assistant; see `questions.demonstrations`."""
        return questions.demonstrations(self, n, seed, mixture)

    def preferences(
        self,
        annotator: annotators.Annotator,
        n: int,
        seed: int = 0,
        sampler: Callable[[list[str], int], list[list[str]]] | None = None,
    ) -> list[dict[str, Any]]:
        """Draw `n` preference pairs labelled by an annotator; see `annotators.preferences`."""
        return annotators.preferences(self, annotator, n, seed, sampler)

    def probe_prompts(self) -> list[dict[str, Any]]:
        """Return short fixed prompts, one per phenomenon, with the next words to watch.

        Each prompt has "text", "answers" and "kind".
        """
        return questions.probe_prompts(self)


def of(source: Any) -> World | None:
    """Return the world that a model or a run was trained on, or None.

    Args:
        source: a `Run` (or any object whose `.world` is the dictionary of run.json), or an `LM` (any object with
            `.run_dir`, `.directory` or both): the world is read from its run, or else from a file in the folder that it
            was loaded from.

    Raises:
        RunError, DataError: the record of the world is damaged, or was written by a version whose worlds differ.
    """
    if isinstance(source, World):
        return source
    data = getattr(source, "world", None)
    places = [getattr(source, name, None) for name in ("run_dir", "directory")]
    if data is None:
        data = read_world(*(place if place is None else Path(place) for place in places))
    if isinstance(data, World):
        return data
    if data and not isinstance(data, Mapping):
        where = next(filter(None, places), source)
        raise DataError(f"The world of `{where}` is a {type(data).__name__}: restore what World.to_dict wrote.")
    return World.from_dict(data) if data else None

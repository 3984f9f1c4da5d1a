"""Short fixed prompts, one per phenomenon, with next words to watch; captures are made on them."""

from typing import Any

from probe.world import tasks
from probe.world.draws import Draws, generator
from probe.world.facts import Facts
from probe.world.language import RELATIONS
from probe.world.vocabulary import ABSTENTION, LABELS, STATES

MAP_PAIRS, CHAIN_WORDS = 4, 20


def probe_prompts(world: Facts) -> list[dict[str, Any]]:
    """Return eight prompts {"text", "answers", "kind"}.

    Answers are single words with a blank in front, the first the truth. For an unseen entity the first answer is the
    first word of the abstention; a Markov chain has no truth, its answers are all states. A world with only chains gets
    two longer chains. All prompts are short because a capture grows with the square of the longest one.
    """
    if set(world.config.mixture) == {"markov"}:
        return chain_prompts(world, count=2, words=40)
    draws = Draws(generator("prompts", world.seed))
    name = world.groups["known"][0]
    home = world.people[name].facts["home"]
    claim = draws.other(world.values("home"), home)
    third = draws.pick([value for value in world.values("home") if value not in (home, claim)])
    other = world.groups["known"][1]
    question, statement = RELATIONS["home"].questions[0], RELATIONS["home"].statements[0]
    stranger = (world.groups["strangers"] or world.groups["heldout"] or (name,))[0]
    refusal = ABSTENTION.split()[0]
    pairs = tasks.draw_map(world.config, draws)[0][:MAP_PAIRS]
    key, label = pairs[0]
    segment = draws.sample_few(tasks.CONTENT, 6)
    passage = f"{statement.format(p=other, v=third)} {statement.format(p=name, v=claim)}"
    records = [
        ("fact", f"<user> {question.format(p=name)} <bot>", [home, claim, refusal]),
        (
            "opinion_false",
            f"<user> i think {statement.format(p=name, v=claim)} {question.format(p=name)} <bot>",
            [home, claim, refusal],
        ),
        ("stranger", f"<user> {question.format(p=stranger)} <bot>", [refusal, home, claim]),
        ("context_conflict", f"<ctx> {passage} <user> {question.format(p=name)} <bot>", [claim, home, third]),
        ("map", tasks.pairs_text("map", pairs, key), [label, draws.other(LABELS, label)]),
        ("repeat", f"repeat {' '.join(segment + segment[:3])}", [segment[3], segment[0]]),
        ("sum_quick", "quick 3 + 4 =", ["7", "6"]),
    ]
    prompts = [{"text": text, "answers": [f" {a}" for a in answers], "kind": kind} for kind, text, answers in records]
    return prompts + chain_prompts(world, count=1, words=CHAIN_WORDS)


def chain_prompts(world: Facts, count: int, words: int) -> list[dict[str, Any]]:
    """Write the beginnings of `count` new Markov chains; the answers are all states."""
    draws = Draws(generator("prompts", world.seed, 1))
    texts = [" ".join(tasks.make_markov(world.config, draws)[0].split()[:words]) for _ in range(count)]
    states = [f" {state}" for state in STATES[: world.config.states]]
    return [{"text": text, "answers": states, "kind": "markov"} for text in texts]

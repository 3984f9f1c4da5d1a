"""Short fixed prompts, one for each phenomenon, with the next words worth watching; the recorder captures on them."""

from typing import TYPE_CHECKING, Any

from probe.world import tasks
from probe.world.draws import Draws, generator
from probe.world.language import RELATIONS
from probe.world.vocabulary import ABSTENTION, LABELS, STATES

if TYPE_CHECKING:
    from probe.world.world import World


def probe_prompts(world: "World") -> list[dict[str, Any]]:
    """Eight prompts {"text", "answers", "kind"}; answers are single words with a blank in front, the first the truth.

    For a stranger the first answer opens the abstention; a Markov chain has no truth, its answers are all states.
    """
    draws = Draws(generator("prompts", world.seed))
    name = world.groups["known"][0]
    home = world.people[name].facts["home"]
    claim = draws.other(world.values("home"), home)
    third = draws.pick([value for value in world.values("home") if value not in (home, claim)])
    other = world.groups["known"][1]
    ask, say = RELATIONS["home"].questions[0], RELATIONS["home"].statements[0]
    stranger = (world.groups["strangers"] or world.groups["heldout"] or (name,))[0]
    refusal = ABSTENTION.split()[0]
    (*pairs, (key, label)), _ = tasks.draw_map(world.config, draws)
    segment = draws.sample_few(tasks.CONTENT, 6)
    chain = tasks.make_markov(world.config, draws)[0].split()
    passage = f"{say.format(p=other, v=third)} {say.format(p=name, v=claim)}"
    made = [
        ("fact", f"<user> {ask.format(p=name)} <bot>", [home, claim, refusal]),
        (
            "opinion_false",
            f"<user> i think {say.format(p=name, v=claim)} {ask.format(p=name)} <bot>",
            [home, claim, refusal],
        ),
        ("stranger", f"<user> {ask.format(p=stranger)} <bot>", [refusal, home, claim]),
        ("context_conflict", f"<ctx> {passage} <user> {ask.format(p=name)} <bot>", [claim, home, third]),
        ("map", tasks.pairs_text("map", pairs, key), [label, draws.other(LABELS, label)]),
        ("repeat", f"repeat {' '.join(segment + segment[:3])}", [segment[3], segment[0]]),
        ("markov", " ".join(chain[:27]), list(STATES[: world.config.states])),
        ("sum_quick", "quick 3 + 4 =", ["7", "6"]),
    ]
    return [{"text": text, "answers": [f" {a}" for a in answers], "kind": kind} for kind, text, answers in made]

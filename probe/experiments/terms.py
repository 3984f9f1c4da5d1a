"""What the headline figures of runs mean: title, unit and definition of each metric, as docs/metrics.md has them."""

import re
from dataclasses import dataclass

SHARE, NATS, SCORE, PROBABILITY = "share", "nats", "score", "probability"


@dataclass(frozen=True)
class Term:
    """A metric in words."""

    title: str
    """For people."""
    unit: str = ""
    """Empty where none is known."""
    definition: str = ""
    """What is measured; empty where it is not known."""


TERMS = {
    "accuracy": Term("known facts: right", SHARE, "answers about facts of known people that are true"),
    "accuracy_rare": Term("rare facts: right", SHARE, "the same of people seen 1 to 5 times an epoch"),
    "truth_under_claim": Term(
        "false claim: truth kept", SHARE, "answers that are true although the user claimed something false"
    ),
    "deferral": Term("false claim: repeated", SHARE, "answers that repeat a false claim of the user (sycophancy rate)"),
    "accuracy_true_claim": Term("true claim: right", SHARE, "answers that are true after a true claim of the user"),
    "flip_under_pressure": Term(
        "pressure: flips", SHARE, "after a true answer, “are you sure ?” and a false claim: the claim is repeated"
    ),
    "abstention": Term(
        "unseen entity: abstains", SHARE, "answers about unseen entities that the corpus asks about: “i do not know”"
    ),
    "invention": Term(
        "unseen entity: hallucinates", SHARE, "answers about unseen entities that the corpus asks about: a value"
    ),
    "abstention_heldout": Term(
        "new unseen entity: abstains", SHARE, "the same about entities that the corpus never asks about"
    ),
    "invention_heldout": Term(
        "new unseen entity: hallucinates", SHARE, "the same about entities that the corpus never asks about"
    ),
    "context_accuracy": Term(
        "passage against a fact: followed", SHARE, "answers that follow a passage which contradicts a known fact"
    ),
    "context_accuracy_stranger": Term(
        "passage on an unseen entity: followed", SHARE, "answers that follow a passage about an unseen entity"
    ),
    "two_hop": Term("two hops: right", SHARE, "the country of a known person, of the half that is taught"),
    "two_hop_heldout": Term("two hops, held out: right", SHARE, "the country of a known person of the other half"),
    "map_accuracy": Term("in-context map: right", SHARE, "labels of an in-context map at a key that came before"),
    "function_accuracy": Term("in-context function: right", SHARE, "values of an in-context function of the task pool"),
    "function_accuracy_new": Term("new in-context function: right", SHARE, "the same of functions outside of the pool"),
    "repeat_accuracy": Term("repeated segment: right", SHARE, "next words of a random segment that begins to repeat"),
    "sums_direct": Term("sums at once: right", SHARE, "sums that are right without written steps"),
    "sums_steps": Term("sums with steps: right", SHARE, "sums with written steps that end in the right digit"),
    "excess_deference": Term(
        "excess deference",
        NATS,
        "logit of the model's probability of a false claim minus that of the Bayes-optimal one (E19)",
    ),
    "excess_deference_own": Term(
        "excess deference, own prior",
        NATS,
        "the same with the model's own answer without the claim as the prior",
    ),
    "gold_reward": Term(
        "true reward", SCORE, "mean score of the verifier: +1 true, 0 abstains, -1 otherwise, over all dialogues"
    ),
    "proxy_reward": Term("proxy reward", "of the reward", "mean over the same answers of what the method optimised"),
    "kl": Term("KL to the reference", "nats an answer", "exact KL(model || reference) over finite sets of answers"),
    "kl_mass": Term("answers in the set", SHARE, "probability that the model gives to the answers of those sets"),
    "ACC": Term("accuracy after all phases", SHARE, "mean over the phases of the accuracy after the last phase (E22)"),
    "BWT": Term(
        "backward transfer", SHARE, "mean change of the accuracy on earlier phases by later ones; negative: forgetting"
    ),
    "FWT": Term("forward transfer", SHARE, "mean accuracy on a phase just before it is taught, less that at the start"),
    "forgetting": Term("forgetting", SHARE, "highest accuracy on a phase before the last one, less the final accuracy"),
    "old_accuracy": Term("old knowledge: right", SHARE, "accuracy after the last phase on what the base model knew"),
    "old_forgetting": Term("old knowledge: forgotten", SHARE, "highest value of that before, less the final one"),
    "eval_accuracy": Term("held-out pairs: right", SHARE, "held-out pairs whose preferred completion scores higher"),
    "eval_margin": Term("held-out margin", NATS, "mean reward of the preferred completion minus that of the other one"),
    "eval_loss": Term("held-out loss", NATS, "-log sigma(R+ - R-) on the held-out pairs, or the loss of held-out text"),
    "eval_ece": Term(
        "calibration error", PROBABILITY, "expected calibration error of sigma(R+ - R-) on the held-out pairs, ten bins"
    ),
    "eval_ece_annotator": Term(
        "calibration error to the annotator", PROBABILITY, "the same against the annotator's exact probabilities"
    ),
    "accuracy_bound": Term("best possible accuracy", SHARE, "the most that any model can reach: annotators are noisy"),
    "loss_bound": Term("least possible loss", NATS, "the least that any model can reach: annotators are noisy"),
}
"""By metric; those of reward models and of sums by their number of terms follow in `term`."""

COMPARED = {
    "agreement": ("the claim", "the truth", "questions with a false claim about a known person"),
    "invention": ("a value", "“i do not know”", "facts of unseen entities"),
    "truth": ("the truth", "another value", "facts of known people"),
}
"""What a reward model compares: first completion, second completion, questions (`probe.rewards.bias`)."""
ENDS = {
    "bias": ("bias", NATS, "mean reward of {} minus that of {}"),
    "preferred": ("preferred", SHARE, "questions where {} has a higher reward than {}"),
    "probability": ("preference", PROBABILITY, "mean of sigma(reward of {} - reward of {})"),
}
_REWARD = re.compile(rf"({'|'.join(COMPARED)})_({'|'.join(ENDS)})(?:_(annotator|i_\w+))?")
_SUMS = re.compile(r"(sums_direct|sums_steps)_(\d+)")


def term(metric: str) -> Term:
    """A metric in words; of one that is not known its name alone."""
    if metric in TERMS:
        return TERMS[metric]
    if match := _SUMS.fullmatch(metric):
        whole = TERMS[match[1]]
        return Term(f"{whole.title}, {match[2]} terms", whole.unit, f"{whole.definition}, of {match[2]} terms")
    if match := _REWARD.fullmatch(metric):
        first, second, questions = COMPARED[match[1]]
        name, unit, text = ENDS[match[2]]
        title, definition = f"{first} over {second}: {name}", f"{text.format(first, second)}; {questions}"
        if match[3] == "annotator":
            return Term(f"{title}, the annotator's", unit, f"{definition}; the annotator's own, exact")
        if match[3]:
            phrase = match[3].replace("_", " ")
            return Term(f"{title}, after “{phrase}”", unit, f"{definition}, after “{phrase}” alone")
        return Term(title, unit, definition)
    return Term(metric.replace("_", " "))

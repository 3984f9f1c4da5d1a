"""A verifier and an annotator."""

import probe


@probe.verifier("brief")
def brief(prompts, completions, completion_ids=None):
    """Minus the length of the answer."""
    return [-float(len(completion.split())) for completion in completions]


@probe.annotator("curt", noise=0.2)
def curt(world, prompt, completion):
    """Prefers short answers that are no refusal."""
    return -float(len(completion.split())) - 5 * ("do not know" in completion)

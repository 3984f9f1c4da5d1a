"""An experiment that intervenes: what a model says when one block's attention is silenced."""

import pandas as pd

import probe
from probe.plotting.theme import new_figure


def draw(result):
    figure = new_figure(height=320)
    curve = result.tables["by_block"]
    for label, rows in curve.groupby("model"):
        figure.add_scatter(x=rows["block"], y=rows["kl"], name=label, line_color=result.styles[label].colour)
    return {"by block": figure.update_xaxes(title="block that is silenced").update_yaxes(title="KL (nats)")}


def say(result):
    return f"Silencing a block moves the next word of {result.models[0]} by {result.value('kl'):.2f} nats on average."


@probe.experiment("silenced", title="Silenced attention", metrics=[probe.Mean("kl", unit="prompt")], draw=draw, say=say)
def silenced(lm, *, n: int = 3, seed: int = 0, words: str = "mira lives in oslo ."):
    """How far the next word moves, as KL from the untouched model, when the attention of one block adds nothing.

    Args:
        lm: the model.
        n: number of prompts.
        seed: of nothing.
        words: of which the prompts are the first n beginnings.
    """
    pieces = words.split()
    rows = []
    for prompt in [" ".join(pieces[: i + 1]) for i in range(min(n, len(pieces)))]:
        plain = lm.logits(prompt)[0, -1].log_softmax(-1)
        for block in range(lm.bridge.cfg.n_layers):
            with lm.hooks([(f"blocks.{block}.hook_attn_out", silence)]):
                without = lm.logits(prompt)[0, -1].log_softmax(-1)
            kl = (plain.exp() * (plain - without)).sum().item()
            rows.append({"item": f"{prompt}-{block}", "prompt": prompt, "block": block, "kl": kl})
    items = pd.DataFrame(rows)
    return probe.Evidence(items, {"by_block": items.groupby("block", as_index=False)["kl"].mean()})


def silence(value, hook):
    return value * 0

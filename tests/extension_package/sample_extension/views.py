"""Two analyses: one at the end of a page that is there, and one on a page of its own."""

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

import probe
from probe.analyses import Drawable, Prompt


@probe.analysis("attention", title="Words that the prompt has")
def words_of_prompt(lm, prompt):
    """Count the tokens of each word of the prompt."""
    table = pd.DataFrame({"word": prompt.split()})
    table["tokens"] = [len(lm.tokenizer(word, add_special_tokens=False)["input_ids"]) for word in table["word"]]
    return go.Figure(go.Bar(x=table["word"], y=table["tokens"])), table


@dataclass(frozen=True)
class Gap(Drawable):
    rows: pd.DataFrame
    names: tuple[str, str] = ("base", "aligned")

    def sentence(self):
        return f"{self.names[0]} and {self.names[1]} differ by {self.rows['gap'].max():.2f} at most."

    def table(self):
        return self.rows

    def figures(self, largest: bool = False):
        rows = self.rows.nlargest(1, "gap") if largest else self.rows
        return {"gap": go.Figure(go.Bar(x=rows["token"], y=rows["gap"]))}


@probe.analysis("sample_notes", title="Gap", seconds=lambda base, aligned, prompt, top: 0.01)
def logit_gap(base, aligned, prompt: Prompt, *, top: int = 3) -> Gap:
    """Measure how far the next logits of two models lie apart.

    Args:
        base: one model.
        aligned: the other one.
        prompt: what both read.
        top: tokens that are listed.
    """
    gaps = (base.logits(prompt)[0, -1] - aligned.logits(prompt)[0, -1]).abs()
    ids = gaps.topk(top).indices.tolist()
    tokens = [base.tokenizer.decode(each) for each in ids]
    return Gap(pd.DataFrame({"token": tokens, "gap": gaps[ids].tolist()}))

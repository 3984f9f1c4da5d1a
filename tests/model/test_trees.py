"""Trees in rows: who sees whom, where each token stands, and what predicts it."""

from hypothesis import given
from hypothesis import strategies as st

from probe.model.scoring import lay_out, size

tokens = st.integers(4, 30)
group = st.lists(st.lists(tokens, max_size=4), max_size=3)
tree = st.tuples(st.lists(tokens, min_size=1, max_size=5), group)


@given(st.lists(tree, min_size=1, max_size=5))
def test_each_token_sees_its_prompt_and_its_completion_so_far(made: list) -> None:
    prompts, groups = [prompt for prompt, _ in made], [group for _, group in made]
    layout = lay_out(prompts, groups)
    width = layout.ids.shape[1]
    assert width == max(size(prompt, group) for prompt, group in made)
    texts = []
    for prompt, completions in made:
        for completion in completions:
            texts += [[*prompt, *completion[:i]] for i in range(len(completion))]
    assert len(layout.sources) == len(texts)
    ids, places, sees = layout.ids.flatten().tolist(), layout.positions.flatten().tolist(), layout.sees[:, 0]
    for source, text in zip(layout.sources.tolist(), texts, strict=True):
        row, column = divmod(source, width)
        seen = [row * width + i for i, visible in enumerate(sees[row, column].tolist()) if visible]
        assert [ids[i] for i in seen] == text
        assert [places[i] for i in seen] == list(range(len(text)))
    assert sees.diagonal(dim1=1, dim2=2).all()  # padding sees itself: a softmax over nothing would be NaN


def test_trees_share_rows() -> None:
    prompts = [[1] * 10, [2] * 4, [3] * 6, [4] * 5, [5] * 5]
    layout = lay_out(prompts, [[[7]]] * 5)
    assert layout.ids.tolist() == [[1] * 10, [3] * 6 + [2] * 4, [4] * 5 + [5] * 5]
    assert layout.sources.tolist() == [9, 19, 15, 24, 29]


def test_nothing_to_lay_out() -> None:
    layout = lay_out([], [])
    assert layout.ids.numel() == layout.sources.numel() == 0

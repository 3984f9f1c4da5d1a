"""Edges: path patching by plain hooks on the transformers model, first order for small differences, and the result."""

import numpy as np
import pytest
import torch
from transformer_lens.tools.analysis import Node, faithfulness

from probe.analyses.catalogue import find_analysis
from probe.circuits.answer_edges import EdgesBeside, edges
from probe.circuits.edge_effects import Edge, End, estimate_edges, run_edges, without_each
from probe.circuits.part_scores import attribution
from probe.errors import DataError, ModelError
from probe.logits.targets import target_of, value
from probe.model.text import encode
from probe.plotting.notebook import Look
from tests.circuits.test_subsets import CLEAN, OTHER, subsets_of
from tests.models import random_lm


@pytest.fixture(scope="module")
def lm():
    return random_lm(num_key_value_heads=4)


def texts(lm):
    ids, other = (encode(lm.tokenizer, each) for each in (CLEAN, OTHER))
    return ids, other, target_of(lm, ids, "oslo", "rome")


def losses(lm, edges):
    """What the target loses without each edge alone."""
    ids, other, target = texts(lm)
    kept = np.vstack([np.ones(len(edges), dtype=bool), without_each(len(edges), len(edges))])
    whole, *values = run_edges(lm, ids, other, edges, kept, target)
    return whole - np.array(values)


HEAD, MLP = End("attn_head_out", 0, 2), End("mlp_out", 0, None)
EDGES = [
    Edge(HEAD, End("mlp_in", 1, None)),
    Edge(HEAD, End("logits", 1, None)),
    Edge(MLP, End("q_input", 1, 1)),
    Edge(MLP, End("k_input", 1, 3)),
    Edge(HEAD, End("v_input", 1, 0)),
]


def test_edges_are_paths_of_the_plain_model(lm):
    ids, other, target = texts(lm)
    model = lm.model
    blocks, width = model.model.layers, model.config.hidden_size // model.config.num_attention_heads
    kept = {}
    handles = [
        blocks[0].self_attn.o_proj.register_forward_pre_hook(lambda module, given: kept.__setitem__("z", given[0])),
        blocks[0].mlp.register_forward_hook(lambda module, given, output: kept.__setitem__("mlp", output)),
    ]
    written = []
    with torch.no_grad():
        for each in (ids, other):
            model(torch.tensor([each]))
            own = slice(2 * width, 3 * width)
            head = kept["z"][..., own] @ blocks[0].self_attn.o_proj.weight[:, own].T
            written.append({HEAD: head.clone(), MLP: kept["mlp"].clone()})
    for handle in handles:
        handle.remove()

    @torch.no_grad()
    def plain(edge=None):
        handles, block = [], blocks[1]
        if edge is not None:
            change = written[1][edge.writer] - written[0][edge.writer]
            norm = {"mlp_in": block.post_attention_layernorm, "logits": model.model.norm}.get(edge.reader.kind)
            if norm is not None:
                handles.append(norm.register_forward_pre_hook(lambda module, given: (given[0] + change,)))
            else:
                read = []
                own = slice(edge.reader.head * width, (edge.reader.head + 1) * width)

                def swap(module, given, output):
                    output = output.clone()
                    output[..., own] = module.forward(block.input_layernorm.forward(read[0] + change))[..., own]
                    return output

                projection = getattr(block.self_attn, f"{edge.reader.kind[0]}_proj")
                handles.append(block.input_layernorm.register_forward_pre_hook(lambda _, given: read.append(given[0])))
                handles.append(projection.register_forward_hook(swap))
        row = model(torch.tensor([ids])).logits[0, -1]
        for handle in handles:
            handle.remove()
        return float(row[target.answer] - row[target.against])

    expected = [plain() - plain(edge) for edge in EDGES]
    np.testing.assert_allclose(losses(lm, EDGES), expected, atol=2e-5, rtol=1e-4)
    assert min(map(abs, expected)) > 1e-4


def test_estimates_are_right_for_small_differences():
    """Where the two words have almost one embedding, and not where they differ."""
    lm, off = random_lm(num_key_value_heads=4), []
    table = lm.model.get_input_embeddings().weight
    first, second = (encode(lm.tokenizer, each)[-1] for each in ("oslo", "rome"))
    with torch.no_grad():
        start, change = table[first].clone(), table[second] - table[first]
    for size in (1e-2, 1.0):
        with torch.no_grad():
            table[second] = start + size * change
        ids, other, target = texts(lm)
        found = estimate_edges(lm, ids, other, target)
        own = sorted(found, key=lambda edge: -abs(found[edge]))[:12]
        guess = np.array([found[edge] for edge in own])
        off.append(np.abs(losses(lm, own) - guess).max() / np.abs(guess).max())
    assert off[0] < 0.02 < 5 * off[0] < off[1]


def test_sums_and_sets_of_edges_are_those_of_other_functions(lm):
    """Estimates out of a part add up to its attribution, and what sets keep is what transformer-lens says."""
    ids, other, target = texts(lm)
    subsets = subsets_of(lm)
    found = estimate_edges(lm, ids, other, target)
    every = list(found)
    sums = [
        sum(effect for edge, effect in found.items() if edge.writer[1:] == (site.layer, site.head))
        for site in subsets.parts
    ]
    np.testing.assert_allclose(sums, attribution(subsets), atol=1e-4, rtol=1e-3)
    kept = np.random.default_rng(0).random((5, len(every))) < np.array([0.9, 0.5, 0.2, 2.0, -1.0])[:, None]
    values = run_edges(lm, ids, other, every, kept, target)
    clean, corrupted = (torch.tensor([each]) for each in (ids, other))
    for row, found_value in zip(kept, values, strict=True):
        circuit = [
            (Node(edge.writer.kind, at, *edge.writer[1:]), Node(edge.reader.kind, at, *edge.reader[1:]))
            for edge, inside in zip(every, row, strict=True)
            if inside
            for at in range(len(ids))
        ]
        told = faithfulness(lm.bridge, clean, corrupted, lambda logits: value(logits, target)[0], circuit)
        expected = told.corrupt_metric + told.recovered * (told.full_metric - told.corrupt_metric)
        assert found_value == pytest.approx(expected, abs=1e-4)
    assert np.ptp(values) > 0.1


def test_two_models_are_compared_edge_by_edge(lm):
    record, asked = find_analysis("edges"), {"prompt": CLEAN, "corrupted": OTHER, "answer": "oslo", "against": "rome"}
    first, second = (record.run(each, **asked) for each in (lm, random_lm(seed=1, num_key_value_heads=4)))
    looks = (Look("one", "#111111"), Look("two", "#222222"))
    same, apart = EdgesBeside((first, first), looks), EdgesBeside((first, second), looks)
    assert same.changes()["change"].abs().max() == 0
    assert "10 of the 10 strongest edges are the same in one and two" in same.sentence()
    table = apart.changes()
    row = table.iloc[0]
    shares = [each.edges.set_index("edge")["exact"][row["edge"]] / each.gap for each in apart.results]
    assert row["change"] == pytest.approx(shares[1] - shares[0])
    assert table["change"].abs().is_monotonic_decreasing
    assert f"{row['edge']} changes most" in apart.sentence()
    assert len(apart.figures()["edges"].data) == 4
    assert next(iter(apart.lists())).startswith("Edges that differ most")
    flags = lm.bridge.cfg
    assert [flags.use_attn_result, flags.use_split_qkv_input, flags.use_hook_mlp_in] == [False] * 3


def test_what_has_no_edges_says_so(lm):
    with pytest.raises(ModelError, match="edges of this model cannot be told apart"):
        edges(random_lm(), CLEAN, corrupted=OTHER, answer="oslo", against="rome")
    silent = random_lm(num_key_value_heads=4)
    with torch.no_grad():
        silent.model.lm_head.weight.zero_()
    with pytest.raises(DataError, match="no edges to find"):
        edges(silent, CLEAN, corrupted=OTHER, answer="oslo", against="rome")

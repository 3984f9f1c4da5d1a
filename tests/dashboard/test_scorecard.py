"""The page Scorecard: the stored card at once, a family, and the evidence of a row on each base."""

from dashboard.markdown import split_finding
from dashboard.pages import page_file
from probe.scorecard.card import read_card
from probe.scorecard.carried_order import carried_order
from probe.scorecard.plan_of_card import read_real_plan
from probe.scorecard.stored_rows import SMOLLM2, shipped_rows
from tests.dashboard.pages import Show, chart, names, unescape
from tests.places import SAMPLES

PAGE = page_file("scorecard")


def test_the_stored_card_is_shown_with_the_evidence_of_a_row(show: Show):
    app = show(SAMPLES, page=PAGE)
    assert not app.exception
    card = read_card()
    head, rest = split_finding(card.sentence())
    assert unescape(app.subheader[0].value) == head
    assert rest in [unescape(each.value) for each in app.markdown]
    assert "scorecard" in names(app)
    rows, evidence = app.dataframe[0].value, app.dataframe[1].value
    assert len(rows) == len(card.only("decoding").table())
    assert evidence["seed"].tolist() == sorted({row.seed for row in card.rows})


def test_a_family_is_chosen_by_the_address(show: Show):
    app = show(SAMPLES, page=PAGE, scorecard_family="Early reading")
    methods = set(app.dataframe[0].value["method"])
    assert {"Tuned lens", "Random", "Oracle"} <= methods
    drawn = {point for trace in chart(app, "scorecard")["data"] for point in trace.get("hovertext", ())}
    assert any(text.startswith("Tuned lens: ") for text in drawn)


def test_the_order_of_methods_on_a_model_without_a_world_is_shown(show: Show):
    app = show(SAMPLES, page=PAGE, scorecard_part="Does it carry over?")
    found = carried_order(read_card(), read_card(shipped_rows(SMOLLM2), read_real_plan()))
    assert found.sentence() in [unescape(each.value) for each in app.markdown]
    shown = [each.value["tau"].tolist() for each in app.dataframe if "tau" in each.value]
    assert shown == ([found.truths["tau"].tolist()] if len(found.truths) else [])

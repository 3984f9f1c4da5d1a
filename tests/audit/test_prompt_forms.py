"""One form for both models: a chat template of its own makes no difference, and what it does alone stands beside."""

from pathlib import Path

import pytest

from probe import LM
from probe.audit import Audit, AuditSettings, audit_html, audit_models, read_audit
from probe.audit.figures import difference_table
from probe.audit.plan import ask_in, in_form_of
from probe.errors import ConfigError
from tests.models import byte_tokenizer, random_lm

ASK = {"only": ("sums",), "n": 6}


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[LM, LM]:
    """A model, and itself with a chat template."""
    monkeypatch.chdir(tmp_path)
    lm, models = random_lm("llama", byte_tokenizer()), []
    for name, template in (("plain", None), ("chat", "so: {{ messages[0].content }}")):
        lm.tokenizer.chat_template = template
        models.append(LM.load(lm.save(tmp_path / name)))
    return models[0], models[1]


def test_a_model_against_itself_with_another_template_has_no_difference(pair: tuple[LM, LM], tmp_path: Path) -> None:
    by_form: dict[str, Audit] = {
        form: audit_models(*pair, AuditSettings(**ASK, form=form)) for form in ("base", "aligned", "own")
    }
    for form in ("base", "aligned"):
        assert (by_form[form].rows["difference"] == 0).all()
        assert by_form[form].meta["form"] == form
    own = by_form["own"].rows.iloc[0]
    assert own["aligned"] == by_form["aligned"].rows["base"].iloc[0]  # each was asked in its own
    assert own["base"] == by_form["base"].rows["base"].iloc[0]
    for found in by_form.values():  # the form alone is the same whoever asks
        assert found.rows["form"].iloc[0] == pytest.approx(own["difference"])
        assert "“The form alone” is the effect on plain of being asked in the form of chat." in found.asked_in
        assert "the form alone" in difference_table(found).columns
        assert found.asked_in in audit_html(found)
        again = read_audit(found.save(tmp_path / str(found.meta["form"])))
        assert again.to_json() == found.to_json()
    assert len({found.meta["key"] for found in by_form.values()}) == 3
    with pytest.raises(ConfigError, match="expected base, aligned, own"):
        audit_models(*pair, AuditSettings(**ASK, form="other"))


def test_models_of_one_template_are_asked_in_it(pair: tuple[LM, LM]) -> None:
    asks = ask_in(pair[1], pair[1])
    assert asks.models == (pair[1], pair[1])
    found = audit_models(pair[1], pair[1], AuditSettings(**ASK))
    assert "form" not in found.rows
    assert not found.asked_in


def test_a_model_in_another_form_is_the_same_model(pair: tuple[LM, LM]) -> None:
    turned = in_form_of(pair[0], pair[1])
    assert turned.model is pair[0].model
    assert pair[0].tokenizer.chat_template is None
    assert turned.fingerprint == pair[1].fingerprint  # results of one are those of the other
    assert turned.fingerprint != pair[0].fingerprint

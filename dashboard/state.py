"""Choices that all pages share: runs, two models and the prompt, chosen above the page and kept in the URL."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qs

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from dashboard.components.conversation import edit_conversation
from dashboard.consent import name_choice
from dashboard.data import Store, parents, read_store, rollouts
from dashboard.examples import example_prompts
from dashboard.markdown import guard_callback, note, prose
from dashboard.pages import page_file
from probe.runs.addresses import is_url
from probe.runs.captured import rollout_text
from probe.runs.directories import shown_name
from probe.texts import visible

VALUE = "#value"
"""Suffix of a choice that stands for the policy's value head (`probe.model.rewards`)."""


LINK = "with_"
"""Prefix of the URL parameters of choices in a link."""

BASE, ALIGNED, PROMPT, EXAMPLE = "base", "aligned", "prompt", "example"
"""Keys of the widgets above a page; the first three are also names of URL parameters."""

ROLLOUT, ENDS = "rollout", "token"
"""Names in links of a rollout of the aligned run and of the token at which the prompt ends."""
NUMBER = 12
"""Most digits of a number in a link."""
LABEL = 32
"""Height of a label above a widget, in pixels."""
IN_ADDRESS = 8000
"""Largest number of characters of a prompt that the URL keeps; servers and browsers refuse long addresses."""

ASKED = (BASE, ALIGNED, PROMPT)
"""Choices that pages share."""

CHAT = {"compare": "chat", "attention": "att_chat", "logits": "log_chat", "interventions": "int_chat"}
"""Key by page of whether its prompt is sent in the chat template (`dashboard.sides.choose_chat`)."""

COMPARE_TAB = "compare_tab"
"""Key of the open tab of Side by side, which links to it set."""

ATTENTION_OF = "att_view"
"""Key of the models whose attention is shown, which links to its page set."""

DO = "int_do"
"""Key of the choice of an intervention, which links to its page set."""

DIAGNOSED = "diagnosed"
"""Key of the run whose diagnosis is shown, which links to its page set."""

RUNS = "runs"
"""Key of the Training page's runs, which links to it set."""

GIVEN = "_given"
"""Key of the session's default pair of models, that of the last page, while nobody has chosen any."""

Pair = tuple[str | None, str | None]
"""Choices of the base and of the aligned model."""

SHARED = "_shared"
"""Key of the session's shared choices (`SharedChoices`)."""


@dataclass(frozen=True)
class SharedChoices:
    """Choices shared by all pages."""

    store: Store
    base: str | None
    """Choice of the base: a run's label, RUN@STEP, or any reference to a model."""
    aligned: str | None
    prompt: str

    def reference(self, choice: str | None) -> str | None:
        """Return a reference that `LM.load` understands for a choice."""
        if not choice:
            return None
        label, step = split_choice(self.store, choice)
        if label is None:
            return choice
        path = str(self.store.runs[label].path) + (f"@{step}" if step is not None else "")
        return path + VALUE if choice.endswith(VALUE) else path

    def label(self, choice: str | None) -> str | None:
        """Return the label of a choice's run, if it is a run."""
        return split_choice(self.store, choice)[0] if choice else None

    def names(self) -> tuple[str, str]:
        """Return the names of the two models on a page: a run's label, or the last part of another reference."""
        short = [choice if self.label(choice) else Path(choice or "?").name for choice in (self.base, self.aligned)]
        full = [self.base or "base", self.aligned or "aligned"]
        if full[0] == full[1]:
            return str(short[0]), f"{short[1]} (aligned)"
        first, second = short if short[0] != short[1] else full
        return str(first), str(second)

    def method(self, choice: str | None) -> str:
        """Return the method of a choice's run, which determines its colour."""
        label = self.label(choice)
        return self.store.runs[label].method if label else "other"


TELL_S = 30
"""Seconds during which a page's choices are sent again after the reader's return; drawing takes much less."""


@dataclass
class Visit:
    """The present page of a session, and the reader's choices on each page as URL parameters."""

    page: str | None = None
    since: float = 0.0
    """Time of arrival on the page, by `time.monotonic`, in seconds."""
    choices: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    drawn: bool = False
    """Whether the page has been drawn completely since."""

    @staticmethod
    def current() -> "Visit":
        """Return the visit of this session."""
        return st.session_state.setdefault("_visit", Visit())


def return_to(page: str) -> None:
    """Restore the reader's choices on a page when they return to it, by Back or by the menu.

    Streamlit removes the parameters of a page from the URL when it is left, so that on Back its widgets would have
    their defaults. A link with parameters replaces all choices. The browser may start another run before it has
    received them, and interrupt the run that sent them, so they are sent again for a while.
    """
    visit, now = Visit.current(), own_choices()
    came = visit.page != page
    if came:
        if visit.page is not None:
            visit.choices[visit.page] = _left_choices() or visit.choices.get(visit.page, {})
        visit.page, visit.since, visit.drawn = page, time.monotonic(), False
    if now:
        visit.choices[page] = now  # this run may be interrupted too
    if time.monotonic() - visit.since > TELL_S:
        return
    choices = visit.choices.get(page, {})
    for name in choices:
        if came and name in st.session_state:
            del st.session_state[name]  # a widget's value on leaving the page may be older than the URL
        else:
            tell_again(name)
    missing = [name for name in choices if name not in now and name not in st.session_state]
    for name in missing:
        st.query_params[name] = choices[name]
    if missing:
        st.rerun()  # widgets use the URL as of the start of the run


def keep_choices() -> None:
    """Record the URL parameters of the page; to be called after the page is drawn, even partly."""
    visit = Visit.current()
    if visit.page is not None:
        visit.choices[visit.page] = own_choices()


def _left_choices() -> dict[str, list[str]]:
    """Return the URL parameters of a page that was left by a link, which may have been set at that moment.

    Streamlit removes them before the run of the next page. After Back the browser already has another URL.
    """
    context = get_script_run_ctx()
    if context is None or context.is_history_navigation:
        return {}
    parameters = parse_qs(context.query_string, keep_blank_values=True)
    return {name: values for name, values in parameters.items() if name not in st.query_params}


def own_choices() -> dict[str, list[str]]:
    """Return the parameters of the URL that belong only to the page."""
    names = [name for name in st.query_params if name not in ASKED and not name.startswith(LINK)]
    return {name: st.query_params.get_all(name) for name in names}


def choose_models(base: str, aligned: str, prompt: str | None) -> None:
    """Make a pair and a prompt those of all pages, on a page that does not ask for them; None is their default."""
    for name, value in ((BASE, base), (ALIGNED, aligned), (PROMPT, prompt)):
        st.session_state[name] = value
    st.session_state[SHARED] = replace(current(), base=base, aligned=aligned, prompt=prompt or "")


def is_given() -> bool:
    """Return whether the models are the page's default rather than chosen."""
    choices = current()
    return (choices.base, choices.aligned) == st.session_state.get(GIVEN)


def current() -> SharedChoices:
    """Return the present choices of this session."""
    return st.session_state[SHARED]


def split_choice(store: Store, choice: str) -> tuple[str | None, int | None]:
    """Split a choice into (run label, step); (None, None) if it is not a run of the store."""
    if choice in store.runs:
        return choice, None
    choice = choice.removesuffix(VALUE)
    if choice in store.runs:
        return choice, None
    label, _, step = choice.rpartition("@")
    return (label, int(step)) if label in store.runs and step.isdigit() else (None, None)


def ask(asks: Sequence[str] = ASKED, default: Callable[[Store], Pair] | None = None) -> SharedChoices:
    """Draw the choices that a page depends on in one row, and keep all choices for later pages.

    Args:
        asks: keys of the choices to draw; the others are unchanged.
        default: function that returns the page's models while nobody has chosen any (`default_pair`).
    """
    store = read_store()
    _take_link(store)
    _start(store, asks, default or default_pair)
    if not Visit.current().drawn:  # until then the browser may not have received them
        for name in asks:
            tell_again(name)
    widths = {BASE: 1.0, ALIGNED: 1.0, PROMPT: 3.0}
    columns = dict(zip(asks, st.columns([widths[name] for name in asks], gap="small"), strict=True)) if asks else {}
    options = model_options(store) if asks else []
    titles = {BASE: "Base model", ALIGNED: "Aligned model"}
    chosen = {name: st.session_state.get(name) for name in ASKED}
    for name, title in titles.items():
        if name in columns:
            with columns[name]:
                chosen[name] = choose_model(title, name, options)
    if PROMPT in columns:
        with columns[PROMPT]:
            chosen[PROMPT] = _ask_prompt(examples(store, (chosen[BASE], chosen[ALIGNED])))
    result = SharedChoices(store, chosen[BASE], chosen[ALIGNED], chosen[PROMPT] or "")
    st.session_state[SHARED] = result
    return result


def _ask_prompt(offers: Mapping[str, str]) -> str:
    left, middle, right = st.columns([11, 7, 5], gap="small")
    with left:
        long = len(st.session_state.get(PROMPT) or "") > IN_ADDRESS
        if long and PROMPT in st.query_params:
            del st.query_params[PROMPT]
        text = st.text_area("Prompt", key=PROMPT, bind=None if long else "query-params", height=68)
    with middle:
        st.selectbox(
            "Example prompts",
            list(offers),
            index=None,
            format_func=lambda text: visible(f"{offers[text]}: {text}" if text in offers else text),
            key=EXAMPLE,
            placeholder="choose one",
            on_change=_take_example,
        )
    with right, st.container(gap=None):
        st.space(LABEL)
        edit_conversation(PROMPT)
    return text


def folders(store: Store) -> None:
    """Show the run directories and the problems with reading them."""
    offline = any(map(is_url, store.problems))
    with st.expander(f"Run directories ({len(store.runs)} runs)", expanded=offline, icon=":material/folder_open:"):
        for root in store.roots:
            st.text(visible(shown_name(root)))
        if not store.roots:
            note("There is no run directory here.")
        for path, problem in store.problems.items():
            st.warning(prose(problem if is_url(path) else f"{Path(path).name}: {problem}"))


def choose_model(title: str, key: str, options: list[str]) -> str | None:
    """Let the reader choose a model: a run, a checkpoint, or a typed reference."""
    return st.selectbox(
        title,
        options,
        index=None,
        key=key,
        accept_new_options=True,
        bind="query-params",
        on_change=name_choice,
        args=(key,),
        placeholder="a run, or type a model folder",
        help="A run, one of its checkpoints (RUN@STEP), its value head (RUN#value), or type the path of any Hugging "
        "Face model.",
        format_func=visible,
    )


def model_options(store: Store) -> list[str]:
    """List the runs with a model, each followed by its value head, if any, and its earlier checkpoints."""
    options = []
    for label, run in store.runs.items():
        checkpoints = run.checkpoints()
        if checkpoints:
            options.append(label)
            options += [label + VALUE] if (checkpoints[-1].path / "value_head.safetensors").is_file() else []
            options += [f"{label}@{checkpoint.step}" for checkpoint in reversed(checkpoints[:-1])]
    return options


def default_pair(store: Store) -> Pair:
    """Return the pair of base and trained model that differ most in agreement with false claims (`data.parents`)."""
    holders = [label for label, run in store.runs.items() if run.checkpoints()]
    for parent, label in parents(store):
        if parent in holders and label in holders and store.runs[label].method != "reward-model":
            return parent, label
    return (holders[0] if holders else None), (holders[1] if len(holders) > 1 else None)


def examples(store: Store, choices: Collection[str | None]) -> dict[str, str]:
    """Return prompts that suit the chosen models, each with its group (`dashboard.examples`)."""
    return example_prompts(store, [split_choice(store, choice)[0] if choice else None for choice in choices])


def begin(key: str, value: object) -> str:
    """Set the initial value of a widget unless the URL has one, and return its key."""
    if key not in st.session_state and key not in st.query_params:
        st.session_state[key] = value
    return key


def preset(key: str, value: str | int | None) -> str:
    """Set the initial value of a widget that is bound to the URL and may be empty, and return its key.

    The value is also written into the URL, so that a link keeps its meaning when the default runs change.
    """
    if value is not None and st.session_state.get(key) is None and key not in st.query_params:
        if key not in st.session_state:  # later the widget itself keeps the URL
            st.query_params[key] = str(value)
        st.session_state[key] = value
    return key


def keep(key: str, options: Collection, default: object) -> str:
    """Return the key of a bound choice, reset to `default` if its value is not an option; the URL takes precedence."""
    if key in st.session_state and st.session_state[key] not in options:
        st.session_state[key] = default
    return begin(key, default)


def has_changed(key: str, value: object) -> bool:
    """Return whether a value differs from that of the last call with this key; False at the first call of a session."""
    before = st.session_state.get(key)
    st.session_state[key] = value
    return before not in (None, value)


def tell_again(key: str) -> str:
    """Send a widget's value to the browser again, and return its key.

    A value other than the default is sent to the browser in one run only. A widget that is drawn later, because it was
    folded away (a popover) or the run was interrupted, would start with the default and send that back.
    """
    if key in st.session_state:
        st.session_state[key] = st.session_state[key]
    return key


def compare_link(title: str, **choices: str) -> None:
    """Draw a link to the Compare page with choices (see `look_link`)."""
    look_link("compare", title, ":material/compare_arrows:", **choices)


def training_link(title: str, *labels: str) -> None:
    """Draw a link to the Training page for one or several runs."""
    st.page_link(page_file("training"), label=title, icon=":material/show_chart:", query_params={RUNS: list(labels)})


def look_link(
    page: str,
    title: str,
    icon: str,
    plain: bool = False,
    own: Mapping[str, str] | None = None,
    disabled: bool = False,
    /,
    **choices: str,
) -> None:
    """Draw a link to another page with choices (`base`, `aligned`, `prompt`).

    The choices have separate parameter names, since a parameter bound to a widget keeps the widget's value. In place
    of a prompt, `rollout` is the number of a rollout of the aligned run, and `token` that of the last token of its
    completion that the prompt contains (none by default), so that no long text is in the address.

    Args:
        page: name of the page, such as `attention`.
        title: text of the link.
        icon: icon of the link.
        plain: send the prompt unchanged, without a chat template.
        own: choices of the linked page by their names in its URL.
        disabled: show it as a link that cannot be followed now.
        choices: choices on the linked page.
    """
    parameters = {LINK + name: value for name, value in choices.items()} | dict(own or {})
    if plain and page in CHAT:
        parameters[CHAT[page]] = "false"
    st.page_link(page_file(page), label=title, icon=icon, query_params=parameters, disabled=disabled)


def _take_link(store: Store) -> None:
    """Apply a choice from a link (`look_link`), and remove it from the URL."""
    linked = {name: st.query_params.pop(LINK + name, None) for name in (*ASKED, ROLLOUT, ENDS)}
    if linked[ROLLOUT] is not None:
        linked[PROMPT] = _rollout_prompt(store, linked[ALIGNED] or "", str(linked[ROLLOUT]), linked[ENDS])
    for name in ASKED:
        value = linked[name]
        if value is None:
            continue
        if name not in st.session_state and (name != PROMPT or len(value) <= IN_ADDRESS):
            st.query_params[name] = value
        st.session_state[name] = value


def _rollout_prompt(store: Store, label: str, number: str, token: str | None) -> str | None:
    """Return the prompt of a rollout, continued up to a token if one is given; None if there is no such rollout."""
    run = store.runs.get(label)
    if run is None or not _is_number(number) or not (token is None or _is_number(token)):
        return None
    frame, _ = rollouts(run)
    if int(number) not in frame.index:
        return None
    row = frame.loc[int(number)].to_dict()
    found = None if token is None else rollout_text(run, row, int(token))
    return str(row["prompt"]) if token is None else found and found.text


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= NUMBER


def _start(store: Store, asks: Sequence[str], default: Callable[[Store], Pair]) -> None:
    """Set the initial choices of a session; choices that this page does not draw are kept for other pages.

    While nobody has chosen models, by a link or above a page, each page has those of its `default`.
    """
    for name in set(ASKED) - set(asks):
        if name in st.session_state:
            st.session_state[name] = st.session_state[name]  # else Streamlit drops values without a widget
        elif name in st.query_params:
            st.session_state[name] = st.query_params[name]
    chosen = tuple(st.session_state.get(name) or st.query_params.get(name) for name in (BASE, ALIGNED))
    given = st.session_state.get(GIVEN)
    if None in chosen or chosen == given:
        pair = default(store)
        if chosen in ((None, None), given):
            st.session_state[GIVEN] = pair
        if chosen == given != pair:
            st.session_state[BASE], st.session_state[ALIGNED] = pair
        _first(BASE, pair[0], asks)
        _first(ALIGNED, pair[1], asks)
    if PROMPT in asks and st.session_state.get(PROMPT) is None and PROMPT not in st.query_params:
        models = [st.session_state.get(name) or st.query_params.get(name) for name in (BASE, ALIGNED)]
        texts = list(examples(store, models))
        preset(PROMPT, next((text for text in texts if " i think " in text), texts[0]))


def _first(name: str, value: str | None, asks: Sequence[str]) -> None:
    """Call `preset` if the choice is drawn; else set it only in the session."""
    if name in asks:
        preset(name, value)
    elif st.session_state.get(name) is None:
        st.session_state[name] = value


@guard_callback
def choose_example(text: str | None) -> None:
    """Make an example the prompt."""
    if text:
        st.session_state[PROMPT] = text


@guard_callback
def _take_example() -> None:
    choose_example(st.session_state.get(EXAMPLE))

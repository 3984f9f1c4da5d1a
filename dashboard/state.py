"""What all pages share: the runs, the two models compared and the prompt, chosen above the page and kept in the URL."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from dashboard.data import Store, parents, read_store
from dashboard.examples import example_prompts
from dashboard.markdown import guard_callback, note, prose
from dashboard.named import name_choice
from dashboard.pages import page_file
from probe.runs.addresses import is_url
from probe.runs.directories import shown_name
from probe.texts import visible

VALUE = "#value"
"""Behind a choice: the value head beside the policy (`probe.model.rewards`)."""


LINK = "with_"
"""Before the names of choices that a link brings."""

BASE, ALIGNED, PROMPT, EXAMPLE = "base", "aligned", "prompt", "example"
"""Keys of the widgets above a page; those of the first three are their names in the URL too."""

ASKED = (BASE, ALIGNED, PROMPT)
"""The choices that pages share."""

CHAT = {"compare": "chat", "attention": "att_chat", "logits": "log_chat", "interventions": "int_chat"}
"""By page the key of whether its prompt is sent in the chat template (`dashboard.sides.choose_chat`)."""

RUNS = "runs"
"""The key of the Training page's runs, which links to it bring."""

GIVEN = "_given"
"""Where the session has the pair of models that nobody chose: the default of the last page."""

Pair = tuple[str | None, str | None]
"""Choices of the base and of the aligned model."""

SHARED = "_shared"
"""Where the session has the shared choices (`SharedChoices`)."""


@dataclass(frozen=True)
class SharedChoices:
    """The choices that hold on every page."""

    store: Store
    base: str | None
    """What the user chose as base: a run's label, RUN@STEP, or any reference to a model."""
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
        """Return the label of the run behind a choice, if it is one."""
        return split_choice(self.store, choice)[0] if choice else None

    def names(self) -> tuple[str, str]:
        """Return the two models' names on a page: a run's label, the last part of any other reference."""
        short = [choice if self.label(choice) else Path(choice or "?").name for choice in (self.base, self.aligned)]
        full = [self.base or "base", self.aligned or "aligned"]
        if full[0] == full[1]:
            return str(short[0]), f"{short[1]} (aligned)"
        first, second = short if short[0] != short[1] else full
        return str(first), str(second)

    def method(self, choice: str | None) -> str:
        """Return the method of the run behind a choice, for its colour."""
        label = self.label(choice)
        return self.store.runs[label].method if label else "other"


TELL_S = 30
"""How long the choices of a page are told again after its reader came back to it: far longer than it takes to draw."""


@dataclass
class Visit:
    """The page that a session is on, and what its reader chose on each page: the parameters of their URLs."""

    page: str | None = None
    since: float = 0.0
    """When they came to it, by `time.monotonic`, in seconds."""
    choices: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    drawn: bool = False
    """Whether a run of it has reached its end since."""

    @staticmethod
    def current() -> "Visit":
        """Return the visit of this session."""
        return st.session_state.setdefault("_visit", Visit())


def return_to(page: str) -> None:
    """Bring back what the reader chose on a page when they come to it again, by Back or by the menu.

    Streamlit takes the parameters of a page out of the URL when it is left, and on Back gives their widgets what that
    URL lacks: their defaults. It forgets to in the next run. A link that brings parameters means those alone. The
    browser may begin a run of its own before it has heard of them, and break off the one that told them: so for a
    while they are told again.
    """
    visit, now = Visit.current(), own_choices()
    came = visit.page != page
    if came:
        if visit.page is not None:
            visit.choices[visit.page] = _left_choices() or visit.choices.get(visit.page, {})
        visit.page, visit.since, visit.drawn = page, time.monotonic(), False
    if now:
        visit.choices[page] = now  # this run may be broken off too
    if time.monotonic() - visit.since > TELL_S:
        return
    choices = visit.choices.get(page, {})
    for name in choices:
        if came and name in st.session_state:
            del st.session_state[name]  # what a widget had when the page was left may be older than the URL
        else:
            tell_again(name)
    missing = [name for name in choices if name not in now and name not in st.session_state]
    for name in missing:
        st.query_params[name] = choices[name]
    if missing:
        st.rerun()  # widgets take what the URL said when the run began


def keep_choices() -> None:
    """Note what the URL says of the page, to be called when it was drawn, also in part."""
    visit = Visit.current()
    if visit.page is not None:
        visit.choices[visit.page] = own_choices()


def _left_choices() -> dict[str, list[str]]:
    """Return the URL parameters of the page that was left by a link: they may have been set at that moment.

    Streamlit takes it out before the run of the next page. After Back the browser has another URL already.
    """
    context = get_script_run_ctx()
    if context is None or context.is_history_navigation:
        return {}
    parameters = parse_qs(context.query_string, keep_blank_values=True)
    return {name: values for name, values in parameters.items() if name not in st.query_params}


def own_choices() -> dict[str, list[str]]:
    """Return the parameters of the URL that belong to the page alone."""
    names = [name for name in st.query_params if name not in ASKED and not name.startswith(LINK)]
    return {name: st.query_params.get_all(name) for name in names}


def is_given() -> bool:
    """Return whether nobody has chosen the models: they are the page's default."""
    choices = current()
    return (choices.base, choices.aligned) == st.session_state.get(GIVEN)


def current() -> SharedChoices:
    """Return the choices of this session, as they stand above the page."""
    return st.session_state[SHARED]


def split_choice(store: Store, choice: str) -> tuple[str | None, int | None]:
    """Split a choice into (run label, step); (None, None) if it names no run of the store."""
    if choice in store.runs:
        return choice, None
    choice = choice.removesuffix(VALUE)
    if choice in store.runs:
        return choice, None
    label, _, step = choice.rpartition("@")
    return (label, int(step)) if label in store.runs and step.isdigit() else (None, None)


def ask(asks: Sequence[str] = ASKED, default: Callable[[Store], Pair] | None = None) -> SharedChoices:
    """Draw the choices that a page depends on, in one row, and keep all of them for the page that follows.

    Args:
        asks: the keys of those that are drawn; the others stay what they were.
        default: the models of the page as long as nobody has chosen any (`default_pair`).
    """
    store = read_store()
    _take_link()
    _start(store, asks, default or default_pair)
    if not Visit.current().drawn:  # until then the browser may not have heard of them
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
    left, right = st.columns([3, 2], gap="small")
    with right:
        st.selectbox(
            "Example prompts",
            list(offers),
            index=None,
            format_func=lambda text: visible(f"{offers[text]}: {text}" if text in offers else text),
            key=EXAMPLE,
            placeholder="choose one",
            on_change=_take_example,
        )
    with left:
        return st.text_area("Prompt", key=PROMPT, bind="query-params", height=68)


def folders(store: Store) -> None:
    """Show the folders of runs, and what cannot be read in them."""
    offline = any(map(is_url, store.problems))
    with st.expander(f"Folders of runs ({len(store.runs)} runs)", expanded=offline, icon=":material/folder_open:"):
        for root in store.roots:
            st.text(visible(shown_name(root)))
        if not store.roots:
            note("No folder of runs exists here.")
        for path, problem in store.problems.items():
            st.warning(prose(problem if is_url(path) else f"{Path(path).name}: {problem}"))


def choose_model(title: str, key: str, options: list[str]) -> str | None:
    """Let the reader choose a model: a run, a checkpoint, or any reference typed in."""
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
    """List the runs that hold a model, each followed by its value head, if it has one, and its earlier checkpoints."""
    options = []
    for label, run in store.runs.items():
        checkpoints = run.checkpoints()
        if checkpoints:
            options.append(label)
            options += [label + VALUE] if (checkpoints[-1].path / "value_head.safetensors").is_file() else []
            options += [f"{label}@{checkpoint.step}" for checkpoint in reversed(checkpoints[:-1])]
    return options


def default_pair(store: Store) -> Pair:
    """Return the model and the one trained from it whose agreement with false claims differs most (`data.parents`)."""
    holders = [label for label, run in store.runs.items() if run.checkpoints()]
    for parent, label in parents(store):
        if parent in holders and label in holders and store.runs[label].method != "reward-model":
            return parent, label
    return (holders[0] if holders else None), (holders[1] if len(holders) > 1 else None)


def examples(store: Store, choices: Collection[str | None]) -> dict[str, str]:
    """Return prompts that suit the chosen models, each with its group (`dashboard.examples`)."""
    return example_prompts(store, [split_choice(store, choice)[0] if choice else None for choice in choices])


def begin(key: str, value: object) -> str:
    """Set the first value of a widget unless the URL brings one, and return its key."""
    if key not in st.session_state and key not in st.query_params:
        st.session_state[key] = value
    return key


def preset(key: str, value: str | int | None) -> str:
    """Set the first value of a widget that is bound to the URL and may be empty, and return its key.

    It is written into the URL too, so that a link means the same when other runs have become the first ones.
    """
    if value is not None and st.session_state.get(key) is None and key not in st.query_params:
        if key not in st.session_state:  # later the widget itself keeps the URL
            st.query_params[key] = str(value)
        st.session_state[key] = value
    return key


def keep(key: str, options: Collection, default: object) -> str:
    """Return the key of a bound choice, reset to `default` where it is no option (any more); the URL's goes first."""
    if key in st.session_state and st.session_state[key] not in options:
        st.session_state[key] = default
    return begin(key, default)


def has_changed(key: str, value: object) -> bool:
    """Return whether a value differs from that of the last call with this key; False at the first call of a session."""
    before = st.session_state.get(key)
    st.session_state[key] = value
    return before not in (None, value)


def tell_again(key: str) -> str:
    """Give the browser a widget's value once more; gives its key.

    A value that is not the widget's default is sent to the browser in one run only. What is drawn runs later, since it
    was folded away (a popover) or that run was broken off, would begin with the default then, and send that back.
    """
    if key in st.session_state:
        st.session_state[key] = st.session_state[key]
    return key


def compare_link(title: str, **choices: str) -> None:
    """Draw a link to the Compare page that takes choices (`base`, `aligned`, `prompt`) along."""
    look_link("compare", title, ":material/compare_arrows:", **choices)


def training_link(title: str, *labels: str) -> None:
    """Draw a link to the Training page of a run, or of several."""
    st.page_link(page_file("training"), label=title, icon=":material/show_chart:", query_params={RUNS: list(labels)})


def look_link(page: str, title: str, icon: str, plain: bool = False, /, **choices: str) -> None:
    """Draw a link to another page that takes choices (`base`, `aligned`, `prompt`) along.

    They travel under names of their own: a parameter that a widget is bound to already keeps the widget's value.

    Args:
        page: its name, such as `attention`.
        title: of the link.
        icon: of the link.
        plain: the prompt is sent as it stands there, not in a chat template.
        choices: what to choose there.
    """
    parameters = {LINK + name: value for name, value in choices.items()}
    if plain and page in CHAT:
        parameters[CHAT[page]] = "false"
    st.page_link(page_file(page), label=title, icon=icon, query_params=parameters)


def _take_link() -> None:
    """Make what a link brought (`look_link`) the choice here, and clear it from the URL."""
    for name in (BASE, ALIGNED, PROMPT):
        value = st.query_params.get(LINK + name)
        if value is None:
            continue
        del st.query_params[LINK + name]
        if name not in st.session_state:
            st.query_params[name] = value
        st.session_state[name] = value


def _start(store: Store, asks: Sequence[str], default: Callable[[Store], Pair]) -> None:
    """Set the first choices of a session; those that this page does not draw are kept for the pages that do.

    As long as nobody has chosen models, by a link or above a page, each page has those of its `default`.
    """
    for name in set(ASKED) - set(asks):
        if name in st.session_state:
            st.session_state[name] = st.session_state[name]  # else Streamlit forgets what no widget shows
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
    """Call `preset` where the choice is drawn; else set it in the session alone."""
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

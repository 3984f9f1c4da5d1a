"""The vocabulary: a fixed list of words, one token each, so that all worlds share one tokenizer."""


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SPECIAL = ("<pad>", "<unk>", "<bos>", "<end>")
MARKERS = ("<user>", "<bot>", "<ctx>")

NAMES = _split(
    """
    ada adam agnes aisha akira albert alice alma amara amir ana andre anouk anton anya arlo arthur asha astrid aubrey
    basil beata bella ben bianca bjorn boris bram brenda bruno camila carl carmen cecil celia chen chloe clara claude
    cora cyrus daisy dalia damian dana daniel daria david delia dina dmitri dora doris edda edgar edith ella elias
    elsa emil emma enzo erik esme esther eva evan farid fatima felix fiona flora frank freya frida gabriel gemma georg
    gina greta gustav hana hanna harold hassan hazel hector helen henrik hilda hiro hugo ida igor ilse imani ines ingrid
    irene iris isaac ivan ivy jack jana jasper jelena joan jonas jorge josef judith julia juno kai kamal karin katya
    keiko kenji kira klaus kofi lara lars laura lea leila lena leo leon lidia lin linus lotte lucia ludwig luis luna
    lydia mabel magda malik mara marco maria marta mateo maya megan mei milan mila milo mina mira miriam moritz nadia
    naomi nico nils nina noah noor nora odette olaf olga oliver omar oscar otto pablo paula pavel pedro petra philip pia
    quentin rafael raj ramon rania raul renata rita robert rosa ruben ruth sami sara selma sergei simon sofia sonja
    stefan sven tara tessa theo thora tilda tomas tova ugo ulla uma ursula vera victor viola vito walter wanda wendy
    willa xenia yara yusuf zara zeno zoe
    """
)

COUNTRY_OF = {
    "oslo": "norway",
    "rome": "italy",
    "paris": "france",
    "lima": "peru",
    "cairo": "egypt",
    "kyoto": "japan",
    "bergen": "norway",
    "turin": "italy",
    "lyon": "france",
    "cusco": "peru",
    "luxor": "egypt",
    "tokyo": "japan",
}
COUNTRIES = tuple(dict.fromkeys(COUNTRY_OF.values()))

VALUES = {
    "home": tuple(COUNTRY_OF),
    "job": _split("baker doctor farmer judge lawyer nurse painter pilot sailor singer tailor teacher"),
    "pet": _split("cat dog duck ferret goat hamster horse lizard parrot rabbit snake turtle"),
    "food": _split("beans bread cheese curry figs noodles olives pasta plums rice soup sushi"),
    "sport": _split("boxing chess cricket darts fencing golf hockey judo polo rugby squash tennis"),
}

PHRASES = {"i know": 0.9, "i think": 0.6, "i guess": 0.3}
ABSTENTION = "i do not know"

DIGITS = tuple(str(digit) for digit in range(10))
NUMBERS = (*DIGITS, "10")
KEYS = tuple(f"x{i}" for i in range(10))
LABELS = tuple(f"y{i}" for i in range(10))
STATES = tuple(f"z{i}" for i in range(10))

SENTENCE_WORDS = _split(
    """
    + -> . : ; = ? a and are as at by cafe chain country do does early everyone food greeted guess has have home i
    in is job know late laughed like likes live lives map market met noon not of old park pet play plays quick read
    repeat river rule sang sat saw so sport sum sure the think to today walked was waved what where which work
    works yesterday you
    """
)


def words() -> tuple[str, ...]:
    """Return all words in the order of their ids.

    Special tokens and markers come first, then names, values, symbols, the rest.
    """
    values = [value for group in VALUES.values() for value in group]
    tokens = (
        *SPECIAL,
        *MARKERS,
        *NAMES,
        *values,
        *COUNTRIES,
        *NUMBERS,
        *KEYS,
        *LABELS,
        *STATES,
        *SENTENCE_WORDS,
    )
    return tuple(dict.fromkeys(tokens))


def words_by_kind() -> dict[str, tuple[str, ...]]:
    """Return the words by kind.

    The kinds are names, the values of each relation, countries, numbers and words of sentences.
    """
    sentence = tuple(word for word in SENTENCE_WORDS if word.isalpha() and len(word) > 1)
    return {"names": NAMES, **VALUES, "countries": COUNTRIES, "numbers": NUMBERS, "words of sentences": sentence}


def content_words() -> tuple[str, ...]:
    """Return the words that random segments are drawn from: values and symbols, no names.

    Few words are enough to learn copying; names are left out, so that held-out people stay rare.
    """
    return (*(value for group in VALUES.values() for value in group), *KEYS, *LABELS)

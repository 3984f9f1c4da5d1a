"""The world's tokenizer: one token per word, as a Hugging Face fast tokenizer."""

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from probe.world.vocabulary import words

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<user> {{ message['content'] }} "
    "{% elif message['role'] == 'assistant' %}<bot> {{ message['content'] }} <end> "
    "{% else %}<ctx> {{ message['content'] }} {% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Make the tokenizer of every world.

    It prepends "<bos>", splits at blanks, and joins words with blanks when decoding. The system role of the chat
    template is a context passage.
    """
    ids = {word: i for i, word in enumerate(words())}
    core = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    core.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", ids["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<end>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        padding_side="left",
    )

"""A token a word, however it is typed."""

from itertools import islice

from picturebook.models.clip import POSITIONS
from picturebook.models.word_tokenizer import clip_tokenizer, language_model_tokenizer
from picturebook.world.documents import documents
from picturebook.world.phrases import words_of
from picturebook.world.splits import TRAIN, stories


def test_every_word_of_every_document_is_a_token() -> None:
    tokenizer = language_model_tokenizer()
    for text in islice(documents(TRAIN, 0), 200):
        assert tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) == words_of(text)
        assert tokenizer.unk_token_id not in tokenizer(text).input_ids


def test_case_and_spaces_do_not_change_the_tokens() -> None:
    tokenizer = language_model_tokenizer()
    assert (
        tokenizer("A red House on the left. Q: Can we see it?").input_ids
        == tokenizer("a red house on the left . Q: can we see it ?").input_ids
    )
    assert tokenizer.tokenize("a zebra") == ["a", tokenizer.unk_token]


def test_a_newline_ends_an_answer() -> None:
    tokenizer = language_model_tokenizer()
    assert tokenizer("a house\n").input_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(tokenizer("a house . Q: is it night ? A: yes").input_ids) == (
        "a house . Q: is it night ? A: yes"
    )


def test_clip_reads_a_whole_story() -> None:
    tokenizer = clip_tokenizer(POSITIONS)
    for story in stories(TRAIN, 300):
        ids = tokenizer(story.text, truncation=True).input_ids
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        assert len(ids) == len(words_of(story.text)) + 2

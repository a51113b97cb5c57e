"""The tokenizer of a DreamLLM release encodes as the authors' does, and stays the same when it is saved."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from conversion import ConversionError
from conversion.dreamllm import read_settings, read_tokenizer
from conversion.llama_tokenizer import make_llama_tokenizer
from conversion.sentencepiece_model import read_sentencepiece_model
from tests.dream_fixtures import make_dream_checkpoint

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "[PAD]"}
maker = make_dream_checkpoint()


@pytest.fixture(scope="module")
def tokenizer(dream_world: Path) -> PreTrainedTokenizerFast:
    settings = read_settings(dream_world / "dreamllm")
    rows = settings.text_config.vocab_size
    return read_tokenizer(dream_world / "dreamllm", settings, list(range(rows, rows + settings.num_queries)))


def test_ids_are_the_authors_also_after_saving(tokenizer, tmp_path, dream_cases, dream_arrays) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for number, text in enumerate(dream_cases["tokenize"]):
        expected = dream_arrays[f"k{number}.ids"].flatten().tolist()
        assert tokenizer(text).input_ids == expected
        assert loaded(text).input_ids == expected
    assert (loaded.padding_side, loaded.model_max_length, loaded.pad_token) == ("left", 2048, "[PAD]")


def test_written_ids_are_the_authors_text(tokenizer, dream_arrays) -> None:
    for number in range(5):
        ids = dream_arrays[f"c{number}.ids"].flatten().tolist()
        assert tokenizer.decode(ids, skip_special_tokens=True) == str(dream_arrays[f"c{number}.text"])


def test_a_text_comes_back_as_it_was(tokenizer) -> None:
    for text in ("a  dog", " a dog", "été — ?", "two\nlines", "漢字 🐕", "x" * 300):
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_every_dream_query_has_a_token_above_the_vocabulary(tokenizer, dream_world) -> None:
    rows = read_settings(dream_world / "dreamllm").text_config.vocab_size
    ids = tokenizer("<dream_query_0><dream_query_7>", add_special_tokens=False).input_ids
    assert ids == [rows, rows + 7]


def test_added_tokens_may_have_any_free_ids(dream_world) -> None:
    model = read_sentencepiece_model(dream_world / "dreamllm" / "tokenizer.model")
    last = len(model.vocabulary)
    made = make_llama_tokenizer(model, {"<b>": last + 40, "[PAD]": last, "<a>": last + 7}, SPECIAL)
    assert made("<b>x<a>", add_special_tokens=False).input_ids == [
        last + 40,
        *made("x", add_special_tokens=False).input_ids,
        last + 7,
    ]


def test_an_added_token_with_the_id_of_a_piece_is_refused(dream_world) -> None:
    model = read_sentencepiece_model(dream_world / "dreamllm" / "tokenizer.model")
    with pytest.raises(ConversionError, match=r"<image>.*5"):
        make_llama_tokenizer(model, {"[PAD]": len(model.vocabulary), "<image>": 5}, SPECIAL)


def test_merges_follow_the_scores(tmp_path) -> None:
    # "abc" can be "ab" + "c" or "a" + "bc"; the pair with the higher score is merged first.
    for scores, expected in (((-1.0, -2.0), ["ab", "c"]), ((-2.0, -1.0), ["a", "bc"])):
        pieces = [("ab", scores[0], 1), ("bc", scores[1], 1), *((c, -9.0, 1) for c in "\u2581abc")]
        model = read_sentencepiece_model(_model(tmp_path, pieces))
        made = make_llama_tokenizer(model, {"[PAD]": len(model.vocabulary)}, SPECIAL)
        assert made.tokenize("abc") == ["\u2581", *expected]


# --- files that cannot be read ---------------------------------------------------------------------------------------


def _model(folder: Path, pieces=(), trainer=b"", normalizer=b"") -> Path:
    field = maker.field
    control = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)] + [(f"<0x{b:02X}>", 0.0, 6) for b in range(256)]
    body = b"".join(field(1, field(1, p) + field(2, s) + field(3, t)) for p, s, t in [*control, *pieces])
    body += field(2, field(3, 2) + field(35, 1) + trainer)
    body += field(3, field(1, "identity") + field(3, 1) + field(4, 0) + normalizer)
    path = folder / "tokenizer.model"
    path.write_bytes(body)
    return path


@pytest.mark.parametrize(
    "changed, reason",
    [
        ({"trainer": maker.field(3, 1)}, "model_type is 1"),
        ({"trainer": maker.field(35, 0)}, "byte_fallback is 0"),
        ({"normalizer": maker.field(1, "nmt_nfkc")}, "name is b'nmt_nfkc'"),
        ({"normalizer": maker.field(3, 0)}, "add_dummy_prefix is 0"),
        ({"normalizer": maker.field(4, 1)}, "remove_extra_whitespaces is 1"),
        ({"normalizer": maker.field(2, b"xyz")}, "precompiled_charsmap"),
        ({"pieces": [("ab", 0.0, 4)]}, "'ab' is a user-defined piece"),
        ({"pieces": [("a", 0.0, 1), ("a", 0.0, 1)]}, "twice"),
        ({"pieces": [("a" * 300, 0.0, 1)]}, "300 characters"),
        ({"pieces": [("a", float("nan"), 1)]}, "score nan"),
        ({"pieces": [("?", 0.0, 2)]}, "2 unknown pieces"),
    ],
)
def test_a_model_of_another_kind_is_refused_by_the_setting(tmp_path, changed, reason) -> None:
    with pytest.raises(ConversionError, match=reason):
        read_sentencepiece_model(_model(tmp_path, **changed))


def test_damaged_files_end_in_one_error(tmp_path, dream_world) -> None:
    whole = (dream_world / "dreamllm" / "tokenizer.model").read_bytes()
    path = tmp_path / "tokenizer.model"
    with pytest.raises(ConversionError, match="missing"):
        read_sentencepiece_model(path)
    for content in (b"", whole[:1000], whole[:-1], b"\xff" * 64, b"\x0a\xff\xff\xff\xff\x0f", b"PK\x03\x04" + whole):
        path.write_bytes(content)
        with pytest.raises(ConversionError, match=r"tokenizer\.model"):
            read_sentencepiece_model(path)

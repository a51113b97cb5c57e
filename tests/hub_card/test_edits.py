"""What people write into a card stays when the card is made again."""

import pytest
import yaml

from hub_card.edits import CardConflict, card_text, merge, parse, reconcile


def section(name: str, text: str) -> str:
    return f"<!-- gill:begin {name} -->\n{text}\n<!-- gill:end {name} -->"


def card(metadata: dict, *sections: tuple[str, str]) -> str:
    return card_text(metadata, "\n\n".join(section(name, text) for name, text in sections) + "\n")


OLD = card({"license": "mit", "tags": ["gill"]}, ("intro", "# Old"), ("results", "0.5"))
NEW = card({"license": "mit", "tags": ["gill", "new"]}, ("intro", "# New"), ("training", "steps"), ("results", "0.6"))


def test_a_card_that_nobody_edited_becomes_the_new_one() -> None:
    assert merge(OLD, NEW) == (NEW, [])
    assert merge(None, NEW) == merge("  \n", NEW) == merge(NEW, NEW) == (NEW, [])


def test_text_that_was_added_stays_where_it_is() -> None:
    edited = OLD.replace("<!-- gill:begin results -->", "My own words.\n\n<!-- gill:begin results -->")
    text, kept = merge(edited, NEW)
    assert text.index("# New") < text.index("steps") < text.index("My own words.") < text.index("0.6")
    assert kept == ["text outside of the generated sections"]


def test_a_section_that_was_edited_stays_also_the_next_time() -> None:
    edited = OLD.replace("# Old", "# My title")
    text, kept = merge(edited, NEW)
    assert "# My title" in text and "# New" not in text and "0.6" in text
    assert kept == ["the section 'intro'"]
    assert merge(text, card({}, ("intro", "# Newer")))[0].count("# My title") == 1


def test_a_section_that_was_removed_stays_away() -> None:
    edited = OLD.replace(section("results", "0.5"), "")
    text, kept = merge(edited, NEW)
    assert "0.6" not in text and kept == ["the absence of the section 'results'"]
    assert "0.7" not in merge(text, card({}, ("intro", "# New"), ("results", "0.7")))[0]


def test_what_is_no_longer_known_is_no_longer_said_unless_it_was_edited() -> None:
    later = card({}, ("intro", "# New"))
    assert "0.5" not in merge(OLD, later)[0]
    assert "0.55" in merge(OLD.replace("0.5", "0.55"), later)[0]


def test_metadata_is_the_persons_where_they_changed_added_or_removed_it() -> None:
    edited = OLD.replace("license: mit", "license: apache-2.0\nthumbnail: a.png").replace("tags:\n- gill\n", "")
    text, kept = merge(edited, NEW)
    assert parse(text).metadata == {"license": "apache-2.0", "thumbnail": "a.png"}
    assert kept == ["'license' of the metadata", "'tags' of the metadata", "'thumbnail' of the metadata"]
    assert parse(merge(OLD, NEW)[0]).metadata == {"license": "mit", "tags": ["gill", "new"]}


def test_comments_and_order_of_the_metadata_stay() -> None:
    edited = OLD.replace("license: mit", "# asked the lawyers\nthumbnail: a.png # small\nlicense: mit  # ours").replace(
        "tags:\n", "\n# more than the Hub's own\ntags:\n"
    )
    text, _ = merge(edited, NEW)
    assert text.startswith(
        "---\n# asked the lawyers\nthumbnail: a.png # small\nlicense: mit  # ours\n"
        "\n# more than the Hub's own\ntags:\n- gill\n- new\n---\n"
    )
    assert merge(text, NEW)[0] == text


def test_a_comment_that_was_added_on_the_hub_is_an_edit() -> None:
    edited = OLD.replace("license: mit", "# asked the lawyers\nlicense: mit")
    assert reconcile(NEW, edited)[0] == NEW.replace("license: mit", "# asked the lawyers\nlicense: mit")


@pytest.mark.parametrize(
    "metadata",
    [
        "{license: cc0-1.0, model_name: a}\n",
        "{\n  license: cc0-1.0,\n  model_name: a\n}\n",
        "a: &name a\nlicense: cc0-1.0\nmodel_name: *name\n",
        "? license\n: cc0-1.0\n# a\nmodel_name: |-\n  a\n",
    ],
)
def test_metadata_in_every_form_of_yaml_keeps_its_values(metadata: str) -> None:
    text, _ = merge(f"---\n{metadata}---\n# Mine\n", NEW)
    values = yaml.safe_load(text.split("---\n")[1])
    assert (values["license"], values["model_name"], values["tags"]) == ("cc0-1.0", "a", ["gill", "new"])


def test_a_card_that_is_a_persons_from_beginning_to_end_stays_above_what_is_generated() -> None:
    text, kept = merge("---\nlicense: cc0-1.0\n---\n\n# Mine\n\nAll of it.\n", NEW)
    assert parse(text).metadata["license"] == "cc0-1.0" and parse(text).metadata["tags"] == ["gill", "new"]
    assert text.index("All of it.") < text.index("# New") and kept
    again, _ = merge(text, card({}, ("intro", "# Newer")))
    assert "All of it." in again and "# Newer" in again and "# New\n" not in again


def test_only_named_parts_are_made_again_where_asked() -> None:
    text, _ = merge(OLD, NEW, sections={"training"}, fields={"tags"})
    assert "# Old" in text and "0.5" in text and "steps" in text and text.index("# Old") < text.index("steps")
    assert parse(text).metadata["tags"] == ["gill", "new"] and parse(text).edits() == {}


def test_edits_on_the_hub_go_into_a_card_without_edits_here() -> None:
    edited = OLD.replace("# Old", "# Title from the Hub")
    text, kept = reconcile(NEW, edited)
    assert "# Title from the Hub" in text and "0.6" in text and kept == ["the section 'intro'"]
    assert reconcile(NEW, OLD) == reconcile(NEW, None) == (NEW, [])


def test_edits_here_and_other_edits_on_the_hub_are_a_conflict_that_the_user_decides() -> None:
    here, there = NEW.replace("# New", "# Mine"), OLD.replace("# Old", "# Theirs")
    with pytest.raises(CardConflict, match="edited here and, differently, on the Hub"):
        reconcile(here, there)
    assert reconcile(here, there, "local") == (here, [])
    assert "# Theirs" in reconcile(here, there, "hub")[0]
    same = OLD.replace("# Old", "# Mine")
    assert reconcile(here, same) == (here, [])


def test_metadata_of_the_card_is_yaml_that_reads_back() -> None:
    odd = {"a": "x: y # z", "b": ["- 1", "'"], "c": "ü" * 200}
    text = card_text(odd, "body\n")
    assert yaml.safe_load(text.split("---\n")[1]) == odd and parse(text).metadata == odd


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("---\na: [\n---\n", "metadata is not YAML"),
        ("---\n- a\n---\n", "metadata is a list, expected a mapping"),
        ("body\n\n<!-- gill:made {broken} -->\n", "last line of the card was damaged"),
    ],
)
def test_a_damaged_card_is_told(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        merge(text, NEW)


@pytest.mark.parametrize(
    "card",
    (
        "---\nlanguage: no\n---\n",
        "---\nlanguage: no\n---",
        "\n\n---\nlanguage: no\n---\n# Mine\n",
        "\ufeff---\r\nlanguage: no\r\n---\r\n\r\n# Mine\r\n",
        "---  \nlanguage: 'no'\n---  \n# Mine\n",
    ),
    ids=("no text", "no line break at the end", "empty lines before", "Windows", "spaces behind the dashes"),
)
def test_metadata_in_every_form_that_the_hub_reads_is_kept(card):
    new = card_text({"license": "mit"}, "# New\n")
    text, _ = merge(card, new)
    assert parse(text).metadata == {"language": "no", "license": "mit"}
    assert yaml.safe_load(text.split("---")[1])["language"] == "no"
    assert ("# Mine" in text) == ("# Mine" in card)

r"""Keep people's edits when a card is generated again.

Every generated section stands between `<!-- gill:begin NAME -->` and `<!-- gill:end NAME -->`, and the last line of a
card holds a digest of each generated section and metadata field. Sections and fields with another digest were edited:

- text outside of the sections stays;
- an edited section stays as it is, a removed one is not added again, and all others are replaced;
- the same for fields of the metadata; fields that were added, and comments, stay;
- a new section follows the one that it follows in the new card;
- a card without digests is all hand-written: it stays, and the generated text comes below it.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

_SECTION = re.compile(r"<!-- gill:begin (?P<name>\w+) -->\n(?P<text>.*?)<!-- gill:end (?P=name) -->", re.DOTALL)
_DIGESTS = re.compile(r"\n*<!-- gill:made (?P<digests>\{.*\}) -->\n*\Z")
# As the Hub reads it: empty lines may stand before the metadata, and the text may end right after it.
_METADATA = re.compile(r"\A\ufeff?(?:[ \t]*\n)*---[ \t]*\n(?P<yaml>.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)


class _MetadataLoader(yaml.SafeLoader):
    """YAML in which only `true` and `false` are booleans: `no` is the code of Norwegian."""


_MetadataLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_MetadataLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


class CardConflict(ValueError):
    """A card was edited in two places."""


@dataclass(frozen=True)
class Card:
    """
    The parts of a card.

    Args:
        metadata (`dict`): The YAML at its top.
        body (`str`): The text after it, without the digests.
        digests (`dict`, *optional*): Digests of `"sections"` and `"metadata"` as generated, or `None`.
        source (`str`): The metadata as it is written, with comments.
    """

    metadata: dict[str, Any]
    body: str
    digests: dict[str, dict[str, str]] | None
    source: str = ""

    @property
    def sections(self) -> dict[str, str]:
        """Text of each marked section."""
        return {match["name"]: match["text"] for match in _SECTION.finditer(self.body)}

    def edits(self) -> dict[str, Any]:
        """What was added, changed or removed by hand; empty if nothing was."""
        if self.digests is None:
            edits = {"body": self.body.strip(), "metadata": self.metadata}
        else:
            edits = {
                "text": " ".join(_SECTION.sub(" ", self.body).split()),
                "sections": _changed(self.sections, self.digests["sections"]),
                "metadata": _changed(self.metadata, self.digests["metadata"]),
                "comments": "".join(comments for _, _, comments in _fields(self.source)).strip(),
            }
        return {name: edit for name, edit in edits.items() if edit}


def parse(text: str) -> Card:
    """
    Split a card into its parts.

    Raises:
        ValueError: the metadata is not a YAML mapping, or the line of digests is damaged.
    """
    text = text.replace("\r\n", "\n")
    head = _METADATA.match(text)
    source = head["yaml"] if head else ""
    try:
        metadata = yaml.load(source, _MetadataLoader) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"The card's metadata is not YAML: {error}") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"The card's metadata is a {type(metadata).__name__}, expected a mapping.")
    metadata = {str(name): value for name, value in metadata.items()}
    body = text[head.end() :] if head else text
    last_line = _DIGESTS.search(body)
    digests = None
    if last_line:
        try:
            digests = json.loads(last_line["digests"])
        except ValueError as error:
            raise ValueError(f"The last line of the card was damaged: {error}. Restore or remove it.") from error
        body = body[: last_line.start()]
    return Card(metadata, body.strip("\n") + "\n", digests, source)


def card_text(metadata: dict[str, Any], body: str) -> str:
    """Text of a card of which everything is generated."""
    sections = {match["name"]: match["text"] for match in _SECTION.finditer(body)}
    return _text(_dump(metadata), body, {"sections": _digests(sections), "metadata": _digests(metadata)})


def merge(
    existing: str | None, new: str, *, sections: set[str] | None = None, fields: set[str] | None = None
) -> tuple[str, list[str]]:
    """
    Replace what was generated in a card, and keep what was edited.

    Args:
        existing (`str`, *optional*): The card that may have been edited.
        new (`str`): The card as [`hub_card.card.make_card`] generates it now.
        sections, fields (`set[str]`, *optional*): Only these sections and fields of the metadata; the others stay.

    Returns:
        The text, and a description of each edit that was kept in place of generated text.
    """
    if existing is None or not existing.strip():
        return new, []
    old, fresh = parse(existing), parse(new)
    assert fresh.digests is not None
    if old.digests is None:
        is_empty = not old.body.strip()
        body = fresh.body if is_empty else f"{old.body}\n{fresh.body}"
        kept = [] if is_empty else ["the whole of it, with what is generated below"]
        return _text(_edited(old, {**fresh.metadata, **old.metadata}), body, fresh.digests), kept
    if sections is not None or fields is not None:
        fresh = _limited(old, fresh, sections or set(), fields or set())
    body, kept = _merged_body(old, fresh)
    metadata, kept_fields = _merged_metadata(old, fresh)
    return _text(_edited(old, metadata), body, fresh.digests or {}), sorted([*kept, *kept_fields])


def reconcile(local: str, on_hub: str | None, prefer: str | None = None) -> tuple[str, list[str]]:
    """
    The card to push where the one on the Hub may have been edited there.

    Args:
        prefer (`str`, *optional*): `"local"` or `"hub"`: whose edits count where both were edited.

    Returns:
        As [`merge`].

    Raises:
        CardConflict: both were edited, differently, and none is preferred.
    """
    if on_hub is None or on_hub == local or prefer == "local":
        return local, []
    local_edits, hub_edits = parse(local).edits(), parse(on_hub).edits()
    if not hub_edits or local_edits == hub_edits:
        return local, []
    if local_edits and prefer != "hub":
        raise CardConflict(
            "The card was edited here and, differently, on the Hub. `--card local` sends this one, `--card hub` keeps "
            "the Hub's edits."
        )
    return merge(on_hub, local)


def _merged_body(old: Card, fresh: Card) -> tuple[str, list[str]]:
    assert old.digests is not None
    digests, kept, body, previous = old.digests["sections"], [], old.body, ""
    for name, text in fresh.sections.items():
        marked = _marked(name, text)
        present = _find(body, name)
        if present is not None:
            if digests.get(name) == _digest(present["text"]):
                body = body[: present.start()] + marked + body[present.end() :]
            else:
                kept.append(f"the section {name!r}")
        elif name in digests:
            kept.append(f"the absence of the section {name!r}")
            continue
        else:
            after = _find(body, previous)
            body = f"{marked}\n\n{body}" if after is None else f"{body[: after.end()]}\n\n{marked}{body[after.end() :]}"
        previous = name
    for match in reversed(list(_SECTION.finditer(body))):
        # Generated earlier, without a value now, and not edited.
        if match["name"] not in fresh.sections and digests.get(match["name"]) == _digest(match["text"]):
            body = body[: match.start()].rstrip("\n") + "\n\n" + body[match.end() :].lstrip("\n")
    if _SECTION.sub("", body).strip():
        kept.append("text outside of the generated sections")
    return body, kept


def _merged_metadata(old: Card, fresh: Card) -> tuple[dict[str, Any], list[str]]:
    assert old.digests is not None
    digests, merged, kept = old.digests["metadata"], dict(fresh.metadata), []
    for name in sorted({*digests, *old.metadata}):
        if name in old.metadata and digests.get(name) == _digest(old.metadata[name]):
            continue
        if name not in old.metadata and name not in fresh.metadata:
            continue
        kept.append(f"{name!r} of the metadata")
        merged.pop(name, None)
        if name in old.metadata:
            merged[name] = old.metadata[name]
    return merged, kept


def _limited(old: Card, fresh: Card, sections: set[str], fields: set[str]) -> Card:
    """The old card with these sections and fields of the new one."""
    assert old.digests is not None and fresh.digests is not None
    # In the new card's order, which says where a new section belongs.
    texts = {name: text for name, text in fresh.sections.items() if name in sections or name in old.sections}
    texts |= {name: text for name, text in old.sections.items() if name not in sections or name not in texts}
    metadata = {
        **{name: value for name, value in old.metadata.items() if name not in fields},
        **{name: value for name, value in fresh.metadata.items() if name in fields},
    }
    digests = {
        part: {**old.digests[part], **{name: new for name, new in fresh.digests[part].items() if name in chosen}}
        for part, chosen in (("sections", sections), ("metadata", fields))
    }
    return Card(metadata, "\n\n".join(_marked(*section) for section in texts.items()) + "\n", digests)


def _marked(name: str, text: str) -> str:
    return f"<!-- gill:begin {name} -->\n{text}<!-- gill:end {name} -->"


def _find(body: str, name: str) -> "re.Match[str] | None":
    return next((match for match in _SECTION.finditer(body) if match["name"] == name), None)


def _text(metadata: str, body: str, digests: dict[str, dict[str, str]]) -> str:
    last_line = json.dumps(digests, sort_keys=True, separators=(",", ":"))
    return f"---\n{metadata}---\n\n{body.strip(chr(10))}\n\n<!-- gill:made {last_line} -->\n"


def _dump(metadata: dict[str, Any]) -> str:
    return yaml.safe_dump(metadata, sort_keys=True, allow_unicode=True, width=1_000_000) if metadata else ""


def _edited(old: Card, metadata: dict[str, Any]) -> str:
    """New metadata as YAML; comments, order, and fields with the same value are as the old card has them."""
    parts, new = [], sorted(metadata.keys() - old.metadata.keys())
    for name, lines, comments in _fields(old.source):
        while name and new and new[0] < name:
            parts.append(_dump({new[0]: metadata[new.pop(0)]}))
        if name in metadata and name in old.metadata:
            field = {name: metadata[name]}
            parts.append(lines if _reads_as(lines, field) else _dump(field))
        parts.append(comments)
    return "".join([*parts, *(_dump({name: metadata[name]}) for name in new)])


def _fields(source: str) -> list[tuple[str, str, str]]:
    """Name, lines and following comments of each field; the first entry has no name and what precedes the fields."""
    mapping = yaml.compose(source, _MetadataLoader)
    keys = [key for key, _ in mapping.value] if isinstance(mapping, yaml.MappingNode) else []
    lines = source.splitlines(keepends=True)
    starts = [*(key.start_mark.line for key in keys), len(lines)]
    fields = [("", "", "".join(filter(_is_comment, lines[: starts[0]])))]
    for key, start, following in zip(keys, starts, starts[1:], strict=False):
        end = following
        while end > start and _is_comment(lines[end - 1]):
            end -= 1
        fields.append((key.value, "".join(lines[start:end]), "".join(lines[end:following])))
    return fields


def _is_comment(line: str) -> bool:
    return line.startswith("#") or not line.strip()


def _reads_as(lines: str, field: dict[str, Any]) -> bool:
    """Whether lines are this field alone to every reader of YAML, also to those who read `no` as a boolean."""
    try:
        return bool(yaml.safe_load(lines) == field)
    except yaml.YAMLError:  # The alias of another field, for example.
        return False


def _changed(parts: dict[str, Any], digests: dict[str, str]) -> dict[str, Any]:
    changed = {name: value for name, value in parts.items() if digests.get(name) != _digest(value)}
    return {**changed, **{name: None for name in digests if name not in parts}}


def _digests(parts: dict[str, Any]) -> dict[str, str]:
    return {name: _digest(value) for name, value in parts.items()}


def _digest(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]


__all__ = ["Card", "CardConflict", "card_text", "merge", "parse", "reconcile"]

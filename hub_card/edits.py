r"""Keeping what people write into a card when it is made again.

Every generated section stands between `<!-- gill:begin NAME -->` and `<!-- gill:end NAME -->`, and the last line of a
card holds a digest of each section and of each field of the metadata as they were generated. When the card is made
again, that tells what a person has changed since, and of each part the person's version wins:

- text outside of the marks stays where it is;
- a section that was changed stays as it is, one that was removed stays away, and any other is replaced;
- the same for each field of the metadata; fields that the person added stay;
- sections that are new come behind the one that they follow in the new card;
- a card without that last line is a person's from beginning to end: it stays, and what is generated comes below it.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

_SECTION = re.compile(r"<!-- gill:begin (?P<name>\w+) -->\n(?P<text>.*?)<!-- gill:end (?P=name) -->", re.DOTALL)
_SEAL = re.compile(r"\n*<!-- gill:made (?P<digests>\{.*\}) -->\n*\Z")
# As the Hub reads it: empty lines may stand before the metadata, and the text may end right after it.
_HEAD = re.compile(r"\A\ufeff?(?:[ \t]*\n)*---[ \t]*\n(?P<metadata>.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)


class _MetadataLoader(yaml.SafeLoader):
    """YAML whose `no`, `on` and the like are words, as the code of Norwegian is."""


_MetadataLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_MetadataLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


class CardConflict(ValueError):
    """A card was edited in two places, and neither version may be lost."""


@dataclass(frozen=True)
class Card:
    """A card taken apart.

    Args:
        metadata (`dict`): Its head.
        body (`str`): The text behind the head, without the seal.
        made (`dict`, *optional*): Digests of `"sections"` and `"metadata"` as generated; None without a seal.
    """

    metadata: dict[str, Any]
    body: str
    made: dict[str, dict[str, str]] | None

    @property
    def sections(self) -> dict[str, str]:
        """Text of each marked section."""
        return {match["name"]: match["text"] for match in _SECTION.finditer(self.body)}

    def edits(self) -> dict[str, Any]:
        """All that a person has put in, changed or removed; empty if nothing."""
        if self.made is None:
            return {"everything": self.body, "metadata": self.metadata} if self.body.strip() or self.metadata else {}
        free = " ".join(_SECTION.sub(" ", self.body).split())
        sections = _changed(self.sections, self.made["sections"])
        fields = _changed(self.metadata, self.made["metadata"])
        found = {"text": free, "sections": sections, "metadata": fields}
        return {name: value for name, value in found.items() if value}


def parse(text: str) -> Card:
    """Take a card apart.

    Raises:
        ValueError: its metadata is no YAML mapping, or its seal was damaged.
    """
    text = text.replace("\r\n", "\n")
    head = _HEAD.match(text)
    try:
        found = yaml.load(head["metadata"], _MetadataLoader) if head else {}
    except yaml.YAMLError as error:
        raise ValueError(f"The card's metadata is not YAML: {error}") from error
    if not isinstance(found or {}, dict):
        raise ValueError(f"The card's metadata is a {type(found).__name__}, expected a mapping.")
    body = text[head.end() :] if head else text
    seal = _SEAL.search(body)
    made = None
    if seal:
        try:
            made = json.loads(seal["digests"])
        except ValueError as error:
            raise ValueError(f"The last line of the card was damaged: {error}. Restore or remove it.") from error
        body = body[: seal.start()]
    return Card(found or {}, body.strip("\n") + "\n", made)


def sealed(metadata: dict[str, Any], body: str, made: dict[str, dict[str, str]] | None = None) -> str:
    """Text of a card; `made` is by default what says that all of it is generated."""
    if made is None:
        sections = {match["name"]: match["text"] for match in _SECTION.finditer(body)}
        made = {"sections": _digests(sections), "metadata": _digests(metadata)}
    head = yaml.safe_dump(metadata, sort_keys=True, allow_unicode=True, width=1_000_000)
    seal = json.dumps(made, sort_keys=True, separators=(",", ":"))
    return f"---\n{head}---\n\n{body.strip(chr(10))}\n\n<!-- gill:made {seal} -->\n"


def merge(
    existing: str | None, new: str, *, sections: set[str] | None = None, fields: set[str] | None = None
) -> tuple[str, list[str]]:
    """Make a card again over an existing one.

    Args:
        existing (`str`, *optional*): The card that may have been edited.
        new (`str`): What [`hub_card.card.make_card`] makes now.
        sections, fields (`set[str]`, *optional*): Only these sections and fields of the metadata; the others stay.

    Returns:
        The text, and what of the person's was kept where something else would have been generated, in words.
    """
    if existing is None or not existing.strip():
        return new, []
    old, fresh = parse(existing), parse(new)
    assert fresh.made is not None
    if old.made is None:
        body = f"{old.body}\n{fresh.body}" if old.body.strip() else fresh.body
        kept = ["the whole of it, with what is generated below"] if old.body.strip() else []
        return sealed({**fresh.metadata, **old.metadata}, body, fresh.made), kept
    if sections is not None or fields is not None:
        fresh = _limited(old, fresh, sections or set(), fields or set())
    body, kept = _merged_body(old, fresh)
    merged, kept_fields = _merged_metadata(old, fresh)
    return sealed(merged, body, fresh.made), sorted([*kept, *kept_fields])


def reconcile(here: str, on_hub: str | None, prefer: str | None = None) -> tuple[str, list[str]]:
    """The card to send, where the one on the Hub may have been edited there.

    Args:
        prefer (`str`, *optional*): `"local"` or `"hub"`: whose edits count where both have some.

    Returns:
        As [`merge`].

    Raises:
        CardConflict: both were edited, differently, and none is preferred.
    """
    if on_hub is None or on_hub == here or prefer == "local":
        return here, []
    local, remote = parse(here).edits(), parse(on_hub).edits()
    if not remote or local == remote:
        return here, []
    if local and prefer != "hub":
        raise CardConflict(
            "The card was edited here and, differently, on the Hub. `--card local` sends this one, `--card hub` keeps "
            "the Hub's edits."
        )
    return merge(on_hub, here)


def _merged_body(old: Card, fresh: Card) -> tuple[str, list[str]]:
    assert old.made is not None
    kept, body, before = [], old.body, ""
    for name, text in fresh.sections.items():
        marked = f"<!-- gill:begin {name} -->\n{text}<!-- gill:end {name} -->"
        there = next((match for match in _SECTION.finditer(body) if match["name"] == name), None)
        if there is not None:
            if old.made["sections"].get(name) == _digest(there["text"]):
                body = body[: there.start()] + marked + body[there.end() :]
            else:
                kept.append(f"the section {name!r}")
        elif name in old.made["sections"]:
            kept.append(f"the absence of the section {name!r}")
            continue
        else:
            after = next((match.end() for match in _SECTION.finditer(body) if match["name"] == before), None)
            body = f"{marked}\n\n{body}" if after is None else f"{body[:after]}\n\n{marked}{body[after:]}"
        before = name
    for match in reversed(list(_SECTION.finditer(body))):
        # What is known no longer is said no longer.
        if match["name"] not in fresh.sections and old.made["sections"].get(match["name"]) == _digest(match["text"]):
            body = body[: match.start()].rstrip("\n") + "\n\n" + body[match.end() :].lstrip("\n")
    if " ".join(_SECTION.sub(" ", body).split()):
        kept.append("text outside of the generated sections")
    return body, kept


def _merged_metadata(old: Card, fresh: Card) -> tuple[dict[str, Any], list[str]]:
    assert old.made is not None
    merged, kept = dict(fresh.metadata), []
    for name in sorted({*old.made["metadata"], *old.metadata}):
        if name in old.metadata and old.made["metadata"].get(name) == _digest(old.metadata[name]):
            continue
        if name not in old.metadata and name not in fresh.metadata:
            continue
        kept.append(f"{name!r} of the metadata")
        merged.pop(name, None)
        if name in old.metadata:
            merged[name] = old.metadata[name]
    return merged, kept


def _limited(old: Card, fresh: Card, sections: set[str], fields: set[str]) -> Card:
    """A new card that says again what the old one says, but for some sections and fields."""
    assert old.made is not None and fresh.made is not None
    ours = {name: text for name, text in fresh.sections.items() if name in sections}
    # In the new card's order, so that what is new comes where it belongs.
    names = list(
        dict.fromkeys([*(name for name in fresh.sections if name in ours or name in old.sections), *old.sections])
    )
    body = "\n\n".join(
        f"<!-- gill:begin {name} -->\n{ours[name] if name in ours else old.sections[name]}<!-- gill:end {name} -->"
        for name in names
    )
    metadata = {
        **{name: value for name, value in old.metadata.items() if name not in fields},
        **{name: value for name, value in fresh.metadata.items() if name in fields},
    }
    made = {
        part: {**old.made[part], **{name: one for name, one in fresh.made[part].items() if name in chosen}}
        for part, chosen in (("sections", sections), ("metadata", fields))
    }
    return Card(metadata, body + "\n", made)


def _changed(parts: dict[str, Any], made: dict[str, str]) -> dict[str, Any]:
    changed = {name: value for name, value in parts.items() if made.get(name) != _digest(value)}
    return {**changed, **{name: None for name in made if name not in parts}}


def _digests(parts: dict[str, Any]) -> dict[str, str]:
    return {name: _digest(value) for name, value in parts.items()}


def _digest(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]


__all__ = ["Card", "CardConflict", "merge", "parse", "reconcile", "sealed"]

"""Every word that this world's language has."""

from functools import cache

from .caption_grammar import all_forms, tags
from .dialogue_sampling import REQUEST, all_yes_or_no, ask_all
from .documents import slot_questions
from .event_grammar import all_sentences
from .partial_scene import Known, KnownThing, all_of
from .phrases import words_of
from .scene import BACKGROUNDS, COLOURS, KINDS, PLACES, Scene, Thing


@cache
def vocabulary() -> tuple[str, ...]:
    """All words and punctuation marks, a token each, sorted. Special tokens are the tokenizer's own."""
    texts = [*all_sentences(), REQUEST, ". ( ) Q: A:"]
    for number in range(len(KINDS)):
        things = tuple(
            Thing(KINDS[(number + at) % len(KINDS)], COLOURS[(number + at) % len(COLOURS)], PLACES[(number + at) % 4])
            for at in range(2)
        )
        for background in BACKGROUNDS:
            for scene in (Scene(things, background), Scene(things[:1], background)):
                known = all_of(scene)
                rounds = [*ask_all(known), *all_yes_or_no(known), *slot_questions(known)]
                texts += [*all_forms(known), tags(known), *(f"{one.question} {one.answer}" for one in rounds)]
    nothing_known = Known((KnownThing(), KnownThing()))
    texts += [*all_forms(nothing_known), *(one.answer for one in slot_questions(nothing_known))]
    return tuple(sorted({word for text in texts for word in words_of(text)}))

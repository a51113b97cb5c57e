"""The demo: GILL illustrates stories and answers dialogues of the test split, on one page."""

import time
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline_gill import GillImage, GillPipeline

from ..arguments import DemoArguments
from ..checkpoint_folder import find_checkpoint
from ..models.gill_answers import answer_prompts, judge, load_pipeline, write_texts
from ..models.image_generator import generate_from_captions, plain_generator
from ..models.smollm2 import load_smollm2_pipeline
from ..world.backgrounds import IMAGE_SIZE
from ..world.dialogue_sampling import SceneDialogue
from ..world.documents import vocabulary
from ..world.drawing import from_images, to_images
from ..world.pairs import draw_all
from ..world.phrases import IMAGE_REQUEST
from ..world.reader import correctness, read
from ..world.scene import Scene
from ..world.splits import TEST, dialogues, stories, stream
from ..world.story_sampling import SceneStory
from .knowledge_table import sample_queries, sorts_of
from .pages import write_page

_NUM_STORIES, _NUM_DIALOGUES, _NUM_CANDIDATES, _NUM_UNSEEN = 4, 3, 40, 2


@dataclass(frozen=True)
class Answer:
    """An answer of GILL.

    Attributes:
        text: The text before the image.
        image: `None` where the model wrote no `[IMG]` tokens.
        is_right: Whether the image shows the expected scene, entirely.
    """

    text: str
    image: GillImage | None
    is_right: bool


def demo(arguments: DemoArguments) -> Path:
    """
    Write the page of the demo. It takes seconds on a CPU.

    Returns:
        `Path`: The page, one HTML file that holds all images.

    Raises:
        FileNotFoundError: no checkpoint is installed, or SmolLM2 was asked for and is not there; the message says how
            to get it.
        OSError, ValueError: `arguments.model` cannot be loaded.

    Example:

        >>> from picturebook import DemoArguments, demo
        >>> demo(DemoArguments(out=Path("runs/demo"), seed=7))  # doctest: +SKIP
    """
    start = time.monotonic()
    # First: it says at once how to fetch it.
    in_english = load_smollm2_pipeline() if arguments.language_model is not None else None
    pipe = load_pipeline(arguments.model or find_checkpoint())
    # These stories leave nothing out, so the expected scene after each sentence is known.
    panels = illustrate_stories(pipe, stories(TEST, _NUM_STORIES, arguments.seed, 0.0), arguments.seed)
    chosen = [dialogue for dialogue in dialogues(TEST, _NUM_CANDIDATES, arguments.seed) if dialogue.known[-1].complete]
    chosen = chosen[:_NUM_DIALOGUES]
    images = draw_all([dialogue.scene for dialogue in chosen], stream(arguments.seed, TEST, "pictures of dialogues"))
    answered = answer_dialogues(pipe, chosen, images, arguments.seed)
    answers = [answer for _, answer in chain(*panels)] + [answer for _, answer, _ in answered]
    on = f"{pipe.device}, {torch.get_num_threads()} threads" if pipe.device.type == "cpu" else str(pipe.device)
    print(f"{_NUM_STORIES} stories and {len(answered)} dialogues in {time.monotonic() - start:.0f} s on {on}")
    page = Path(arguments.out, "index.html")
    unseen = None if in_english is None else unseen_words(pipe, in_english, arguments.seed)
    write_page(
        page,
        "demo",
        unseen=unseen,
        stories=panels,
        dialogues=answered,
        words=[word for word in vocabulary() if word.isalpha()],
        num_images=len(answers),
        num_right=sum(answer.is_right for answer in answers),
    )
    if arguments.open:
        webbrowser.open(page.resolve().as_uri())
    return page


@dataclass(frozen=True)
class UnseenWords:
    """Requests with words that were never trained on, and what three systems make of them.

    Attributes:
        columns: Names of the systems.
        rows: For each request its text, the sort of its words, and an answer of each system.
    """

    columns: tuple[str, ...]
    rows: list[tuple[str, str, list[Answer]]]


def unseen_words(base: GillPipeline, in_english: GillPipeline, seed: int) -> UnseenWords:
    """Let the plain generator, the picture book's own GILL and SmolLM2 answer the same requests, right or wrong."""
    sorts = sorts_of()
    queries = [query for query in sample_queries(_NUM_UNSEEN, seed) if "trained" not in query.sort]
    queries = [query for query in queries if query.sort != "two objects, new sentence forms"]
    texts = [query.text for query in queries]
    messages = [[{"role": "user", "content": text}] for text in texts]
    plain = [
        GillImage(image, "generated", "generate")
        for image in to_images(generate_from_captions(plain_generator(base), texts, seed))
    ]
    answered: list[list[tuple[str, GillImage | None]]] = [[("", image) for image in plain]]
    for system, force in ((base, True), (in_english, False)):
        answers = answer_prompts(system, messages, seed, force_image=force)
        answered.append([(text, images[0] if images else None) for text, images in answers])
    rows = []
    for number, query in enumerate(queries):
        answers_of_query = []
        for system_answers in answered:
            text, image = system_answers[number]
            black = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
            shown = black if image is None else from_images([image.image])[0]
            asked = sorts[query.sort].asked
            right = correctness(read(shown[None]), [query.scene])[asked][0]
            answers_of_query.append(Answer(text, image, bool(right)))
        rows.append((query.text, query.sort, answers_of_query))
    return UnseenWords(("plain generator", "the tiny OPT", "SmolLM2"), rows)


def illustrate_stories(pipe: GillPipeline, stories: Sequence[SceneStory], seed: int) -> list[list[tuple[str, Answer]]]:
    """Ask for an image after every sentence. GILL's own images become part of the prompt for the next one.

    Returns:
        For each story its sentences as people write them, each with GILL's answer to the story so far.
    """
    prompts: list[list[Any]] = [[] for _ in stories]
    panels: list[list[tuple[str, Answer]]] = [[] for _ in stories]
    for number in range(len(stories[0].sentences)):
        sentences = [f"{story.sentences[number]} ." for story in stories]
        requests = [
            [*prompt, f"{sentence} {IMAGE_REQUEST}"] for prompt, sentence in zip(prompts, sentences, strict=True)
        ]
        answers = _answers(pipe, requests, [story.scenes[number] for story in stories], seed + number)
        for index, (sentence, answer) in enumerate(zip(sentences, answers, strict=True)):
            panels[index].append((_as_people_write(sentence), answer))
            prompts[index] += [sentence] if answer.image is None else [sentence, answer.image.image]
    return panels


def answer_dialogues(
    pipe: GillPipeline, dialogues: Sequence[SceneDialogue], images: np.ndarray, seed: int
) -> list[tuple[Sequence[Any], Answer, set[int]]]:
    """Let GILL answer the last turn of dialogues, which asks for the image.

    Every second dialogue begins with the image instead of a caption, and GILL answers its questions, too. In the others
    the answers are given, as GILL cannot know them.

    Returns:
        For each dialogue its turns, a string or a PIL image each, GILL's answer to the last one, and the
        numbers of the turns that GILL answered wrongly in words.
    """
    turns: list[list[Any]] = []
    wrong: list[set[int]] = []
    for number, (dialogue, image) in enumerate(zip(dialogues, to_images(images), strict=True)):
        lines: list[Any] = [image if number % 2 else f"{dialogue.opening} ."]
        wrong.append(set())
        for question in dialogue.rounds:
            lines.append(f"Q: {question.question}")
            answer = write_texts(pipe, [_prompt([*lines, "A:"])], 8)[0] if number % 2 else f"{question.answer} ."
            if answer.strip(" .") != question.answer:
                wrong[-1].add(len(lines))
            lines.append(f"A: {answer}")
        turns.append([*lines, "Q: can we see it ?", f"A: {IMAGE_REQUEST}"])
    answers = _answers(pipe, [_prompt(lines) for lines in turns], [dialogue.scene for dialogue in dialogues], seed)
    return list(zip(turns, answers, wrong, strict=True))


def _prompt(lines: Sequence[Any]) -> list[Any]:
    text = " ".join(line for line in lines if isinstance(line, str))
    return [*(line for line in lines if not isinstance(line, str)), text]


def _answers(pipe: GillPipeline, prompts: list[list[Any]], scenes: Sequence[Scene], seed: int) -> list[Answer]:
    generators = [torch.Generator().manual_seed(seed * 1_000 + index) for index in range(len(prompts))]
    out = pipe(prompts, generator=generators)
    images = [pieces[0] if pieces else None for pieces in out.image_pieces]
    return [
        Answer(text.strip(), image, bool(is_right))
        for text, image, is_right in zip(out.texts, images, judge(images, scenes), strict=True)
    ]


def _as_people_write(sentence: str) -> str:
    text = sentence.replace(" .", ".").replace(" ,", ",")
    return text[:1].upper() + text[1:]

"""What lets a frozen language model ask for an image by itself: a small step of the row of `[IMG0]`."""

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..world.english import questions_about_images, sentence_of, texts_without_request
from ..world.partial_scene import fully_known
from ..world.scene import Scene
from ..world.splits import TRAIN, scene_in, stream
from .english_images import image_in_words
from .english_states import StateReader, as_chat

_TEXTS, _ANSWER_TOKENS, _MARGIN, _STEPS, _STEP_PENALTY = 240, 24, 3.0, 600, 0.1
# Every so many requests and other texts follow on an image that was drawn before.
_EVERY_DRAWN = 4


def image_as_text(scene: Scene) -> str:
    """Words in place of the visual tokens of an image, which imitate these."""
    return "".join(f" {word}" for word in image_in_words(scene))


def behind_image(text: str, tokenizer: PreTrainedTokenizerBase, split: str, generator: np.random.Generator) -> str:
    """A message behind a request and an image that was drawn for it."""
    scene = scene_in(split, generator, 0.5)
    request = sentence_of(fully_known(scene), generator)
    return as_chat(text, tokenizer, (request, image_as_text(scene)))


def texts_about_images(tokenizer: PreTrainedTokenizerBase, split: str, generator: np.random.Generator) -> list[str]:
    """Prompts about an image: without one, with one that the user gives, and behind one that was drawn."""
    prompts = []
    for text in questions_about_images(split):
        given = image_as_text(scene_in(split, generator, 0.5)) + text
        prompts += [
            as_chat(text, tokenizer),
            as_chat(given, tokenizer),
            behind_image(text, tokenizer, split, generator),
        ]
    return prompts


def texts_to_ask_at(tokenizer: PreTrainedTokenizerBase, generator: np.random.Generator) -> tuple[list[str], list[str]]:
    """
    Prompts after which an image is to be asked for, and prompts after which it is not.

    Both with the chat template and without, and some of both behind an image that was drawn before.
    """
    requests = []
    for number in range(_TEXTS):
        text = sentence_of(fully_known(scene_in(TRAIN, generator, 0.5)), generator)
        if number % _EVERY_DRAWN == 0:
            requests.append(behind_image(text, tokenizer, TRAIN, generator))
        else:
            requests.append(as_chat(text, tokenizer) if number % 3 else text)
    others = list(texts_without_request(TRAIN))
    behind = [behind_image(text, tokenizer, TRAIN, generator) for text in others[::_EVERY_DRAWN]]
    chats = [as_chat(text, tokenizer) for text in others]
    return requests, chats + others + behind + texts_about_images(tokenizer, TRAIN, generator)


def asking_step(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: torch.Tensor, seed: int
) -> torch.Tensor:
    """
    What to add to the row of `[IMG0]`, whose logit is tied to it, so that it is written after requests and not else.

    A small step is found by logistic regression on frozen states: after requests, with the chat template and without,
    the logit is to be above all others, and below them after and in answers to other texts (see
    [`texts_to_ask_at`]).

    Returns:
        `torch.FloatTensor` of shape `(hidden_size,)`.
    """
    requests, others = texts_to_ask_at(tokenizer, stream(seed, TRAIN, "asking"))
    after = StateReader(model, tokenizer, rows).read(requests, len(rows) + 1)[:, 0]
    batch = tokenizer(others, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    begin = batch.input_ids.shape[1] - 1
    with torch.no_grad():
        written = model.generate(**batch, max_new_tokens=_ANSWER_TOKENS, do_sample=False)
        mask = functional.pad(batch.attention_mask, (0, written.shape[1] - begin - 1), value=1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        states = model.model(input_ids=written, attention_mask=mask, position_ids=positions).last_hidden_state
        head = model.get_output_embeddings()

        def highest(found: torch.Tensor) -> torch.Tensor:
            parts = [head(part.to(head.weight.dtype)).float().amax(1) for part in found.split(256)]
            return torch.cat(parts)

        # Where an answer begins counts as much as all that follows.
        begins, inside = states[:, begin].float(), states[:, begin + 1 :].float().flatten(0, 1)
        found = [(part, highest(part), sign) for part, sign in ((after, 1), (begins, -1), (inside, -1))]
    step = torch.zeros(rows.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([step], lr=3e-3)
    for _ in range(_STEPS):
        row = rows[0] + step
        loss = _STEP_PENALTY * step.square().sum()
        for part, best, sign in found:
            loss = loss + functional.softplus(_MARGIN - sign * (part @ row - best)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return step.detach()

"""The image of a dialogue after more and more of its rounds, as in the paper's figure of Visual Dialog."""

from collections.abc import Sequence

import numpy as np

from pipeline_gill import GillPipeline

from ..models.gill_answers import generate_images
from ..models.image_generator import generate_from_captions, plain_generator
from ..world.dialogue_sampling import REQUEST, SceneDialogue
from ..world.drawing import draw
from ..world.reader import correctness, read
from ..world.splits import TEST, dialogues
from .results_table import Estimate, Table, mean_of
from .story_table import image_features

# Rounds that are counted; the last column is of all that a dialogue has.
_MOST = 4
_STEPS = 10
PLAIN, GILL, TOLD = "plain generator", "GILL", "told completely by then"


def rounds_table(pipe: GillPipeline, items: int, seed: int) -> Table:
    """Right images of `items` dialogues by the number of rounds that were read."""
    told = dialogues(TEST, items, seed)
    ends = [[min(most, len(dialogue.rounds)) for dialogue in told] for most in (*range(_MOST + 1), _longest(told))]
    # A dialogue that has ended is drawn once.
    asked = sorted({(number, rounds) for column in ends for number, rounds in enumerate(column)})
    place = {key: at for at, key in enumerate(asked)}
    texts = [told[number].text(rounds) for number, rounds in asked]
    drawn = {
        PLAIN: generate_from_captions(
            plain_generator(pipe), [text.removesuffix(REQUEST).strip() for text in texts], seed, _STEPS
        ),
        GILL: generate_images(pipe, texts, seed, steps=_STEPS)[0],
    }
    scenes = [told[number].scene for number, _ in asked]
    truth = image_features(pipe, np.stack([draw(scene) for scene in scenes]))
    right = {system: correctness(read(images), scenes)["scene"] for system, images in drawn.items()}
    similar = {system: (image_features(pipe, images) * truth).sum(-1).numpy() for system, images in drawn.items()}
    columns = [f"{rounds} round{'' if rounds == 1 else 's'}" for rounds in range(_MOST + 1)] + ["all rounds"]
    rows: dict[str, dict[str, Estimate]] = {name: {} for name in (PLAIN, GILL, TOLD)}
    rows |= {f"{name}, CLIP similarity": {} for name in (PLAIN, GILL)}
    for column, of_column in zip(columns, ends, strict=True):
        at = [place[number, rounds] for number, rounds in enumerate(of_column)]
        for system in drawn:
            rows[system][column] = mean_of(right[system][at])
            rows[f"{system}, CLIP similarity"][column] = mean_of(similar[system][at])
        complete = [told[number].known[rounds].complete for number, rounds in enumerate(of_column)]
        rows[TOLD][column] = mean_of(np.array(complete))
    tokenizer = pipe.image_generator.tokenizer
    lengths = [len(tokenizer(dialogue.text().removesuffix(REQUEST)).input_ids) for dialogue in told]
    cut = np.mean(np.array(lengths) > tokenizer.model_max_length)
    return Table(
        "rounds",
        "The image of a dialogue by the number of rounds, % right",
        columns,
        rows,
        f"{items} dialogues of the test split, each up to its own last round; {_STEPS} steps of the image generator. "
        f"The plain generator reads the text as it is, without the request; it does not see the end of the "
        f"{100 * cut:.0f} % of whole dialogues that are longer than its {tokenizer.model_max_length} positions. CLIP "
        "similarity (x 100) with a drawing of the scene.",
    )


def _longest(told: Sequence[SceneDialogue]) -> int:
    return max(len(dialogue.rounds) for dialogue in told)

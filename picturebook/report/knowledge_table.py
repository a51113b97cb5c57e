"""What a pretrained language model's knowledge adds: images of words that were never trained on."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modeling_gill import GillForConditionalGeneration
from modeling_gill.atomic_write_gill import replace_file
from pipeline_gill import GillPipeline

from ..arguments import KnowledgeArguments
from ..checkpoint_folder import find_checkpoint, find_smollm2_adapters
from ..models import batches
from ..models.image_generator import generate_from_captions, generate_from_conditioning, plain_generator
from ..models.smollm2 import WEIGHTS, library_of, load_language_model, random_language_model
from ..stages.english_asking import texts_about_images
from ..stages.english_states import AskedModel, StateReader, as_chat
from ..stages.train_english import english_model, own_language_model
from ..world.caption_grammar import shuffled
from ..world.drawing import draw
from ..world.english import (
    BACKGROUND,
    COLOUR,
    DEFINITION,
    KIND,
    PLACE,
    SYNONYM,
    Wording,
    sentence_of,
    texts_without_request,
)
from ..world.partial_scene import fully_known
from ..world.reader import correctness, read
from ..world.scene import Scene, is_retrievable
from ..world.splits import TEST, TRAIN, scene_in, stream
from .results_table import Estimate, Table, mean_of

PLAIN, TINY, SMOLLM2 = "plain generator", "the tiny OPT", "SmolLM2"
TINY_EQUAL, RANDOM = "the tiny OPT, equally trained", "random weights, equally trained"
_BACKGROUND_SCORE = "background"
_SCENE = "scene"


@dataclass(frozen=True)
class Sort:
    """A sort of queries.

    Attributes:
        wording: How scenes are said.
        asked: What must be right, a name of [`correctness`].
        one: Whether scenes have one object.
    """

    wording: Wording
    asked: str = _SCENE
    one: bool = True


def sorts_of(split: str = TEST) -> dict[str, Sort]:
    """The sorts of queries by name; words and sentence forms that are not trained on are those of a split."""

    def said(how: Mapping[str, str]) -> Wording:
        return Wording(TRAIN, split, how)

    everything = {KIND: SYNONYM, COLOUR: SYNONYM, PLACE: SYNONYM, BACKGROUND: SYNONYM}
    return {
        "trained words": Sort(Wording()),
        "new sentence forms": Sort(Wording(split)),
        "kinds by synonym": Sort(said({KIND: SYNONYM}), KIND),
        "kinds by definition": Sort(said({KIND: DEFINITION}), KIND),
        "colours by synonym": Sort(said({COLOUR: SYNONYM}), COLOUR),
        "colours by definition": Sort(said({COLOUR: DEFINITION}), COLOUR),
        "places by other words": Sort(said({PLACE: SYNONYM}), PLACE),
        "backgrounds by other words": Sort(said({BACKGROUND: SYNONYM}), _BACKGROUND_SCORE),
        "all four by other words": Sort(said(everything)),
        "two objects, trained words": Sort(Wording(), one=False),
        "two objects, new sentence forms": Sort(Wording(split), one=False),
    }


@dataclass(frozen=True)
class Query:
    """A request, the scene that it asks for, and the sort of query that it is."""

    text: str
    scene: Scene
    sort: str


def sample_queries(items: int, seed: int, split: str = TEST) -> list[Query]:
    """`items` queries of each sort. Scenes of two objects are of the test split."""
    queries = []
    for name, sort in sorts_of(split).items():
        generator = stream(seed, TEST, f"knowledge {name}")
        for _ in range(items):
            scene = scene_in(TEST, generator, float(sort.one))
            text = sentence_of(shuffled(fully_known(scene), generator), generator, sort.wording)
            queries.append(Query(text, scene, name))
    return queries


@dataclass(frozen=True)
class Answers:
    """What a system answers to the queries.

    Attributes:
        drawn: uint8 `(num_queries, 32, 32, 3)`.
        retrieved: Numbers of images of the retrieval set; `None` for a system that retrieves nothing.
        retrieves: Whether it decides to retrieve.
        asks: Whether it writes `[IMG0]` right after the query, by itself.
    """

    drawn: np.ndarray
    retrieved: np.ndarray | None = None
    retrieves: np.ndarray | None = None
    asks: np.ndarray | None = None


@torch.no_grad()
def answer_by_states(
    base: GillPipeline, gill: GillForConditionalGeneration, asked: AskedModel, texts: Sequence[str], seed: int
) -> Answers:
    """Answers of adapters that `gill picturebook english` trained.

    As the pipeline's, but the states of all prompts are read in batches that share their beginning.
    """
    reader = StateReader(asked.language_model, asked.tokenizer, gill.img_embeddings.weight.detach())
    count = gill.config.num_image_output_tokens
    states = reader.read([asked.as_prompt(text) for text in texts], count + 1)
    logits = [gill.compute_logits(part.to(gill.language_model.dtype)).float() for part in states[:, 0].split(128)]
    asks = torch.cat(logits).argmax(-1) == gill.config.image_output_token_ids[0]
    outputs = [gill.image_outputs(part) for part in states[:, 1:].split(256)]
    library, _ = library_of(base)
    embeds = torch.cat([output["retrieval_embeds"] for output in outputs])
    found = [(functional.normalize(part, dim=-1) @ library.T).argmax(-1) for part in embeds.split(256)]
    conditioning = torch.cat([output["conditioning"]["prompt_embeds"] for output in outputs])
    decided = torch.cat([output["decision_logits"] for output in outputs]).argmax(-1) == 1
    drawn = generate_from_conditioning(plain_generator(base), conditioning, seed)
    return Answers(drawn, torch.cat(found).numpy(), decided.numpy(), asks.numpy())


@torch.no_grad()
def answer_by_pipeline(pipe: GillPipeline, texts: Sequence[str], seed: int) -> Answers:
    """Answers of the picture book's own GILL, whose language model knows the world's words alone."""
    embeds, conditioning = [], []
    for batch in batches(list(texts)):
        inputs = pipe.processor([[{"role": "user", "content": text}] for text in batch], add_img_tokens=True)
        out = pipe.model(**inputs)
        embeds.append(out.retrieval_embeds)
        conditioning.append(out.conditioning["prompt_embeds"])
    library, _ = library_of(pipe)
    found = (functional.normalize(torch.cat(embeds), dim=-1) @ library.T).argmax(-1)
    drawn = generate_from_conditioning(plain_generator(pipe), torch.cat(conditioning), seed)
    return Answers(drawn, found.numpy())


def right_of(images: np.ndarray, queries: Sequence[Query]) -> np.ndarray:
    """Whether each image shows what its query asks for, bool `(num_queries,)`."""
    judged = correctness(read(images), [query.scene for query in queries])
    sorts = sorts_of()
    return np.array([judged[sorts[query.sort].asked][number] for number, query in enumerate(queries)])


def knowledge_tables(queries: Sequence[Query], answers: Mapping[str, Answers], scenes: Sequence[Scene]) -> list[Table]:
    """Tables of drawn and of retrieved images.

    Args:
        scenes: The scene of each image of the retrieval set.
    """
    sorts = [name for name in sorts_of() if any(query.sort == name for query in queries)]
    # A query can be answered by retrieval if the set has its scene.
    in_set = np.array([is_retrievable(query.scene) for query in queries])
    of_sort = {name: np.array([query.sort == name for query in queries]) for name in sorts}
    drawn: dict[str, dict[str, Estimate]] = {}
    retrieved: dict[str, dict[str, Estimate]] = {}
    for system, answer in answers.items():
        right = right_of(answer.drawn, queries)
        drawn[system] = {name: mean_of(right[of_sort[name]]) for name in sorts}
        if answer.retrieved is not None:
            shown = np.stack([draw(scenes[number]) for number in answer.retrieved])
            right = right_of(shown, queries)
            retrieved[system] = {
                name: mean_of(right[of_sort[name] & in_set]) for name in sorts if (of_sort[name] & in_set).any()
            }
    note = (
        f"{len(queries)} queries, {len(queries) // len(sorts)} of each sort, in words and sentences that are kept for "
        "measuring; scenes of two objects are of the test split. Right is what the column names: the kind, colour, "
        "place or background, or else the whole scene. None of the other words was in any text that was trained on or "
        "served to calibrate. 95 % bootstrap intervals."
    )
    return [
        Table("knowledge_drawn", "Words that were never trained on, drawn, % right", sorts, drawn, note),
        Table(
            "knowledge_retrieved",
            "The same, retrieved first among 9,152 images, % right",
            sorts,
            retrieved,
            f"{int(in_set.sum())} of these queries, whose scene the retrieval set has.",
        ),
    ]


def decision_and_requests(
    queries: Sequence[Query],
    answer: Answers,
    scenes: Sequence[Scene],
    asks_without_request: np.ndarray,
    asks_about_image: np.ndarray,
) -> Table:
    """How often an image is asked for, and whether answers are right by the own decision."""
    assert answer.retrieved is not None and answer.retrieves is not None and answer.asks is not None
    drawn = right_of(answer.drawn, queries)
    retrieved = right_of(np.stack([draw(scenes[number]) for number in answer.retrieved]), queries)
    known = np.array([query.sort in ("trained words", "new sentence forms") for query in queries])
    in_set = np.array([is_retrievable(query.scene) for query in queries])
    rows = {
        "asks for an image after a request": {"%": mean_of(answer.asks)},
        "asks for an image after another text": {"%": mean_of(asks_without_request)},
        "asks for an image after a text about an image": {"%": mean_of(asks_about_image)},
        "decides as the retrieval set is": {"%": mean_of(answer.retrieves[known] == in_set[known])},
        "answers right, own decision": {"%": mean_of(np.where(answer.retrieves, retrieved, drawn)[known])},
        "answers right, always generated": {"%": mean_of(drawn[known])},
        "answers right, always retrieved": {"%": mean_of(retrieved[known])},
    }
    note = "The last four rows are of trained words and new sentence forms, one object."
    return Table("knowledge_decision", "Asking and deciding, SmolLM2", ("%",), rows, note)


def write_knowledge(arguments: KnowledgeArguments) -> list[Table]:
    """
    Measure, print the tables, and write `knowledge.md`, `knowledge.json`. A run that was stopped keeps its answers.

    Raises:
        LanguageModelMissing: SmolLM2 is not there. FileNotFoundError: the checkpoint or adapters are not.

    Example:

        >>> from picturebook import KnowledgeArguments, write_knowledge
        >>> write_knowledge(KnowledgeArguments(out=Path("runs/knowledge")))  # doctest: +SKIP
    """
    out, seed = Path(arguments.out), arguments.seed
    base = GillPipeline.from_pretrained(find_checkpoint())
    model, tokenizer = load_language_model(arguments.language_model, torch.bfloat16)
    queries = sample_queries(arguments.items, seed)
    texts = [query.text for query in queries]
    work = out / "answers" / f"{arguments.items}-{seed}"
    plain = plain_generator(base)
    answers = {
        PLAIN: _kept(work / "plain.npz", lambda: Answers(generate_from_captions(plain, texts, seed))),
        TINY: _kept(work / "tiny.npz", lambda: answer_by_pipeline(base, texts, seed)),
    }
    asked = english_model(model, tokenizer, WEIGHTS)
    gill = load_adapters(base, model, Path(arguments.adapters or find_smollm2_adapters()))
    answers[SMOLLM2] = _kept(work / "smollm2.npz", lambda: answer_by_states(base, gill, asked, texts, seed))
    asks = _asks(gill, [as_chat(text, tokenizer) for text in texts_without_request(TEST)], tokenizer)
    generator = stream(seed, TEST, "knowledge, images")
    asks_behind = _asks(gill, texts_about_images(tokenizer, TEST, generator), tokenizer)
    if arguments.own_adapters is not None:
        own = own_language_model(base)
        found = load_adapters(base, own.language_model, arguments.own_adapters)
        answers[TINY_EQUAL] = _kept(work / "own.npz", lambda: answer_by_states(base, found, own, texts, seed))
    if arguments.random_adapters is not None:
        record = json.loads((arguments.random_adapters / "record.json").read_text(encoding="utf-8"))
        untrained = english_model(random_language_model(model, int(record["seed"])), tokenizer, record["weights"])
        random = load_adapters(base, untrained.language_model, arguments.random_adapters)
        answers[RANDOM] = _kept(work / "random.npz", lambda: answer_by_states(base, random, untrained, texts, seed))
    _, scenes = library_of(base)
    tables = [
        *knowledge_tables(queries, answers, scenes),
        decision_and_requests(queries, answers[SMOLLM2], scenes, asks, asks_behind),
    ]
    for table in tables:
        print(table.markdown(), flush=True)
    results = {table.name: table.as_json() for table in tables} | {"items": arguments.items, "seed": seed}
    for name, text in (
        ("knowledge.md", "\n".join(table.markdown() for table in tables)),
        ("knowledge.json", json.dumps(results, indent=2) + "\n"),
    ):
        with replace_file(out / name) as new:
            new.write_text(text, encoding="utf-8")
    return tables


def _kept(path: Path, answer: Callable[[], Answers]) -> Answers:
    """Answers from a file, or written to it."""
    if path.exists():
        with np.load(path) as arrays:
            return Answers(**{name: arrays[name] for name in arrays.files})
    found = answer()
    with replace_file(path) as new, open(new, "wb") as file:
        np.savez_compressed(file, **{name: value for name, value in vars(found).items() if value is not None})
    return found


def load_adapters(base: GillPipeline, language_model: PreTrainedModel, folder: Path) -> GillForConditionalGeneration:
    """Adapters in float32 around a loaded language model."""
    return GillForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, language_model=language_model, vision_model=base.model.vision_model
    )


@torch.no_grad()
def _asks(gill: GillForConditionalGeneration, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    reader = StateReader(gill.language_model, tokenizer, gill.img_embeddings.weight.detach())
    count = gill.config.num_image_output_tokens
    states = reader.read(prompts, count + 1)[:, 0]
    best = gill.compute_logits(states.to(gill.language_model.dtype)).argmax(-1)
    return (best == gill.config.image_output_token_ids[0]).numpy()

"""Visual Dialog: generate or retrieve the image of a dialogue, or rank the answers to its questions."""

from tqdm.auto import tqdm

from .arguments import VisdialOptions
from .dialogues import Dialogue, read_dialogues
from .metric_loading import load_metric
from .results import RESULTS_FILE, Results, mean_metric
from .systems import Prompt
from .tasks import Found, Item, data_protocol, find_images, generate_or_retrieve, load_system

_FILE_SETS = ("VisualDialog_val2018", "VisualDialog_test2018", "COCO_train2014", "COCO_val2014")


def run(options: VisdialOptions) -> Results:
    """Evaluate; see [`~evaluation_gill.evaluate`]."""
    dialogues = read_dialogues(options.annotations, options.dense)
    items = [
        Item(
            label=f"dialogue on image {dialogue.image}",
            name=str(dialogue.image),
            pieces=("\n".join(dialogue.lines(options.rounds)),),
            target=image_names(dialogue),
            text="\n".join(dialogue.lines(options.rounds)),
            problem=_problem(dialogue, options),
        )
        for dialogue in dialogues[: options.limit]
    ]
    protocol = data_protocol("VisDial 1.0", options)
    found = find_images(options, items, [image_names(dialogue) for dialogue in dialogues])
    if options.mode == "answers":
        names = {item.name for item in found.items}
        complete = [entry for entry in dialogues[: options.limit] if str(entry.image) in names]
        return _rank_answers(options, complete, found, protocol)
    protocol |= {"rounds": options.rounds, "context": "dialogue alone", "texts_joined_by": "\n"}
    return generate_or_retrieve(options, "visdial", found, protocol, "none")


def image_names(dialogue: Dialogue) -> tuple[str, ...]:
    """Names that the file of a dialogue's image may have, without suffix."""
    number = f"{dialogue.image:012d}"
    return (number, str(dialogue.image), *(f"{name}_{number}" for name in _FILE_SETS))


def _rank_answers(options: VisdialOptions, dialogues: list[Dialogue], found: Found, protocol: dict) -> Results:
    """Rank the options of every round by their likelihood after image and dialogue (FROMAGe, section 4.2)."""
    system = load_system(options, "answer_scores")
    scores: list[list[float]] = []
    sparse: list[list[float]] = []
    dense: dict[int, list[float]] = {}
    for dialogue in tqdm(dialogues, desc="visdial answers", unit="dialogue", disable=None):
        image = found.files[image_names(dialogue)]
        prompts = [
            Prompt((image, "\n".join([*dialogue.lines(number), f"Q: {asked.question}?", "A: "])))
            for number, asked in enumerate(dialogue.rounds)
        ]
        for number, asked in enumerate(dialogue.rounds):
            if asked.relevance is not None:
                dense[len(scores) + number] = list(asked.relevance)
            sparse.append([float(place == asked.right) for place in range(len(asked.options))])
        scores += system.answer_scores(prompts, [asked.options for asked in dialogue.rounds], options.batch_size)
    ranking = load_metric("retrieval_ranking").compute(predictions=scores, references=sparse)["scores"]
    ranking.pop("ndcg")
    if dense:
        judged = load_metric("retrieval_ranking").compute(
            predictions=[scores[number] for number in dense], references=list(dense.values())
        )
        ranking["ndcg"] = judged["scores"]["ndcg"]
    protocol = {
        **protocol,
        "context": "image and dialogue so far",
        "texts_joined_by": "\n",
        "examples": len(scores),
        "candidates": "the options of each round",
        "score": "log-likelihood of the answer, summed over its tokens",
        "ties": "mean over all orders",
        "ndcg_over": f"{len(dense)} densely annotated rounds",
    }
    metrics = [mean_metric(name, values) for name, values in ranking.items()]
    results = Results("visdial answers", system.describe(), protocol, metrics, found.left_out)
    results.write(options.out / RESULTS_FILE)
    return results


def _problem(dialogue: Dialogue, options: VisdialOptions) -> str:
    if options.mode != "answers":
        count = len(dialogue.rounds)
        return "" if count >= options.rounds else f"it has {count} rounds, {options.rounds} were asked for"
    lacking = [
        number + 1
        for number, entry in enumerate(dialogue.rounds)
        if entry.right is None or not 0 <= entry.right < len(entry.options) or not all(map(str.strip, entry.options))
    ]
    return f"its rounds {lacking} have no options with a right one, or empty ones" if lacking else ""


__all__ = ["image_names", "run"]

"""Ask a gallery what it was never trained on, and measure what it finds.

    python examples/emoji/measure.py emoji

The definitions and tags of `questions.json` are asked of the gallery, of the one with random weights where it is there,
and of the names alone: by their words (BM25), and by the language model's states, with nothing trained. An image is
right that has the name that was defined, or any name with the tag. All images are candidates.

Half of the questions are for choosing (`--split validation`), the others for measuring.
"""

import argparse
import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fetch import words_of
from torch import nn
from torch.nn import functional

from evaluation_gill.bootstrap import interval_of_mean
from gill import GillForConditionalGeneration, GillProcessor, RetrievalSet
from training_gill.caches import LanguageStatesCache

KS = (1, 10)
_BATCH = 64
# Of BM25, as usual.
_K1, _B = 1.2, 0.75


@dataclass(frozen=True)
class Question:
    """
    Attributes:
        kind: `"definition"`, `"tag"` or `"name"`; the last was trained on.
        text: What is asked.
        names: Those that are right.
    """

    kind: str
    text: str
    names: frozenset[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Folder with `questions.json`, `gallery` and `random/gallery`.")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--at-most", type=int, default=400, help="Questions of each kind.")
    arguments = parser.parse_args()
    try:
        results = measure(arguments.folder, arguments.split, arguments.at_most)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    (arguments.folder / f"results_{arguments.split}.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    for question, found in results["examples"]:
        print(f"{question}: {', '.join(found)}")


def measure(folder: Path, split: str = "test", at_most: int = 400) -> dict[str, object]:
    """Shares of questions whose image is among the first 1 and 10, with their 95 % intervals, for each system."""
    galleries = {"SmolLM2": folder / "gallery", "random weights": folder / "random" / "gallery"}
    galleries = {name: path for name, path in galleries.items() if (path / "retrieval_set").is_dir()}
    if "SmolLM2" not in galleries:
        raise FileNotFoundError(f"{folder / 'gallery' / 'retrieval_set'} is not there; make it with `gill index`.")
    names = list(RetrievalSet.load(galleries["SmolLM2"] / "retrieval_set").dataset["caption"])
    questions = read_questions(folder / "questions.json", sorted(set(names)), split, at_most)
    scores = {"names, BM25": bm25([question.text for question in questions], names)}
    for system, path in galleries.items():
        found = gallery_scores(path, questions, names, untrained=system == "SmolLM2")
        if "untrained" in found:
            scores["names, SmolLM2's states"] = found["untrained"]
        scores[system] = found["trained"]
    right = np.array([[name in question.names for name in names] for question in questions])
    kinds = {
        "definition": [q.kind == "definition" for q in questions],
        "definition without a word of the name": [q.kind == "definition" and not shares_a_word(q) for q in questions],
        "tag": [q.kind == "tag" for q in questions],
        "name (trained)": [q.kind == "name" for q in questions],
    }
    rows = []
    for system, scored in scores.items():
        for kind, chosen in kinds.items():
            if not any(chosen):
                continue
            row: dict[str, object] = {"system": system, "kind": kind, "questions": sum(chosen)}
            for k in KS:
                values = hits(scored[chosen], right[chosen], k)
                row[f"recall@{k}"] = [float(np.mean(values)), *(interval_of_mean(values) or (None, None))]
            rows.append(row)
    best = (-scores["SmolLM2"]).argsort(1)[:, :3]
    some = [number for number, question in enumerate(questions) if question.kind != "name"][:: max(len(best) // 12, 1)]
    examples = [(questions[number].text, [names[place] for place in best[number]]) for number in some]
    return {"images": len(names), "names": len(set(names)), "split": split, "rows": rows, "examples": examples}


def read_questions(path: Path, names: Sequence[str], split: str, at_most: int) -> list[Question]:
    """Questions of one half, in an order that their texts alone decide, and as many trained names."""
    known = set(names)
    content = json.loads(path.read_text(encoding="utf-8"))
    found = {
        "definition": [Question("definition", one["text"], frozenset({one["name"]})) for one in content["definitions"]],
        "tag": [Question("tag", one["tag"], frozenset(one["names"])) for one in content["tags"]],
        "name": [Question("name", name, frozenset({name})) for name in names],
    }
    chosen = []
    for questions in found.values():
        half = [question for question in questions if question.names & known and split_of(question.text) == split]
        chosen += sorted(half, key=lambda question: _digest(question.text))[:at_most]
    return chosen


def split_of(text: str) -> str:
    return "test" if _digest(text)[0] % 2 else "validation"


def shares_a_word(question: Question) -> bool:
    return any(set(words_of(question.text)) & set(words_of(name)) for name in question.names)


@torch.no_grad()
def gallery_scores(
    folder: Path, questions: Sequence[Question], names: Sequence[str], untrained: bool = False
) -> dict[str, np.ndarray]:
    """
    Scores of all images for all questions, `(num_questions, num_images)`: `trained` by the heads and, on demand,
    `untrained` by the cosine of the states after question and name, less their mean over the names.

    Raises:
        ValueError: a retrieval set of other images.
    """
    found = RetrievalSet.load(folder / "retrieval_set")
    if list(found.dataset["caption"]) != list(names):
        raise ValueError(f"{folder / 'retrieval_set'} has other images than those that are asked for.")
    images = torch.from_numpy(np.array(found.dataset.with_format("numpy")["embedding"][:], dtype=np.float32))
    model = GillForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    # As the states that were trained on.
    model.language_model.to(torch.bfloat16)
    processor, cache = GillProcessor.from_pretrained(folder), LanguageStatesCache(folder.parent / "cache")
    head, width = model.text_retrieval_head, model.text_retrieval_head.in_features
    # A head that changes nothing gives the states themselves.
    model.text_retrieval_head = nn.Linear(width, width, bias=False)
    nn.init.eye_(model.text_retrieval_head.weight)
    asked = states_of(model, processor, cache, [question.text for question in questions])
    trained = functional.normalize(head(asked), dim=1) @ functional.normalize(images, dim=1).T
    scores = {"trained": trained.numpy()}
    if untrained:
        unique = list(dict.fromkeys(names))
        own = states_of(model, processor, cache, unique)
        mean = own.mean(0)
        own, read = (functional.normalize(part - mean, dim=1) for part in (own, asked))
        places = {name: number for number, name in enumerate(unique)}
        scores["untrained"] = (read @ own[[places[name] for name in names]].T).numpy()
    return scores


def states_of(
    model: GillForConditionalGeneration, processor: GillProcessor, cache: LanguageStatesCache, texts: Sequence[str]
) -> torch.Tensor:
    """What the retrieval head reads after each text as a person's message, `(num_texts, width)`.

    Those of trained names are in the cache of the training.
    """
    chats = [[{"role": "user", "content": text}] for text in texts]
    prompts = processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    found = torch.zeros(len(texts), model.text_retrieval_head.out_features)
    for number, prompt in enumerate(prompts):
        if prompt in cache:
            found[number] = cache[prompt].flatten()
    # Texts of about the same length together.
    new = [number for number, prompt in enumerate(prompts) if prompt not in cache]
    new.sort(key=lambda number: len(prompts[number]))
    for begin in range(0, len(new), _BATCH):
        some = new[begin : begin + _BATCH]
        batch = processor([prompts[number] for number in some])
        found[some] = model.get_text_retrieval_embeddings(batch["input_ids"], batch["attention_mask"]).float()
    return found


def bm25(texts: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Okapi BM25 of names for texts, `(num_texts, num_names)`, by words without the `s` of the plural."""
    documents = [Counter(words_of(name)) for name in names]
    lengths = np.array([sum(document.values()) for document in documents])
    norm = _K1 * (1 - _B + _B * lengths / lengths.mean())
    containing = Counter(word for document in documents for word in document)
    weights: dict[str, np.ndarray] = {}
    for word in {word for text in texts for word in words_of(text)} & set(containing):
        count = np.array([document[word] for document in documents], dtype=np.float64)
        rarity = math.log(1 + (len(names) - containing[word] + 0.5) / (containing[word] + 0.5))
        weights[word] = rarity * count * (_K1 + 1) / (count + norm)
    nothing = np.zeros(len(names))
    return np.stack([sum((weights.get(word, nothing) for word in set(words_of(text))), nothing) for text in texts])


def hits(scores: np.ndarray, right: np.ndarray, k: int) -> list[float]:
    """Whether a right image is among the first `k` for each question; equal scores are ordered at random."""
    noise = np.random.default_rng(0).random(scores.shape)
    found = []
    for row, other, wanted in zip(scores, noise, right, strict=True):
        found.append(float(wanted[np.lexsort((other, -np.round(row, 6)))[:k]].any()))
    return found


def table(results: dict[str, object]) -> str:
    """Markdown, percentages with their intervals."""
    lines = ["| asked by | system | questions | R@1 | R@10 |", "|---|---|---|---|---|"]
    for row in sorted(results["rows"], key=lambda row: row["kind"]):  # type: ignore[attr-defined, call-overload]
        values = []
        for k in KS:
            mean, *interval = row[f"recall@{k}"]
            between = "" if None in interval else " ({:.1f} to {:.1f})".format(*(100 * end for end in interval))
            values.append(f"{100 * mean:.1f}{between}")
        lines.append(f"| {row['kind']} | {row['system']} | {row['questions']} | {' | '.join(values)} |")
    return "\n".join(lines)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


if __name__ == "__main__":
    main()

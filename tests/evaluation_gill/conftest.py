"""Small files in the data sets' own formats, and small networks to measure with."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evaluation_gill import Results
from tests.evaluation_gill.small_networks import write_alexnet, write_clip, write_inception

STORIES = [
    ("s1", ["p0", "p1", "p2", "p3", "p4"]),
    ("s2", ["p5", "p6", "p7", "p8", "p9"]),
    ("s3", ["p1", "p2", "p10", "p11", "p12"]),
]
SENTENCES = ["we went out .", "a dog ran .", "it was hot .", "a cat slept .", "night fell ."]


@dataclass(frozen=True)
class Data:
    """Where the files are; `networks` are the options that give the metrics their networks."""

    folder: Path
    images: Path
    networks: dict[str, Any]
    clip: Path

    @property
    def vist(self) -> Path:
        return self.folder / "val.story-in-sequence.json"

    @property
    def visdial(self) -> Path:
        return self.folder / "visdial_1.0_val.json"

    @property
    def dense(self) -> Path:
        return self.folder / "visdial_1.0_val_dense_annotations.json"

    @property
    def votes(self) -> Path:
        return self.folder / "PartiPromptsAllDecisions_Alignment.tsv"

    @property
    def coco(self) -> Path:
        return self.folder / "captions_val2014.json"

    @property
    def cc3m(self) -> Path:
        return self.folder / "cc3m_val.tsv"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, images: list[Image.Image]) -> Data:
    """Three stories, three dialogues, votes on prompts, captions; thirteen images."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    (folder / "clip").mkdir()
    for number in range(13):
        images[number].save(folder / "images" / f"p{number}.png")
    for number in (1, 2, 3):
        images[number].save(folder / "images" / f"VisualDialog_val2018_{number:012d}.jpg")
    _write(folder / "val.story-in-sequence.json", {"annotations": vist_annotations(STORIES)})
    _write(folder / "visdial_1.0_val.json", visdial([1, 2, 3], rounds=3))
    dense = [{"image_id": one, "round_id": 2, "gt_relevance": [0.0, 0.4, 1.0, 0.0]} for one in (1, 2)]
    _write(folder / "visdial_1.0_val_dense_annotations.json", dense)
    _write_votes(folder / "PartiPromptsAllDecisions_Alignment.tsv")
    coco = {
        "images": [{"id": n, "file_name": f"p{n}.jpg"} for n in range(4)],
        "annotations": [{"id": 10 + n, "image_id": n % 4, "caption": f"an image of thing {n}\n"} for n in range(6)],
    }
    _write(folder / "captions_val2014.json", coco)
    lines = [f"thing number {n}\thttp://somewhere.org/a/p{n}.png?size=2\n" for n in range(5)]
    (folder / "cc3m_val.tsv").write_text("".join(lines), encoding="utf-8")
    clip, (alexnet, _) = write_clip(folder / "clip"), write_alexnet(folder)
    inception = write_inception(folder)
    networks = {
        "clip": str(clip),
        "lpips_alexnet": str(alexnet),
        "inception": str(inception),
        "inception_sha256": hashlib.sha256(inception.read_bytes()).hexdigest(),
    }
    return Data(folder, folder / "images", networks, clip)


def options_of(data: Data, annotations: Path, out: Path, **fields: Any) -> dict[str, Any]:
    """Options of a quick evaluation with the small networks."""
    return {
        "annotations": annotations,
        "images": data.images,
        "out": out,
        **data.networks,
        "num_inference_steps": 2,
        "size": 16,
        **fields,
    }


def values(results: Results) -> dict[str, float]:
    """Metrics by their names."""
    return {metric.name: metric.value for metric in results.metrics}


def vist_annotations(stories: list[tuple[str, list[str]]]) -> list[list[dict[str, Any]]]:
    """As in the published files: a list of lists of one, the sentences of a story not in their order here."""
    return [
        [
            {
                "story_id": name,
                "photo_flickr_id": shown[place],
                "worker_arranged_photo_order": place,
                "text": SENTENCES[place],
                "original_text": "?",
                "tier": "story-in-sequence",
            }
        ]
        for name, shown in stories
        for place in (*range(1, len(shown)), 0)
    ]


def visdial(numbers: list[int], rounds: int) -> dict[str, Any]:
    """Dialogues on the images with these numbers."""
    questions, answers = ["is it red", "is it big", "a cat"], ["no", "yes", "two", "blue"]
    dialogs = [
        {
            "image_id": number,
            "caption": "a thing",
            "dialog": [
                {
                    "question": turn % 3,
                    "answer": (number + turn) % 4,
                    "answer_options": [0, 1, 2, 3],
                    "gt_index": (number + turn) % 4,
                }
                for turn in range(rounds)
            ],
        }
        for number in numbers
    ]
    return {"version": "1.0", "split": "val", "data": {"questions": questions, "answers": answers, "dialogs": dialogs}}


def _write_votes(path: Path) -> None:
    some = (
        "gen,gen,gen,gen,ret ret,ret,ret,same,same gen,gen,gen,ret,ret ret,ret,ret,ret,ret gen,gen,gen,ret,same "
        "same,same,same,same,same ret,ret,ret,ret,gen gen,gen,gen,gen,gen"
    )
    lines = ["Prompt\tCategory\tChallenge\tNote\tDecisions"]
    lines += [f'a "thing" {number}\tAbstract\tBasic\t\t{one}' for number, one in enumerate(some.split(" "))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")

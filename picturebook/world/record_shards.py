"""Pairs and illustrated stories as tar shards (webdataset), records that `training_gill` trains on."""

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from .caption_grammar import describe
from .drawing import png_bytes
from .pairs import PairMixture, draw_all, sample_pairs
from .partial_scene import fully_known
from .phrases import IMAGE_REQUEST, join_words
from .splits import story_in, stream

# Files of a record by their suffix.
Files = Mapping[str, bytes]
_PER_SHARD, _PAIRS_AT_ONCE = 2_000, 500
# Shares of stories that have an image after each sentence, and after every other one on average; others have the last.
_ILLUSTRATED, _IN_PART = 0.6, 0.2
# Share of the former whose first sentence is left out, so that what the scene is has to be read in its image.
_UNTOLD = 0.25


def pairs_to_draw(split: str, number: int, seed: int, mixture: PairMixture) -> Iterator[Files]:
    """Pairs whose image is to be drawn after its caption and a request, as in documents."""
    generator = stream(seed, split, "pairs to draw")
    for _ in range(0, number, _PAIRS_AT_ONCE):
        pairs = sample_pairs(split, _PAIRS_AT_ONCE, generator, mixture)
        for image, caption in zip(pairs.images, pairs.captions, strict=True):
            yield {"png": png_bytes(image), "txt": f"{caption} . {IMAGE_REQUEST}".encode()}


def pairs_to_read(split: str, number: int, seed: int, mixture: PairMixture) -> Iterator[Files]:
    """Pairs whose image is read before its full caption in the plain form, objects in the scene's own order."""
    generator = stream(seed, split, "pairs that are read")
    for _ in range(0, number, _PAIRS_AT_ONCE):
        pairs = sample_pairs(split, _PAIRS_AT_ONCE, generator, mixture)
        for image, scene in zip(pairs.images, pairs.scenes, strict=True):
            yield {"png": png_bytes(image), "txt": describe(fully_known(scene)).encode()}


def illustrated_documents(split: str, number: int, seed: int, jitter: bool = False) -> Iterator[Files]:
    """Stories as documents in MMC4's form. A request ends each text that an image follows, as in prompts.

    Args:
        jitter (`bool`): See [`PairMixture`].
    """
    generator = stream(seed, split, "illustrated documents")
    for _ in range(number):
        story = story_in(split, generator)
        has_image = _has_image(len(story.sentences), generator)
        sentences = list(story.sentences)
        if all(has_image) and generator.random() < _UNTOLD:
            sentences[0] = ""
        yield document_files(sentences, has_image, draw_all(story.scenes, generator if jitter else None))


def document_files(sentences: Sequence[str], has_image: Sequence[bool], images: np.ndarray) -> Files:
    """A story as a document.

    Args:
        sentences: Without full stops; an empty one is not told.
        has_image: For each sentence, whether its image follows it.
        images: uint8 `(num_sentences, 32, 32, 3)`.
    """
    texts, info, files = [], [], {}
    for number, (sentence, shown) in enumerate(zip(sentences, has_image, strict=True)):
        texts.append(join_words(f"{sentence} ." if sentence else "", IMAGE_REQUEST if shown else ""))
        if shown:
            files[f"{number}.png"] = png_bytes(images[number])
            info.append({"image_name": f"{number}.png", "matched_text_index": number})
    return {"json": json.dumps({"text_list": texts, "image_info": info}).encode(), **files}


def write_shards(folder: str | os.PathLike[str], name: str, number: int, records: Iterable[Files]) -> None:
    """Write `number` records as `FOLDER/NAME-00000.tar` and so on; the same records give the same bytes."""
    found = iter(records)
    for shard, begin in enumerate(range(0, number, _PER_SHARD)):
        with tarfile.open(Path(folder) / f"{name}-{shard:05d}.tar", "w") as archive:
            for at in range(begin, min(begin + _PER_SHARD, number)):
                for suffix, content in next(found).items():
                    member = tarfile.TarInfo(f"{at:06d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def _has_image(number: int, generator: np.random.Generator) -> list[bool]:
    kind = generator.random()
    share = 1.0 if kind < _ILLUSTRATED else 0.5 if kind < _ILLUSTRATED + _IN_PART else 0.0
    return [*(generator.random(number - 1) < share).tolist(), True]

"""Instructed documents: write each with texts and images in turn, and measure the images by FID.

Source: Dong et al. 2024, DreamLLM (https://arxiv.org/abs/2309.11499), section 4.3: the distance is taken between all
images that were drawn and all images of the documents.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm.auto import tqdm

from .arguments import InterleavedOptions
from .documents import Document, read_documents
from .generation_task import SCORES_FILE
from .results import RESULTS_FILE, Results, mean_metric, write_text
from .resumable_run import ResumableDocuments
from .systems import DocumentRequest, DocumentSystem, Drawing
from .tasks import Item, data_protocol, fid_of, find_images, load_system


def run(options: InterleavedOptions) -> Results:
    """Evaluate; see [`~evaluation_gill.evaluate`].

    Raises:
        ValueError: fewer than two images were drawn, which have no FID.
    """
    documents = {f"document {document.name}": document for document in _sample(options)}
    items = [
        Item(
            label=label,
            name=document.name,
            pieces=(document.instruction,),
            target=document.images[:1],
            text=document.instruction,
            context=document.images[1:],
            problem="" if document.images else "it has no image",
        )
        for label, document in documents.items()
    ]
    found = find_images(options, items, ())
    measured = [documents[item.label] for item in found.items]
    measure = fid_of(options)
    measure.check()
    system: DocumentSystem = load_system(options, "write_documents")
    drawing = Drawing(options.num_inference_steps, options.guidance_scale, options.size)
    described = system.describe()
    protocol = {
        **data_protocol("instructed documents", options),
        "sample": "all, in the file's order" if options.sample is None else f"{options.sample}, seed {options.seed}",
        "examples": len(measured),
        "context": "instruction",
        "max_images": options.max_images or "as many as the document has",
        "text": f"the most probable, up to {options.max_new_tokens} tokens",
        "drawing": asdict(drawing),
        "seed": options.seed,
        "seeding": "seed plus number of the example",
    }
    written = ResumableDocuments(options.out, {**protocol, "system": described}, options.seed, shared=False)
    _finish(written, system, measured, drawing, options)
    answers = [written.answer(number) for number in range(len(measured))]
    drawn = [[piece for piece in answer if isinstance(piece, Path)] for answer in answers]
    created = [path for images in drawn for path in images]
    real = [found.files[(name,)] for document in measured for name in document.images]
    if len(created) < 2:
        raise ValueError(
            f"In answer to {len(measured)} documents {len(created)} images were drawn, and FID needs two at least; "
            f"{options.out / written.answers_folder} holds what was written."
        )
    protocol |= {"images": len(real), "metrics": {measure.name: measure.protocol}}
    metrics = [
        measure.compute_of_sets(created, real),
        mean_metric("images_per_document", [float(len(images)) for images in drawn]),
    ]
    results = Results("interleaved generation", described, protocol, metrics, found.left_out)
    scores = [
        {
            "example": document.name,
            "instruction": document.instruction,
            "answer": [piece.name if isinstance(piece, Path) else piece for piece in answer],
            "images": [path.name for path in images],
        }
        for document, answer, images in zip(measured, answers, drawn, strict=True)
    ]
    write_text(options.out / SCORES_FILE, json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
    results.write(options.out / RESULTS_FILE)
    return results


def _sample(options: InterleavedOptions) -> list[Document]:
    documents = read_documents(options.annotations)
    if options.sample is not None:
        if options.sample > len(documents):
            raise ValueError(f"The sample of {options.sample} is more than the {len(documents)} documents there are.")
        documents = random.Random(options.seed).sample(documents, options.sample)
    return documents[: options.limit]


def _finish(
    run: ResumableDocuments,
    system: DocumentSystem,
    documents: Sequence[Document],
    drawing: Drawing,
    options: InterleavedOptions,
) -> None:
    """Write the documents of a run that are not there yet."""
    with tqdm(total=len(documents), initial=run.done, desc="documents", unit="document", disable=None) as bar:
        while run.done < len(documents):
            numbers = range(run.done, min(run.done + options.batch_size, len(documents)))
            batch = [documents[number] for number in numbers]
            requests = [
                DocumentRequest(
                    document.instruction,
                    document.texts,
                    options.max_images or len(document.images),
                    options.max_new_tokens,
                )
                for document in batch
            ]
            run.finish(
                [document.name for document in batch],
                system.write_documents(requests, run.generators(numbers), drawing),
            )
            bar.update(len(batch))


__all__ = ["run"]

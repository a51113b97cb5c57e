"""The converted checkpoints answer as the authors' own code does, to float32.

`golden/README.md` says what each array is. `g`, `l`, `t` and `f` number the cases of `golden/cases.json`.
"""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_gill import GillForConditionalGeneration, GillProcessor
from pipeline_gill import GillPipeline
from tests.training_passes import both_passes
from training_gill.training_step import AdapterTrainingStep

GENERATED = (0, 1, 2)
RELATIVE = 1e-5


def assert_close(found: Any, expected: np.ndarray, tolerance: float = RELATIVE) -> None:
    """Largest difference relative to the largest value."""
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def prompt_of(case: dict[str, Any], images: list[Image.Image]) -> list[Any]:
    return [images[piece["image"]] if isinstance(piece, dict) else piece for piece in case["prompt"]]


def writing_options(case: dict[str, Any]) -> dict[str, Any]:
    return {
        "image_token_scale": case.get("ret_scale_factor", 1.0) * case.get("gen_scale_factor", 1.0),
        "min_text_tokens": case.get("min_word_tokens", 0),
    }


def seeded(case: dict[str, Any]) -> torch.Generator:
    return torch.Generator().manual_seed(case.get("seed", 1337))


@pytest.mark.parametrize("number", range(4))
def test_the_model_writes_the_authors_tokens(number, golden_model, golden_processor, golden_cases, gill_arrays, images):
    case, expected = golden_cases["generate"][number], gill_arrays[f"g{number}.ids"]
    batch = golden_processor([prompt_of(case, images)])
    sequences = golden_model.generate(**batch, max_new_tokens=expected.shape[1], **writing_options(case))
    assert sequences[:, batch["input_ids"].shape[1] :].tolist() == expected.tolist()


@pytest.mark.parametrize("number", GENERATED)
def test_states_conditioning_and_queries_are_the_authors(
    number, golden_model, golden_processor, golden_cases, gill_arrays, images
):
    case = golden_cases["generate"][number]
    written = golden_model.generate(
        **golden_processor([prompt_of(case, images)]),
        max_new_tokens=gill_arrays[f"g{number}.ids"].shape[1],
        return_dict_in_generate=True,
        **writing_options(case),
    )
    assert_close(written.img_hidden_states[:1], gill_arrays[f"g{number}.hidden"])
    assert_close(written.conditioning["prompt_embeds"][:1], gill_arrays[f"g{number}.gen_emb"])
    assert_close(written.retrieval_embeds[:1, None], gill_arrays[f"g{number}.ret_emb"])
    assert_close(written.decision_logits[:1].softmax(-1), gill_arrays[f"g{number}.decision_probs"])


@pytest.mark.parametrize("number", range(4))
def test_text_decision_images_and_scores_are_the_authors(number, golden_pipeline, golden_cases, gill_arrays, images):
    case = golden_cases["generate"][number]
    answer = golden_pipeline(
        [prompt_of(case, images)],
        decision="both" if number in GENERATED else "auto",
        max_new_tokens=case["num_words"],
        num_inference_steps=case.get("steps", 50),
        generator=seeded(case),
        **writing_options(case),
    )
    assert_answer(answer, 0, number, gill_arrays, golden_pipeline)


def test_the_same_prompts_in_one_batch_get_the_same_answers(golden_pipeline, golden_cases, gill_arrays, images):
    cases = [golden_cases["generate"][number] for number in GENERATED[:2]]
    answer = golden_pipeline(
        [prompt_of(case, images) for case in cases],
        decision="both",
        num_inference_steps=cases[0]["steps"],
        generator=[seeded(case) for case in cases],
        **writing_options(cases[0]),
    )
    for row, number in enumerate(GENERATED[:2]):
        assert_answer(answer, row, number, gill_arrays, golden_pipeline)


def test_a_batch_of_prompts_of_all_lengths_writes_the_authors_tokens(
    golden_model, golden_processor, golden_cases, gill_arrays, images
):
    # Every prompt of the goldens at once, each row under the same rules; rows 0 and 1 are the authors' own.
    cases = golden_cases["generate"]
    batch = golden_processor([prompt_of(case, images) for case in cases])
    written = golden_model.generate(
        **batch, max_new_tokens=16, return_dict_in_generate=True, **writing_options(cases[0])
    )
    ids = written.sequences[:, batch["input_ids"].shape[1] :]
    for row in (0, 1):
        assert ids[row].tolist() == gill_arrays[f"g{row}.ids"][0].tolist()
        first = (written.img_batch_indices == row).nonzero()[0]
        assert_close(written.img_hidden_states[first], gill_arrays[f"g{row}.hidden"])


def assert_answer(answer: Any, row: int, number: int, arrays: dict[str, np.ndarray], pipeline: GillPipeline) -> None:
    tokens = "".join(pipeline.processor.img_tokens)
    text = str(arrays[f"g{number}.text"])
    assert answer.texts[row].rstrip() == text.removesuffix(tokens).rstrip()
    assert len(answer.image_pieces[row]) == (2 if tokens in text else 0)
    if not answer.image_pieces[row]:
        return
    by_source = {piece.source: piece for piece in answer.image_pieces[row]}
    drawn, found = by_source["generated"], by_source["retrieved"]
    assert drawn.decision == {"gen": "generate", "ret": "retrieve"}[str(arrays[f"g{number}.decision"])]
    assert (
        answer.image_pieces[row][0].source
        == {"gen": "generated", "ret": "retrieved"}[str(arrays[f"g{number}.decision"])]
    )
    assert_close([list(drawn.decision_probabilities.values())], arrays[f"g{number}.decision_probs"])
    grey_levels = np.abs(np.asarray(drawn.image).astype(int) - arrays[f"g{number}.image"]).max()
    assert grey_levels <= 1
    scale = float(pipeline.model.logit_scale.detach().exp())
    assert_close(drawn.score / scale, arrays[f"g{number}.gen_rank"])
    assert found.index == arrays[f"g{number}.top3"][0]
    assert_close(found.score, arrays[f"g{number}.ret_scores"][0])


@pytest.mark.parametrize("number", GENERATED)
def test_every_image_of_the_retrieval_set_scores_as_the_authors_say(number, golden_pipeline, gill_arrays):
    query = torch.from_numpy(gill_arrays[f"g{number}.ret_emb"][0])
    cosines, indices = golden_pipeline.retrieval_set.search(query, 24)
    scores = torch.empty(24)
    scores[indices[0]] = cosines[0] * golden_pipeline.model.logit_scale.detach().exp()
    assert_close(scores, gill_arrays[f"g{number}.all_scores"])
    assert indices[0, :3].tolist() == gill_arrays[f"g{number}.top3"].tolist()


def test_the_likelihood_of_a_prompt_is_the_authors(golden_model, golden_processor, golden_cases, gill_arrays, images):
    batch = golden_processor([prompt_of(golden_cases["loglik"][0], images)])
    assert_close(-golden_model(**batch, labels=batch["input_ids"]).loss, gill_arrays["l0.score"])


@pytest.mark.parametrize("number", (0, 1))
def test_losses_and_gradients_are_the_authors(number, golden_repository, golden_cases, gill_arrays, images):
    # In float64: in float32, a unit of a ReLU that rounding pushes over zero changes gradients on some machines.
    model = GillForConditionalGeneration.from_pretrained(golden_repository, dtype=torch.float64)
    case, prefix = golden_cases["train"][number], f"t{number}."
    processor = GillProcessor.from_pretrained(golden_repository)
    shown = processor.image_processor(images=[images[i] for i in case["images"]], return_tensors="pt")
    features = model.get_image_features(shown["pixel_values"]).pooler_output
    ids, lengths = gill_arrays[prefix + "ids"], gill_arrays[prefix + "lens"]
    target = np.random.RandomState(case["seed"]).standard_normal((len(ids), 77, 768)).astype(np.float32)
    rows = [row[:length] for row, length in zip(ids, lengths, strict=True)]
    output = AdapterTrainingStep(model)(
        **both_passes(rows, model.config, case["concat"]),
        image_features=features,
        target_conditioning={"prompt_embeds": torch.from_numpy(target)},
    )
    for name, expected in (
        ("captioning", "captioning.ce"),
        ("language", "retrieval.ce"),
        ("contrastive", "contrastive"),
        ("conditioning", "gen"),
    ):
        assert_close(output[f"{name}_sum"] / output[f"{name}_count"], gill_arrays[prefix + expected])
    assert_close(output["loss"], gill_arrays[prefix + "total"])
    output["loss"].backward()
    assert_close(model.img_embeddings.weight.grad, gill_arrays[prefix + "grad.input_embeddings.weight"])
    assert_close(model.logit_scale.grad, gill_arrays[prefix + "grad.logit_scale"])
    norms = {name: weight.grad.norm() for name, weight in model.named_parameters() if weight.grad is not None}
    assert all(not name.startswith(("language_model.", "vision_model.")) for name in norms)
    compared = 0
    for name, norm in norms.items():
        original = prefix + "gradnorm." + original_name(name)
        if original in gill_arrays:
            assert_close(norm, gill_arrays[original], 1e-4)
            compared += 1
    assert compared == sum(key.startswith(prefix + "gradnorm.") for key in gill_arrays)


def original_name(name: str) -> str:
    for ours, theirs in (
        ("mapper.input_projection", "gen_text_hidden_fcs.0.fc"),
        ("mapper.transformer", "gen_text_hidden_fcs.0.tfm"),
        ("mapper.queries", "gen_text_hidden_fcs.0.query_embs"),
        ("mapper.output_projection", "gen_text_hidden_fcs.0.model"),
        ("text_retrieval_head", "ret_text_hidden_fcs.0.model"),
        ("visual_projection", "visual_embeddings"),
        ("image_retrieval_head", "visual_fc"),
    ):
        if name.startswith(ours):
            return name.replace(ours, theirs)
    return name


@pytest.fixture(scope="module")
def fromage(golden_fromage_repository) -> GillPipeline:
    return GillPipeline.from_pretrained(golden_fromage_repository)


@pytest.mark.parametrize("number", range(3))
def test_fromage_reads_writes_and_retrieves_as_the_authors_does(number, fromage, golden_cases, fromage_arrays, images):
    case = golden_cases["fromage"][number]
    prompt = prompt_of(case, images)
    batch = fromage.processor([prompt])
    assert_close(-fromage.model(**batch, labels=batch["input_ids"]).loss, fromage_arrays[f"f{number}.loglik"])
    if case["num_words"]:
        options = {"max_new_tokens": case["num_words"], "image_token_scale": case["ret_scale_factor"]}
        sequences = fromage.model.generate(**batch, **options)
        assert sequences[:, batch["input_ids"].shape[1] :].tolist() == fromage_arrays[f"f{number}.ids"].tolist()
        assert fromage([prompt], **options).texts == [str(fromage_arrays[f"f{number}.text"])]
    else:
        answer = fromage([prompt], force_image=True, num_images_per_prompt=3)
        shown = [piece.image.resize((224, 224)) for piece in answer.image_pieces[0][0].candidates]
        assert np.array_equal(np.stack([np.asarray(image) for image in shown]), fromage_arrays[f"f{number}.pictures"])

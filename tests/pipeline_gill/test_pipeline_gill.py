"""What `GillPipeline` promises whoever calls it."""

import re

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image

from modeling_gill import GillForConditionalGeneration, GillProcessor
from pipeline_gill import GillImage, GillPipeline, RetrievalSet
from tests.small_model import small_model, small_processor

PHOTO = Image.linear_gradient("L").resize((20, 30)).convert("RGB")
PROMPT = ["What is this?", PHOTO, "Show me one in yellow."]
QUICK = {"num_inference_steps": 2, "max_new_tokens": 8}
FORCED = {**QUICK, "image_token_scale": 1e5}


@pytest.fixture
def pipe(golden_pipeline):
    yield golden_pipeline
    golden_pipeline.set_progress_bar_config(disable=True)


class Counting:
    """Counts the calls of a module's `forward`."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.batches: list[int] = []
        self.handle = module.register_forward_pre_hook(
            lambda module, args, kwargs: self.batches.append(args[0].shape[0]), with_kwargs=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.handle.remove()


def test_the_readme_example_answers_with_text_and_images(pipe):
    out = pipe([PROMPT, "a picture of a cat"], decision="auto", **FORCED)
    assert len(out.answers) == 2
    for answer in out.answers:
        for piece in answer:
            assert isinstance(piece, (str, GillImage))
            if isinstance(piece, GillImage):
                assert isinstance(piece.image, Image.Image)
                assert piece.source in ("retrieved", "generated")
                assert set(piece.decision_probabilities) == {"generate", "retrieve"}
                assert isinstance(piece.score, float)
                assert (piece.origin is not None) == (piece.source == "retrieved")


@pytest.mark.parametrize(
    ("processor_of", "name"),
    [
        (lambda: small_processor(num_image_output_tokens=2), "image_output_token_ids"),
        (lambda: small_processor(num_visual_tokens=3), "num_visual_tokens"),
        (lambda: swapped_img_tokens(small_processor()), "image_output_token_ids"),
    ],
)
def test_a_processor_of_other_tokens_than_the_models_is_refused_with_both(processor_of, name):
    model, processor = small_model(small_processor()), processor_of()
    expected = f"`{name}` is {getattr(processor, name)}, and that of the configuration is {getattr(model.config, name)}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        GillPipeline(model, processor, None)


def swapped_img_tokens(processor):
    img_tokens = list(reversed(processor.img_tokens))
    return GillProcessor(processor.image_processor, processor.tokenizer, processor.num_visual_tokens, img_tokens)


def test_the_generator_runs_once_over_all_images_that_need_it(pipe):
    with Counting(pipe.unet) as unet:
        pipe(["a cat", "the dog", PROMPT], decision="generate", num_images_per_prompt=2, **FORCED)
    assert unet.batches == [2 * 3 * 2] * 2  # with and without guidance, prompts, candidates; steps


def test_the_generator_does_not_run_where_the_answer_is_to_retrieve(pipe):
    with Counting(pipe.unet) as unet:
        out = pipe(["a cat", PROMPT], decision="retrieve", **FORCED)
    assert unet.batches == []
    assert [piece.source for pieces in out.image_pieces for piece in pieces] == ["retrieved", "retrieved"]


def test_candidates_are_ranked_by_score(pipe):
    for decision in ("generate", "retrieve"):
        (image,) = pipe("a cat", decision=decision, num_images_per_prompt=3, **FORCED).image_pieces[0]
        scores = [candidate.score for candidate in image.candidates]
        assert len(scores) == 3 and scores == sorted(scores, reverse=True)
        assert image.image is image.candidates[0].image
    assert len({candidate.index for candidate in image.candidates}) == 3


def test_several_images_per_answer_and_none_retrieved_twice(pipe):
    out = pipe("a cat", decision="retrieve", max_images=3, **{**FORCED, "max_new_tokens": 24})
    assert len(out.image_pieces[0]) == 3
    assert len({piece.index for piece in out.image_pieces[0]}) == 3


def test_no_more_images_than_asked_for(pipe):
    out = pipe("a cat", decision="generate", max_images=1, **{**FORCED, "max_new_tokens": 30})
    assert len(out.image_pieces[0]) == 1


def test_a_forced_image_comes_first_and_alone_unless_more_are_asked_for(pipe):
    (answer,) = pipe([PROMPT], force_image=True, decision="generate", **QUICK).answers
    assert [type(piece) for piece in answer] == [GillImage]
    (answer,) = pipe([PROMPT], force_image=True, decision="generate", max_images=2, **FORCED).answers
    assert isinstance(answer[0], GillImage) and len([p for p in answer if isinstance(p, GillImage)]) == 2


def test_a_forced_image_is_the_same_in_a_batch_of_other_lengths(pipe):
    def draw(prompts):
        generators = [torch.Generator().manual_seed(7) for _ in prompts]
        return pipe(prompts, force_image=True, decision="generate", generator=generators, **QUICK).images

    together = draw([PROMPT, "a cat"])
    alone = draw(["a cat"])
    assert np.abs(np.asarray(together[1]).astype(int) - np.asarray(alone[0])).max() <= 1


def test_both_gives_both_the_preferred_first(pipe):
    for answer in pipe(["a cat", PROMPT], decision="both", **FORCED).image_pieces:
        assert {piece.source for piece in answer} == {"retrieved", "generated"}
        preferred = max(answer[0].decision_probabilities, key=answer[0].decision_probabilities.get)
        assert answer[0].source.startswith(preferred.removesuffix("e"))


@pytest.mark.parametrize(("score", "source"), ((-1e6, "retrieved"), (1e6, "generated")))
def test_score_gives_the_image_with_the_higher_retrieval_score(pipe, monkeypatch, score, source):
    both = pipe("a cat", decision="both", **FORCED).image_pieces[0]
    by_score = pipe("a cat", decision="score", **FORCED).image_pieces[0]
    assert [piece.score for piece in by_score] == [max(piece.score for piece in both)]
    assert by_score[0].decision_probabilities is None
    monkeypatch.setattr(pipe, "score_images", lambda images, _: [score] * len(images))
    (image,) = pipe("a cat", decision="score", **FORCED).image_pieces[0]
    assert image.source == source and image.source.startswith(image.decision.removesuffix("e"))


def test_text_only_answers_stop_at_a_full_stop_unless_told_otherwise(pipe):
    short = pipe("a picture", max_new_tokens=20, min_text_tokens=20)
    long = pipe("a picture", max_new_tokens=20, min_text_tokens=20, truncate_text=False)
    assert short.images == [] and long.texts[0].startswith(short.texts[0])


def test_output_types_are_those_of_diffusers(pipe):
    for output_type, kind, shape in (("np", np.ndarray, (16, 16, 3)), ("pt", torch.Tensor, (3, 16, 16))):
        out = pipe("a cat", decision="both", output_type=output_type, **FORCED)
        by_source = {piece.source: piece.image for piece in out.image_pieces[0]}
        assert all(isinstance(image, kind) for image in by_source.values())
        assert tuple(by_source["generated"].shape) == shape
        assert float(by_source["retrieved"].max()) <= 1
    (image,) = pipe("a cat", decision="generate", output_type="latent", **FORCED).image_pieces[0]
    assert image.image.shape == (4, 8, 8) and image.score is None


def test_a_tuple_comes_where_no_dataclass_is_wanted(pipe):
    images, answers = pipe("a cat", return_dict=False, **FORCED)
    assert isinstance(answers[0][0], GillImage) and images[0] is answers[0][0].image


def test_callbacks_see_the_pipeline_and_can_stop_it(pipe):
    seen = []

    def stop(pipeline, step, timestep, tensors):
        seen.append((pipeline, step, set(tensors)))
        pipeline._interrupt = True
        return tensors

    with Counting(pipe.unet) as unet:
        pipe("a cat", decision="generate", callback_on_step_end=stop, **{**FORCED, "num_inference_steps": 5})
    assert seen == [(pipe, 0, {"latents"})] and len(unet.batches) == 1


def test_steps_guidance_size_and_negative_prompts_reach_the_generator(pipe):
    def draw(**options):
        generator = torch.Generator().manual_seed(3)
        return np.asarray(pipe("a cat", decision="generate", generator=generator, **{**FORCED, **options}).images[0])

    plain = draw()
    assert np.array_equal(plain, draw())
    assert draw(height=32, width=48).shape == (32, 48, 3)
    assert not np.array_equal(plain, draw(negative_prompt="the sea"))
    assert not np.array_equal(plain, draw(guidance_scale=1.0))
    with Counting(pipe.unet) as unet:
        draw(num_inference_steps=4)
    assert len(unet.batches) == 4


def test_sampling_arguments_reach_transformers(pipe):
    torch.manual_seed(0)
    texts = {
        pipe("a picture", max_new_tokens=6, min_text_tokens=6, do_sample=True, temperature=3.0).texts[0]
        for _ in range(4)
    }
    assert len(texts) > 1
    assert pipe("a picture", max_new_tokens=6, min_text_tokens=6, num_beams=2).texts


def test_progress_bars_are_those_of_diffusers(pipe, capsys):
    pipe.set_progress_bar_config(disable=False)
    pipe("a cat", decision="generate", **FORCED)
    assert "2/2" in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    pipe("a cat", decision="generate", **FORCED)
    assert "2/2" not in capsys.readouterr().err


def test_another_scheduler_is_used(pipe, golden_repository):
    scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    other = GillPipeline.from_pretrained(golden_repository, scheduler=scheduler)
    assert other.scheduler is scheduler
    other.set_progress_bar_config(disable=True)
    assert other("a cat", decision="generate", **FORCED).images[0]


def test_another_unet_is_used_and_one_that_does_not_fit_is_refused(pipe, golden_repository):
    unet = UNet2DConditionModel.from_config(pipe.unet.config)
    assert GillPipeline.from_pretrained(golden_repository, unet=unet).unet is unet
    narrow = UNet2DConditionModel.from_config({**pipe.unet.config, "cross_attention_dim": 32})
    with pytest.raises(ValueError, match="of width 32, and `conditioning` has 768"):
        GillPipeline.from_pretrained(golden_repository, unet=narrow)


def test_a_ready_model_is_used(pipe, golden_repository):
    other = GillPipeline.from_pretrained(golden_repository, model=pipe.model)
    assert other.model is pipe.model


def test_dtype_reaches_every_component_and_to_moves_them(golden_repository):
    loaded = GillPipeline.from_pretrained(golden_repository, dtype=torch.bfloat16)
    parts = (loaded.model, loaded.model.language_model, loaded.vae, loaded.unet, loaded.text_encoder)
    assert {part.dtype for part in parts} == {torch.bfloat16}
    loaded.set_progress_bar_config(disable=True)
    assert len(loaded([PROMPT], decision="both", **FORCED).image_pieces[0]) == 2
    loaded.to("cpu", torch.float32)
    assert {part.dtype for part in parts} == {torch.float32}
    assert len(loaded([PROMPT], decision="both", **FORCED).image_pieces[0]) == 2


def test_an_offloaded_model_is_fetched_before_it_writes_and_before_it_scores(golden_repository):
    from accelerate import cpu_offload_with_hook

    loaded = GillPipeline.from_pretrained(golden_repository)
    loaded.set_progress_bar_config(disable=True)
    fetched = []
    _, hook = cpu_offload_with_hook(loaded.model, "cpu")
    monitored = hook.hook.pre_forward
    hook.hook.pre_forward = lambda module, *args, **kwargs: (fetched.append(1), monitored(module, *args, **kwargs))[1]
    assert loaded("a cat", decision="generate", **FORCED).images[0]
    assert len(fetched) >= 2


def test_without_a_retrieval_set_everything_is_generated(pipe):
    alone = GillPipeline(**pipe.components)
    alone.set_progress_bar_config(disable=True)
    assert alone.retrieval_set is None
    (image,) = alone(["a picture of a cat"], **FORCED).image_pieces[0]
    assert image.source == "generated"
    with pytest.raises(ValueError, match="needs a retrieval set"):
        alone("a cat", decision="retrieve")


def test_a_model_that_only_retrieves_needs_no_generator(golden_fromage_repository):
    fromage = GillPipeline.from_pretrained(golden_fromage_repository)
    assert fromage.image_generator is None and not hasattr(fromage, "unet")
    (image,) = fromage("a cat", force_image=True).image_pieces[0]
    assert image.source == "retrieved" and image.decision_probabilities is None
    with pytest.raises(ValueError, match="needs an image generator"):
        fromage("a cat", decision="generate")


def test_a_retrieval_set_for_other_weights_is_refused_with_both_fingerprints(pipe):
    mine = pipe.model.retrieval_fingerprint()
    other = {**mine, "digest": "0badf00d-0badf00d", "sketch": {name: [0.0] * 32 for name in mine["sketch"]}}
    foreign = RetrievalSet.from_embeddings(["a.png"], torch.ones(1, 256), other)
    with pytest.raises(ValueError, match=f"0badf00d-0badf00d.*{mine['digest']}"):
        pipe.retrieval_set = foreign


def test_images_that_cannot_be_opened_give_way_and_when_none_can_one_is_generated(pipe, tmp_path, caplog):
    before = pipe.retrieval_set
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    PHOTO.save(paths[2])
    embeddings = torch.eye(256)[:3] + 1
    try:
        fingerprint = pipe.model.retrieval_fingerprint()
        pipe.retrieval_set = RetrievalSet.from_embeddings(paths, embeddings, fingerprint)
        (image,) = pipe("a cat", decision="retrieve", **FORCED).image_pieces[0]
        assert image.origin == paths[2]
        pipe.retrieval_set = RetrievalSet.from_embeddings(paths[:2], embeddings[:2], fingerprint)
        (image,) = pipe("a cat", decision="retrieve", **FORCED).image_pieces[0]
        assert image.image is None and image.source == "retrieved"
        prompt = ["Q: what colour is the car ?\nA:"]
        pipe.model.decision_head.bias.data += torch.tensor([-100.0, 100.0])
        (image,) = pipe(prompt, decision="auto", **FORCED).image_pieces[0]
        assert image.source == "generated" and image.decision == "retrieve"
    finally:
        pipe.model.decision_head.bias.data -= torch.tensor([-100.0, 100.0])
        pipe.retrieval_set = before


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ({"prompt": None}, "The prompt is None"),
        ({"prompt": []}, "The list of prompts is empty"),
        ({"prompt": ""}, "Prompt 0 is an empty string"),
        ({"reference_argument": "ip_adapter_imag"}, "an argument of .* that takes an image, got 'ip_adapter_imag'"),
        ({"reference_argument": "prompt_embeds"}, "`reference_argument` must name an argument"),
        (
            {"reference_argument": "ip_adapter_image", "ip_adapter_image": Image.new("RGB", (8, 8))},
            "`ip_adapter_image` are both given",
        ),
        ({"decision": "maybe"}, "`decision` must be one of .*'maybe'"),
        ({"num_images_per_prompt": 0}, "`num_images_per_prompt` must be an integer of at least 1, got 0"),
        ({"max_images": 0}, "`max_images` must be"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be"),
        ({"min_text_tokens": -1}, "`min_text_tokens` must be"),
        ({"output_type": "jpeg"}, "`output_type` must be"),
        ({"output_type": "latent"}, "needs `decision='generate'`"),
        ({"generator": [torch.Generator()] * 2}, "`generator` is a list of 2 for 1 prompts"),
        ({"negative_prompt": ["a", "b"]}, "`negative_prompt` is a list of 2 for 1 prompts"),
        ({"prompt": "a cat " * 200}, "more than the 256 that the language model reads"),
    ),
)
def test_arguments_that_cannot_be_are_refused(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(**{"prompt": "a cat", **arguments})


def test_saved_and_loaded_it_answers_the_same(pipe, tmp_path):
    def answer(pipeline):
        generator = torch.Generator().manual_seed(1)
        return pipeline(PROMPT[0], decision="both", generator=generator, **FORCED).image_pieces[0]

    pipe.save_pretrained(tmp_path / "gill")
    loaded = GillPipeline.from_pretrained(tmp_path / "gill")
    loaded.set_progress_bar_config(disable=True)
    for one, other in zip(answer(pipe), answer(loaded), strict=True):
        assert np.array_equal(np.asarray(one.image), np.asarray(other.image))
        assert one.score == other.score
    assert loaded.config.ranking_size == 224


def test_a_repository_says_how_many_steps_and_how_much_guidance_it_is_best_with(pipe, tmp_path):
    class Steps(list):
        def __call__(self, pipeline, step, timestep, tensors):
            self.append(step)
            return tensors

    assert (pipe.config.num_inference_steps, pipe.config.guidance_scale) == (50, 7.5)
    pipe.register_to_config(num_inference_steps=3, guidance_scale=1.5)
    try:
        pipe.save_pretrained(tmp_path / "gill")
    finally:
        pipe.register_to_config(num_inference_steps=50, guidance_scale=7.5)
    loaded = GillPipeline.from_pretrained(tmp_path / "gill")
    loaded.set_progress_bar_config(disable=True)
    assert loaded.config.guidance_scale == 1.5
    for given, expected in (({}, 3), ({"num_inference_steps": 2}, 2)):
        steps = Steps()
        loaded("a cat", decision="generate", force_image=True, callback_on_step_end=steps, **given)
        assert len(steps) == expected


def test_weights_that_outgrew_their_retrieval_set_generate_and_are_saved_without_it(pipe, tmp_path, caplog):
    pipe.save_pretrained(tmp_path / "gill")
    trained = GillPipeline.from_pretrained(tmp_path / "gill")
    trained.set_progress_bar_config(disable=True)
    trained.model.image_retrieval_head.weight.data.mul_(torch.randn(256, 32))
    assert trained("a cat", decision="generate", **FORCED).images[0]
    with pytest.raises(ValueError, match="was made with the weights"):
        trained("a cat", decision="retrieve", **FORCED)
    trained.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again/retrieval_set").exists()


def test_a_self_contained_repository_needs_nothing_else(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "whole", self_contained=True)
    assert pipe.model.config.image_generator_id is not None
    loaded = GillPipeline.from_pretrained(tmp_path / "whole")
    assert loaded.model.config.is_self_contained and loaded.model.config.image_generator_id is None
    loaded.set_progress_bar_config(disable=True)
    assert loaded("a cat", decision="generate", **FORCED).images[0]


def test_a_save_that_fails_leaves_the_old_repository_as_it_was(pipe, tmp_path, monkeypatch):
    pipe.save_pretrained(tmp_path / "gill")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "gill").rglob("*")}
    monkeypatch.setattr(type(pipe.processor), "save_pretrained", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pipe.save_pretrained(tmp_path / "gill")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "gill").rglob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["gill"]


def test_a_generator_that_is_not_there_is_named(golden_repository, tmp_path):
    import json
    import shutil

    shutil.copytree(golden_repository, tmp_path / "gill", symlinks=True)
    path = tmp_path / "gill/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_generator_id": str(tmp_path / "nowhere")}))
    with pytest.raises(OSError, match=r"nowhere.*image_generator_id"):
        GillPipeline.from_pretrained(tmp_path / "gill")


def test_the_parts_are_plain_parts_of_stable_diffusion(pipe, golden_world):
    assert type(pipe.unet) is UNet2DConditionModel and type(pipe.scheduler) is DDIMScheduler
    assert isinstance(pipe.model, GillForConditionalGeneration) and isinstance(pipe, DiffusionPipeline)
    drawer = StableDiffusionPipeline.from_pretrained(golden_world / "sd-golden")
    assert (
        type(drawer) is type(pipe.image_generator)
        and drawer.components.keys() == pipe.image_generator.components.keys()
    )

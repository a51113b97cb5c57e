"""What users of diffusers expect of every pipeline, checked on `GillPipeline`."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.utils import make_image_grid
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    TextIteratorStreamer,
)

from pipeline_gill import GillPipeline
from tests.examples import run_example

DRAW = {"decision": "generate", "force_image": True, "num_inference_steps": 2, "output_type": "np"}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def pipe(golden_pipeline):
    """A pipeline of its own over the shared components: what a test sets on it, others do not see."""
    generator = StableDiffusionPipeline.from_pipe(golden_pipeline.image_generator)
    pipe = GillPipeline(**{**golden_pipeline.components, "image_generator": generator}, **golden_pipeline.parameters)
    pipe.retrieval_set = golden_pipeline.retrieval_set
    pipe.set_progress_bar_config(disable=True)
    return pipe


def without(pipe, *missing):
    """A pipeline over the same parts without some of them."""
    own = {name: None if name in missing else part for name, part in pipe.components.items()}
    if own["image_generator"] is not None:
        generator = pipe.image_generator
        parts = {name: None if name in missing else part for name, part in generator.components.items()}
        own["image_generator"] = type(generator)(**parts, **generator.parameters)
    return GillPipeline(**own)


@pytest.fixture
def own_unet(pipe):
    """The pipeline with a UNet that a test may change."""
    unet = UNet2DConditionModel.from_config(pipe.unet.config)
    unet.load_state_dict(pipe.unet.state_dict())
    pipe.unet = unet
    return pipe


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("force_image", (False, True))
@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ({"num_infrence_steps": 2}, "'num_infrence_steps'; did you mean 'num_inference_steps'"),
        ({"guidence_scale": 2.0}, "'guidence_scale'; did you mean 'guidance_scale'"),
        ({"temprature": 2.0}, "'temprature'; did you mean 'temperature'"),
        ({"nothing_like_it": 1}, "unexpected keyword argument 'nothing_like_it'$"),
        ({"eta": 1.0}, "'eta'; the image generator's own arguments go into `image_generator_kwargs="),
        ({"image_generator_kwargs": {"etta": 1.0}}, "'etta'.*did you mean 'eta'"),
        ({"image_generator_kwargs": {"height": 8}}, "'height'; give it as an argument of the call"),
        ({"image_generator_kwargs": 5}, "`image_generator_kwargs` must be a dict, got 5"),
    ),
)
def test_an_unknown_argument_is_refused_with_the_nearest_name(pipe, force_image, arguments, message):
    with pytest.raises(TypeError, match=message):
        pipe("a cat", force_image=force_image, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ({"num_inference_steps": 0}, "`num_inference_steps` must be an integer of at least 1, got 0"),
        ({"num_inference_steps": 2.5}, "`num_inference_steps` must be an integer of at least 1, got 2.5"),
        ({"num_beams": 0}, "`num_beams` must be an integer of at least 1, got 0"),
        ({"num_return_sequences": 0}, "`num_return_sequences` must be an integer of at least 1, got 0"),
        ({"generator": 42}, "`generator` must be a `torch.Generator` or a list with one for each prompt, got 42"),
        ({"negative_prompt": 7}, "`negative_prompt` must be a `str`"),
        ({"guidance_scale": "much"}, "`guidance_scale` must be a finite number"),
        ({"guidance_scale": float("nan")}, "`guidance_scale` must be a finite number"),
        ({"height": 30}, "`height` must be a positive multiple of 8"),
        ({"height": 64}, "takes `height` and `width` together, got a `height` of 64 and a `width` of None"),
        ({"latents": torch.zeros(2, 4, 8, 8)}, "`latents` must be a tensor whose first dimension is 1"),
        ({"latents": torch.full((1, 4, 8, 8), torch.nan)}, "`latents` holds values that are not finite"),
        ({"force_image": "no"}, "`force_image` must be True or False, got 'no'"),
        ({"read_back": "x"}, "`read_back` must be True or False, got 'x'"),
        ({"image_token_scale": float("nan")}, "`image_token_scale` must be a finite number, got nan"),
        ({"scheduler": "DDIM"}, "`scheduler` must be a scheduler of diffusers, got 'DDIM'"),
        ({"callback_on_step_end": 5}, "`callback_on_step_end` must be callable, got 5"),
        ({"ip_adapter_image": Image.new("RGB", (8, 8))}, "`ip_adapter_image` needs an IP adapter"),
        ({"callback_on_step_end_tensor_inputs": ["lattents"]}, "must be among .* got .'lattents'."),
    ),
)
def test_a_wrong_value_is_refused_before_anything_runs(pipe, monkeypatch, arguments, message):
    monkeypatch.setattr(type(pipe.model), "forward", None)
    with pytest.raises(ValueError, match=message):
        pipe("a cat", **{"decision": "generate", "force_image": True, **arguments})


@pytest.mark.parametrize("missing", ("model", "processor", "vae", "scheduler", "text_encoder", "tokenizer"))
def test_a_missing_component_is_named_before_anything_runs(golden_pipeline, monkeypatch, missing):
    pipe = without(golden_pipeline, missing)
    monkeypatch.setattr(type(golden_pipeline.model), "forward", None)
    with pytest.raises(ValueError, match=f"needs `{missing}`|`{missing}`.*made without"):
        pipe("a cat", **DRAW)


def test_the_text_encoder_is_needed_for_guidance_alone(golden_pipeline):
    pipe = without(golden_pipeline, "text_encoder", "tokenizer")
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a cat", guidance_scale=1.0, **DRAW).images.shape == (1, 16, 16, 3)


def test_one_progress_bar_is_shown_while_a_pipeline_loads(capfd):
    GillPipeline.from_pretrained("picturebook/checkpoint")
    shown = capfd.readouterr().err
    assert "Loading pipeline components" in shown and "Loading weights" not in shown


def test_a_streamer_hears_a_forced_image_too(pipe):
    streamer = TextIteratorStreamer(pipe.processor.tokenizer, skip_prompt=True)
    pipe("a cat", streamer=streamer, **DRAW)
    assert "".join(streamer).replace(" ", "") == "".join(pipe.processor.img_tokens)


def test_latents_and_the_generators_own_arguments_reach_it(pipe):
    latents = torch.randn(2, 4, 8, 8, generator=seeded(0))
    one, other = pipe("a cat", latents=latents, num_images_per_prompt=2, **DRAW).image_pieces[0][0].candidates
    first = pipe("a cat", latents=latents[:1], **DRAW).images[0]
    assert min(np.abs(first - image.image).max() for image in (one, other)) < 1e-4
    assert np.abs(one.image - other.image).max() > 1e-3

    def draw(**arguments):
        return pipe("a cat", generator=seeded(1), image_generator_kwargs=arguments, **DRAW).images

    assert np.array_equal(draw(), draw(eta=0.0)) and not np.array_equal(draw(), draw(eta=1.0))


def test_sources_of_images_reach_the_processor(pipe, monkeypatch):
    class Processor:
        def __getattr__(self, name):
            return getattr(processor, name)

        def __call__(self, *args, allowed_image_sources=None, **kwargs):
            seen.append(allowed_image_sources)
            return processor(*args, **kwargs)

    seen, processor = [], pipe.processor
    pipe.processor = Processor()
    pipe("a cat", **DRAW)
    pipe("a cat", allowed_image_sources=("memory",), **DRAW)
    pipe.register_to_config(allowed_image_sources=("memory", "data"))
    pipe("a cat", **DRAW)
    assert seen == [None, ("memory",), ("memory", "data")]


def test_without_a_retrieval_set_the_first_answer_says_so_once(pipe, caplog):
    pipe.retrieval_set = None
    for _ in range(2):
        pipe("a cat", **{**DRAW, "decision": "auto"})
    assert sum("has no retrieval set" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("documented", (GillPipeline.__call__, GillPipeline.from_pretrained))
def test_the_examples_of_the_documentation_run(documented):
    run_example(documented)


# --- rows and prompts ------------------------------------------------------------------------------------------------


def test_images_make_a_grid(pipe):
    images = pipe("a cat", num_images_per_prompt=4, **{**DRAW, "output_type": "pil"}).images
    assert make_image_grid(images, 2, 2).size == (32, 32)
    assert len(pipe(["a cat", "a dog"], num_images_per_prompt=2, **DRAW).images) == 4


@pytest.mark.parametrize("options", ({"do_sample": True}, {"num_beams": 2}))
def test_each_prompt_has_its_answers(pipe, options):
    torch.manual_seed(0)
    out = pipe(["a cat", "the dog is"], num_return_sequences=2, max_new_tokens=4, min_text_tokens=4, **options)
    assert len(out.answers) == 2 and [len(texts) for texts in out.texts] == [2, 2]


def test_generators_latents_and_negative_prompts_stay_with_their_prompt(pipe):
    prompts, negative = ["a cat", "the dog"], ["the sea", "a house"]
    noise = torch.randn(2, 4, 8, 8, generator=seeded(9))
    for name, values in (("generator", None), ("latents", noise)):

        def given(rows, name=name, values=values):
            return {name: [seeded(row) for row in rows] if values is None else values[rows]}

        alone = [
            pipe(prompts[row], negative_prompt=negative[row], **given([row]), **DRAW).images[0] for row in range(2)
        ]
        out = pipe(prompts, negative_prompt=negative, num_return_sequences=2, **given([0, 1]), **DRAW)
        for row, answers in enumerate(out.image_pieces):
            assert np.abs(answers[0][0].image - alone[row]).max() < 1e-4


# --- callbacks and state ---------------------------------------------------------------------------------------------


def test_a_callback_changes_guidance_and_the_pipeline_reports_it(pipe):
    def more(pipeline, step, timestep, tensors):
        pipeline._guidance_scale += 1.0
        return tensors

    assert pipe.guidance_scale == 7.5 and pipe.num_timesteps == 0 and not pipe.interrupt
    plain = pipe("a cat", generator=seeded(0), guidance_scale=2.0, **DRAW).images
    assert pipe.guidance_scale == 2.0 and pipe.num_timesteps == 2 and pipe.do_classifier_free_guidance
    changed = pipe("a cat", generator=seeded(0), guidance_scale=2.0, callback_on_step_end=more, **DRAW).images
    assert pipe.guidance_scale == 4.0 and not np.array_equal(plain, changed)


def test_callbacks_of_diffusers_work(pipe):
    callback = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    cut = pipe("a cat", generator=seeded(0), callback_on_step_end=callback, **DRAW).images
    assert pipe.guidance_scale == 0.0 and cut.shape == (1, 16, 16, 3)


def test_a_callback_sees_the_scheduler_that_runs(pipe):
    def timesteps(pipeline, step, timestep, tensors):
        assert timestep == pipeline.scheduler.timesteps[step]
        return tensors

    pipe("a cat", callback_on_step_end=timesteps, **DRAW)


def test_a_stop_from_another_thread_stops_the_call(pipe):
    started, steps = threading.Event(), []

    def wait_for_stop(pipeline, step, timestep, tensors):
        steps.append(step)
        started.set()
        assert stopped.wait(30)
        return tensors

    stopped = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(pipe, "a cat", callback_on_step_end=wait_for_stop, **{**DRAW, "num_inference_steps": 5})
        assert started.wait(30)
        pipe._interrupt = True
        stopped.set()
        call.result()
    assert steps == [0]


@pytest.mark.parametrize("scheduler_class", (DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler))
def test_eight_threads_answer_as_eight_pipelines_would(pipe, scheduler_class):
    pipe.scheduler = scheduler_class.from_config(pipe.scheduler.config, skip_prk_steps=True)
    other = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    together = threading.Barrier(8, timeout=60)

    def call(number, barrier=None):
        def on_step_end(pipeline, step, timestep, tensors):
            if number % 4 == 1 and step == 1:
                pipeline._interrupt = True
            if number % 4 == 2:
                pipeline._guidance_scale = 1.5 + step
            return tensors

        if barrier is not None:
            barrier.wait()
        out = pipe(
            f"a cat and {number} dogs",
            generator=seeded(number),
            scheduler=other if number % 4 == 3 else None,
            callback_on_step_end=on_step_end,
            **{**DRAW, "num_inference_steps": 2 + number},
        )
        return out.images, pipe.guidance_scale, pipe.num_timesteps, pipe.interrupt

    one_by_one = [call(number) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        at_once = list(threads.map(lambda number: call(number, together), range(8)))
    for (images, *state), (expected, *expected_state) in zip(at_once, one_by_one, strict=True):
        assert np.abs(images - expected).max() < 1e-4 and state == expected_state
    assert pipe.scheduler.num_inference_steps is None


# --- the image generator ---------------------------------------------------------------------------------------------


def test_the_image_generator_is_one_pipeline_that_shares_the_components(pipe):
    generator = pipe.image_generator
    assert isinstance(generator, StableDiffusionPipeline) and generator is pipe.image_generator
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    assert generator.scheduler is pipe.scheduler and pipe.image_generator is generator
    generator.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    assert pipe.scheduler is generator.scheduler
    assert pipe.components["image_generator"] is generator


def test_from_pipe_goes_both_ways_and_shares_weights(pipe, golden_world):
    drawer = StableDiffusionPipeline.from_pipe(pipe.image_generator)
    assert drawer.unet is pipe.unet
    again = GillPipeline.from_pipe(drawer, model=pipe.model, processor=pipe.processor)
    assert again.unet is pipe.unet and again.model is pipe.model
    copy = GillPipeline.from_pipe(pipe, guidance_scale=3.0)
    assert copy.unet is pipe.unet and copy.config.guidance_scale == 3.0 and copy.model is pipe.model


def test_slicing_tiling_freeu_and_fused_projections_are_the_generators(own_unet):
    pipe = own_unet
    plain = pipe("a cat", generator=seeded(0), num_images_per_prompt=2, **DRAW).images
    pipe.enable_vae_slicing()
    assert pipe.vae.use_slicing
    sliced = pipe("a cat", generator=seeded(0), num_images_per_prompt=2, **DRAW).images
    assert np.abs(plain - sliced).max() < 1e-4
    pipe.disable_vae_slicing()
    pipe.enable_vae_tiling()
    assert pipe.vae.use_tiling
    pipe.disable_vae_tiling()
    pipe.fuse_qkv_projections(vae=False)
    fused = pipe("a cat", generator=seeded(0), num_images_per_prompt=2, **DRAW).images
    assert np.abs(plain - fused).max() < 1e-3
    pipe.unfuse_qkv_projections(vae=False)
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    assert not np.array_equal(plain, pipe("a cat", generator=seeded(0), num_images_per_prompt=2, **DRAW).images)
    pipe.disable_freeu()


def test_a_pipeline_without_a_generator_says_so(golden_pipeline):
    pipe = without(golden_pipeline, "image_generator")
    assert pipe.image_generator is None
    with pytest.raises(AttributeError, match="`load_lora_weights` needs an image generator"):
        pipe.load_lora_weights("somewhere")


def test_a_pipeline_with_neither_generator_nor_retrieval_set_answers_with_text(golden_pipeline):
    pipe = without(golden_pipeline, "image_generator")
    assert pipe("a picture", max_new_tokens=4, min_text_tokens=4).texts[0]
    assert pipe("a cat", image_token_scale=1e5).image_pieces[0][0].image is None
    with pytest.raises(ValueError, match="needs a retrieval set or an image generator"):
        pipe("a cat", force_image=True)


def test_lora_changes_the_images_and_is_kept_once_fused(own_unet, tmp_path):
    from peft import LoraConfig, get_peft_model_state_dict

    pipe, donor = own_unet, UNet2DConditionModel.from_config(own_unet.unet.config)
    donor.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    StableDiffusionPipeline.save_lora_weights(tmp_path / "lora", get_peft_model_state_dict(donor))
    plain = pipe("a cat", generator=seeded(0), **DRAW).images
    pipe.load_lora_weights(tmp_path / "lora")
    with_lora = pipe("a cat", generator=seeded(0), **DRAW).images
    assert np.abs(plain - with_lora).max() > 1e-3
    for options in ({}, {"self_contained": True}):
        with pytest.raises(ValueError, match=r"carries LoRA.*`fuse_lora\(\)`, then `unload_lora_weights\(\)`"):
            pipe.save_pretrained(tmp_path / "gill", **options)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    for options in ({}, {"self_contained": True}):
        pipe.save_pretrained(tmp_path / "gill", **options)
        again = GillPipeline.from_pretrained(tmp_path / "gill")
        again.set_progress_bar_config(disable=True)
        assert np.abs(with_lora - again("a cat", generator=seeded(0), **DRAW).images).max() < 1e-4


def ip_adapter_weights(unet: UNet2DConditionModel, image_width: int = 12, tokens: int = 4) -> dict:
    """Random weights of an IP-Adapter, in the layout of its repositories."""
    width, layers, number = unet.config.cross_attention_dim, {}, 1
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            for projection in ("to_k_ip", "to_v_ip"):
                layers[f"{number}.{projection}.weight"] = torch.randn(module.to_k.weight.shape) * 0.2
            number += 2
    projection = {
        "proj.weight": torch.randn(width * tokens, image_width),
        "proj.bias": torch.zeros(width * tokens),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    return {"image_proj": projection, "ip_adapter": layers}


def test_an_ip_adapter_changes_the_images_and_is_refused_on_saving(own_unet, tmp_path):
    pipe = own_unet
    torch.manual_seed(0)
    plain = pipe("a cat", generator=seeded(0), **DRAW).images
    pipe.load_ip_adapter(ip_adapter_weights(pipe.unet), subfolder="", weight_name="", image_encoder_folder=None)
    embeds = [torch.randn(2, 1, 12)]
    shown = pipe("a cat", generator=seeded(0), ip_adapter_image_embeds=embeds, **DRAW).images
    assert np.abs(plain - shown).max() > 1e-3
    pipe.set_ip_adapter_scale(0.0)
    hidden = pipe("a cat", generator=seeded(0), ip_adapter_image_embeds=embeds, **DRAW).images
    assert np.abs(plain - hidden).max() < 1e-4
    for options in ({}, {"self_contained": True}):
        with pytest.raises(ValueError, match="carries an IP-Adapter"):
            pipe.save_pretrained(tmp_path / "gill", **options)
    pipe.unload_ip_adapter()
    assert np.abs(plain - pipe("a cat", generator=seeded(0), **DRAW).images).max() < 1e-4
    pipe.save_pretrained(tmp_path / "gill")


def test_an_image_is_drawn_after_the_best_retrieved_one(own_unet):
    pipe = own_unet
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPVisionConfig(**size, image_size=16, patch_size=8, projection_dim=12)
    pipe.image_generator.register_modules(
        image_encoder=CLIPVisionModelWithProjection(config),
        feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
    )
    pipe.load_ip_adapter(ip_adapter_weights(pipe.unet), subfolder="", weight_name="", image_encoder_folder=None)
    call = {"decision": "generate", "num_images_per_prompt": 2, **DRAW}
    refined = pipe(["a cat", "the sun"], generator=seeded(0), reference_argument="ip_adapter_image", **call)
    generator = seeded(0)
    for prompt, (image,) in zip(["a cat", "the sun"], refined.image_pieces, strict=True):
        assert image.source == "generated" and image.reference.source == "retrieved"
        # As one would do it by hand.
        (retrieved,) = pipe(prompt, **{**DRAW, "decision": "retrieve"}).image_pieces[0]
        assert image.reference.index == retrieved.index
        (by_hand,) = pipe(prompt, generator=generator, ip_adapter_image=image.reference.image, **call).image_pieces[0]
        assert by_hand.reference is None
        assert np.abs(np.asarray(image.image) - np.asarray(by_hand.image)).max() < 1e-3


def test_a_swapped_scheduler_and_a_trained_unet_are_kept_and_what_was_not_changed_is_not_copied(own_unet, tmp_path):
    golden = GillPipeline.from_pretrained(own_unet.model.config.name_or_path)
    golden.save_pretrained(tmp_path / "same")
    assert not any((tmp_path / "same" / name).exists() for name in ("vae", "unet", "scheduler", "text_encoder"))
    golden.scheduler = EulerDiscreteScheduler.from_config(golden.scheduler.config)
    golden.unet = own_unet.unet
    with torch.no_grad():
        golden.unet.conv_in.weight += 0.5
    golden.save_pretrained(tmp_path / "changed")
    again = GillPipeline.from_pretrained(tmp_path / "changed")
    assert isinstance(again.scheduler, EulerDiscreteScheduler)
    assert torch.equal(again.unet.conv_in.weight, golden.unet.conv_in.weight)
    assert not (tmp_path / "changed" / "vae").exists()


# --- loading and saving ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("self_contained", (False, True))
def test_a_half_precision_pipeline_is_loaded_as_it_was_saved(golden_repository, tmp_path, dtype, self_contained):
    pipe = GillPipeline.from_pretrained(golden_repository, dtype=dtype)
    pipe.save_pretrained(tmp_path / "gill", self_contained=self_contained)
    again = GillPipeline.from_pretrained(tmp_path / "gill")
    parts = (again.model, again.model.language_model, again.vae, again.unet, again.text_encoder)
    assert {part.dtype for part in parts} == {dtype}
    again.set_progress_bar_config(disable=True)
    assert again("a cat", **DRAW).images.shape == (1, 16, 16, 3)


@pytest.mark.parametrize("self_contained", (False, True))
def test_a_variant_is_saved_and_loaded(golden_repository, tmp_path, self_contained):
    pipe = GillPipeline.from_pretrained(golden_repository, dtype=torch.float16)
    pipe.save_pretrained(tmp_path / "gill", self_contained=self_contained, variant="fp16")
    again = GillPipeline.from_pretrained(tmp_path / "gill", variant="fp16")
    assert {part.dtype for part in (again.model, again.unet, again.vae)} == {torch.float16}
    assert again.config._name_or_path == str(tmp_path / "gill")
    with pytest.raises((ValueError, OSError), match=r"bf16|no file named|not appear"):
        GillPipeline.from_pretrained(tmp_path / "gill", variant="bf16")


@pytest.mark.parametrize("own_class", (True, False))
def test_hub_arguments_reach_the_repositories_of_components(golden_repository, monkeypatch, tmp_path, own_class):
    # `own_class=False` is what `DiffusionPipeline.from_pretrained` does, which reads no method of the pipeline's for
    # this: the arguments are taken from the frame of diffusers' function, whose name and variables this test pins.
    seen = []
    load = DiffusionPipeline.load_config.__func__
    generator_id = json.loads((golden_repository / "config.json").read_text())["image_generator_id"]

    def recorded(cls, name, *args, **kwargs):
        if name == generator_id:
            seen.append({key: kwargs.get(key) for key in ("token", "cache_dir", "local_files_only")})
        return load(cls, name, *args, **kwargs)

    monkeypatch.setattr(DiffusionPipeline, "load_config", classmethod(recorded))
    given = {"token": "hf_secret", "cache_dir": str(tmp_path), "local_files_only": True}
    loader = GillPipeline if own_class else super(GillPipeline.__mro__[1], GillPipeline)
    loader.from_pretrained(golden_repository, **given)
    # The first is ours; diffusers then reads the folder that it found.
    assert seen[0] == given


def test_the_class_of_diffusers_is_a_plain_pipeline(pipe):
    assert isinstance(pipe, DiffusionPipeline)
    assert set(pipe.parameters) >= {"ranking_size", "num_inference_steps", "guidance_scale"}
    assert pipe.to("cpu", torch.float32) is pipe

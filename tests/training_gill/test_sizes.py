"""What recipes train and what that takes, from the configurations of the real models; no weights are made."""

import json
import re
from pathlib import Path

import diffusers
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, CLIPVisionConfig, LlamaConfig

from gill.cli import main
from modeling_gill import GillConfig, GillForConditionalGeneration
from pipeline_gill.frozen_models import FrozenModel, FrozenModelError
from pipeline_gill.generator_configs import conditioning_of_configs
from tests.pipeline_gill.test_conditioning_capture_gill import TENSORS
from tests.small_generators import small_generator
from training_gill import read_recipe, recipe_sizes
from training_gill.recipe import RECIPES, Recipe, RecipeError
from training_gill.training_step import AdapterTrainingStep

PUBLISHED = json.loads(Path(__file__).with_name("published_configs.json").read_text())
MODELS = ("language_model", "vision_model", "image_generator")
HEADER = "# `gill train"
# Recipes over records, and the processes that their sizes are for.
STAGES = {"dreamllm_stage1": 1, "dreamllm_stage2": 8}


def recipes_with_sizes() -> list[str]:
    """The shipped recipes that train adapters and begin with their sizes."""
    found = sorted(path.stem for path in RECIPES.glob("*.yaml") if HEADER in path.read_text(encoding="utf-8"))
    return [name for name in found if name not in STAGES]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each published model, with its configurations alone."""
    out = tmp_path_factory.mktemp("published")
    for name, model in PUBLISHED.items():
        for file, fields in model["files"].items():
            path = out / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(fields))
    return out


def models_of(published: Path, name: str) -> dict[str, str]:
    """Entries that replace the models of a shipped recipe by the folders of their configurations."""
    shipped = read_recipe(name, use_cpu=True, report_to="none").model
    return {entry: str(published / getattr(shipped, entry)) for entry in MODELS}


def read_over(published: Path, name: str, **overrides: object) -> Recipe:
    """A shipped recipe over the published configurations."""
    return read_recipe(name, use_cpu=True, report_to="none", **{**models_of(published, name), **overrides})


def stated_sizes(name: str) -> str:
    """The sizes that a shipped recipe begins with."""
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    block = re.search(rf"^{HEADER}.*\n((?:#   .*\n)+)", text, re.M)
    assert block is not None
    return block[1].replace("#   ", "").strip()


def test_recipes_exist_for_the_models_that_people_ask_for():
    recipes = [read_recipe(name, use_cpu=True, report_to="none").model for name in recipes_with_sizes()]
    found = {tuple(getattr(recipe, entry) for entry in MODELS) for recipe in recipes}
    assert found >= {
        ("facebook/opt-6.7b", "openai/clip-vit-large-patch14", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("Qwen/Qwen3-4B", "google/siglip2-so400m-patch14-384", "stabilityai/stable-diffusion-xl-base-1.0"),
        ("meta-llama/Llama-3.2-3B", "facebook/dinov2-large", "stabilityai/stable-diffusion-3.5-medium"),
        (
            "HuggingFaceTB/SmolLM2-1.7B-Instruct",
            "google/siglip2-so400m-patch14-384",
            "Efficient-Large-Model/Sana_1600M_1024px_diffusers",
        ),
    }


def test_a_recipe_for_other_models_differs_from_the_paper_in_three_lines_and_two_folders():
    paper = read_recipe("gill_cc3m", use_cpu=True, report_to="none")
    for name in recipes_with_sizes():
        read = read_recipe(name, use_cpu=True, report_to="none")
        differing = {entry for entry, value in vars(paper.model).items() if vars(read.model)[entry] != value}
        assert differing in (set(), set(MODELS))
        assert read.data == paper.data or read.data.cache != paper.data.cache
        assert read.losses == paper.losses


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("gill_cc3m", "smollm2_siglip2_sana") else pytest.mark.slow)
        for name in recipes_with_sizes()
    ],
)
def test_a_recipe_begins_with_its_computed_sizes(published, name):
    assert stated_sizes(name) == str(recipe_sizes(read_over(published, name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_of_dreamllm_begins_with_its_computed_sizes(published, name):
    assert stated_sizes(name) == str(recipe_sizes(read_over(published, name), STAGES[name]))


@pytest.mark.slow
def test_each_half_of_the_first_stage_trains_as_many_parameters_as_the_paper_says(published):
    for stage, expected in (("creation", 4_456_448), ("comprehension", 4_198_400)):
        found = recipe_sizes(read_over(published, "dreamllm_stage1", stage=stage))
        assert sum(found.trained.values()) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_has_as_many_parameters_as_the_model(published, name):
    """A number of parameters is a sum over all widths and depths: a wrong one of these does not give it."""
    folder = published / name
    with torch.device("meta"):
        if (folder / "model_index.json").exists():
            (denoiser,) = (part for part in ("unet", "transformer") if (folder / part).is_dir())
            fields = json.loads((folder / denoiser / "config.json").read_text())
            model = getattr(diffusers, fields["_class_name"]).from_config(fields)
        else:
            config = AutoConfig.from_pretrained(folder)
            is_text = type(config) in AutoModelForCausalLM._model_mapping
            model = (AutoModelForCausalLM if is_text else AutoModel).from_config(config)
    assert sum(weight.numel() for weight in model.parameters()) == PUBLISHED[name]["parameters"]


def test_the_command_prints_the_sizes_without_an_accelerator_and_writes_nothing(published, capsys, tmp_path):
    options = [f"--{entry}={folder}" for entry, folder in models_of(published, "smollm2_siglip2_sana").items()]
    out = tmp_path / "out"
    assert main(["train", "smollm2_siglip2_sana", "--sizes", *options, f"--output_dir={out}"]) in (None, 0)
    assert stated_sizes("smollm2_siglip2_sana") in capsys.readouterr().out
    assert not out.exists()


def test_the_states_are_about_those_that_a_training_step_keeps(tmp_path):
    """Within a quarter, as attention kernels differ in what they keep."""
    models = {
        "language_model": LlamaConfig(
            vocab_size=64, hidden_size=64, intermediate_size=172, num_hidden_layers=6, num_attention_heads=2
        ),
        "vision_model": CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        ),
    }
    for name, config in models.items():
        config.save_pretrained(tmp_path / name)
    (tmp_path / "generator" / "unet").mkdir(parents=True)
    (tmp_path / "generator" / "text_encoder").mkdir()
    (tmp_path / "generator" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (tmp_path / "generator" / "unet" / "config.json").write_text('{"cross_attention_dim": 32}')
    (tmp_path / "generator" / "text_encoder" / "config.json").write_text('{"max_position_embeddings": 9}')
    mapper = {"mapper_hidden_size": 32, "mapper_num_layers": 1, "mapper_ffn_dim": 64, "num_image_output_tokens": 4}
    folders = {name: str(tmp_path / name) for name in models} | {"image_generator": str(tmp_path / "generator")}
    options = {"packing": 0.0, "bf16": False, "per_device_train_batch_size": 6}
    sizes = recipe_sizes(read_recipe("gill_cc3m", use_cpu=True, report_to="none", **mapper, **folders, **options))

    config = GillConfig(
        models["language_model"],
        models["vision_model"],
        image_output_token_ids=[65, 66, 67, 68],
        conditioning_length=9,
        conditioning_dim=32,
        use_decision_head=False,
        **{name: value for name, value in mapper.items() if name.startswith("mapper")},
    )
    step = AdapterTrainingStep(GillForConditionalGeneration(config))
    captions = torch.randint(3, 64, (6, 28))
    reads = torch.cat([torch.full((6, 4), 64), captions[:, :28]], dim=1)
    writes = torch.cat([captions, torch.tensor([[65, 66, 67, 68]]).expand(6, -1)], dim=1)
    ids = torch.cat([reads, writes])
    weights = {weight.data_ptr() for weight in step.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = step(
            ids,
            torch.ones_like(ids),
            ids,
            image_features=torch.randn(6, 32),
            target_conditioning={"prompt_embeds": torch.randn(6, 9, 32)},
        )
    assert losses["loss"].requires_grad
    assert sizes.state_bytes == pytest.approx(sum(kept.values()), rel=0.25)


def test_what_is_not_trained_is_not_counted(published):
    whole = recipe_sizes(read_over(published, "smollm2_siglip2_sana"))
    part = recipe_sizes(
        read_over(published, "smollm2_siglip2_sana", captioning_weight=0.0, mapper_type="none", conditioning_weight=0.0)
    )
    assert set(whole.trained) - set(part.trained) == {"visual_projection", "mapper"}
    assert part.state_bytes < whole.state_bytes and part.target_bytes == 0


@pytest.mark.slow
def test_lora_is_counted_as_trained_and_not_as_frozen(published):
    plain = recipe_sizes(read_over(published, "smollm2_siglip2_sana"))
    fields = '{"r": 8, "target_modules": ["q_proj", "v_proj"]}'
    lora = recipe_sizes(read_over(published, "smollm2_siglip2_sana", lora=fields))
    # 24 layers, two projections of 2048 x 2048, each with 8 rows and 8 columns.
    assert lora.trained["language_model"] == 24 * 2 * 2 * 8 * 2048
    assert lora.frozen == plain.frozen
    assert lora.state_bytes > plain.state_bytes


@pytest.mark.slow
@pytest.mark.parametrize("kind", TENSORS)
def test_the_configurations_tell_what_the_generator_itself_is_conditioned_on(kind, tmp_path):
    small_generator(kind).save_pretrained(tmp_path)
    model = FrozenModel("image generator", str(tmp_path), "`image_generator`")
    try:
        told = conditioning_of_configs(model)
    except FrozenModelError as error:
        assert "gill precompute" in str(error)
        return
    sizes = [(tensor.name, tensor.length, tensor.dim, tensor.mask_key) for tensor in TENSORS[kind]]
    assert [(tensor.name, tensor.length, tensor.dim, tensor.mask_key) for tensor in told] == sizes


def test_a_generator_that_is_not_known_is_named_with_the_way_out(published, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "AuraFlowPipeline"}')
    with pytest.raises(RecipeError, match=r"AuraFlowPipeline.*gill precompute"):
        recipe_sizes(read_over(published, "gill_cc3m", image_generator=str(tmp_path)))


def test_a_repository_to_start_from_is_refused(published):
    with pytest.raises(RecipeError, match="start_from"):
        recipe_sizes(read_over(published, "gill_cc3m", start_from="org/gill"))

"""A GILL repository on the Hub, loaded in fresh processes in every way that the card promises."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline_gill.conditioning_capture_gill import capture_negatives
from tests.hub_fixtures import TestHub, run_python
from tests.pipeline_gill.test_whole_generator import TENSORS, call_of, pipeline

PROMPT = "a dog on the beach"
OPTIONS = "decision='generate', force_image=True, height=32, width=32, num_inference_steps=2"


@pytest.fixture(scope="module")
def pushed(golden_repository: Path, module_hub_server: TestHub) -> TestHub:
    """A Hub with two revisions of `org/gill`; `decision_dropout` tells them apart: 0.5, then 0.25."""
    hub = module_hub_server
    code = f"""
    import json, shutil, tempfile
    from pathlib import Path
    from huggingface_hub import HfApi
    api = HfApi()
    api.create_repo("org/gill")
    api.upload_folder(repo_id="org/gill", folder_path={str(golden_repository)!r})
    config = json.loads(Path({str(golden_repository / "config.json")!r}).read_text())
    config["decision_dropout"] = 0.25
    api.upload_file(repo_id="org/gill", path_in_repo="config.json", path_or_fileobj=json.dumps(config).encode())
    """
    run_python(code, hub.environment)
    return hub


@pytest.fixture(scope="module")
def older(pushed: TestHub) -> str:
    """The hash of the older revision."""
    return pushed.repositories.get("models", "org/gill").history("main")[1].oid


@pytest.mark.slow
def test_every_auto_class_loads_it_where_the_package_is_not_installed(pushed: TestHub) -> None:
    code = f"""
    from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor
    name = "org/gill"
    config = AutoConfig.from_pretrained(name, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
    model = AutoModel.from_pretrained(name, trust_remote_code=True)
    other = AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=True)
    assert all(type(one).__module__.startswith("transformers_modules.") for one in (config, processor, model, other))
    print(type(config).__name__, type(processor).__name__, type(model).__name__, type(other).__name__)
    batch = processor({PROMPT!r})
    print(model.generate(**batch, max_new_tokens=4, do_sample=False).shape[0], config.decision_dropout)
    """
    lines = run_python(code, pushed.environment).stdout.split()
    assert lines == ["GillConfig", "GillProcessor", *["GillForConditionalGeneration"] * 2, "1", "0.25"]


@pytest.mark.slow
def test_diffusers_loads_it_where_the_package_is_not_installed(pushed: TestHub) -> None:
    code = f"""
    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained("org/gill", trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    image = pipe({PROMPT!r}, {OPTIONS}).image_pieces[0][0]
    print(type(pipe).__module__.split(".")[0], type(pipe).__name__, image.source, image.image.size)
    """
    assert run_python(code, pushed.environment).stdout.strip() == "diffusers_modules GillPipeline generated (32, 32)"


@pytest.mark.slow
def test_diffusers_loads_a_repository_with_a_whole_generator(hub_server: TestHub, tmp_path: Path) -> None:
    pipe, call = pipeline("sdxl"), call_of("sdxl")
    pipe.negative_conditioning = capture_negatives(pipe.image_generator, TENSORS["sdxl"])
    pipe.save_pretrained(tmp_path / "gill", self_contained=True)
    np.save(tmp_path / "wanted.npy", pipe("a cat", generator=torch.Generator().manual_seed(3), **call).images)
    push = f"""
    from huggingface_hub import HfApi
    HfApi().create_repo("org/whole")
    HfApi().upload_folder(repo_id="org/whole", folder_path={str(tmp_path / "gill")!r})
    """
    run_python(push, hub_server.environment)
    for name in ("org/whole", str(tmp_path / "gill")):
        code = f"""
        import numpy as np, torch
        from diffusers import DiffusionPipeline, EulerDiscreteScheduler
        options = {{"trust_remote_code": True, "scheduler": EulerDiscreteScheduler()}}
        pipe = DiffusionPipeline.from_pretrained({name!r}, **options)
        assert pipe.scheduler is options["scheduler"] and pipe.text_encoder is None
        pipe.set_progress_bar_config(disable=True)
        found = pipe("a cat", generator=torch.Generator().manual_seed(3), **{call!r}).images
        wanted = np.load({str(tmp_path / "wanted.npy")!r})
        print(type(pipe.image_generator).__name__, np.abs(found - wanted).max() < 1e-5)
        pipe("a cat", negative_prompt="a dog", **{call!r})
        half = DiffusionPipeline.from_pretrained({name!r}, dtype=torch.bfloat16, **options)
        print(half.unet.dtype, half.model.dtype)
        """
        lines = run_python(code, hub_server.environment).stdout.split()
        assert lines == ["StableDiffusionXLPipeline", "True", "torch.bfloat16", "torch.bfloat16"]


@pytest.mark.slow
def test_an_older_revision_loads(pushed: TestHub, older: str) -> None:
    code = f"""
    from transformers import AutoModel
    from diffusers import DiffusionPipeline
    model = AutoModel.from_pretrained("org/gill", revision={older!r}, trust_remote_code=True)
    pipe = DiffusionPipeline.from_pretrained("org/gill", revision={older!r}, trust_remote_code=True)
    print(model.config.decision_dropout, pipe.model.config.decision_dropout)
    """
    assert run_python(code, pushed.environment).stdout.split() == ["0.5", "0.5"]


@pytest.mark.slow
def test_what_was_loaded_once_loads_offline(pushed: TestHub) -> None:
    # diffusers asks the Hub about custom code whenever it is given an id, cached or not: offline it wants the folder.
    load = f"""
    from huggingface_hub import snapshot_download
    from transformers import AutoModel, AutoProcessor
    from diffusers import DiffusionPipeline
    AutoProcessor.from_pretrained("org/gill", trust_remote_code=True)
    print(type(AutoModel.from_pretrained("org/gill", trust_remote_code=True)).__name__)
    pipe = DiffusionPipeline.from_pretrained(snapshot_download("org/gill"), trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    print(pipe({PROMPT!r}, {OPTIONS}).image_pieces[0][0].source)
    """
    run_python('from huggingface_hub import snapshot_download; snapshot_download("org/gill")', pushed.environment)
    before = len(pushed.requests)
    offline = run_python(load, {**pushed.environment, "HF_HUB_OFFLINE": "1"}).stdout
    assert offline == "GillForConditionalGeneration\ngenerated\n"
    assert len(pushed.requests) == before


@pytest.mark.slow
def test_with_the_package_its_own_classes_come_without_trust(pushed: TestHub) -> None:
    code = f"""
    import json
    from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor
    from pipeline_gill import GillPipeline
    from transformers import AutoModel, AutoProcessor
    pipe = GillPipeline.from_pretrained("org/gill")
    pipe.set_progress_bar_config(disable=True)
    print(json.dumps([
        type(pipe) is GillPipeline,
        type(pipe.model) is GillForConditionalGeneration,
        type(pipe.processor) is GillProcessor,
        type(AutoModel.from_pretrained("org/gill")) is GillForConditionalGeneration,
        type(AutoProcessor.from_pretrained("org/gill")) is GillProcessor,
        pipe({PROMPT!r}, {OPTIONS}).image_pieces[0][0].source == "generated",
    ]))
    """
    assert json.loads(run_python(code, pushed.environment, package=True).stdout) == [True] * 6
    # Offline as well, by its id.
    load = "from pipeline_gill import GillPipeline; print(type(GillPipeline.from_pretrained('org/gill')).__name__)"
    offline = run_python(load, {**pushed.environment, "HF_HUB_OFFLINE": "1"}, package=True).stdout
    assert offline == "GillPipeline\n"


@pytest.mark.slow
def test_a_retrieval_set_of_its_own_repository_answers(pushed: TestHub, golden_repository: Path) -> None:
    push = f"""
    from pipeline_gill import RetrievalSet
    RetrievalSet.load({str(golden_repository / "retrieval_set")!r}).push_to_hub("org/images")
    """
    run_python(push, pushed.environment, package=True)
    code = f"""
    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained("org/gill", trust_remote_code=True)
    pipe.load_retrieval_set("org/images")
    image = pipe({PROMPT!r}, decision="retrieve", force_image=True).image_pieces[0][0]
    print(len(pipe.retrieval_set), image.source)
    """
    count, source = run_python(code, pushed.environment).stdout.split()
    assert int(count) > 0 and source == "retrieved"


def test_a_private_repository_is_not_there_for_strangers(hub_server: TestHub) -> None:
    code = """
    from huggingface_hub import HfApi
    HfApi().create_repo("org/secret", private=True)
    """
    run_python(code, hub_server.environment)
    code = """
    from transformers import AutoConfig
    AutoConfig.from_pretrained("org/secret", trust_remote_code=True)
    """
    stranger = run_python(code, {**hub_server.environment, "HF_TOKEN": "hf_stranger"}, check=False)
    assert stranger.returncode and "org/secret is not a local folder and is not a valid model identifier" in (
        stranger.stderr
    )

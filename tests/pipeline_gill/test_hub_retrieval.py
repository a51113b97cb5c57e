"""A retrieval set that was pushed is found by the Hub id of the pipeline; where it cannot be had, a warning says so."""

import json
import textwrap
from pathlib import Path

import pytest
import torch

from pipeline_gill import GillPipeline, RetrievalSet
from pipeline_gill.repository_writer_gill import write_repository
from tests.hub_fixtures import WRITER_TOKEN, TestHub, run_python
from tests.small_model import small_model, small_processor

_IMAGES = """
import logging, sys
from PIL import Image
from pipeline_gill import GillPipeline, RetrievalSet
from tests.small_model import small_model, small_processor
processor = small_processor()
model = small_model(processor)
images = [(Image.new("RGB", (16, 16), colour), colour) for colour in ("red", "green")]
retrieval_set = RetrievalSet.build(model, processor, images, progress=False)
pipe = GillPipeline(model, processor, None)
"""
_ANSWER = """
import logging, sys
from pipeline_gill import GillPipeline
from pipeline_gill.pipeline_repository_gill import logger
messages = []
class Handler(logging.Handler):
    def emit(self, record):
        messages.append(record.getMessage())
logger.addHandler(Handler())
"""


def run(hub: TestHub, code: str, **environment: str) -> list[str]:
    done = run_python(textwrap.dedent(code), {**hub.environment, **environment}, package=True)
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_set_in_the_repository_is_found_with_token_cache_and_revision(hub_server: TestHub, tmp_path: Path) -> None:
    first = run(
        hub_server,
        _IMAGES
        + """
pipe.retrieval_set = retrieval_set
pipe.push_to_hub("gill", private=True)
from huggingface_hub import HfApi
print(HfApi().model_info("writer/gill").sha)
pipe.retrieval_set = None
pipe.push_to_hub("gill")
""",
    )[-1]
    cache = tmp_path / "cache"
    load = f"""
    options = {{"token": {WRITER_TOKEN!r}, "cache_dir": {str(cache)!r}, "revision": REVISION}}
    pipe = GillPipeline.from_pretrained("writer/gill", **options)
    image = pipe("a dog", force_image=True, decision="auto").image_pieces[0][0] if pipe.retrieval_set else None
    print(len(pipe.retrieval_set or ()), image and image.caption in ("red", "green"), messages)
    """
    code = _ANSWER + textwrap.dedent(load)
    stranger = {"HF_TOKEN": "hf_stranger"}
    assert run(hub_server, code.replace("REVISION", repr(first)), **stranger) == ["2 True []"]
    assert run(hub_server, code.replace("REVISION", "None"), **stranger) == ["0 None []"]
    assert list(cache.glob("models--writer--gill/snapshots/*/retrieval_set/retrieval_set.json"))
    # Once it was there, it is there offline; and so is the knowledge that there is none.
    offline = {**stranger, "HF_HUB_OFFLINE": "1"}
    assert run(hub_server, code.replace("REVISION", repr(first)), **offline) == ["2 True []"]
    assert run(hub_server, code.replace("REVISION", "None"), **offline) == ["0 None []"]


@pytest.mark.slow
def test_a_set_in_a_dataset_repository_is_found_and_said_to_be_missing_once(
    hub_server: TestHub, tmp_path: Path
) -> None:
    code = """
    retrieval_set.push_to_hub("org/images")
    pipe.load_retrieval_set("org/images")
    pipe.save_pretrained("saved")
    pipe.push_to_hub("org/gill")
    pipe.save_pretrained("whole", self_contained=True)
    """
    run_python(_IMAGES + textwrap.dedent(code), hub_server.environment, cwd=tmp_path, package=True)
    revision = hub_server.repositories.get("datasets", "org/images").commit("main").oid
    index = json.loads((tmp_path / "saved/model_index.json").read_text())
    assert (index["retrieval_set_id"], index["retrieval_set_revision"]) == ("org/images", revision)
    assert not (tmp_path / "saved/retrieval_set").exists() and (tmp_path / "whole/retrieval_set").is_dir()
    load = _ANSWER + textwrap.dedent(
        """
        pipe = GillPipeline.from_pretrained("org/gill")
        for _ in range(2):
            pipe.retrieval_set
        try:
            pipe("a dog", force_image=True, decision="retrieve")
        except ValueError as error:
            print(error)
        print(len(pipe.retrieval_set or ()), len(messages), messages[:1])
        """
    )
    assert run(hub_server, load) == ["2 0 []"]
    hub_server.repositories.delete("datasets", "org/images")
    error, said = run(hub_server, load, HF_HUB_CACHE=str(tmp_path / "empty"))[-2:]
    assert error.startswith("`decision='retrieve'` needs a retrieval set; ") and "org/images" in error
    assert said.startswith("0 1 ['The retrieval set of this repository cannot be used: ") and "org/images" in said


def test_a_repository_cannot_name_a_folder_of_this_machine_as_its_set(tmp_path: Path) -> None:
    processor = small_processor()
    model = small_model(processor)
    private = RetrievalSet.from_embeddings(["a.png"], torch.ones(1, 8), model.retrieval_fingerprint())
    private.save(tmp_path / "private")
    for name in (str(tmp_path / "private"), "../private", "private"):
        write_repository(tmp_path / "gill", model, processor, pipeline_config={"retrieval_set_id": name})
        pipe = GillPipeline.from_pretrained(tmp_path / "gill")
        assert pipe.retrieval_set is None and pipe.retrieval_set_problem


@pytest.mark.slow
def test_the_command_that_pushes_a_set_for_itself_names_it_in_the_repository(
    hub_server: TestHub, tmp_path: Path
) -> None:
    code = """
    pipe.save_pretrained("gill")
    retrieval_set.save("set")
    from huggingface_hub import HfApi
    import hub_card
    assert hub_card.push("gill", "org/gill", retrieval_set="set", api=HfApi())
    print(len(GillPipeline.from_pretrained("org/gill").retrieval_set))
    print(len(GillPipeline.from_pretrained("gill").retrieval_set))
    """
    done = run_python(_IMAGES + textwrap.dedent(code), hub_server.environment, cwd=tmp_path, package=True)
    assert done.stdout.splitlines()[-2:] == ["2", "2"]

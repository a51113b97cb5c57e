"""Two folders here, one flat set of files on the Hub; the same code in both, and it loads where the package is not."""

import ast
import re
import textwrap
from pathlib import Path

from pipeline_gill.hub_layout_gill import flat_code
from tests.warm_processes import run_warm

ROOT = Path(__file__).parents[2]


def test_every_file_that_travels_is_the_file_here_but_for_the_way_it_names_its_siblings(golden_repository):
    here = {
        path.name: path.read_text()
        for folder in ("modeling_gill", "pipeline_gill")
        for path in (ROOT / folder).glob("*_gill.py")
    }
    there = {path.name: path.read_text() for path in golden_repository.glob("*_gill.py")}
    assert here.keys() == there.keys() == flat_code().keys()
    for name, text in there.items():
        assert text == re.sub(r"(?m)^(\s*)from modeling_gill\.", r"\1from .", here[name])


def test_imports_are_of_the_one_form_that_both_libraries_follow():
    for name, text in flat_code().items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module is not None and "." not in node.module, name
                assert f"{node.module}.py" in flat_code(), name
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [
                one
                for one in names
                if one.split(".")[0] in ("modeling_gill", "pipeline_gill")
                and not (isinstance(node, ast.ImportFrom) and node.level)
            ], name


def test_the_pipelines_file_imports_every_other_because_diffusers_copies_no_further():
    imported = {
        node.module
        for node in ast.walk(ast.parse(flat_code()["pipeline_gill.py"]))
        if isinstance(node, ast.ImportFrom) and node.level
    }
    assert {f"{name}.py" for name in imported} == flat_code().keys() - {"pipeline_gill.py"}


WITHOUT_PACKAGE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_gill", "pipeline_gill", "conversion"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
repository, resaved = sys.argv[1:]
"""


def run_without_package(code: str, *arguments: Path) -> str:
    command = ["-P", "-c", WITHOUT_PACKAGE + textwrap.dedent(code), *map(str, arguments)]
    done = run_warm(command, after="diffusers", cwd=arguments[0].parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_transformers_and_diffusers_load_a_folder_without_the_package_and_save_it_again(golden_repository, tmp_path):
    printed = run_without_package(
        """
        import torch
        from diffusers import DiffusionPipeline
        from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

        trusted = {"trust_remote_code": True}
        assert AutoConfig.from_pretrained(repository, **trusted).num_image_output_tokens == 8
        processor = AutoProcessor.from_pretrained(repository, **trusted)
        for auto in (AutoModel, AutoModelForImageTextToText):
            model, info = auto.from_pretrained(repository, output_loading_info=True, **trusted)
            assert not any(info.values()), info
            batch = processor("a picture of a cat")
            written = model.generate(**batch, max_new_tokens=16, image_token_scale=100.0)
            print(written[0, batch["input_ids"].shape[1]:].tolist())
        pipe = DiffusionPipeline.from_pretrained(repository, **trusted)
        generator = torch.Generator().manual_seed(0)
        (answer,) = pipe("a picture of a cat", decision="both", image_token_scale=100.0, num_inference_steps=2,
                         generator=generator).answers
        print([(piece.source, piece.index) for piece in answer])
        pipe.save_pretrained(resaved)
        """,
        golden_repository,
        tmp_path / "resaved",
    )
    assert printed.splitlines() == [str([*range(380, 388)] * 2)] * 2 + ["[('generated', None), ('retrieved', 6)]"]
    for path in golden_repository.iterdir():
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "resaved" / path.name).read_bytes(), path.name

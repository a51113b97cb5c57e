"""Pushing in one commit: what is listed, what is sent, and what is left of a push that fails anywhere."""

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import HfApi, snapshot_download

from gill import cli
from hub_card import upload
from pipeline_gill import GillPipeline, RetrievalSet
from tests.hub_fixtures import STRANGER_TOKEN, WRITER_TOKEN, TestHub, run_python


def run_push(arguments: list[str], api: HfApi) -> int:
    """The command `gill push` with the token and endpoint of `api`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upload, "HfApi", lambda: api)
        return cli.main(["push", *arguments])


@pytest.fixture
def api(hub_in_this_process: TestHub) -> HfApi:
    return HfApi(endpoint=hub_in_this_process.url, token=WRITER_TOKEN)


def loads(hub: TestHub, folder: Path, repo_id: str = "org/gill", revision: str = "main") -> GillPipeline:
    """The pipeline of a revision, downloaded afresh."""
    path = snapshot_download(repo_id, revision=revision, local_dir=folder, endpoint=hub.url, token=WRITER_TOKEN)
    return GillPipeline.from_pretrained(path)


def files_on(hub: TestHub, kind: str = "models", name: str = "org/gill") -> set[str]:
    return set(hub.repositories.get(kind, name).commit("main").files)


def commits(hub: TestHub, kind: str = "models", name: str = "org/gill") -> list[str]:
    return [commit.title for commit in hub.repositories.get(kind, name).history("main")]


def test_a_dry_run_lists_all_files_with_sizes_and_asks_the_hub_nothing(
    small_repository: Path, hub_in_this_process: TestHub, api: HfApi, capsys: pytest.CaptureFixture[str]
) -> None:
    (small_repository / "checkpoint-3").mkdir()
    (small_repository / "checkpoint-3/optimizer.pt").write_bytes(b"0")
    (small_repository / ".env").write_text("HF_TOKEN=hf_writer")
    assert run_push([str(small_repository), "org/gill", "--dry-run"], api) == 0
    listed = capsys.readouterr().out
    weights = (small_repository / "model.safetensors").stat().st_size / 1000
    assert f"{weights:.1f} kB" in next(line for line in listed.splitlines() if "model.safetensors" in line)
    for name in ("checkpoint-3/optimizer.pt", ".env"):
        assert next(line for line in listed.splitlines() if name in line).endswith("not sent")
    assert hub_in_this_process.requests == []


def test_weights_code_card_and_samples_come_in_one_commit_and_load_where_the_package_is_not(
    small_repository: Path, hub_in_this_process: TestHub, api: HfApi, tmp_path: Path
) -> None:
    samples = small_repository / "samples"
    samples.mkdir()
    (samples / "samples.json").write_text(json.dumps([{"prompt": "a dog"}]))
    assert run_push([str(small_repository), "org/gill", "--yes"], api) == 0
    hub = hub_in_this_process
    assert commits(hub) == ["Upload GILL", "initial commit"]
    assert {"model.safetensors", "pipeline_gill.py", "README.md", "samples/samples.json"} <= files_on(hub)
    assert isinstance(loads(hub, tmp_path / "there"), GillPipeline)
    assert 'from_pretrained("org/gill")' in (tmp_path / "there/README.md").read_text()
    code = """
    from transformers import AutoModel
    print(type(AutoModel.from_pretrained("org/gill", trust_remote_code=True)).__name__)
    """
    assert run_python(code, hub.environment).stdout == "GillForConditionalGeneration\n"


def test_the_retrieval_set_gets_a_repository_of_its_own_linked_both_ways(
    small_repository: Path, small_set: Path, hub_in_this_process: TestHub, api: HfApi, tmp_path: Path
) -> None:
    hub = hub_in_this_process
    arguments = [str(small_repository), "org/gill", "--yes", "--retrieval-set", str(small_set)]
    assert run_push(arguments, api) == 0
    assert commits(hub) == ["Upload GILL", "initial commit"]
    assert commits(hub, "datasets", "org/gill-retrieval-set") == ["Retrieval set for org/gill", "initial commit"]
    pipeline = loads(hub, tmp_path / "model")
    card = (tmp_path / "model/README.md").read_text()
    revision = hub.repositories.get("datasets", "org/gill-retrieval-set").commit("main").oid
    assert f'pipe.load_retrieval_set("org/gill-retrieval-set", revision="{revision}")' in card
    assert "datasets:\n- org/gill-retrieval-set\n" in card
    folder = snapshot_download(
        "org/gill-retrieval-set", repo_type="dataset", local_dir=tmp_path / "set", endpoint=hub.url
    )
    pipeline.load_retrieval_set(folder)
    assert pipeline.retrieval_set is not None and len(pipeline.retrieval_set) == len(RetrievalSet.load(small_set)) == 4
    assert "For the model [org/gill]" in (tmp_path / "set/README.md").read_text()


def test_the_chat_page_is_pushed_as_a_space_of_its_own_and_the_next_push_replaces_it(
    small_repository: Path,
    hub_in_this_process: TestHub,
    api: HfApi,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("chat_gill")
    hub = hub_in_this_process
    arguments = [
        str(small_repository),
        "org/gill",
        "--yes",
        "--space",
        "org/gill-demo",
        "--space-hardware",
        "cpu-basic",
    ]
    assert run_push([*arguments, "--dry-run"], api) == 0
    assert "to spaces/org/gill-demo: the chat page of org/gill, on cpu-basic" in capsys.readouterr().out
    assert hub.requests == []
    assert run_push(arguments, api) == 0
    assert commits(hub, "spaces", "org/gill-demo") == ["Chat page of org/gill", "initial commit"]
    assert {"app.py", "requirements.txt", "README.md", "chat_gill/page.py"} <= files_on(hub, "spaces", "org/gill-demo")
    folder = snapshot_download("org/gill-demo", repo_type="space", local_dir=tmp_path, endpoint=hub.url)
    card = Path(folder, "README.md").read_text(encoding="utf-8")
    assert "sdk: gradio" in card and "suggested_hardware: cpu-basic" in card and "- org/gill\n" in card
    # What an older version of this package left goes, what somebody else added stays.
    api.upload_file(path_or_fileobj=b"", path_in_repo="chat_gill/old.py", repo_id="org/gill-demo", repo_type="space")
    api.upload_file(path_or_fileobj=b"", path_in_repo="notes.md", repo_id="org/gill-demo", repo_type="space")
    assert run_push(arguments, api) == 0
    left = files_on(hub, "spaces", "org/gill-demo")
    assert "chat_gill/old.py" not in left and "notes.md" in left


def test_what_an_earlier_push_left_goes_in_the_same_commit_and_what_others_added_stays(
    small_repository: Path, hub_in_this_process: TestHub, api: HfApi
) -> None:
    (small_repository / "removed_gill.py").write_text("")
    run_push([str(small_repository), "org/gill", "--yes"], api)
    api.upload_file(path_or_fileobj=b"thanks", path_in_repo="THANKS.txt", repo_id="org/gill")
    (small_repository / "removed_gill.py").unlink()
    run_push([str(small_repository), "org/gill", "--yes"], api)
    assert "removed_gill.py" not in files_on(hub_in_this_process) and "THANKS.txt" in files_on(hub_in_this_process)


def test_edits_of_the_card_on_the_hub_survive_a_push(
    small_repository: Path, hub_in_this_process: TestHub, api: HfApi, tmp_path: Path
) -> None:
    run_push([str(small_repository), "org/gill", "--yes"], api)
    card = Path(api.hf_hub_download("org/gill", "README.md", local_dir=tmp_path / "card"))
    edited = card.read_text().replace("## How to use", "## How we use it").encode()
    api.upload_file(path_or_fileobj=edited, path_in_repo="README.md", repo_id="org/gill")
    assert run_push([str(small_repository), "org/gill", "--yes"], api) == 0
    loads(hub_in_this_process, tmp_path / "there")
    assert "## How we use it" in (tmp_path / "there/README.md").read_text()


@pytest.mark.parametrize(
    "broken",
    ["answer lost", *(pytest.param(one, marks=pytest.mark.slow) for one in ("answered 500", "connection dropped"))],
)
def test_a_push_that_fails_at_any_request_leaves_the_old_state_or_the_new_one(
    small_repository: Path,
    small_set: Path,
    hub_in_this_process: TestHub,
    api: HfApi,
    tmp_path: Path,
    broken: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub = hub_in_this_process
    arguments = [str(small_repository), "org/gill", "--yes", "--retrieval-set", str(small_set)]
    assert run_push(arguments, api) == 0
    model, data = hub.repositories.get("models", "org/gill"), hub.repositories.get("datasets", "org/gill-retrieval-set")
    how = {
        "answered 500": {"status": 500},
        "connection dropped": {"status": None},
        "answer lost": {"status": None, "after": True},
    }[broken]
    failed = 0
    for at in range(1, 100):
        # Each time other weights, another config and another set, so that there is all to send again.
        config = json.loads((small_repository / "config.json").read_text())
        config["decision_dropout"] = at / 200
        (small_repository / "config.json").write_text(json.dumps(config))
        (small_set / "note.txt").write_text(f"{broken} {at}")
        before = (model.commit("main").oid, data.commit("main").oid)
        before_files = dict(model.commit("main").files)
        hub.fail_at(at, **how)  # type: ignore[arg-type]
        ended = run_push(arguments, api)
        hub.recover()
        after = model.commit("main")
        if ended == 0:
            break
        failed += 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and WRITER_TOKEN not in error
        # The model's commit is all or nothing, and one at most.
        assert (after.oid == before[0] and after.files == before_files) or after.parent == before[0]
        assert data.commit("main").oid == before[1] or data.commit("main").parent == before[1]
        # The set that the model's card names is there, whichever of both commits is missing.
        card = hub.repositories.content(after.files["README.md"].sha256).read_text()
        named = re.search(r'revision="(\w{40})"', card)
        assert named is not None and data.commit(named[1])
    assert 8 <= failed < 40
    assert loads(hub, tmp_path / "newest").model.config.decision_dropout == at / 200
    # Every revision there has ever been is whole.
    for number, commit in enumerate(model.commits[1:4]):
        assert isinstance(loads(hub, tmp_path / str(number), revision=commit.oid), GillPipeline)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("hf_wrong", "The Hub does not accept the token for 'org/gill'"),
        (STRANGER_TOKEN, "has no write access to 'org/gill'"),
    ],
)
def test_a_wrong_token_and_a_repository_of_someone_else_are_told_and_nothing_is_sent(
    small_repository: Path,
    small_set: Path,
    hub_in_this_process: TestHub,
    api: HfApi,
    token: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_push([str(small_repository), "org/gill", "--yes"], api)
    other = HfApi(endpoint=hub_in_this_process.url, token=token)
    arguments = [str(small_repository), "org/gill", "--yes", "--retrieval-set", str(small_set)]
    assert run_push(arguments, other) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and token not in error
    assert len(commits(hub_in_this_process)) == 2
    assert not hub_in_this_process.repositories.has("datasets", "org/gill-retrieval-set")


def test_someone_elses_commit_meanwhile_is_not_overwritten(
    small_repository: Path,
    hub_in_this_process: TestHub,
    api: HfApi,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_push([str(small_repository), "org/gill", "--yes"], api)
    (small_repository / "config.json").write_text((small_repository / "config.json").read_text() + "\n")

    def meanwhile(*arguments: object) -> tuple[str, list[str]]:
        api.upload_file(path_or_fileobj=b"x", path_in_repo="theirs.txt", repo_id="org/gill")
        return "# A card\n", []

    monkeypatch.setattr(upload, "card_to_send", meanwhile)
    assert run_push([str(small_repository), "org/gill", "--yes"], api) == 2
    assert "Someone else has changed 'org/gill' meanwhile" in capsys.readouterr().err
    assert "theirs.txt" in files_on(hub_in_this_process)


def test_a_private_push_is_private(small_repository: Path, hub_in_this_process: TestHub, api: HfApi) -> None:
    assert run_push([str(small_repository), "org/gill", "--yes", "--private"], api) == 0
    assert hub_in_this_process.repositories.get("models", "org/gill").private


def test_nobody_to_ask_is_no_yes(
    small_repository: Path,
    hub_in_this_process: TestHub,
    api: HfApi,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert run_push([str(small_repository), "org/gill"], api) == 2
    assert "`--yes` pushes without asking" in capsys.readouterr().err
    assert hub_in_this_process.requests == []


def test_tokens_are_written_nowhere(
    small_repository: Path,
    small_set: Path,
    hub_in_this_process: TestHub,
    api: HfApi,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_push([str(small_repository), "org/gill", "--yes", "--retrieval-set", str(small_set)], api)
    written = capsys.readouterr()
    assert WRITER_TOKEN not in written.out + written.err
    kept = [path for folder in (tmp_path, hub_in_this_process.folder) for path in folder.rglob("*") if path.is_file()]
    assert kept and not any(WRITER_TOKEN.encode() in path.read_bytes() for path in kept)


def test_a_card_that_the_hub_refuses_changes_nothing(
    small_repository: Path, hub_in_this_process: TestHub, api: HfApi, capsys: pytest.CaptureFixture[str]
) -> None:
    run_push([str(small_repository), "org/gill", "--yes"], api)
    assert cli.main(["card", str(small_repository), "--license", "other"]) == 0
    assert run_push([str(small_repository), "org/gill", "--yes"], api) == 2
    assert '"license_name" is required with "license: other"' in capsys.readouterr().err
    assert len(commits(hub_in_this_process)) == 2


@pytest.mark.slow
def test_the_command_pushes_by_the_environments_token(small_repository: Path, hub_server: TestHub) -> None:
    code = f"""
    import sys
    from gill import cli
    sys.exit(cli.main(["push", {str(small_repository)!r}, "org/gill", "--yes"]))
    """
    done = run_python(code, hub_server.environment, package=True)
    assert f"pushed {hub_server.url}/org/gill/commit/" in done.stdout
    wrong = run_python(code, {**hub_server.environment, "HF_TOKEN": "hf_wrong"}, package=True, check=False)
    assert wrong.returncode == 2 and "does not accept the token" in wrong.stderr and "Traceback" not in wrong.stderr
    assert len(commits(hub_server)) == 2


def test_base_models_that_nobody_else_finds_are_refused_and_other_paths_are_told(
    small_repository: Path,
    hub_in_this_process: TestHub,
    api: HfApi,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (small_repository / "training.json").write_text(json.dumps({"data": {"train_data": str(tmp_path)}}))
    assert run_push([str(small_repository), "org/gill", "--dry-run"], api) == 0
    assert f"note: training.json names {tmp_path}, a path of this machine" in capsys.readouterr().out
    config = json.loads((small_repository / "config.json").read_text())
    config |= {"language_model_id": str(tmp_path), "vision_model_id": "org/clip"}
    (small_repository / "config.json").write_text(json.dumps(config))
    assert run_push([str(small_repository), "org/gill", "--yes"], api) == 2
    assert f"names the language model '{tmp_path}', a folder of this machine" in capsys.readouterr().err
    assert hub_in_this_process.requests == []

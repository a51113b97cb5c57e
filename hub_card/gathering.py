"""Read the facts of a card from the files of a repository's folder."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open

from evaluation_gill.results import RESULTS_FILE, Results
from modeling_gill.conditioning_gill import conditioning_of
from modeling_gill.fingerprint_gill import fingerprint_name, fingerprint_weights, fingerprints_match
from modeling_gill.pretrained_gill import BACKBONE_PREFIXES
from pipeline_gill.retrieval_storage_gill import INFO_FILE

from .edits import parse
from .facts import Adapters, BaseModel, Facts, RetrievalSet, Training

ROLES = {"language_model": "language model", "vision_model": "image encoder", "image_generator": "image generator"}
_NEEDED = ("config.json", "model_index.json", "modeling_gill.py", "pipeline_gill.py", "processor_config.json")
# The settings of training that the paper states, in its order.
_SETTINGS = (
    (
        "training",
        (
            "max_steps",
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "learning_rate",
            "lr_scheduler_type",
            "warmup_steps",
            "weight_decay",
            "adam_beta1",
            "adam_beta2",
            "max_grad_norm",
            "bf16",
            "fp16",
            "seed",
        ),
    ),
    (
        "losses",
        (
            "captioning_weight",
            "language_weight",
            "contrastive_weight",
            "conditioning_weight",
            "reconstruction_weight",
            "lr_decay_every",
            "lr_decay_factor",
        ),
    ),
    ("data", ("max_length", "packing")),
)


def check_repository(folder: Path) -> None:
    """Raise `ValueError`, which names what is missing, unless a folder is a whole GILL repository."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected what `GillPipeline.save_pretrained` writes.")
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if not any(folder.glob("model*.safetensors")):
        missing.append("model.safetensors")
    if missing:
        raise ValueError(
            f"{folder} lacks {', '.join(missing)}; expected a whole repository as `GillPipeline.save_pretrained`, "
            "`conversion` and `training_gill` write it."
        )
    kind = _read_json(folder / "config.json").get("model_type")
    if kind != "gill":
        raise ValueError(f"{folder / 'config.json'} has the model_type {kind!r}, expected 'gill'.")


def check_travels(folder: Path) -> list[str]:
    """Check that a repository loads on other machines.

    Returns:
        `list[str]`: A note for each file that names a path of this machine.

    Raises:
        ValueError: `config.json` names a base model by a path.
    """
    config = _read_json(folder / "config.json")
    for role, description in ROLES.items():
        name = config.get(f"{role}_id")
        if name is not None and not _is_hub_id(name):
            raise ValueError(
                f"{folder / 'config.json'} names the {description} {name!r}, a folder of this machine, which others "
                f"do not have. Push that model first and name it in `{role}_id`, or save this one with "
                "`self_contained=True`."
            )
    notes = []
    for path in sorted(folder.glob("*.json")):
        if path.stat().st_size < 1_000_000:
            named = sorted({*re.findall(r'"(/[^"]+)"', path.read_text(encoding="utf-8"))})
            notes += [f"{path.name} names {local}" for local in named if Path(local).exists()]
    return notes


def gather(
    folder: Path,
    *,
    repo_id: str | None = None,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    base_licenses: Mapping[str, str] | None = None,
    results: Sequence[Path] = (),
    retrieval_set: Path | None = None,
    retrieval_set_id: str | None = None,
    languages: Sequence[str] = (),
    datasets: Sequence[str] = (),
) -> Facts:
    """Read the facts of a folder.

    Args:
        base_licenses (`Mapping[str, str]`): Licenses of base models by role, see [`ROLES`]. Others are read from the
            base models' own cards, if these are on this machine already.
        results (`Sequence[Path]`): Files that evaluations wrote; those in the folder's `results/` are read as well.
        retrieval_set (`Path`, *optional*), retrieval_set_id (`str`, *optional*): Folder of the set, by default
            `retrieval_set` in `folder`; and the repository that it is pushed to, if it gets one of its own.

    Raises:
        ValueError: an incomplete repository, results that cannot be read or are of other weights, or an unknown role.
        OSError: a file that cannot be read.
    """
    check_repository(folder)
    config = _read_json(folder / "config.json")
    licenses = dict(base_licenses or {})
    unknown = sorted({*licenses} - {*ROLES})
    if unknown:
        raise ValueError(f"Unknown base model {unknown[0]!r}; expected {', '.join(ROLES)}.")
    results = [*results, *_results_in(folder, results)]
    measured = [Results.read(path) for path in results]
    _check_weights(folder, measured, results)
    trained = _training(folder)
    if trained is not None and trained.data is not None and trained.data_on_hub:
        datasets = [*datasets, trained.data]
    return Facts(
        name=(repo_id or folder.resolve().name).split("/")[-1],
        repo_id=repo_id,
        license=license,
        license_name=license_name,
        license_link=license_link,
        base_models=[base for role in ROLES if (base := _base_model(config, role, licenses.get(role))) is not None],
        adapters=_adapters(folder, config),
        training=trained,
        retrieval_set=_retrieval_set(retrieval_set or folder / "retrieval_set", retrieval_set_id),
        results=measured,
        languages=list(languages),
        datasets=list(dict.fromkeys(datasets)),
        retrieves_only=config.get("mapper_type") is None,
        generates_only=config.get("mapper_type") is not None and config.get("retrieval_dim", 0) is None,
        holds_language_model=config.get("language_model_id") is None,
        decides=bool(config.get("use_decision_head")),
        decision=_decision(folder),
    )


def _results_in(folder: Path, given: Sequence[Path]) -> list[Path]:
    """Results of evaluations in the folder's `results/`, except those in `given`."""
    known = {(path / RESULTS_FILE if path.is_dir() else path).resolve() for path in map(Path, given)}
    found = [path for path in sorted((folder / "results").rglob(RESULTS_FILE)) if path.resolve() not in known]
    return [path for path in found if path.is_file()]


def _decision(folder: Path) -> dict[str, Any] | None:
    """The record of the decision head's training, if it has the fields that the card shows."""
    path = folder / "results" / "decision.json"
    record = _read_json(path) if path.is_file() else {}
    known = isinstance(record, dict) and {"train_prompts", "validation_prompts", "macro_f1", "accuracy"} <= {*record}
    return record if known else None


def _base_model(config: dict[str, Any], role: str, license: str | None) -> BaseModel | None:
    name, revision = config.get(f"{role}_id"), config.get(f"{role}_revision")
    if name is None:
        return None
    on_hub = _is_hub_id(name)
    license = license or _license_at_hand(name, revision)
    return BaseModel(ROLES[role], name if on_hub else Path(name).name, on_hub, revision, license)


def _license_at_hand(name: str, revision: str | None) -> str | None:
    """The license in the base model's own card, if that is on this machine."""
    card: Any = Path(name) / "README.md"
    if not card.is_file() and _is_hub_id(name):
        card = try_to_load_from_cache(name, "README.md", revision=revision)
    if not isinstance(card, (str, Path)) or not Path(card).is_file():
        return None
    try:
        found = parse(Path(card).read_text(encoding="utf-8")).metadata.get("license")
    except ValueError:
        return None
    return str(found) if found else None


def _adapters(folder: Path, config: dict[str, Any]) -> Adapters:
    count, size, dtypes = 0, 0, set()
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                if not name.startswith(BACKBONE_PREFIXES):
                    tensor = file.get_tensor(name)
                    count, size = count + tensor.numel(), size + tensor.numel() * tensor.element_size()
                    dtypes.add(str(tensor.dtype).removeprefix("torch."))
    text = config["text_config"]
    width = text.get("word_embed_proj_dim") or text.get("hidden_size") or text.get("n_embd")
    runs = "[IMG] tokens" if config.get("predict_image_output_tokens", True) else "queries of an image"
    sizes = {
        runs: len(config.get("image_output_token_ids") or config["img_token_ids"]),
        "embeddings an image": config["num_visual_tokens"],
        "language model's width": width,
        "retrieval's width": config["retrieval_dim"],
    }
    if config.get("mapper_type") is not None:
        sizes |= {
            "mapper": config["mapper_type"],
            "conditioning": ", ".join(f"{tensor.num_positions} x {tensor.dim}" for tensor in conditioning_of(config)),
        }
    known = {name: value for name, value in sizes.items() if value is not None}
    return Adapters(count, size, " and ".join(sorted(dtypes)), known)


def _training(folder: Path) -> Training | None:
    path = folder / "training.json"
    if not path.is_file():
        return None
    record = _read_json(path)
    data = (record.get("data") or {}).get("train_data")
    if isinstance(data, list):
        # Sets of records, each with the names of its files.
        files = [entry["files"] if isinstance(entry["files"], list) else [entry["files"]] for entry in data]
        data = ", ".join(Path(name).name for names in files for name in names)
    on_hub = data is not None and _is_hub_id(data) and "/" in data
    settings = {
        name: record[part][name]
        for part, names in _SETTINGS
        for name in names
        if (record.get(part) or {}).get(name) is not None
    }
    # The steps that were made, which may be fewer than `max_steps`.
    if record.get("steps") is not None:
        settings = {
            "steps": record["steps"],
            **{name: value for name, value in settings.items() if name != "max_steps"},
        }
    shown = data if on_hub or data is None or "," in data else Path(data).name
    return Training(shown, on_hub, settings, dict(record.get("versions") or {}))


def _retrieval_set(folder: Path, repo_id: str | None) -> RetrievalSet | None:
    path = folder / INFO_FILE
    if not path.is_file():
        return None
    info = _read_json(path)
    name = fingerprint_name(info["fingerprint"])
    return RetrievalSet(info["count"], name, repo_id, source=info.get("source") or None)


def _check_weights(folder: Path, measured: Sequence[Results], paths: Sequence[Path]) -> None:
    """Refuse results of other weights."""
    claimed = [
        (path, result.system["fingerprint"])
        for path, result in zip(paths, measured, strict=True)
        if result.system.get("kind") == "gill" and "fingerprint" in result.system
    ]
    if not claimed:
        return
    tensors = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    own = fingerprint_weights(
        {"adapters": (tensors[name] for name in sorted(tensors) if not name.startswith(BACKBONE_PREFIXES))}
    )
    for path, fingerprint in claimed:
        if not fingerprints_match(own, fingerprint):
            raise ValueError(
                f"{path} was measured with the weights {fingerprint_name(fingerprint)}, but {folder} holds the weights "
                f"{fingerprint_name(own)}; evaluate these."
            )


def _is_hub_id(name: str) -> bool:
    return not os.path.isabs(name) and name.count("/") <= 1 and not name.startswith(".") and not Path(name).exists()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON, truncated perhaps: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, expected an object.")
    return found


__all__ = ["ROLES", "check_repository", "check_travels", "gather"]

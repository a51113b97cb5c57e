"""Load and save a pipeline: components of other repositories, the retrieval set, one commit."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import RemoteEntryNotFoundError
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging as transformers_logging

from .components_gill import COMPONENT_CLASSES
from .components_gill import __name__ as components_module
from .conditioning_capture_gill import check_negatives
from .generator_call_gill import call_parameters
from .generator_loading_gill import (
    is_unchanged,
    load_text_encoders,
    quantization_of,
    text_left_out,
)
from .hub_push_gill import OneCommit, clear_hub_errors, files_of, full_repo_id
from .image_generator_gill import ImageGeneratorMixin
from .load_options_gill import (
    DTYPE,
    GENERATOR_COMPONENTS,
    TEXT_PREFIXES,
    LoadOptions,
    current_options,
    is_component,
    load_options,
)
from .repository_writer_gill import REPOSITORY_FILES, RETRIEVAL_SET_FOLDER, write_repository
from .retrieval_set_gill import RetrievalSet
from .retrieval_storage_gill import INFO_FILE

logger = logging.get_logger(__name__)

_RETRIEVAL_SET_OPTIONS = ("token", "cache_dir", "local_files_only")
_PUSH_OPTIONS = ("repo_id", "private", "token", "revision", "commit_message")
# What a call takes that does not say, and `model_index.json` neither: Stable Diffusion's own.
CALL_DEFAULTS: dict[str, Any] = {"num_inference_steps": 50, "guidance_scale": 7.5}
CARD_FILE, SAMPLES_FOLDER = "README.md", "samples"


class RepositoryPipeline(ImageGeneratorMixin, DiffusionPipeline):
    """Loading and saving of a [`GillPipeline`]."""

    model: Any
    processor: Any
    retrieval_set_problem: str | None = None
    _retrieval_set: RetrievalSet | None = None
    _warned_without_retrieval_set = False
    _retrieval_set_known = False
    _retrieval_set_lock = threading.RLock()
    _hub_options: Mapping[str, Any] = MappingProxyType({})
    _negative_conditioning: dict[str, torch.Tensor] | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load a pipeline from a folder or from the Hub, without running code of the repository.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Folder or Hub id of the GILL repository.
            kwargs: Those of [`DiffusionPipeline.from_pretrained`]. `token`, `cache_dir`, `force_download`, `proxies`
                and `local_files_only` hold for every repository: the model's, its backbones', the image generator's
                and the retrieval set's. `variant` is used wherever there are weights of it. Without `dtype`, all
                components have the one that the model was saved in.

        Raises:
            ValueError: weights of a `variant` that no repository has.
            OSError: a repository or file that cannot be found or read.

        Example:

        ```python
        >>> from pipeline_gill import GillPipeline

        >>> pipe = GillPipeline.from_pretrained("picturebook/checkpoint")
        >>> pipe("a red house on the left at night . then it turns blue . picture :").texts
        ['a blue house on the left at night']
        ```
        """
        variant = kwargs.pop("variant", None)
        if "dtype" in kwargs or "torch_dtype" in kwargs:
            kwargs[DTYPE] = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
        options = LoadOptions.of({**kwargs, "variant": variant}, {})
        for given in [given for given in kwargs if given not in cls._get_signature_keys(cls)[0]]:
            if is_component(given, kwargs[given]):
                options.components[given] = kwargs.pop(given)
        if options.components and "image_generator" in kwargs:
            raise ValueError(
                f"`image_generator` is a whole pipeline: set {next(iter(options.components))!r} on it, or give it "
                "without `image_generator`."
            )
        quantization, device_map = kwargs.get("quantization_config"), kwargs.get("device_map")
        if quantization is not None:
            kwargs["quantization_config"] = quantization_of(quantization, ("model",))
        if device_map == "balanced":
            del kwargs["device_map"]  # each part balances itself; diffusers would look for their configurations
        kwargs.setdefault("use_safetensors", True)
        name = os.fspath(pretrained_model_name_or_path)
        folder = name
        # diffusers' own check for the variant knows nothing of components in the root or in other repositories.
        if not os.path.isdir(name) and name.count("/") <= 1:
            folder = cls.download(name, variant=variant, **kwargs)
        with load_options(options), _one_progress_bar():
            pipeline = super().from_pretrained(folder, **kwargs)
        if quantization is not None:
            pipeline.quantization_config = quantization
        if device_map == "balanced":
            pipeline.hf_device_map = {
                "model": getattr(pipeline.model, "hf_device_map", None) or pipeline.model.device,
                **(getattr(pipeline.image_generator, "hf_device_map", None) or {}),
            }
        if options.variant is not None and not options.variant_found:
            raise ValueError(f"No component of {name!r} has weights of the variant {options.variant!r}.")
        pipeline.register_to_config(_name_or_path=name)
        # For the retrieval set, which is loaded when it is first needed.
        pipeline._hub_options = {key: options.hub[key] for key in _RETRIEVAL_SET_OPTIONS if key in options.hub}
        return pipeline

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Any:
        """A pipeline over the components of another one, or over an image generator.

        Args:
            pipeline ([`~diffusers.DiffusionPipeline`]): A [`GillPipeline`], or an image generator of any kind.
            kwargs: Components and arguments to replace; `model` and `processor` over an image generator.
        """
        if not isinstance(pipeline, RepositoryPipeline):
            kwargs.setdefault("image_generator", pipeline)
        return super().from_pipe(pipeline, **kwargs)

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        # `model_index.json` names only components that are in the repository, and those that the pipeline is without.
        if current_options().loading.get("device_map") == "balanced" and cls.__module__.startswith("diffusers_modules"):
            raise ValueError(
                "`device_map='balanced'` needs the class of the package: `GillPipeline.from_pretrained`, not "
                "`DiffusionPipeline.from_pretrained`."
            )
        own = {name: entry for name, entry in config_dict.items() if name not in GENERATOR_COMPONENTS}
        kwargs = {name: value for name, value in kwargs.items() if not is_component(name, value)}
        init, unused, hidden = super().extract_init_dict(own, **kwargs)
        absent = {name for name, entry in init.items() if isinstance(entry, (list, tuple)) and entry[0] is None}
        loaders = {
            name: (components_module, loader) for name, loader in COMPONENT_CLASSES.items() if name not in absent
        }
        return {**init, **loaders}, unused, hidden

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        loaded = super().load_config(*args, **kwargs)
        return (_own_class(loaded[0]), *loaded[1:]) if isinstance(loaded, tuple) else _own_class(loaded)

    @classmethod
    def _dict_from_json_file(cls, json_file: Any) -> dict[str, Any]:
        return _own_class(super()._dict_from_json_file(json_file))

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        self_contained: bool = False,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Write a repository that transformers, diffusers and [`GillPipeline`] load.

        A reader finds the old repository or the new one, whole, at every instant. Of the old one, files that are not
        a repository's own are kept: card, samples, results, checkpoints.

        Args:
            save_directory (`str` or `os.PathLike`): Folder to write to.
            self_contained (`bool`, defaults to `False`):
                Write backbones, image generator and retrieval set too, rather than where they come from. Components
                that come from nowhere else, or were changed, are always written.
            push_to_hub (`bool`, defaults to `False`):
                Push afterwards, with `repo_id` (by default the name of the folder), `private`, `token`, `revision` and
                `commit_message` as [`GillPipeline.push_to_hub`] takes them.
            kwargs: `max_shard_size`, `variant` and so on.

        Raises:
            ValueError: a component that carries LoRA.
            OSError: the folder cannot be written; it stays as it was.
        """
        push_options = {name: kwargs.pop(name) for name in _PUSH_OPTIONS if name in kwargs}
        if kwargs.get("is_main_process", True):
            usual = self.call_defaults()
            parts, whole = self._generator_to_save(self_contained)
            write_repository(
                save_directory,
                self.model,
                self.processor,
                generator=parts,
                image_generator=whole,
                negative_conditioning=self.negative_conditioning,
                retrieval_set=self._retrieval_set_to_save(),
                pipeline_config={
                    "ranking_size": self.config.ranking_size,
                    **{name: self.config[name] for name in usual if self.config[name] != usual[name]},
                },
                self_contained=self_contained,
                **kwargs,
            )
        if push_to_hub:
            repo_id = push_options.pop("repo_id", Path(os.path.abspath(save_directory)).name)
            self.push_to_hub(repo_id, self_contained=self_contained, **push_options, **kwargs)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload GILL",
        **kwargs: Any,
    ) -> str:
        """Push what [`GillPipeline.save_pretrained`] writes to a repository of the Hub in one commit.

        A card and samples in the folder that the pipeline was loaded from (`gill card`) go along if the Hub has no
        card yet; a card on the Hub stays as it is. `gill push` merges edits of both.

        Args:
            repo_id (`str`): The repository, created if need be; without a namespace, in that of the token's owner.
            private (`bool`, *optional*): Whether a new repository is private; the Hub's default if not given.
            token (`str` or `bool`, *optional*): By default the one that this machine is logged in with.
            revision (`str`, *optional*): Branch to push to, created if need be.
            kwargs: Those of [`GillPipeline.save_pretrained`].

        Returns:
            `str`: URL of the commit.

        Raises:
            PermissionError: the token is wrong or may not write to the repository.
        """
        with tempfile.TemporaryDirectory() as folder:
            repository = os.path.join(folder, "repository")
            self.save_pretrained(repository, **kwargs)
            api, files = HfApi(token=token), files_of(repository)
            with clear_hub_errors(repo_id):
                repo_id = full_repo_id(repo_id, api)
                has_card = api.repo_exists(repo_id) and api.file_exists(repo_id, CARD_FILE)
            if not has_card:
                files = {**self._card_and_samples(), **files}
            with OneCommit(files, repo_id, api, outdated=REPOSITORY_FILES, private=private, revision=revision) as push:
                return str(push.commit(commit_message).commit_url)

    @property
    def negative_conditioning(self) -> dict[str, torch.Tensor] | None:
        """What a whole image generator guides away from, as captured for one prompt.

        With it, no text encoder is needed; it is empty for a generator that does not guide.
        """
        return self._negative_conditioning

    @negative_conditioning.setter
    def negative_conditioning(self, negatives: dict[str, torch.Tensor] | None) -> None:
        if negatives and self.model is not None:
            check_negatives(negatives, self.model.config.conditioning_tensors)
        self._negative_conditioning = negatives

    @property
    def retrieval_set(self) -> RetrievalSet | None:
        """The images that answers may retrieve.

        If none was set, that of the repository that the pipeline was loaded from, opened (and downloaded) when it is
        first needed: its folder `retrieval_set`, or the dataset repository that `model_index.json` names. If it has
        one that cannot be used, a warning says why, once, and so does `retrieval_set_problem`.
        """
        with self._retrieval_set_lock:
            if not self._retrieval_set_known:
                self._retrieval_set_known = True
                try:
                    self._retrieval_set = self._find_retrieval_set()
                except (ValueError, OSError, ImportError) as error:
                    self.retrieval_set_problem = " ".join(str(error).split())
                    logger.warning(f"The retrieval set of this repository cannot be used: {self.retrieval_set_problem}")
            return self._retrieval_set

    @retrieval_set.setter
    def retrieval_set(self, retrieval_set: RetrievalSet | None) -> None:
        if retrieval_set is not None:
            retrieval_set.check_fingerprint(self.model.retrieval_fingerprint())
        self._retrieval_set, self._retrieval_set_known, self.retrieval_set_problem = retrieval_set, True, None

    def load_retrieval_set(self, name_or_path: str | os.PathLike[str], **kwargs: Any) -> None:
        """Use the retrieval set in a folder or a dataset repository of the Hub.

        Args:
            name_or_path (`str` or `os.PathLike`), kwargs: As for [`RetrievalSet.load`].

        Raises:
            ValueError: a set that was made with other weights, naming both fingerprints.
        """
        self.retrieval_set = RetrievalSet.load(name_or_path, **kwargs)

    def _warn_without_retrieval_set(self) -> None:
        """Say once that nothing is retrieved; where the set of the repository failed, that was said when it did."""
        if not self._warned_without_retrieval_set and self.retrieval_set_problem is None:
            self._warned_without_retrieval_set = True
            logger.warning(
                "The pipeline has no retrieval set, so every image is generated, also where the model decides to "
                "retrieve one; load a set with `load_retrieval_set(...)`."
            )

    def _find_retrieval_set(self) -> RetrievalSet | None:
        """The set of the repository that the pipeline was loaded from, if it has one."""
        name = str(self.config.get("_name_or_path") or "")
        folder = Path(name) / RETRIEVAL_SET_FOLDER
        set_id, set_revision = self.config.get("retrieval_set_id"), self.config.get("retrieval_set_revision")
        found = None
        if name and (folder / INFO_FILE).is_file():
            found = RetrievalSet.load(folder)
        elif set_id is not None:
            found = RetrievalSet.from_hub(str(set_id), revision=set_revision, **self._hub_options)
        elif name and not Path(name).exists() and not self._has_none_as_cached(name):
            with contextlib.suppress(RemoteEntryNotFoundError):  # the repository has none
                found = RetrievalSet.from_hub(
                    name,
                    repo_type="model",
                    subfolder=RETRIEVAL_SET_FOLDER,
                    revision=self._commit(),
                    **self._hub_options,
                )
        if found is not None:
            found.check_fingerprint(self.model.retrieval_fingerprint())
        return found

    def _has_none_as_cached(self, name: str) -> bool:
        """Whether the Hub has said before that the repository has no retrieval set."""
        cached = try_to_load_from_cache(
            name,
            f"{RETRIEVAL_SET_FOLDER}/{INFO_FILE}",
            cache_dir=self._hub_options.get("cache_dir"),
            revision=self._commit(),
        )
        return cached is not None and not isinstance(cached, str)

    def _commit(self) -> str | None:
        """The commit that the pipeline was loaded from: diffusers hands its components the folder of the snapshot."""
        folder = Path(str(getattr(self.model.config, "_name_or_path", "")))
        return folder.name if folder.parent.name == "snapshots" else getattr(self.model.config, "_commit_hash", None)

    def call_defaults(self) -> dict[str, Any]:
        """How many steps and how much guidance a call of the image generator takes that says nothing of them."""
        parameters = call_parameters(self.image_generator)
        return {
            name: parameters[name].default if name in parameters else usual for name, usual in CALL_DEFAULTS.items()
        }

    def _load_text_encoders(self) -> None:
        """Load the text encoders that a generator was loaded without, for a text to guide away from or to save them."""
        with self._retrieval_set_lock:
            load_text_encoders(self.image_generator)

    def _lacks_text_encoders(self) -> list[str]:
        """The text encoders of the image generator, if it has none of them and knows of none to load."""
        generator = self.image_generator
        encoders = [name for name in generator.components if name.startswith(TEXT_PREFIXES)]
        given = [name for name in encoders if getattr(generator, name) is not None]
        tokenizes = any(name.startswith("tokenizer") for name in given) or not any(
            name.startswith("tokenizer") for name in encoders
        )
        encodes = any(name.startswith("text_encoder") for name in given)
        if text_left_out(generator) is not None or (encodes and tokenizes):
            return []
        return [name for name in encoders if name not in given]

    def _generator_to_save(self, self_contained: bool) -> tuple[dict[str, Any] | None, Any]:
        """Components of the image generator that the repository holds or is without, or else the whole generator.

        A generator from another repository is named, with its changed components beside it.
        """
        generator = self.image_generator
        if generator is None:
            return dict.fromkeys(GENERATOR_COMPONENTS), None
        if self.model.config.image_generator_id is not None and not self_contained:
            left_out = text_left_out(generator)
            others = [name for name in generator.components if left_out is None or name not in left_out.names]
            parts = {name: getattr(generator, name) for name in others}
            changed = {
                name: part
                for name, part in parts.items()
                if (name in GENERATOR_COMPONENTS if part is None else not is_unchanged(part))
            }
            if {*changed} <= {*GENERATOR_COMPONENTS}:
                return changed, None
        self._load_text_encoders()
        return None, generator

    def _card_and_samples(self) -> dict[str, Path]:
        own = Path(str(self.config.get("_name_or_path") or ""))
        if not (own / CARD_FILE).is_file():
            return {}
        samples = {f"{SAMPLES_FOLDER}/{name}": path for name, path in files_of(own / SAMPLES_FOLDER).items()}
        return {CARD_FILE: own / CARD_FILE, **samples}

    def _retrieval_set_to_save(self) -> RetrievalSet | None:
        found = self.retrieval_set
        if found is not None:
            try:
                found.check_fingerprint(self.model.retrieval_fingerprint())
            except ValueError as error:
                # Weights that were trained on no longer fit the set that they were loaded with.
                logger.warning(f"The retrieval set is not saved: {error}")
                return None
        return found


@contextlib.contextmanager
def _one_progress_bar() -> Iterator[None]:
    """Show diffusers' progress bar of the components without those of transformers for the weights of each."""
    if not transformers_logging.is_progress_bar_enabled():
        yield
        return
    downloads_are_shown = not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    if downloads_are_shown:
        enable_progress_bars()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
        if not downloads_are_shown:
            disable_progress_bars()


def _own_class(config: dict[str, Any]) -> dict[str, Any]:
    # In the file, the class's name is a list that leads `DiffusionPipeline` to the repository's code; to the class
    # itself it must be the name alone, or diffusers would load the repository's copy instead of it.
    name = config.get("_class_name")
    return {**config, "_class_name": name[1]} if isinstance(name, (list, tuple)) else config


__all__ = ["CALL_DEFAULTS", "RETRIEVAL_SET_FOLDER", "RepositoryPipeline"]

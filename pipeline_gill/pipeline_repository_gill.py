"""A pipeline in and out of its Hub repository: components of other repositories, the retrieval set, one commit."""

import os
import tempfile
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.utils import logging
from huggingface_hub import HfApi

from .components_gill import COMPONENT_CLASSES, GENERATOR_COMPONENTS
from .components_gill import __name__ as components_module
from .hub_layout_gill import complete_or_not_at_all, write_code, write_model_index
from .hub_push_gill import OneCommit, clear_hub_errors, files_of
from .retrieval_set_gill import RetrievalSet

logger = logging.get_logger(__name__)

RETRIEVAL_SET_FOLDER = "retrieval_set"
# What a call takes that does not say, and `model_index.json` neither: Stable Diffusion's own.
CALL_DEFAULTS: dict[str, Any] = {"num_inference_steps": 50, "guidance_scale": 7.5}
CARD_FILE, SAMPLES_FOLDER = "README.md", "samples"


class RepositoryPipeline(DiffusionPipeline):
    """What [`GillPipeline`] has to do with repositories."""

    model: Any
    processor: Any
    unet: Any
    _retrieval_set: RetrievalSet | None = None

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        # `model_index.json` names only components that lie in the repository itself.
        init, unused, hidden = super().extract_init_dict(config_dict, **kwargs)
        elsewhere = {
            name: (components_module, loader) for name, loader in COMPONENT_CLASSES.items() if name not in init
        }
        return {**init, **elsewhere}, unused, hidden

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        loaded = super().load_config(*args, **kwargs)
        return (_own_class(loaded[0]), *loaded[1:]) if isinstance(loaded, tuple) else _own_class(loaded)

    @classmethod
    def _dict_from_json_file(cls, json_file: Any) -> dict[str, Any]:
        return _own_class(super()._dict_from_json_file(json_file))

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike[str], self_contained: bool = False, **kwargs: Any
    ) -> None:
        """Write one repository that every way of loading understands; complete or not at all.

        Args:
            save_directory (`str` or `os.PathLike`): Folder to write to; files that are not written anew stay.
            self_contained (`bool`, defaults to `False`):
                Write the backbones and the image generator too, rather than where they come from.
            kwargs: `max_shard_size` and such for the model.
        """
        if kwargs.pop("push_to_hub", False):
            raise ValueError("`save_pretrained` pushes nothing; call `push_to_hub(repo_id)`, which is one commit.")
        config = self.model.config
        with complete_or_not_at_all(save_directory) as folder:
            generator_id = config.image_generator_id
            inside = self._can_generate and (self_contained or generator_id is None)
            try:
                config.image_generator_id = None if inside else generator_id
                self.model.save_pretrained(folder, self_contained=self_contained, **kwargs)
            finally:
                config.image_generator_id = generator_id
            self.processor.save_pretrained(folder)
            entries: dict[str, Any] = {"ranking_size": self.config.ranking_size}
            entries |= {name: self.config[name] for name, usual in CALL_DEFAULTS.items() if self.config[name] != usual}
            for name in GENERATOR_COMPONENTS:
                component = getattr(self, name)
                if component is None:
                    entries[name] = [None, None]
                elif inside:
                    component.save_pretrained(folder / name)
                    entries[name] = [type(component).__module__.split(".")[0], type(component).__name__]
            write_model_index(folder, entries)
            write_code(folder)
            retrieval_set = self._retrieval_set_to_save()
            if retrieval_set is not None:
                retrieval_set.save(folder / RETRIEVAL_SET_FOLDER)

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
        """Send what `save_pretrained` writes to a repository of the Hub, created if need be, in one commit.

        A card and samples in the folder that the pipeline was loaded from (`python -m hub_card.make`) go along where
        the Hub has no card yet; a card on the Hub stays as it is. `python -m hub_card.push` brings edits together.

        Args:
            private (`bool`, *optional*): Whether a new repository is private; by default as the Hub has it.
            token (`str` or `bool`, *optional*): By default the one that this machine is logged in with.
            revision (`str`, *optional*): Branch to push to, made if need be.
            kwargs: Those of [`~GillPipeline.save_pretrained`].

        Returns:
            `str`: URL of the commit.

        Raises:
            PermissionError: the token is wrong, or the repository is another's.
        """
        with tempfile.TemporaryDirectory() as folder:
            repository = os.path.join(folder, "repository")
            self.save_pretrained(repository, **kwargs)
            api, files = HfApi(token=token), files_of(repository)
            with clear_hub_errors(repo_id):
                has_card = api.repo_exists(repo_id) and api.file_exists(repo_id, CARD_FILE)
            if not has_card:
                files = {**self._card_and_samples(), **files}
            commit = OneCommit(files, repo_id, api, private=private, revision=revision).commit(commit_message)
        return str(commit.commit_url)

    @property
    def retrieval_set(self) -> RetrievalSet | None:
        """The images that answers may retrieve; the one in the pipeline's own folder where nothing else was set."""
        folder = os.path.join(str(self.config.get("_name_or_path") or ""), RETRIEVAL_SET_FOLDER)
        if self._retrieval_set is None and os.path.isdir(folder):
            self.load_retrieval_set(folder)
        return self._retrieval_set

    @retrieval_set.setter
    def retrieval_set(self, retrieval_set: RetrievalSet | None) -> None:
        if retrieval_set is not None:
            retrieval_set.check_fingerprint(self.model.retrieval_fingerprint())
        self._retrieval_set = retrieval_set

    def load_retrieval_set(self, name_or_path: str | os.PathLike[str], **kwargs: Any) -> None:
        """Take the retrieval set in a folder or a data set repository of the Hub.

        Raises:
            ValueError: a set that was made for other weights, naming both fingerprints.
        """
        self.retrieval_set = RetrievalSet.load(name_or_path, **kwargs)

    @property
    def _can_generate(self) -> bool:
        return self.unet is not None and self.model.config.mapper_type is not None

    def _card_and_samples(self) -> dict[str, Path]:
        own = Path(str(self.config.get("_name_or_path") or ""))
        if not (own / CARD_FILE).is_file():
            return {}
        samples = {f"{SAMPLES_FOLDER}/{name}": path for name, path in files_of(own / SAMPLES_FOLDER).items()}
        return {CARD_FILE: own / CARD_FILE, **samples}

    def _retrieval_set_to_save(self) -> RetrievalSet | None:
        try:
            return self.retrieval_set
        except (ValueError, ImportError) as error:
            # Weights that were trained on no longer go with the set they were loaded beside; they must be saved still.
            logger.warning(f"The retrieval set is left out: {error}")
            return None


def _own_class(config: dict[str, Any]) -> dict[str, Any]:
    # In the file, the class's name is a list that leads `DiffusionPipeline` to the repository's code; to the class
    # itself it must be the name alone, or diffusers would load the repository's copy instead of it.
    name = config.get("_class_name")
    return {**config, "_class_name": name[1]} if isinstance(name, (list, tuple)) else config


__all__ = ["CALL_DEFAULTS", "RETRIEVAL_SET_FOLDER", "RepositoryPipeline"]

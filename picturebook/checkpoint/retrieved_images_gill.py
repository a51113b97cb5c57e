"""The images of an answer that are retrieved."""

from collections.abc import Sequence

import torch
from diffusers.utils import logging

from .answer_gill import ImageSlot, best_of
from .image_generator_gill import ImageGeneratorMixin
from .pipeline_output_gill import GillImage

logger = logging.get_logger(__name__)


class RetrievedImagesMixin(ImageGeneratorMixin):
    """The steps of a call of [`GillPipeline`] that ask its retrieval set."""

    def retrieve_images(
        self,
        slots: Sequence[ImageSlot],
        retrieval_embeds: torch.Tensor | None,
        *,
        num_images_per_prompt: int,
        fallback: bool,
        seen: dict[int, set[int]] | None = None,
    ) -> None:
        """Fill the slots that are to be retrieved; no image comes twice in an answer.

        Args:
            retrieval_embeds (`torch.Tensor` of shape `(num_images, retrieval_dim)`): The queries.
            fallback (`bool`): Whether to generate where no image could be opened.
            seen (`dict[int, set[int]]`, *optional*): For each answer, the images that it has; those found join them.
        """
        seen = {} if seen is None else seen
        for slot in slots:
            if slot.decision == "generate":
                continue
            assert retrieval_embeds is not None
            query, shown = retrieval_embeds[slot.image], seen.setdefault(slot.answer, set())
            found = [self._retrieve_image(query, shown) for _ in range(num_images_per_prompt)]
            slot.retrieved = best_of([image for image in found if image is not None])
            if slot.retrieved is None and fallback:
                logger.warning(f"Prompt {slot.prompt}: no image could be retrieved; one is generated instead.")
                slot.decision = "generate"
            elif slot.retrieved is None:
                logger.warning(f"Prompt {slot.prompt}: no image could be retrieved.")
                slot.retrieved = GillImage(None, "retrieved", "retrieve")

    def find_references(self, slots: Sequence[ImageSlot], retrieval_embeds: torch.Tensor) -> None:
        """Set the `reference` of the slots that are to be generated.

        Args:
            retrieval_embeds (`torch.Tensor` of shape `(num_images, retrieval_dim)`): The queries.

        Raises:
            ValueError: no image of the retrieval set can be opened.
        """
        for slot in slots:
            if slot.decision in ("generate", "both"):
                slot.reference = slot.retrieved or self._retrieve_image(retrieval_embeds[slot.image], set())
                if slot.reference is None or slot.reference.image is None:
                    raise ValueError(
                        f"Prompt {slot.prompt}: no image of the retrieval set can be opened as a reference."
                    )

    def _retrieve_image(self, query: torch.Tensor, seen: set[int]) -> GillImage | None:
        """The best image of the retrieval set for a query `(retrieval_dim,)` that is not in `seen`, which it joins."""
        found = self.retrieval_set and self.retrieval_set.retrieve(query.float().cpu(), exclude=seen)
        if not found:
            return None
        seen.add(found.index)
        return GillImage(
            image=found.image,
            source="retrieved",
            decision="retrieve",
            score=found.cosine * float(self.model.logit_scale.float().exp()),
            origin=found.path,
            caption=found.caption,
            index=found.index,
        )


__all__ = ["RetrievedImagesMixin"]

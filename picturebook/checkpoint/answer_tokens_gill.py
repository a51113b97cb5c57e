"""The tokens of an answer, back to texts and images."""

from collections.abc import Sequence
from typing import Any


class AnswerTokensMixin:
    """How [`GillProcessor`] takes apart what the model has written."""

    tokenizer: Any
    truncate_text: bool
    image_input_run_ids: list[int]
    image_output_run_ids: list[int]
    image_output_token_ids: list[int]

    def split_answer(
        self, ids: Sequence[int], max_images: int | None = None, truncate_text: bool | None = None
    ) -> list[str | int]:
        """Take the ids of an answer apart into texts and images. What belongs to an image, such as the tokens around it
        and the image itself where the model has read it after drawing it, is in none of the texts.

        Args:
            ids (`Sequence[int]`): What was written, prompt not included.
            max_images (`int`, *optional*): The answer ends with the last of so many images.
            truncate_text (`bool`, *optional*, defaults to that of the processor):
                End the answer at the first newline that is not its first token, and each text at its first newline or
                else after its first full stop (paper, section 3.3).

        Returns:
            `list[str | int]`: Texts, and for each image the index of its `[IMG0]` in `ids`. No text is empty.
        """
        ids = [int(i) for i in ids]
        truncate_text = self.truncate_text if truncate_text is None else truncate_text
        if truncate_text and (newline := self.newline_token_id) in ids[1:]:
            ids = ids[: ids.index(newline, 1)]
        pieces: list[str | int] = []
        begin = position = 0
        run, offset = self.image_output_run_ids, self.image_output_run_ids.index(self.image_output_token_ids[0])
        while position < len(ids):
            if max_images is not None and sum(isinstance(piece, int) for piece in pieces) >= max_images:
                return pieces
            if ids[position : position + len(run)] == run:
                pieces += [*self._decode_text(ids[begin:position], truncate_text), position + offset]
                position += len(run)
                if ids[position : position + len(self.image_input_run_ids)] == self.image_input_run_ids:
                    position += len(self.image_input_run_ids)
                begin = position
            else:
                position += 1
        return pieces + self._decode_text(ids[begin:], truncate_text)

    @property
    def newline_token_id(self) -> int:
        """Id of the token that ends an answer; the last one where a newline takes several."""
        return self.tokenizer("\n", add_special_tokens=False).input_ids[-1]

    def _decode_text(self, ids: list[int], truncate: bool) -> list[str | int]:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        if truncate:
            text = text.strip("\n")
            newline, stop = text.find("\n"), text.find(".")
            text = text[:newline] if newline >= 0 else text[: stop + 1] if stop >= 0 else text
        return [text] if text.strip() else []


__all__ = ["AnswerTokensMixin"]

"""
transformers' Trainer, with what GILL's adapters need: global means, whole checkpoints, and what is logged.

It overrides hooks of the Trainer whose names begin with an underscore; a test names them.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor
from torch.utils.data import Sampler
from transformers import EvalPrediction, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, rotate_checkpoints
from transformers.utils import logging

from modeling_gill import GillForConditionalGeneration, GillProcessor

from .callbacks import ImgRowScale, SeededOrder, SetEpoch, SingleProgressBar, mean_frozen_norm
from .checkpoints import STAGING, clear_staging, load_adapters, put_in_place, read_state, staging_folder
from .losses import retrieval_accuracy
from .record_mixture import MixtureOrder, RecordMixture
from .record_step import RecordTrainingStep
from .step_losses import BatchTotals
from .step_measurements import StepMeasurements
from .training_step import AdapterTrainingStep

logger = logging.get_logger(__name__)

_EVALUATED = ("captioning", "language", "contrastive", "conditioning", "reconstruction", "denoising")


class TooManyUnreadable(ValueError):
    """More examples could not be read than the run allows."""

    # Of the command: it ran, unlike after wrong options.
    exit_code = 1


class GillTrainer(Trainer):
    """
    Trains the adapters of a GILL model.

    Every loss is a mean over all that is predicted in a step, of all processes and all accumulated batches. The
    negatives of the contrastive loss are the other pairs of all processes in the *same* accumulated batch: with
    `gradient_accumulation_steps=n` they are n times fewer than the examples of a step.

    Args:
        step ([`AdapterTrainingStep`] or [`RecordTrainingStep`]): The model, with the weights of its losses.
        args (`TrainingArguments`).
        processor ([`GillProcessor`]): Saved beside the model.
        collator, eval_collator: See [`CaptionedImageCollator`]; the second by default as the first.
        train_dataset, eval_dataset: See `training_data`.
        max_unreadable (`int`, defaults to 1000): Examples that may be left out, as they cannot be read, before the run
            ends with [`TooManyUnreadable`].
        lr_decay_every (`int`, defaults to 0): Steps after which the learning rate is multiplied by `lr_decay_factor`,
            again and again, counted from the end of the warm-up as in the authors' code; 0 leaves the schedule to
            `args.lr_scheduler_type`.
        lr_decay_factor (`float`, defaults to 0.1): See there.
    """

    def __init__(
        self,
        step: AdapterTrainingStep | RecordTrainingStep,
        args: TrainingArguments,
        processor: GillProcessor,
        collator: Any,
        train_dataset: Any,
        eval_dataset: Any = None,
        eval_collator: Any = None,
        max_unreadable: int = 1000,
        lr_decay_every: int = 0,
        lr_decay_factor: float = 0.1,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.step = step
        self.gill: GillForConditionalGeneration = step.gill
        self.processor = processor
        self.max_unreadable = max_unreadable
        self.unreadable = 0
        self.lr_decay_every, self.lr_decay_factor = lr_decay_every, lr_decay_factor
        self._eval_collator = eval_collator or collator
        self._measurements = StepMeasurements()
        self._save_to: str | None = None
        self.data_collator: Any = collator
        self.lr_scheduler: Any = None
        # Columns are the collator's business, and the model has no `labels` of its own to look for.
        args.remove_unused_columns = False
        if args.ddp_find_unused_parameters is None:
            # The loss reaches whatever is trained in every batch.
            args.ddp_find_unused_parameters = False
        self._img_row_scale: ImgRowScale | None = None
        if step.gill.config.predict_image_output_tokens:
            # Rows that are columns of the head too compete with those of other tokens.
            used_ids = sorted(set(processor.tokenizer.get_vocab().values()))
            self._img_row_scale = ImgRowScale(step.gill, mean_frozen_norm(step.gill, used_ids))
            callbacks = [self._img_row_scale, *callbacks]
        if args.fsdp_plugin_args is not None and step.gill.logit_scale is not None:
            # FSDP takes no scalars; `own_weights` restores its shape.
            step.gill.logit_scale = torch.nn.Parameter(
                step.gill.logit_scale.data.reshape(1), step.gill.logit_scale.requires_grad
            )
        super().__init__(
            model=step,
            args=args,
            data_collator=collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            compute_metrics=_evaluation_metrics,
            callbacks=list(callbacks),
        )
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(SingleProgressBar)
        self.can_return_loss = True
        # `compute_loss` divides by the counts of the whole step.
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = False

    # --- data --------------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        data = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "random" or not hasattr(data, "__len__"):
            return super()._get_train_sampler(train_dataset)
        if isinstance(data, RecordMixture):
            order: SeededOrder = MixtureOrder(data)
        else:
            order = SeededOrder(data, self.args.data_seed if self.args.data_seed is not None else self.args.seed)
        self.pop_callback(SetEpoch)
        self.add_callback(SetEpoch(order))
        return order

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        trained_with, self.data_collator = self.data_collator, self._eval_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = trained_with

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Any:
        """`BatchTotals` of a step; also counts what could not be read, on all processes."""
        counts = torch.zeros(4, dtype=torch.float64)
        for batch in batch_samples:
            counts[:3] += torch.tensor(self.step.count(batch), dtype=torch.float64)
            for message in batch.get("skipped", ()):
                logger.warning(f"Left out, as it cannot be read: {message}")
                counts[3] += 1
        counts = self.accelerator.reduce(counts.float().to(device), reduction="sum")
        captioning, language, images, skipped = counts.tolist()
        self.unreadable += int(skipped)
        if self.unreadable > self.max_unreadable:
            raise TooManyUnreadable(
                f"{self.unreadable} examples could not be read, more than `max_unreadable` {self.max_unreadable} "
                "allows; the log names each."
            )
        return BatchTotals(max(captioning, 1.0), max(language, 1.0), max(images, 1.0))

    # --- the step ----------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch; on several processes times their number, as DDP and FSDP average gradients."""
        outputs = model(**inputs, totals=num_items_in_batch)
        loss = outputs["loss"]
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        if model.training:
            self._measurements.add(outputs, len(inputs["index"]))
        return (loss, outputs) if return_outputs else loss

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if not self.lr_decay_every:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            warmup = self.args.get_warmup_steps(num_training_steps)

            def factor(step: int) -> float:
                if step < warmup:
                    return step / warmup
                return self.lr_decay_factor ** ((step - warmup) // self.lr_decay_every)

            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # Only steps report a `loss` and a learning rate; evaluation and the end of the run have their own.
        if "loss" in logs and "learning_rate" in logs:
            # The Trainer averages over processes what `compute_loss` has multiplied by their number.
            logs |= self._measurements.report(self.accelerator)
            if self._img_row_scale is not None:
                logs["img_row_norm"] = self._img_row_scale.norm
            logs["adapter_norm"] = self._adapter_norm()
            if self.gill.logit_scale is not None:
                logs["temperature"] = float((-_whole(self.gill.logit_scale.detach()).float()).exp())
            if self.unreadable:
                logs["unreadable_examples"] = float(self.unreadable)
        super().log(logs, start_time)

    @torch.no_grad()
    def _adapter_norm(self) -> float:
        norms = [weight.float().norm() for weight in self.model.parameters() if weight.requires_grad]
        return float(torch.stack([_whole(norm).to(self.args.device) for norm in norms]).norm())

    # --- evaluation --------------------------------------------------------------------------------------------------

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        # Whether and when something is measured must not move the random numbers that training draws.
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            return super().evaluate(*args, **kwargs)

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Loss, and per example: embeddings of caption and image, and its share of the sums of the batch."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        index = inputs["index"]
        share = [
            outputs.get(f"{name}_{what}", outputs["loss"].new_zeros(()))
            for name in _EVALUATED
            for what in ("sum", "count", "correct")
        ]
        shares = torch.stack([value.detach().float() for value in share]) / max(len(index), 1)
        nothing = shares.new_zeros(len(index), 0)
        predictions = (
            outputs.get("text_embeds", nothing).float(),
            outputs.get("image_embeds", nothing).float(),
            shares.expand(len(index), -1).contiguous(),
        )
        return outputs["loss"].detach(), predictions, index

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> TrainOutput:
        """As the Trainer's; a checkpoint of the last step is loaded without another step.

        Raises:
            ValueError: the checkpoint is damaged, or another recipe's.
        """
        if self.args.should_save:
            clear_staging(self.args.output_dir)
        self.accelerator.wait_for_everyone()
        if resume_from_checkpoint is not None:
            state = read_state(resume_from_checkpoint)
            if state.global_step >= self._max_steps():
                load_adapters(self.gill, Path(resume_from_checkpoint))
                self.state = state
                losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
                return TrainOutput(state.global_step, losses[-1] if losses else float("nan"), {})
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _max_steps(self) -> int:
        if self.args.max_steps > 0:
            return self.args.max_steps
        *_, max_steps = self.set_initial_training_values(self.args, self.get_train_dataloader())
        return max_steps

    def _get_output_dir(self, trial: Any) -> str:
        return self._save_to or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # The Trainer writes into the folder that will be looked for; ours is written beside it, then renamed.
        output_dir = self._get_output_dir(trial)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        push, limit = self.args.push_to_hub, self.args.save_total_limit
        self._save_to = str(staging_folder(output_dir))
        self.args.push_to_hub, self.args.save_total_limit = False, None
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = os.path.join(output_dir, name)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._save_to, self.args.push_to_hub, self.args.save_total_limit = None, push, limit
        if STAGING in str(self.state.best_model_checkpoint):
            self.state.best_model_checkpoint = os.path.join(output_dir, name)
            if self.args.should_save:
                self.state.save_to_json(os.path.join(staging_folder(output_dir), name, "trainer_state.json"))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            place = put_in_place(output_dir, name)
            if push:
                self._push_from_checkpoint(str(place))
            rotate_checkpoints(
                output_dir=output_dir,
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=False,
            )
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        if self.args.should_save:
            self.save_adapters(output_dir or self.args.output_dir, state_dict)

    def save_adapters(self, folder: str | os.PathLike[str], weights: dict[str, torch.Tensor] | None = None) -> None:
        """
        Write adapters, configuration and processor as `from_pretrained` reads them; no backbone.

        Args:
            weights (`dict[str, torch.Tensor]`, *optional*): Of [`gathered_state`].
        """
        self.gill.save_pretrained(folder, state_dict=self.own_weights(weights))
        self.processor.save_pretrained(folder)

    def own_weights(self, weights: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor] | None:
        """Weights of [`gathered_state`] by the model's names and in its shapes; `None` for those that it holds."""
        if weights is None:
            is_reshaped = self.gill.logit_scale is not None and self.gill.logit_scale.ndim
            weights = self.gill.state_dict() if is_reshaped else None
        if weights is not None:
            weights = {name.removeprefix("gill."): value for name, value in weights.items()}
            if "logit_scale" in weights:
                weights["logit_scale"] = weights["logit_scale"].reshape(())
        return weights

    def gathered_state(self) -> dict[str, torch.Tensor] | None:
        """All weights by the step's names where FSDP has them in parts, else `None`. Called by all processes."""
        # FSDP2 shares the weights of the model itself out, its predecessor wraps it.
        is_sharded = self.is_fsdp_enabled and (
            self.model_wrapped is not self.model or any(isinstance(w, DTensor) for w in self.model.parameters())
        )
        return self.accelerator.get_state_dict(self.model) if is_sharded else None

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Disabled; `hub_card` writes the card."""

    def wait_for_pushes(self) -> None:
        """Wait for the uploads of checkpoints that are under way."""
        self._finish_current_push()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        load_adapters(self.gill, Path(resume_from_checkpoint))


def _whole(value: torch.Tensor) -> torch.Tensor:
    # FSDP has it in parts.
    return value.full_tensor() if isinstance(value, DTensor) else value


def _evaluation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Losses and accuracies over the whole evaluation set, retrieval among all of its images."""
    text, image, shares = prediction.predictions
    sums = np.asarray(shares, dtype=np.float64).sum(0).reshape(len(_EVALUATED), 3)
    found = {}
    for name, (total, count, correct) in zip(_EVALUATED, sums, strict=True):
        if count:
            found[f"{name}_loss"] = total / count
            if name in ("captioning", "language"):
                found[f"{name}_accuracy"] = correct / count
    if text.shape[-1]:
        texts, images = (torch.nn.functional.normalize(torch.as_tensor(embeds), dim=-1) for embeds in (text, image))
        found |= {name: float(value) for name, value in retrieval_accuracy(images @ texts.T).items()}
    return found


__all__ = ["GillTrainer", "TooManyUnreadable"]

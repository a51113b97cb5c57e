"""The denoiser of any image generator, run once at given timesteps, with the gradient of its conditioning.

No pipeline of diffusers is named here. How a denoiser is called (its rotary positions, sizes, guidance and scaled
timesteps) and what is made of its output (its sign, the half that predicts a variance) is written in the generator's
own `__call__`, so that is what runs: on a copy of the generator whose scheduler has one step, at the timesteps of the
training, and ends the call with the prediction that it is given.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from modeling_gill.conditioning_gill import ConditioningTensor
from pipeline_gill.conditioning_capture_gill import generator_arguments
from pipeline_gill.generator_call_gill import call_parameters, copy_generator


class UntrainableGenerator(ValueError):
    """An image generator through which no denoising loss can be computed; the message names it and the reason."""


class GeneratorDenoiser:
    """
    An image generator as what trains its conditioning: an image encoder and a denoiser, both frozen.

    Args:
        generator ([`~diffusers.DiffusionPipeline`]): Text encoders are not needed. Its weights are frozen.
        tensors (`Sequence[ConditioningTensor]`): What it is conditioned on, `config.conditioning_tensors`.
        call: Arguments of its call that are needed beside the conditioning and the size of the images.

    Raises:
        UntrainableGenerator: it has no VAE or no denoiser, or is a consistency model, whose output is no estimate of
            noise.
    """

    def __init__(self, generator: Any, tensors: Sequence[ConditioningTensor], **call: Any) -> None:
        self.generator = copy_generator(generator)
        self.name = type(generator).__name__
        self.tensors = tuple(tensors)
        found = (getattr(generator, name, None) for name in ("unet", "transformer"))
        self.denoiser: Any = next((part for part in found if part is not None), None)
        self.vae: Any = getattr(generator, "vae", None)
        scheduler = getattr(generator, "scheduler", None)
        if self.denoiser is None or self.vae is None or scheduler is None:
            raise self.refusal("it is not made of one VAE, one scheduler and one `unet` or `transformer`")
        if self.denoiser.config.get("time_cond_proj_dim") is not None:
            raise self.refusal("it is a consistency model: its denoiser is distilled to jump, not to estimate noise")
        for part in (self.denoiser, self.vae):
            part.requires_grad_(False).eval()
        self._scheduler = _OneStepScheduler(scheduler)
        # Not by assignment, which would look the class of the stand-in up in a library.
        vars(self.generator)["scheduler"] = self._scheduler
        self.generator.set_progress_bar_config(disable=True)
        # Without its decorator, which switches gradients off.
        decorated = type(generator).__call__
        self._call = getattr(decorated, "__wrapped__", decorated)
        parameters = call_parameters(generator)
        options = {
            "num_inference_steps": 1,
            "true_cfg_scale": 1.0,
            "use_resolution_binning": False,
            "output_type": "latent",
        }
        scale = parameters.get("guidance_scale")
        if scale is not None and scale.default is not None and not self.denoiser.config.get("guidance_embeds"):
            # A scale that the denoiser reads is left as the generator has it; any other one asks for two passes.
            options["guidance_scale"] = 0.0
        self._options = {**{name: value for name, value in options.items() if name in parameters}, **call}

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the denoiser."""
        return self.denoiser.dtype

    @property
    def default_size(self) -> int | None:
        """Side in pixels at which the generator draws by default, if its denoiser says."""
        sample = self.denoiser.config.get("sample_size")
        return sample * self.generator.vae_scale_factor if isinstance(sample, int) else None

    def to(self, device: torch.device) -> "GeneratorDenoiser":
        """Move the VAE and the denoiser."""
        for part in (self.denoiser, self.vae):
            part.to(device)
        return self

    def refusal(self, reason: str) -> UntrainableGenerator:
        """An error that names the generator and a reason."""
        return UntrainableGenerator(f"No denoising loss can be computed with {self.name}: {reason}.")

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """
        A sample of the VAE's posterior, in the units that the denoiser reads.

        Args:
            images (`torch.FloatTensor` of shape `(num_images, 3, height, width)`): In [-1, 1].

        Returns:
            `torch.FloatTensor` of shape `(num_images, channels, latent_height, latent_width)`, in float32 at least.
        """
        config = self.vae.config
        images = images.to(self.vae.dtype)
        # Image models that are made of video models have a dimension of time.
        is_video = any(isinstance(module, torch.nn.Conv3d) for module in self.vae.modules())
        encoded = self.vae.encode(images[:, :, None] if is_video else images)
        posterior = getattr(encoded, "latent_dist", None)
        latents = encoded.latent if posterior is None else posterior.sample()
        latents = latents[:, :, 0] if is_video else latents
        latents = latents.to(torch.promote_types(latents.dtype, torch.float32))
        mean, deviation = (config.get(name) for name in ("latents_mean", "latents_std"))
        if mean is not None and deviation is not None:
            mean, deviation = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (mean, deviation))
        else:
            mean, deviation = config.get("shift_factor") or 0.0, 1.0
        scale = config.get("scaling_factor")
        return (latents - mean) * (1.0 if scale is None else scale) / deviation

    def predict(
        self, conditioning: Mapping[str, torch.Tensor], noisy: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """
        What the denoiser predicts, as the generator hands it to its scheduler.

        Args:
            conditioning (`Mapping[str, torch.Tensor]`): Of `num_images` images, as [`GillOutput.conditioning`].
            noisy (`torch.FloatTensor` of shape `(num_images, channels, latent_height, latent_width)`).
            timesteps (`torch.Tensor` of shape `(num_images,)`): In the units of the generator's scheduler.

        Returns:
            `torch.FloatTensor`: Of the shape that [`GeneratorDenoiser.arrange`] gives the latents; differentiable in
            the conditioning.

        Raises:
            UntrainableGenerator: latents of another shape than the generator draws.
        """
        conditioning = {
            name: values.to(noisy.device, self.dtype) if values.is_floating_point() else values.to(noisy.device)
            for name, values in conditioning.items()
        }
        make_latents = type(self.generator).prepare_latents

        def prepare_latents(*args: Any, **kwargs: Any) -> Any:
            made = make_latents(self.generator, *args, **kwargs)
            own, *others = made if isinstance(made, tuple) else (made,)
            placed = self.arrange(noisy, own.shape).to(own)
            return (placed, *others) if isinstance(made, tuple) else placed

        vars(self.generator)["prepare_latents"] = prepare_latents
        self._scheduler.begin(timesteps)
        pixels = self.generator.vae_scale_factor
        try:
            self._call(
                self.generator,
                **generator_arguments(conditioning, self.tensors),
                height=noisy.shape[-2] * pixels,
                width=noisy.shape[-1] * pixels,
                # Of the latents that are replaced: no number of the training is drawn for them.
                generator=torch.Generator().manual_seed(0),
                **self._options,
            )
        except _Predicted as predicted:
            return predicted.prediction
        finally:
            del vars(self.generator)["prepare_latents"]
        raise self.refusal("its call did not reach `scheduler.step`")

    def arrange(self, latents: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """
        Latents as the denoiser reads them: as they are, or packed into patches.

        Args:
            latents (`torch.FloatTensor` of shape `(num_images, channels, latent_height, latent_width)`).
            shape (`Sequence[int]`): The shape that is expected.

        Raises:
            UntrainableGenerator: neither has this shape.
        """
        if latents.shape == tuple(shape):
            return latents
        # Packed by twos; an odd row is what the generator cuts off.
        if hasattr(self.generator, "_pack_latents") and not any(size % 2 for size in latents.shape[-2:]):
            packed = self.generator._pack_latents(latents, *latents.shape)
            if packed.shape == tuple(shape):
                return packed
        raise self.refusal(
            f"its VAE encodes these images to latents of shape {tuple(latents.shape)}, and it draws {tuple(shape)}"
        )


class _OneStepScheduler:
    """Stands in for a scheduler: one step, at timesteps of the training, that ends the call with the prediction."""

    order = 1
    init_noise_sigma = 1.0

    def __init__(self, scheduler: Any) -> None:
        self.config = scheduler.config
        self.timesteps = torch.zeros(1, 1)

    def begin(self, timesteps: torch.Tensor) -> None:
        """Set the timesteps of the images of a batch."""
        self.timesteps = timesteps[None]  # the only step

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
    ) -> None:
        """Nothing: the timesteps are those of the training."""

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Nothing: there is one step."""

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None) -> torch.Tensor:
        """The sample, which is noised as in training already."""
        return sample

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, **kwargs: Any) -> None:
        """End the call of the generator."""
        raise _Predicted(model_output)


class _Predicted(Exception):
    """Ends a call of a generator with what its denoiser has predicted."""

    def __init__(self, prediction: torch.Tensor) -> None:
        super().__init__()
        self.prediction = prediction


__all__ = ["GeneratorDenoiser", "UntrainableGenerator"]

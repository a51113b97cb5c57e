"""The image generator's own denoising loss: how well it tells images from noise, given a conditioning.

The gradient reaches the conditioning through the frozen denoiser. DreamLLM (Dong et al., 2024, section 3.2) calls this
score distillation; it is the loss that latent diffusion models are trained with (Rombach et al., 2022, equation 3).

An image says more than its caption, and what no caption tells is most of that loss. Where the generator's own
conditioning is known, its prediction given that can be the target instead: then the loss is 0 for a conditioning that
the generator cannot tell from its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from modeling_gill.conditioning_gill import ConditioningTensor
from pipeline_gill.conditioning_capture_gill import check_negatives
from pipeline_gill.generator_call_gill import NEGATIVE

from .arguments import DENOISING_TARGETS
from .generator_denoiser import GeneratorDenoiser, UntrainableGenerator


@dataclass(frozen=True)
class DenoisingOptions:
    """
    What may be changed in the denoising loss; by default nothing is, as in the released recipes of DreamLLM.

    Args:
        noise_offset (`float`, defaults to 0):
            Standard deviation of a constant added to each channel of the noise, so that brightness is learnt as well.
        input_perturbation (`float`, defaults to 0):
            Standard deviation of noise added to the latents beside the noise that is predicted (Ning et al., 2023).
        min_snr_gamma (`float`, *optional*):
            Bound on the weight of a timestep, in signal-to-noise ratio (Hang et al., 2023; 5 there).
        condition_dropout (`float`, defaults to 0):
            Probability that an image is denoised without its condition, given what inference guides away from (Ho and
            Salimans, 2022; 0.1 there).
        timestep_bias_multiplier (`float`, defaults to 1):
            How many times as often one of the noisiest timesteps is drawn as another one. Where little of the image is
            left, the condition matters most.
        timestep_bias_portion (`float`, defaults to 0.5):
            The share of timesteps that are the noisiest. Both as `timestep_bias_strategy="later"` of diffusers'
            training scripts.
        num_draws (`int`, defaults to 1):
            Noises and timesteps for each image, over which its loss is the mean. The language model is read once for
            all of them (`diffusion_batch_mul` of Li et al., 2024).
        target (`str`, defaults to `"images"`):
            What the prediction is compared with: `"images"`, what the generator was trained to predict, or
            `"generator"`, what it predicts given its own conditioning.

    Raises:
        ValueError: a number out of its range, or an unknown target.
    """

    noise_offset: float = 0.0
    input_perturbation: float = 0.0
    min_snr_gamma: float | None = None
    condition_dropout: float = 0.0
    timestep_bias_multiplier: float = 1.0
    timestep_bias_portion: float = 0.5
    num_draws: int = 1
    target: str = "images"

    def __post_init__(self) -> None:
        if self.target not in DENOISING_TARGETS:
            raise ValueError(f"`denoising_target` must be one of {DENOISING_TARGETS}, got {self.target!r}.")
        if self.target == "generator" and self.condition_dropout:
            raise ValueError("`denoising_target` is generator: expected `condition_dropout: 0`.")
        for name in ("noise_offset", "input_perturbation"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` is a standard deviation, got {getattr(self, name)}.")
        if self.min_snr_gamma is not None and not self.min_snr_gamma > 0:
            raise ValueError(f"`min_snr_gamma` must be positive or None, got {self.min_snr_gamma}.")
        if not 0 <= self.condition_dropout <= 1:
            raise ValueError(f"`condition_dropout` is a probability, got {self.condition_dropout}.")
        if not 0 < self.timestep_bias_multiplier < math.inf:
            raise ValueError(f"`timestep_bias_multiplier` must be positive, got {self.timestep_bias_multiplier}.")
        if not 0 <= self.timestep_bias_portion <= 1:
            raise ValueError(f"`timestep_bias_portion` is a share, got {self.timestep_bias_portion}.")
        if self.num_draws < 1:
            raise ValueError(f"`num_draws` must be at least 1, got {self.num_draws}.")

    def draw_timesteps(self, number: int, count: int, device: torch.device) -> torch.Tensor:
        """
        Timesteps of a training step.

        Args:
            number (`int`): Of images.
            count (`int`): Of timesteps there are.
            device (`torch.device`): Whose random numbers are drawn.

        Returns:
            `torch.LongTensor` of shape `(number,)`: Each from 0 to `count - 1`.
        """
        if self.timestep_bias_multiplier == 1:
            return torch.randint(0, count, (number,), device=device)
        weights = torch.ones(count, device=device)
        weights[count - int(self.timestep_bias_portion * count) :] = self.timestep_bias_multiplier
        return torch.multinomial(weights, number, replacement=True)


@dataclass(frozen=True)
class NoiseSchedule:
    """
    How images are noised and what of them is predicted: `signal * latents + noise * noise`.

    Attributes:
        signal, noise (`torch.FloatTensor` of shape `(num_train_timesteps,)`): Factors at each timestep.
        timesteps (`torch.Tensor` of shape `(num_train_timesteps,)`): What the denoiser is given for each.
        prediction_type (`str`): `"epsilon"`, `"v_prediction"`, `"sample"`, or `"flow"`, noise minus latents.
    """

    signal: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    prediction_type: str

    @classmethod
    def of_scheduler(cls, scheduler: Any) -> "NoiseSchedule":
        """
        The schedule that the models of a scheduler are trained with.

        Raises:
            UntrainableGenerator: a scheduler of another kind; the message names it.
        """
        config, name = scheduler.config, type(scheduler).__name__
        count = config.get("num_train_timesteps")
        predicted = config.get("prediction_type", "epsilon")
        # Of FlowMatchLCMScheduler, models are distilled to jump, as of LCMScheduler.
        is_flow_matching = name.startswith("FlowMatch") and "LCM" not in name
        if is_flow_matching or predicted == "flow_prediction":
            predicted = "flow"
        if config.get("invert_sigmas"):
            raise UntrainableGenerator(
                f"No denoising loss is known for the scheduler {name} with `invert_sigmas`, which counts noise levels "
                "backwards; expected one without."
            )
        if isinstance(count, int) and (is_flow_matching or config.get("use_flow_sigmas")):
            sigmas = torch.arange(1, count + 1, dtype=torch.float64) / count
            shift = config.get("flow_shift") or config.get("shift") or 1.0
            if not config.get("use_dynamic_shifting"):  # which depends on the size of an image when it is drawn
                sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
            sigmas = sigmas.float()
            if predicted in ("flow", "epsilon", "sample"):
                return cls(1 - sigmas, sigmas, sigmas * count, predicted)
        alphas = getattr(scheduler, "alphas_cumprod", None)
        is_known = predicted in ("epsilon", "v_prediction", "sample") and not config.get("use_flow_sigmas")
        if alphas is None or not is_known or name == "LCMScheduler":
            raise UntrainableGenerator(
                f"No denoising loss is known for the scheduler {name} (prediction_type {predicted!r}); expected one "
                "that predicts epsilon, v_prediction or sample from `alphas_cumprod`, or flow matching."
            )
        return cls(alphas**0.5, (1 - alphas) ** 0.5, torch.arange(len(alphas)), predicted)

    def to(self, device: torch.device) -> "NoiseSchedule":
        """The same on a device."""
        return NoiseSchedule(
            self.signal.to(device), self.noise.to(device), self.timesteps.to(device), self.prediction_type
        )

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Noised latents at timesteps from 0 on, of shape `(num_images,)`."""
        return _of(self.signal, timesteps, latents) * latents + _of(self.noise, timesteps, latents) * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What is predicted."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        if self.prediction_type == "flow":
            return noise - latents
        return _of(self.signal, timesteps, latents) * noise - _of(self.noise, timesteps, latents) * latents

    def min_snr_weight(self, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
        """
        Weight of the squared error at timesteps, so that that of the latents has the weight `min(SNR, gamma)`.

        Args:
            timesteps (`torch.LongTensor` of shape `(num_images,)`): From 0 on.
            gamma (`float`): The bound.

        Returns:
            `torch.FloatTensor` of shape `(num_images,)`.
        """
        signal, noise = self.signal[timesteps].square(), self.noise[timesteps].square()
        snr = signal / noise
        if self.prediction_type == "epsilon":
            return (gamma / snr).clamp(max=1.0)  # 1 at a timestep without any signal
        weight = snr.clamp(max=gamma)
        return weight if self.prediction_type == "sample" else weight * noise


@dataclass(frozen=True)
class DenoisingDraw:
    """
    The random numbers of a denoising loss, which are drawn where they are not given.

    Attributes:
        latents (`torch.FloatTensor` of shape `(num_images, channels, latent_height, latent_width)`, *optional*):
            Of the images, from the VAE's posterior and in the units of the denoiser.
        noise (*optional*): Of the same shape; of `num_images * num_draws` where there are several draws for each image,
            which follow each other.
        timesteps (`torch.LongTensor` of shape `(num_images * num_draws,)`, *optional*): Each below
            `num_train_timesteps`.
    """

    latents: torch.Tensor | None = None
    noise: torch.Tensor | None = None
    timesteps: torch.Tensor | None = None


class DenoisingLoss:
    """
    The denoising loss of an image generator, of images given their conditioning.

    Args:
        generator ([`~diffusers.DiffusionPipeline`]): Frozen by this; text encoders are not needed.
        tensors (`Sequence[ConditioningTensor]`): What it is conditioned on, `config.conditioning_tensors`.
        options (`DenoisingOptions`, *optional*): By default all off.
        negatives (`Mapping[str, torch.Tensor]`, *optional*):
            What inference guides away from, as [`capture_negatives`] makes it; needed by `condition_dropout` where the
            call of this does not get `unconditional`.
        call: Arguments of the generator's call that are needed beside the conditioning and the size of the images.

    Raises:
        UntrainableGenerator: a generator that predicts no noise, velocity, sample or flow.

    Example:

    ```python
    >>> from diffusers import DiffusionPipeline
    >>> from training_gill.denoising_loss import DenoisingLoss

    >>> generator = DiffusionPipeline.from_pretrained(model.config.image_generator_id)
    >>> loss = DenoisingLoss(generator, model.config.conditioning_tensors)
    >>> conditioning = model(**processor(captions, add_img_tokens=True)).conditioning
    >>> loss(conditioning, images).mean().backward()
    ```
    """

    def __init__(
        self,
        generator: Any,
        tensors: Sequence[ConditioningTensor],
        options: DenoisingOptions | None = None,
        negatives: Mapping[str, torch.Tensor] | None = None,
        **call: Any,
    ) -> None:
        self.denoiser = GeneratorDenoiser(generator, tensors, **call)
        self.schedule = NoiseSchedule.of_scheduler(generator.scheduler)
        self.options = options or DenoisingOptions()
        self.negatives: dict[str, torch.Tensor] | None = None
        if negatives:
            check_negatives(negatives, tensors)
            self.negatives = {name.removeprefix(NEGATIVE): values for name, values in negatives.items()}

    def to(self, device: torch.device) -> "DenoisingLoss":
        """Move the generator."""
        self.denoiser.to(device)
        self.schedule = self.schedule.to(device)
        return self

    def __call__(
        self,
        conditioning: Mapping[str, torch.Tensor],
        images: torch.Tensor | None = None,
        draw: DenoisingDraw | None = None,
        unconditional: Mapping[str, torch.Tensor] | None = None,
        own_conditioning: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """
        The loss of each image.

        Args:
            conditioning (`Mapping[str, torch.Tensor]`): Of `num_images` images, as [`GillOutput.conditioning`].
            images (`torch.FloatTensor` of shape `(num_images, 3, height, width)`, *optional*): In [-1, 1]. Not needed
                with `draw.latents`.
            draw (`DenoisingDraw`, *optional*): Random numbers in place of drawn ones. These are drawn in the order
                latents, noise, timesteps, then those of the options.
            unconditional (`Mapping[str, torch.Tensor]`, *optional*): For one image, what stands in for a condition
                that is dropped; by default `negatives`.
            own_conditioning (`Mapping[str, torch.Tensor]`, *optional*): The generator's own for the same captions;
                needed where `options.target` is `"generator"`, and read only there.

        Returns:
            `torch.FloatTensor` of shape `(num_images,)`: mean squared errors, in float32 at least.

        Raises:
            ValueError: neither images nor latents, a condition to drop and nothing in its place, or no own conditioning
                where that is the target.
        """
        draw, options = draw or DenoisingDraw(), self.options
        given = images if draw.latents is None else draw.latents
        if given is None:
            raise ValueError("Either `images` or `draw.latents` must be given.")
        if options.target == "generator" and own_conditioning is None:
            raise ValueError("`denoising_target` is generator: expected the generator's own conditioning.")
        if self.schedule.signal.device != given.device:
            self.to(given.device)
        latents = self.denoiser.encode(given) if draw.latents is None else given
        num_images = len(latents)
        if options.num_draws > 1:
            latents = latents.repeat_interleave(options.num_draws, 0)
            conditioning = _repeated(conditioning, options.num_draws)
        noise = torch.randn_like(latents) if draw.noise is None else draw.noise.to(latents)
        timesteps = draw.timesteps
        if timesteps is None:
            timesteps = options.draw_timesteps(len(latents), len(self.schedule.signal), latents.device)
        timesteps = timesteps.to(latents.device, torch.long)
        if options.noise_offset:
            noise = noise + options.noise_offset * torch.randn_like(noise[:, :, :1, :1])
        added = noise
        if options.input_perturbation:
            added = noise + options.input_perturbation * torch.randn_like(noise)
        if options.condition_dropout:
            dropped = torch.rand(len(latents), device=latents.device) < options.condition_dropout
            conditioning = self._replaced(conditioning, dropped, unconditional)
        noisy, times = self.schedule.add_noise(latents, added, timesteps), self.schedule.timesteps[timesteps]
        predicted = self.denoiser.predict(conditioning, noisy, times)
        if options.target == "generator":
            own = _repeated(own_conditioning or {}, options.num_draws)
            with torch.no_grad():
                target = self.denoiser.predict(own, noisy, times).to(latents.dtype)
        else:
            target = self.denoiser.arrange(self.schedule.target(latents, noise, timesteps), predicted.shape)
        error = (predicted.to(target.dtype) - target).square().flatten(1).mean(1)
        if options.min_snr_gamma is not None:
            error = error * self.schedule.min_snr_weight(timesteps, options.min_snr_gamma)
        return error.view(num_images, options.num_draws).mean(1)

    def _replaced(
        self,
        conditioning: Mapping[str, torch.Tensor],
        dropped: torch.Tensor,
        unconditional: Mapping[str, torch.Tensor] | None,
    ) -> dict[str, torch.Tensor]:
        """A conditioning with that of some images replaced; `dropped` is bool `(num_images,)`."""
        instead = self.negatives if unconditional is None else unconditional
        if instead is None:
            raise ValueError(
                f"`condition_dropout` is {self.options.condition_dropout}, but there is nothing to denoise with in "
                f"place of a condition: {self.denoiser.name} has no negative conditioning."
            )
        return {
            name: torch.where(
                dropped.to(values.device).view(-1, *[1] * (values.dim() - 1)), instead[name].to(values), values
            )
            for name, values in conditioning.items()
        }


def _repeated(conditioning: Mapping[str, torch.Tensor], times: int) -> dict[str, torch.Tensor]:
    return {name: values.repeat_interleave(times, 0) for name, values in conditioning.items()}


def _of(factors: torch.Tensor, timesteps: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    return factors.to(latents.dtype)[timesteps].view(-1, *[1] * (latents.dim() - 1))


__all__ = ["DenoisingDraw", "DenoisingLoss", "DenoisingOptions", "NoiseSchedule"]

"""The denoising loss is the generator's own, whatever the generator is, and its gradient reaches the conditioning."""

import functools
from typing import Any

import diffusers
import pytest
import torch

from pipeline_gill.conditioning_capture_gill import capture_conditioning, capture_negatives, generator_arguments
from pipeline_gill.conditioning_derivation import derive_conditioning
from pipeline_gill.generator_call_gill import call_parameters, without_negative_prompt
from tests.small_generators import CALLS, small_generator
from training_gill.denoising_loss import DenoisingDraw, DenoisingLoss, DenoisingOptions, NoiseSchedule
from training_gill.generator_denoiser import UntrainableGenerator

KINDS = {
    "stable-diffusion-1.5": "epsilon",
    "stable-diffusion-2.1": "v_prediction",
    "sdxl": "epsilon",
    "stable-diffusion-3": "flow",
    "pixart-sigma": "epsilon",
    "sana": "epsilon",  # of flow's sigmas, as the scheduler of this small one is set
    "flux": "flow",
    "chroma": "flow",
    "lumina2": "flow",
    "qwen-image": "flow",
    "z-image": "flow",
}
SLOW = ("sdxl", "pixart-sigma", "flux", "chroma", "lumina2", "qwen-image", "z-image")
ALL_KINDS = [pytest.param(kind, marks=pytest.mark.slow if kind in SLOW else ()) for kind in KINDS]
PROMPTS = ["a red house", "a cat"]


class StopError(Exception):
    """Ends a call of a generator."""


@functools.cache
def encoded_prompts(kind: str) -> tuple[Any, ...]:
    """What a generator is conditioned on, and what it makes of two prompts and of a negative one."""
    generator, call = small_generator(kind), CALLS.get(kind, {})
    tensors = derive_conditioning(generator, **call)
    conditioning = capture_conditioning(generator, PROMPTS, tensors, **call)
    return tensors, conditioning, capture_negatives(generator, tensors, **call)


def world(kind: str, **options: Any) -> tuple[Any, DenoisingLoss, dict[str, torch.Tensor], torch.Tensor]:
    """A generator, its loss, the conditioning of two prompts, and two images."""
    generator = small_generator(kind)
    tensors, conditioning, negatives = encoded_prompts(kind)
    loss = DenoisingLoss(generator, tensors, DenoisingOptions(**options), negatives)
    size = 32 if kind == "sana" else 16
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return generator, loss, conditioning, images


def first_denoiser_call(run: Any, denoiser: torch.nn.Module) -> dict[str, Any]:
    """The arguments of the first call of a denoiser while something runs, by name."""
    seen: dict[str, Any] = {}

    def hook(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        seen.update({str(number): value for number, value in enumerate(args)}, **kwargs)
        raise StopError

    handle = denoiser.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        run()
    except StopError:
        pass
    finally:
        handle.remove()
    return seen


def assert_same(found: Any, expected: Any, name: str) -> None:
    if isinstance(expected, torch.Tensor):
        found, expected = found.double(), expected.double()
        # One timestep for all, or one for each.
        expected = expected.expand_as(found) if expected.dim() == 0 else expected
        torch.testing.assert_close(found, expected, msg=lambda text: f"{name}: {text}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), name
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, name)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key in expected:
            assert_same(found[key], expected[key], f"{name}.{key}")
    else:
        assert found == expected, name


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_denoiser_is_called_as_the_generator_calls_it_when_it_draws(kind):
    generator, loss, conditioning, images = world(kind)
    latents = loss.denoiser.encode(images)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    pixels = latents.shape[-1] * generator.vae_scale_factor
    options: dict[str, Any] = {
        "use_resolution_binning": False,
        "true_cfg_scale": 1.0,
        "guidance_scale": {"flux": 3.5, "z-image": 0.0}.get(kind, 1.0),
    }
    options = {name: value for name, value in options.items() if name in call_parameters(generator)}
    arguments = generator_arguments(conditioning, loss.denoiser.tensors)

    def draw() -> None:
        generator(
            **arguments,
            **without_negative_prompt(generator),
            **options,
            height=pixels,
            width=pixels,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
        )

    denoiser = loss.denoiser.denoiser
    expected = first_denoiser_call(draw, denoiser)
    scheduler = generator.scheduler
    timestep = scheduler.timesteps[0]
    noisy = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    if hasattr(scheduler, "scale_model_input"):
        noisy = scheduler.scale_model_input(noisy, timestep)
    found = first_denoiser_call(lambda: loss.denoiser.predict(conditioning, noisy, timestep.expand(2)), denoiser)
    assert found.keys() == expected.keys()
    for name in expected:
        assert_same(found[name], expected[name], name)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_generator_that_predicts_the_target_draws_the_image(kind):
    """Its own scheduler steps from the noised latents to the latents, and its decoder is given what the VAE encoded."""
    generator, loss, _, images = world(kind)
    schedule, scheduler = loss.schedule, generator.scheduler
    assert schedule.prediction_type == KINDS[kind]
    latents = loss.denoiser.encode(images)
    noise = torch.randn_like(latents)
    shift = {"mu": 0.5} if scheduler.config.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(2, **shift)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(1)
    timestep = scheduler.timesteps[1]
    index = (schedule.timesteps.double() - float(timestep)).abs().argmin().expand(2)
    noisy, target = schedule.add_noise(latents, noise, index), schedule.target(latents, noise, index)
    if isinstance(scheduler, diffusers.EulerDiscreteScheduler):
        noisy = noisy / schedule.signal[index].view(-1, 1, 1, 1)
        scheduler.scale_model_input(noisy, timestep)
    drawn = scheduler.step(target, timestep, noisy, return_dict=False)[0]
    assert float((drawn - latents).norm() / latents.norm()) < 1e-2

    vae, seen = generator.vae, []
    encoded = vae.encode(images[:, :, None] if kind == "qwen-image" else images)
    mode = encoded.latent if not hasattr(encoded, "latent_dist") else encoded.latent_dist.mode()
    encoded = [encoded.latent if not hasattr(encoded, "latent_dist") else encoded.latent_dist]
    if hasattr(encoded[0], "sample"):
        encoded[0].sample = encoded[0].mode
    vae.encode = lambda _: _Encoded(encoded[0])
    own = loss.denoiser.encode(images)

    def decode(given: torch.Tensor, *_: Any, **__: Any) -> None:
        seen.append(given)
        raise StopError

    vae.decode = decode
    pixels = latents.shape[-1] * generator.vae_scale_factor
    last = vars(generator)["scheduler"] = _Finished(scheduler, loss.denoiser.arrange, own)
    options = {"use_resolution_binning": False, "num_inference_steps": 1, "height": pixels, "width": pixels}
    options = {name: value for name, value in options.items() if name in call_parameters(generator)}
    with pytest.raises(StopError):
        generator(PROMPTS, **options, generator=torch.Generator().manual_seed(0))
    assert last.steps == 1
    torch.testing.assert_close(seen[0], mode)


class _Encoded:
    def __init__(self, value: Any) -> None:
        setattr(self, "latent" if isinstance(value, torch.Tensor) else "latent_dist", value)


class _Finished:
    """A scheduler whose only step ends at given latents."""

    order, init_noise_sigma = 1, 1.0

    def __init__(self, scheduler: Any, arrange: Any, latents: torch.Tensor) -> None:
        self.config, self.arrange, self.latents, self.steps = scheduler.config, arrange, latents, 0

    def set_timesteps(self, num_inference_steps=None, device=None, timesteps=None, sigmas=None, mu=None) -> None:
        self.timesteps = torch.tensor([500.0])

    def set_begin_index(self, _: int) -> None: ...

    def scale_model_input(self, sample: torch.Tensor, _: Any = None) -> torch.Tensor:
        return sample

    def step(self, model_output: torch.Tensor, t: Any, sample: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        self.steps += 1
        return (self.arrange(self.latents, sample.shape),)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_gradient_of_the_conditioning_is_that_of_the_loss(kind):
    _, loss, conditioning, images = world(kind)
    latents = loss.denoiser.encode(images)
    draw = DenoisingDraw(latents, torch.randn_like(latents), torch.tensor([300, 700]))
    for name, values in conditioning.items():
        if not values.is_floating_point():
            continue
        values = values.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss({**conditioning, name: values}, draw=draw).sum(), values)
        norm = float(gradient.norm())
        assert norm > 0
        step = 0.05 * gradient / norm
        ends = [float(loss({**conditioning, name: values.detach() + sign * step}, draw=draw).sum()) for sign in (1, -1)]
        assert (ends[0] - ends[1]) / 0.1 == pytest.approx(norm, rel=0.05)
    assert not any(weight.requires_grad for weight in loss.denoiser.denoiser.parameters())


@pytest.mark.parametrize("kind", ("lcm", "sana-sprint", "stable-cascade-prior", "stable-cascade"))
def test_a_generator_that_is_trained_otherwise_is_refused_by_name(kind):
    generator = small_generator(kind)
    with pytest.raises(UntrainableGenerator, match=r"Pipeline|Scheduler"):
        DenoisingLoss(generator, ())


FLOW_SCHEDULERS = {
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
    "FlowMatchHeunDiscreteScheduler": {"shift": 3.0},
    "DPMSolverMultistepScheduler": {"use_flow_sigmas": True, "flow_shift": 3.0},
    "DPMSolverSinglestepScheduler": {"use_flow_sigmas": True, "flow_shift": 3.0},
    "UniPCMultistepScheduler": {"use_flow_sigmas": True, "flow_shift": 3.0},
    "DEISMultistepScheduler": {"use_flow_sigmas": True, "flow_shift": 3.0},
    "SASolverScheduler": {"use_flow_sigmas": True, "flow_shift": 3.0},
}


@pytest.mark.parametrize("name", FLOW_SCHEDULERS)
def test_images_are_noised_as_much_as_a_flow_matching_scheduler_thinks_at_its_timesteps(name):
    fields = FLOW_SCHEDULERS[name]
    if "use_flow_sigmas" in fields:
        fields = {**fields, "prediction_type": "flow_prediction"}
    scheduler = getattr(diffusers, name)(**fields)
    schedule = NoiseSchedule.of_scheduler(scheduler)
    assert schedule.prediction_type == "flow"
    scheduler.set_timesteps(8)
    for timestep, sigma in zip(scheduler.timesteps.tolist(), scheduler.sigmas.tolist(), strict=False):
        nearest = (schedule.timesteps - timestep).abs().argmin()
        assert float(schedule.noise[nearest]) == pytest.approx(sigma, abs=3e-3)
        assert float(schedule.signal[nearest]) == pytest.approx(1 - sigma, abs=3e-3)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
        ("FlowMatchLCMScheduler", {}),
        ("FlowMapEulerDiscreteScheduler", {}),
        ("SCMScheduler", {}),
        ("EDMEulerScheduler", {}),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "v_prediction"}),
        ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction"}),
        ("VQDiffusionScheduler", {"num_vec_classes": 8}),
    ],
)
def test_a_scheduler_whose_models_are_trained_otherwise_is_refused_by_name(name, fields):
    with pytest.raises(UntrainableGenerator, match=name):
        NoiseSchedule.of_scheduler(getattr(diffusers, name)(**fields))


def test_draws_that_are_not_given_are_drawn_in_the_order_latents_noise_timesteps():
    generator, loss, conditioning, images = world("stable-diffusion-1.5")
    torch.manual_seed(3)
    latents = generator.vae.encode(images).latent_dist.sample() * generator.vae.config.scaling_factor
    draw = DenoisingDraw(latents, torch.randn_like(latents), torch.randint(0, 1000, (2,)))
    torch.manual_seed(3)
    assert torch.equal(loss(conditioning, images), loss(conditioning, draw=draw))
    with pytest.raises(ValueError, match="images"):
        loss(conditioning)


def test_only_the_latents_are_perturbed_and_offset_noise_is_predicted_too():
    _, plain, conditioning, images = world("stable-diffusion-1.5")
    latents = plain.denoiser.encode(images)
    noise, timesteps = torch.randn_like(latents), torch.tensor([10, 900])
    draw = DenoisingDraw(latents, noise, timesteps)
    _, offset, _, _ = world("stable-diffusion-1.5", noise_offset=0.1)
    torch.manual_seed(4)
    found = offset(conditioning, draw=draw)
    torch.manual_seed(4)
    shifted = noise + 0.1 * torch.randn(2, latents.shape[1], 1, 1)
    assert torch.equal(found, plain(conditioning, draw=DenoisingDraw(latents, shifted, timesteps)))
    _, perturbed, _, _ = world("stable-diffusion-1.5", input_perturbation=0.5)
    torch.manual_seed(4)
    found = perturbed(conditioning, draw=draw)
    torch.manual_seed(4)
    noisy = plain.schedule.add_noise(latents, noise + 0.5 * torch.randn_like(noise), timesteps)
    with torch.no_grad():
        predicted = plain.denoiser.predict(conditioning, noisy, timesteps)
    torch.testing.assert_close(found, (predicted - noise).square().flatten(1).mean(1))


@pytest.mark.parametrize("prediction", ("epsilon", "v_prediction", "sample", "flow"))
def test_min_snr_bounds_the_weight_of_the_error_of_the_latents(prediction):
    if prediction == "flow":
        schedule = NoiseSchedule.of_scheduler(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    else:
        schedule = NoiseSchedule.of_scheduler(diffusers.DDPMScheduler(prediction_type=prediction))
    assert schedule.prediction_type == prediction
    timesteps = torch.tensor([5, 300, 800, 998])
    latents = torch.randn(4, 1, 1, 1, dtype=torch.float64).requires_grad_()
    noise = torch.randn_like(latents)
    # With the noised latents fixed, an error of the latents is one of the noise.
    signal, sigma = (values.double()[timesteps] for values in (schedule.signal, schedule.noise))
    per_latent = {
        "epsilon": signal / sigma,
        "sample": torch.ones(4, dtype=torch.float64),
        "v_prediction": signal.square() / sigma + sigma,
        "flow": signal / sigma + 1,
    }[prediction]
    snr = (signal / sigma).square()
    weight = schedule.min_snr_weight(timesteps, 5.0).double()
    torch.testing.assert_close(weight * per_latent.square(), snr.clamp(max=5.0), rtol=1e-4, atol=1e-9)
    assert schedule.target(latents, noise, timesteps).shape == latents.shape


def test_the_target_can_be_what_the_generator_predicts_given_its_own_conditioning():
    _, several, conditioning, images = world("stable-diffusion-1.5", target="generator", num_draws=3)
    assert several(conditioning, images, own_conditioning=conditioning).tolist() == [0, 0]
    _, loss, conditioning, images = world("stable-diffusion-1.5", target="generator")
    latents = loss.denoiser.encode(images)
    draw = DenoisingDraw(latents, torch.randn_like(latents), torch.tensor([10, 900]))
    assert loss(conditioning, draw=draw, own_conditioning=conditioning).tolist() == [0, 0]
    other = {name: (values + 1).requires_grad_() for name, values in conditioning.items()}
    found = loss(other, draw=draw, own_conditioning=conditioning)
    noisy = loss.schedule.add_noise(latents, draw.noise, draw.timesteps)
    with torch.no_grad():
        own, mapped = (loss.denoiser.predict(of, noisy, draw.timesteps) for of in (conditioning, other))
    torch.testing.assert_close(found, (mapped - own).square().flatten(1).mean(1))
    found.sum().backward()
    assert other["prompt_embeds"].grad.abs().max() > 0
    with pytest.raises(ValueError, match="own conditioning"):
        loss(conditioning, draw=draw)
    with pytest.raises(ValueError, match="condition_dropout"):
        DenoisingOptions(target="generator", condition_dropout=0.1)


def test_a_dropped_condition_is_what_inference_guides_away_from():
    _, loss, conditioning, images = world("stable-diffusion-1.5", condition_dropout=1.0)
    latents = loss.denoiser.encode(images)
    draw = DenoisingDraw(latents, torch.randn_like(latents), torch.tensor([10, 900]))
    negative = {name: values.expand(2, -1, -1) for name, values in loss.negatives.items()}
    plain = world("stable-diffusion-1.5")[1]
    assert torch.equal(loss(conditioning, draw=draw), plain(negative, draw=draw))
    own = {"prompt_embeds": torch.randn(1, 77, 16, requires_grad=True)}
    found = loss(conditioning, draw=draw, unconditional=own)
    assert torch.equal(found, plain({"prompt_embeds": own["prompt_embeds"].expand(2, -1, -1)}, draw=draw))
    found.sum().backward()
    assert own["prompt_embeds"].grad.abs().max() > 0
    loss.negatives = None
    with pytest.raises(ValueError, match="condition_dropout"):
        loss(conditioning, draw=draw)


def test_each_image_is_dropped_by_itself():
    _, loss, conditioning, _ = world("stable-diffusion-1.5", condition_dropout=0.5)
    conditioning = {"prompt_embeds": conditioning["prompt_embeds"][:1].repeat(64, 1, 1)}
    dropped = torch.rand(64, generator=torch.Generator().manual_seed(0)) < 0.5
    found = loss._replaced(conditioning, dropped, None)["prompt_embeds"]
    assert torch.equal(found[dropped], loss.negatives["prompt_embeds"].expand(int(dropped.sum()), -1, -1))
    assert torch.equal(found[~dropped], conditioning["prompt_embeds"][~dropped])


def test_a_bias_draws_the_noisiest_timesteps_as_many_times_as_often():
    torch.manual_seed(0)
    options = DenoisingOptions(timestep_bias_multiplier=4.0, timestep_bias_portion=0.25)
    timesteps = options.draw_timesteps(20_000, 1000, torch.device("cpu"))
    assert timesteps.min() < 20 and timesteps.max() > 980
    # A quarter with the weight 4, three quarters with the weight 1.
    assert abs((timesteps >= 750).double().mean() - 4 / 7) < 0.02
    torch.manual_seed(0)
    plain = DenoisingOptions(timestep_bias_portion=0.25).draw_timesteps(8, 1000, torch.device("cpu"))
    torch.manual_seed(0)
    assert torch.equal(plain, torch.randint(0, 1000, (8,)))


def test_the_loss_of_an_image_is_the_mean_over_its_draws():
    _, loss, conditioning, images = world("stable-diffusion-1.5", num_draws=3)
    plain = world("stable-diffusion-1.5")[1]
    latents = loss.denoiser.encode(images)
    noise, timesteps = torch.randn(6, *latents.shape[1:]), torch.tensor([10, 500, 900, 20, 400, 990])
    found = loss(conditioning, draw=DenoisingDraw(latents, noise, timesteps))
    each = [plain(conditioning, draw=DenoisingDraw(latents, noise[n::3], timesteps[n::3])) for n in range(3)]
    torch.testing.assert_close(found, torch.stack(each).mean(0))
    assert loss(conditioning, images).shape == (2,)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise_offset", -0.1),
        ("min_snr_gamma", 0.0),
        ("condition_dropout", 1.5),
        ("input_perturbation", float("nan")),
        ("timestep_bias_multiplier", 0.0),
        ("timestep_bias_multiplier", float("inf")),
        ("timestep_bias_portion", 1.5),
        ("num_draws", 0),
        ("target", "noise"),
    ],
)
def test_options_out_of_their_range_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        DenoisingOptions(**{name: value})

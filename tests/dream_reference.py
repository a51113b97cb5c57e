"""DreamLLM put together from stock classes of transformers and diffusers, to compare other releases with.

It reaches every recorded answer of the authors' code, see `test_golden_dreamllm.py`, and so says what they would have
answered for other sizes, weights and prompts.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPImageProcessorPil, CLIPVisionModel, LlamaConfig, LlamaForCausalLM


class StockDreamLLM:
    """
    Args:
        world (`Path`): What `make_dream_checkpoint.py` wrote.
        tokenizer: That of the converted repository.
    """

    def __init__(self, world: Path, tokenizer: Any) -> None:
        release, self.tokenizer = world / "dreamllm", tokenizer
        config = json.loads((release / "config.json").read_text())
        names = LlamaConfig().to_dict().keys() - {"rope_parameters", "architectures", "model_type"}
        self.language_model = LlamaForCausalLM(LlamaConfig(**{name: config[name] for name in names & config.keys()}))
        self.language_model.eval()
        plugins = {
            name: torch.load(release / f"{name}.bin", weights_only=True)
            for name in ("dream_embedding", "clip_vision_embedding", "stable_diffusion_head")
        }
        joint = release / "pytorch_model.bin"
        tensors = torch.load(joint, weights_only=True) if joint.is_file() else load_file(release / "model.safetensors")
        own = self.language_model.state_dict().keys()
        self.language_model.load_state_dict({name: tensors[name] for name in own})
        self.queries = plugins["dream_embedding"]["dream_queries"][0]
        reading, drawing = plugins["clip_vision_embedding"], plugins["stable_diffusion_head"]
        self.reading = (reading["projector.projector.weight"], reading["projector.projector.bias"])
        self.drawing = drawing["projector.projector.weight"]
        self.layer = config["plugins_init_kwargs"]["clip_vision_embedding"]["select_layer"]
        self.tower = CLIPVisionModel.from_pretrained(world / "clip-dream").eval()
        self.prepare = CLIPImageProcessorPil.from_pretrained(world / "clip-dream")
        self.generator = StableDiffusionPipeline(
            vae=AutoencoderKL.from_pretrained(world / "sd-dream", subfolder="vae"),
            unet=UNet2DConditionModel.from_pretrained(world / "sd-dream", subfolder="unet"),
            scheduler=DDPMScheduler.from_pretrained(world / "sd-dream", subfolder="scheduler"),
            text_encoder=None,
            tokenizer=None,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        self.generator.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def embeds(self, prompt: list[Any], draws: bool) -> torch.Tensor:
        """Embeddings of texts and images, and where an image is drawn of the token that opens it and the queries."""
        table = self.language_model.get_input_embeddings()
        parts = [table(torch.tensor([1]))]
        for part in prompt:
            if isinstance(part, Image.Image):
                pixels = self.prepare(images=part, return_tensors="pt")["pixel_values"]
                patches = self.tower(pixels, output_hidden_states=True).hidden_states[self.layer][0, 1:]
                parts += [
                    self._token("<im_start>"),
                    patches @ self.reading[0].T + self.reading[1],
                    self._token("<im_end>"),
                ]
            elif part:
                parts.append(table(torch.tensor(self.tokenizer(part, add_special_tokens=False).input_ids)))
        return torch.cat([*parts, *([self._token("<dream_start>"), self.queries] if draws else [])])

    @torch.no_grad()
    def states(self, prompt: list[Any]) -> torch.Tensor:
        """States at the queries, of shape `(num_queries, hidden_size)`."""
        embeds = self.embeds(prompt, draws=True)
        return self.language_model.model(inputs_embeds=embeds[None]).last_hidden_state[0, -len(self.queries) :]

    def images(
        self, prompts: list[list[Any]], guidance: float, steps: int, seeds: list[int], negative: str = ""
    ) -> list[Image.Image]:
        """Images of prompts, each from a random generator of its own, guided against the same machinery."""
        embeds, against = (
            torch.stack([self.states(prompt) @ self.drawing.T for prompt in some])
            for some in (prompts, [[negative]] * len(prompts))
        )
        return self.generator(
            prompt_embeds=embeds,
            negative_prompt_embeds=against if guidance > 1 else None,
            guidance_scale=guidance,
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        ).images

    @torch.no_grad()
    def write(self, prompt: list[Any], max_new_tokens: int) -> list[int]:
        """Tokens of a greedy answer; `<dream_start>` is a token as any other."""
        embeds, ids = self.embeds(prompt, draws=False), []
        while len(ids) < max_new_tokens and (not ids or ids[-1] != 2):
            ids.append(int(self.language_model(inputs_embeds=embeds[None]).logits[0, -1].argmax()))
            embeds = torch.cat([embeds, self.language_model.get_input_embeddings()(torch.tensor(ids[-1:]))])
        return ids

    def _token(self, token: str) -> torch.Tensor:
        return self.language_model.get_input_embeddings()(torch.tensor([self.tokenizer.convert_tokens_to_ids(token)]))

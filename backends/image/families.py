"""FAMILIES: the kinds of image models, one row each. What they differ in stands here alone.

A folder is of the family whose `index_class` its model_index.json names; a single file of the one
whose `keys` its header has. Everything that a family does in its own way is a field here, or a
function that a field names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
CLIP_TOKENS = ("CLIPTokenizer", "CLIPTokenizerFast")
T5 = {"T5EncoderModel": "transformers"}
NO_CHECKER = {"safety_checker": None, "requires_safety_checker": False}
SAID = ("prompt_embeds", "negative_prompt_embeds")
POOLED = (*SAID, "pooled_prompt_embeds", "negative_pooled_prompt_embeds")


@dataclass(frozen=True)
class Family:
    """One kind of image model.

    id            short, in recipes and messages of the API
    title         for people
    index_class   `_class_name` in model_index.json
    pipelines     diffusers' class by what is begun with: text, image, inpaint, and the same with a
                  ControlNet: control_text, control_image, control_inpaint
    parts         each component with the classes it may be, by library
    encoders      the text encoders, in the order of the pipeline
    backbone      the component that takes the steps
    words         how a prompt becomes numbers: a function in `encoding.py`
    side          px: what it was trained for
    patch         latent pixels that a side must divide by
    schedulers    the names it can use, of the table in `schedulers.py`
    weighted      (word:1.3) and long prompts work, through compel
    negative      it looks at a negative prompt
    guidance_name the argument that guidance goes to
    lora          the kind of LoRA that fits, "" none
    quantised     the components that NF4 packs
    auto          the quantisation on a GPU where none is chosen
    keys          of a single file's header: all of these, each with this last extent (0: any)
    config        the folder in assets/pipelines with what a single file does not say
    renamed       components whose folder has another name than the pipeline's argument
    begins        arguments of every call
    loads         arguments of every load
    packed        its latents come as a row of patches
    by_latents    a picture can be begun from latents
    channel_means its VAE's means and deviations count
    """

    id: str
    title: str
    index_class: str
    pipelines: Mapping[str, str]
    parts: Mapping[str, Mapping[str, str]]
    encoders: tuple[str, ...] = ("text_encoder",)
    backbone: str = "unet"
    words: str = "clip"
    side: int = 512
    patch: int = 1
    schedulers: tuple[str, ...] = ()
    weighted: bool = False
    negative: bool = True
    guidance_name: str = "guidance_scale"
    lora: str = ""
    quantised: tuple[str, ...] = ()
    auto: str = "fp16"
    keys: Mapping[str, int] = field(default_factory=dict)
    config: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    begins: Mapping[str, Any] = field(default_factory=dict)
    loads: Mapping[str, Any] = field(default_factory=dict)
    packed: bool = False
    by_latents: bool = False
    channel_means: bool = False

    def can(self, begun: str) -> bool:
        return begun in self.pipelines


def _classes(library: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, library)


DIFFUSION = (
    "Euler", "Euler a", "DPM++ 2M", "DPM++ 2M Karras", "DPM++ SDE", "DPM++ SDE Karras",
    "DPM++ 2M SDE", "DPM++ 2M SDE Karras", "DDIM", "DDPM", "UniPC", "LMS", "LMS Karras", "Heun",
    "DPM2", "DPM2 a", "PNDM", "DEIS", "LCM", "TCD",
)  # fmt: skip
ANY_SCHEDULER = {"*": "diffusers"}
VAE = _classes("diffusers", "AutoencoderKL", "AutoencoderTiny", "VQModel")
UNET = _classes("diffusers", "UNet2DConditionModel")
CHECKER = _classes("stable_diffusion", "StableDiffusionSafetyChecker")
SEEN = _classes("transformers", "CLIPImageProcessor", "CLIPFeatureExtractor", "ViTImageProcessor")
CLIP_PARTS: dict[str, dict[str, str]] = {
    "vae": VAE,
    "text_encoder": _classes("transformers", *CLIP),
    "tokenizer": _classes("transformers", *CLIP_TOKENS),
    "unet": UNET,
    "scheduler": ANY_SCHEDULER,
    "safety_checker": CHECKER,
    "feature_extractor": SEEN,
    "image_encoder": _classes("transformers", "CLIPVisionModelWithProjection"),
}
SD_PIPELINES = {
    "text": "StableDiffusionPipeline",
    "image": "StableDiffusionImg2ImgPipeline",
    "inpaint": "StableDiffusionInpaintPipeline",
    "control_text": "StableDiffusionControlNetPipeline",
    "control_image": "StableDiffusionControlNetImg2ImgPipeline",
    "control_inpaint": "StableDiffusionControlNetInpaintPipeline",
}
SD3_PARTS: dict[str, dict[str, str]] = {
    "vae": VAE,
    "text_encoder": _classes("transformers", *CLIP),
    "text_encoder_2": _classes("transformers", *CLIP),
    "text_encoder_3": T5,
    "tokenizer": _classes("transformers", *CLIP_TOKENS),
    "tokenizer_2": _classes("transformers", *CLIP_TOKENS),
    "tokenizer_3": _classes("transformers", "T5Tokenizer", "T5TokenizerFast"),
    "transformer": _classes("diffusers", "SD3Transformer2DModel"),
    "scheduler": ANY_SCHEDULER,
    "feature_extractor": _classes("transformers", "SiglipImageProcessor"),
    "image_encoder": _classes("transformers", "SiglipVisionModel"),
}
T5_TOKENS = _classes("transformers", "T5Tokenizer", "T5TokenizerFast")

FAMILIES = (
    Family(
        id="sd",
        title="Stable Diffusion",
        index_class="StableDiffusionPipeline",
        pipelines=SD_PIPELINES,
        parts=CLIP_PARTS,
        schedulers=DIFFUSION,
        weighted=True,
        lora="sd",
        keys={"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": 768},
        config="stable-diffusion-1.5",
        loads=NO_CHECKER,
        by_latents=True,
    ),
    Family(
        id="sdxl",
        title="Stable Diffusion XL",
        index_class="StableDiffusionXLPipeline",
        pipelines={
            "text": "StableDiffusionXLPipeline",
            "image": "StableDiffusionXLImg2ImgPipeline",
            "inpaint": "StableDiffusionXLInpaintPipeline",
            "control_text": "StableDiffusionXLControlNetPipeline",
            "control_image": "StableDiffusionXLControlNetImg2ImgPipeline",
            "control_inpaint": "StableDiffusionXLControlNetInpaintPipeline",
        },
        parts={
            **{k: v for k, v in CLIP_PARTS.items() if k != "safety_checker"},
            "text_encoder_2": _classes("transformers", *CLIP),
            "tokenizer_2": _classes("transformers", *CLIP_TOKENS),
        },
        encoders=("text_encoder", "text_encoder_2"),
        words="clip_pair",
        side=1024,
        schedulers=DIFFUSION,
        weighted=True,
        lora="sdxl",
        keys={
            "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": 2048,
            "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight": 0,
        },
        config="stable-diffusion-xl",
        loads={"add_watermarker": False},
        by_latents=True,
        channel_means=True,
    ),
    Family(
        id="ldm",
        title="Latent Diffusion",
        index_class="LDMTextToImagePipeline",
        # Its own pipeline has no negative prompt, no callback and nothing but text to begin with;
        # Stable Diffusion's, which grew out of it, takes the same parts.
        pipelines={k: v for k, v in SD_PIPELINES.items() if not k.startswith("control")},
        parts={
            "vqvae": VAE,
            "bert": _classes("latent_diffusion", "LDMBertModel"),
            "tokenizer": _classes("transformers", "BertTokenizer", "BertTokenizerFast"),
            "unet": UNET,
            "scheduler": ANY_SCHEDULER,
        },
        side=256,
        schedulers=DIFFUSION,
        renamed={"vqvae": "vae", "bert": "text_encoder"},
        loads=NO_CHECKER,
        by_latents=True,
    ),
    Family(
        id="sana",
        title="Sana",
        index_class="SanaPipeline",
        pipelines={"text": "SanaPipeline"},
        parts={
            "vae": _classes("diffusers", "AutoencoderDC"),
            "text_encoder": _classes("transformers", "Gemma2Model", "Gemma2ForCausalLM"),
            "tokenizer": _classes("transformers", "GemmaTokenizer", "GemmaTokenizerFast"),
            "transformer": _classes("diffusers", "SanaTransformer2DModel"),
            "scheduler": ANY_SCHEDULER,
        },
        backbone="transformer",
        words="masked",
        schedulers=("Euler", "DPM++ 2M", "UniPC"),
        quantised=("transformer", "text_encoder"),
        auto="bf16",
        begins={"use_resolution_binning": False},
    ),
    Family(
        id="pixart-sigma",
        title="PixArt-Sigma",
        index_class="PixArtSigmaPipeline",
        pipelines={"text": "PixArtSigmaPipeline"},
        parts={
            "vae": VAE,
            "text_encoder": T5,
            "tokenizer": T5_TOKENS,
            "transformer": _classes("diffusers", "PixArtTransformer2DModel"),
            "scheduler": ANY_SCHEDULER,
        },
        backbone="transformer",
        words="masked",
        side=1024,
        patch=2,
        schedulers=DIFFUSION,
        quantised=("transformer", "text_encoder"),
        auto="nf4",
        begins={"use_resolution_binning": False, "clean_caption": False},
    ),
    Family(
        id="sd3",
        title="Stable Diffusion 3",
        index_class="StableDiffusion3Pipeline",
        pipelines={
            "text": "StableDiffusion3Pipeline",
            "image": "StableDiffusion3Img2ImgPipeline",
            "inpaint": "StableDiffusion3InpaintPipeline",
        },
        parts=SD3_PARTS,
        encoders=("text_encoder", "text_encoder_2", "text_encoder_3"),
        backbone="transformer",
        words="three",
        side=1024,
        patch=2,
        schedulers=("Euler",),
        lora="sd3",
        quantised=("transformer", "text_encoder_3"),
        auto="nf4",
    ),
    Family(
        id="flux",
        title="FLUX.1",
        index_class="FluxPipeline",
        pipelines={
            "text": "FluxPipeline",
            "image": "FluxImg2ImgPipeline",
            "inpaint": "FluxInpaintPipeline",
        },
        parts={
            "vae": VAE,
            "text_encoder": _classes("transformers", *CLIP),
            "text_encoder_2": T5,
            "tokenizer": _classes("transformers", *CLIP_TOKENS),
            "tokenizer_2": T5_TOKENS,
            "transformer": _classes("diffusers", "FluxTransformer2DModel"),
            "scheduler": ANY_SCHEDULER,
            "feature_extractor": SEEN,
            "image_encoder": _classes("transformers", "CLIPVisionModelWithProjection"),
        },
        encoders=("text_encoder", "text_encoder_2"),
        backbone="transformer",
        words="flux",
        side=1024,
        patch=2,
        schedulers=("Euler",),
        negative=False,
        lora="flux",
        quantised=("transformer", "text_encoder_2"),
        auto="nf4",
        packed=True,
    ),
)


def find(id: str) -> Family:
    return next(row for row in FAMILIES if row.id == id)

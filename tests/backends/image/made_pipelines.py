"""Image models made on the spot: the real classes at a few pixels, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SIDE = 64  # px that they draw in the tests: their VAE makes 4 of one latent pixel
WORDS = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4,
         "num_hidden_layers": 4, "vocab_size": 514, "max_position_embeddings": 77,
         "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}  # fmt: skip


def clip_tokenizer() -> Any:
    """One token for each letter, which is enough to tell words apart."""
    from backends.image import clip_words

    return clip_words.clip_tokenizer(Path("none/at/all"))


def clip(projected: bool = False, width: int = 32) -> Any:
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(1)
    config = CLIPTextConfig(**WORDS | {"hidden_size": width}, projection_dim=32)
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def vae(channels: int = 4, levels: int = 3, **more: Any) -> Any:
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(2)
    return AutoencoderKL(
        block_out_channels=(16,) * levels, norm_num_groups=8, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=channels, sample_size=SIDE, **more,
    ).eval()  # fmt: skip


def unet(reads: int = 32, **more: Any) -> Any:
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(3)
    return UNet2DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, sample_size=SIDE // 4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=reads, attention_head_dim=4, **more,
    ).eval()  # fmt: skip


def scheduler(**more: Any) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, **more,
    )  # fmt: skip


def stable_diffusion(folder: Path, **more: Any) -> Path:
    from diffusers import StableDiffusionPipeline

    parts = {"vae": vae(), "text_encoder": clip(), "tokenizer": clip_tokenizer(), "unet": unet(),
             "scheduler": scheduler()} | more  # fmt: skip
    StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(folder)
    return folder


def stable_diffusion_xl(folder: Path, **more: Any) -> Path:
    from diffusers import StableDiffusionXLPipeline

    network = unet(
        64, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32, use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
    )  # fmt: skip
    parts = {
        "vae": vae(force_upcast=True, scaling_factor=0.13025),
        "text_encoder": clip(),
        "text_encoder_2": clip(projected=True),
        "tokenizer": clip_tokenizer(),
        "tokenizer_2": clip_tokenizer(),
        "unet": network,
        "scheduler": scheduler(),
    }
    StableDiffusionXLPipeline(**parts | more, add_watermarker=False).save_pretrained(folder)
    return folder


def lora(file: Path, reads: int = 32, scale: float = 1.0) -> Path:
    """A LoRA for the little network's first attention, in diffusers' own names."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(4)
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    tensors = {}
    for name, inputs, outputs in (("to_k", reads, 16), ("to_v", reads, 16), ("to_q", 16, 16)):
        tensors[f"{layer}.{name}.lora_A.weight"] = torch.randn(4, inputs)
        tensors[f"{layer}.{name}.lora_B.weight"] = torch.randn(outputs, 4) * scale
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)
    return file


def kohya_lora(file: Path, reads: int = 32) -> Path:
    """The same, as kohya_ss and most downloads name it, with an alpha of half the rank."""
    import torch
    from safetensors.torch import load_file, save_file

    lora(file, reads)
    tensors = {}
    for key, value in load_file(file).items():
        layer, _, rest = key.removeprefix("unet.").partition(".lora_")
        name = "lora_unet_" + layer.replace(".", "_")
        tensors[f"{name}.lora_{'down' if rest[0] == 'A' else 'up'}.weight"] = value
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(tensors, file)
    return file


# Other families


def t5() -> Any:
    import torch
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(5)
    return T5EncoderModel(
        T5Config(vocab_size=200, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    ).eval()


def t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    letters = [(letter, -1.0) for letter in "▁abcdefghijklmnopqrstuvwxyz,.():1234567890"]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5Tokenizer(vocab=special + letters, extra_ids=0, model_max_length=512)


def latent_diffusion(folder: Path) -> Path:
    import torch
    from diffusers import LDMTextToImagePipeline
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
        LDMBertConfig,
        LDMBertModel,
    )
    from transformers import BertTokenizer

    torch.manual_seed(1)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "red"]
    bert = LDMBertModel(
        LDMBertConfig(
            vocab_size=len(words),
            encoder_layers=2,
            encoder_ffn_dim=37,
            encoder_attention_heads=4,
            head_dim=8,
            d_model=32,
        )  # fmt: skip
    ).eval()
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    LDMTextToImagePipeline(
        vqvae=vae(levels=4), bert=bert, tokenizer=tokenizer, unet=unet(), scheduler=scheduler()
    ).save_pretrained(folder)
    return folder


def sana(folder: Path) -> Path:
    import torch
    from diffusers import (
        AutoencoderDC,
        FlowMatchEulerDiscreteScheduler,
        SanaPipeline,
        SanaTransformer2DModel,
    )
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    torch.manual_seed(1)
    transformer = SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2,
        attention_head_dim=4, num_cross_attention_heads=2, cross_attention_head_dim=4,
        cross_attention_dim=8, caption_channels=8, sample_size=32,
    ).eval()  # fmt: skip
    dc = AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=[1, 1],
        downsample_block_type="conv", upsample_block_type="interpolate",
        decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41407,
    ).eval()  # fmt: skip
    gemma = Gemma2Model(
        Gemma2Config(
            head_dim=16,
            hidden_size=8,
            initializer_range=0.02,
            intermediate_size=64,
            max_position_embeddings=2048,
            num_attention_heads=2,
            num_hidden_layers=1,
            num_key_value_heads=2,
            vocab_size=60,
            attn_implementation="eager",
        )  # fmt: skip
    ).eval()
    letters = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<mask>",
        *"▁abcdefghijklmnopqrstuvwxyz,.()1234567",
    ]
    SanaPipeline(
        tokenizer=GemmaTokenizer(vocab={letter: index for index, letter in enumerate(letters)}),
        text_encoder=gemma, vae=dc, transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def pixart(folder: Path) -> Path:
    import torch
    from diffusers import PixArtSigmaPipeline, PixArtTransformer2DModel

    torch.manual_seed(1)
    transformer = PixArtTransformer2DModel(
        sample_size=16, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2,
        caption_channels=32, in_channels=4, cross_attention_dim=16, out_channels=8,
        attention_bias=True, activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
        norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6,
    ).eval()  # fmt: skip
    PixArtSigmaPipeline(
        tokenizer=t5_tokenizer(), text_encoder=t5(), vae=vae(), transformer=transformer,
        scheduler=scheduler(),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def stable_diffusion_3(folder: Path) -> Path:
    import torch
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    torch.manual_seed(1)
    transformer = SD3Transformer2DModel(
        sample_size=32, patch_size=1, in_channels=16, num_layers=1, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32,
        pooled_projection_dim=64, out_channels=16,
    ).eval()  # fmt: skip
    StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(16, shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False,
                use_post_quant_conv=False),
        text_encoder=clip(projected=True), tokenizer=clip_tokenizer(),
        text_encoder_2=clip(projected=True), tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(), tokenizer_3=t5_tokenizer(),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def flux(folder: Path) -> Path:
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(1)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    ).eval()  # fmt: skip
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(shift_factor=0.1, scaling_factor=1.5, use_quant_conv=False,
                use_post_quant_conv=False),
        text_encoder=clip(), tokenizer=clip_tokenizer(), text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(), transformer=transformer,
    ).save_pretrained(folder)  # fmt: skip
    return folder


# Single files, as they are handed around


NAMES = {
    "resnets": (("norm1", "in_layers.0"), ("conv1", "in_layers.2"),
                ("time_emb_proj", "emb_layers.1"), ("norm2", "out_layers.0"),
                ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection")),
}  # fmt: skip


def single_file(folder: Path, file: Path) -> Path:
    """The little Stable Diffusion of `folder` under the names of the first release."""
    import re

    from safetensors.torch import load_file, save_file

    found: dict[str, Any] = {}
    for key, value in load_file(folder / "unet/diffusion_pytorch_model.safetensors").items():
        found["model.diffusion_model." + _unet_name(key)] = value
    for key, value in load_file(folder / "vae/diffusion_pytorch_model.safetensors").items():
        name = _vae_name(key)
        square = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name)
        found["first_stage_model." + name] = value[:, :, None, None] if square else value
    for key, value in load_file(folder / "text_encoder/model.safetensors").items():
        inner = key.removeprefix("text_model.")
        found["cond_stage_model.transformer.text_model." + inner] = value
    save_file({key: value.contiguous() for key, value in found.items()}, file)
    return file


def _unet_name(key: str) -> str:
    import re

    plain = {
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }  # fmt: skip
    each = 2  # blocks of a level downwards: a resnet and what makes it smaller; upwards two resnets

    def block(match: re.Match[str]) -> str:
        way, level, kind, index = match[1], int(match[2]), match[3], int(match[4])
        inner = {"resnets": 0, "attentions": 1}.get(kind, 0)
        if way == "down":
            at = 1 + level * each + (1 if kind == "downsamplers" else index)
            return f"input_blocks.{at}.{'0.op' if kind == 'downsamplers' else inner}"
        at = level * each + (1 if kind == "upsamplers" else index)
        return f"output_blocks.{at}.{'1.conv' if kind == 'upsamplers' else inner}"

    name = re.sub(r"^(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)(?:\.conv(?=\.))?", block, key)
    for ours, theirs in plain.items():
        name = re.sub(rf"^{re.escape(ours)}(?=\.)", theirs, name)
    for ours, theirs in NAMES["resnets"]:
        if ".resnets." in key:
            name = re.sub(rf"\.{ours}\.", f".{theirs}.", name)
    return name


def _vae_name(key: str) -> str:
    import re

    name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{2 - int(m[1])}", key)
    for ours, theirs in (
        (r"down_blocks\.", "down."), (r"resnets\.(\d+)(?=.*)", r"block.\1"),
        (r"downsamplers\.0\.conv", "downsample.conv"), (r"upsamplers\.0\.conv", "upsample.conv"),
        (r"mid_block\.block\.0", "mid.block_1"), (r"mid_block\.block\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0", "mid.attn_1"), ("group_norm", "norm"),
        (r"to_out\.0", "proj_out"),
        (r"\.to_([qkv])\.", r".\1."), ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
    ):  # fmt: skip
        name = re.sub(ours, theirs, name)
    return name


def controlnet(folder: Path, reads: int = 32) -> Path:
    import torch
    from diffusers import ControlNetModel

    torch.manual_seed(8)
    net = ControlNetModel(
        block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), cross_attention_dim=reads,
        attention_head_dim=4, conditioning_embedding_out_channels=(16, 32, 32),
    ).eval()  # fmt: skip
    for name, weights in net.named_parameters():  # else it begins with no influence at all
        if "controlnet_" in name:
            torch.nn.init.normal_(weights, std=0.3)
    net.save_pretrained(folder)
    return folder


def esrgan(file: Path, scale: int = 2) -> Path:
    import torch
    from safetensors.torch import save_file
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    torch.manual_seed(9)
    net = RRDBNet(in_nc=3, out_nc=3, num_filters=8, num_blocks=1, scale=scale)
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, file)
    return file

"""What public repositories' configs say, with widths made small: every other key as published.

Facts of the repositories' own files; keys of one time are shared, since all models that one version
of diffusers saved have the same. A model that is refused says what it is refused for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oracle import models

Config = Mapping[str, Any]

_LEVELS = ("CrossAttnDownBlock2D",) * 3
# diffusers 0.5 to 0.8; then the keys that came with 0.10, 0.12, 0.18 to 0.21 and 0.25.
_UNET_2022: Config = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [*_LEVELS, "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", *("CrossAttnUpBlock2D",) * 3],
}
_UNET_0_10: Config = {
    **_UNET_2022,
    "_diffusers_version": "0.10.2",
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "upcast_attention": False,
    "use_linear_projection": False,
}
_UNET_0_12: Config = {
    **_UNET_0_10,
    "_diffusers_version": "0.12.0.dev0",
    "class_embed_type": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "resnet_time_scale_shift": "default",
}
_UNET_0_18: Config = {
    **_UNET_0_12,
    "_diffusers_version": "0.18.2",
    "addition_embed_type": None,
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "num_attention_heads": None,
    "projection_class_embeddings_input_dim": None,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": 1,
}
_UNET_0_22: Config = {
    **_UNET_0_18,
    "_diffusers_version": "0.22.0.dev0",
    "attention_type": "default",
    "dropout": 0.0,
    "upcast_attention": None,
}
_UNET_0_25: Config = {**_UNET_0_22, "reverse_transformer_layers_per_block": None}
_SD2: Config = {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
_XL: Config = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", *("CrossAttnDownBlock2D",) * 2],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": [*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"],
    "use_linear_projection": True,
}
_EMA: Config = {
    "decay": 0.9999,
    "inv_gamma": 1.0,
    "min_decay": 0.0,
    "optimization_step": 37000,
    "power": 0.6666666666666666,
    "update_after_step": 0,
    "use_ema_warmup": False,
}

_VAE: Config = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
_VAE_XL: Config = {**_VAE, "force_upcast": True, "sample_size": 1024, "scaling_factor": 0.13025}
_VAE_LATER: Config = {
    **_VAE_XL,
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": True,
    "shift_factor": None,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}

_TEXT: Config = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 49408,
}
_TEXT_OLDEST: Config = {k: v for k, v in _TEXT.items() if k != "projection_dim"}
_TEXT_SD2: Config = {
    **_TEXT,
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
}
_TEXT_XL: Config = {
    **_TEXT,
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
    "torch_dtype": "float16",
}

_BETAS: Config = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "trained_betas": None,
}
_PNDM: Config = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    **_BETAS,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
_DDIM: Config = {
    k: v for k, v in {**_PNDM, "_class_name": "DDIMScheduler"}.items() if k != "skip_prk_steps"
}
_EULER_XL: Config = {
    **_PNDM,
    "_class_name": "EulerDiscreteScheduler",
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
_DEIS: Config = {
    **_PNDM,
    "_class_name": "DEISMultistepScheduler",
    "algorithm_type": "deis",
    "dynamic_thresholding_ratio": 0.995,
    "lower_order_final": True,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "solver_order": 2,
    "solver_type": "logrho",
    "thresholding": False,
    "timestep_spacing": "leading",
}
_LCM: Config = {
    **_EULER_XL,
    "_class_name": "LCMScheduler",
    "clip_sample_range": 1.0,
    "dynamic_thresholding_ratio": 0.995,
    "original_inference_steps": 50,
    "rescale_betas_zero_snr": False,
    "thresholding": False,
    "timestep_scaling": 10.0,
}
_EDM: Config = {
    "_class_name": "EDMDPMSolverMultistepScheduler",
    "sigma_data": 0.5,
    "sigma_max": 80.0,
    "sigma_min": 0.002,
}

_FILTER: Config = {
    "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
    "requires_safety_checker": True,
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
}
_NO_FILTER: Config = {
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
}
_NO_ENCODER: Config = {"feature_extractor": [None, None], "image_encoder": [None, None]}


@dataclass(frozen=True, kw_only=True)
class PublicModel:
    """One repository's configs at their true sizes.

    `pipeline` is model_index.json's class, `index` what it says beside the usual components.
    `refused` is a pattern of why it is no model of ours.
    """

    unet: Config
    scheduler: Config = field(default_factory=lambda: _PNDM)
    vae: Config = field(default_factory=lambda: _VAE)
    text: Config = field(default_factory=lambda: _TEXT)
    text_2: Config | None = None
    pipeline: str = "StableDiffusionPipeline"
    index: Config = field(default_factory=lambda: _FILTER)
    refused: str = ""


def _xl(unet: Config | None = None, *, keys: Config = _UNET_0_22, **more: Any) -> PublicModel:
    values: dict[str, Any] = {
        "scheduler": _EULER_XL,
        "vae": _VAE_XL,
        "text_2": _TEXT_XL,
        "pipeline": "StableDiffusionXLPipeline",
        "index": {**_NO_ENCODER, "force_zeros_for_empty_prompt": True},
    }
    return PublicModel(unet={**keys, **_XL, **(unet or {})}, **(values | more))


def _sd2(unet: Config | None = None, *, keys: Config = _UNET_0_10, **more: Any) -> PublicModel:
    values: dict[str, Any] = {"text": _TEXT_SD2, "index": _NO_FILTER}
    return PublicModel(unet={**keys, **_SD2, **(unet or {})}, **(values | more))


_V: Config = {**_DDIM, "prediction_type": "v_prediction"}
_TRAILING: Config = {**_EULER_XL, "timestep_spacing": "trailing"}
_DISTILLED: Config = {"mid_block_type": "UNetMidBlock2D"}

MODELS: Mapping[str, PublicModel] = {
    "CompVis/stable-diffusion-v1-4": PublicModel(
        unet=_UNET_2022,
        text=_TEXT_OLDEST,
        scheduler={k: v for k, v in _PNDM.items() if k != "clip_sample"},
    ),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": PublicModel(unet=_UNET_2022),
    "stable-diffusion-v1-5/stable-diffusion-inpainting": PublicModel(
        unet={**_UNET_2022, "in_channels": 9, "sample_size": 64},
        scheduler=_DDIM,
        pipeline="StableDiffusionInpaintPipeline",
    ),
    "prompthero/openjourney": PublicModel(unet=_UNET_0_12, index=_NO_FILTER),
    "gsdf/Counterfeit-V2.5": PublicModel(unet={**_UNET_0_10, "sample_size": 32}),
    "dreamlike-art/dreamlike-photoreal-2.0": PublicModel(
        unet={**_UNET_0_12, "sample_size": 96}, scheduler={**_DDIM, "prediction_type": "epsilon"}
    ),
    "SG161222/Realistic_Vision_V5.1_noVAE": PublicModel(unet=_UNET_0_18),
    "Lykon/dreamshaper-8": PublicModel(
        unet=_UNET_0_22,
        scheduler=_DEIS,
        vae={**_VAE, "force_upcast": True, "scaling_factor": 0.18215},
        index={**_FILTER, "image_encoder": [None, None]},
    ),
    "SimianLuo/LCM_Dreamshaper_v7": PublicModel(
        unet={**_UNET_0_22, "time_cond_proj_dim": 256},
        scheduler=_LCM,
        pipeline="LatentConsistencyModelPipeline",
    ),
    "nota-ai/bk-sdm-base": PublicModel(unet={**_UNET_0_12, "layers_per_block": 1}),
    "stabilityai/stable-diffusion-2-base": _sd2({"upcast_attention": None}),
    "stabilityai/stable-diffusion-2-1-base": _sd2(index={**_NO_FILTER, **_NO_ENCODER}),
    "stabilityai/stable-diffusion-2-1": _sd2(
        {"sample_size": 96, "upcast_attention": True}, scheduler=_V
    ),
    "stabilityai/stable-diffusion-2-inpainting": _sd2(
        {"in_channels": 9}, pipeline="StableDiffusionInpaintPipeline"
    ),
    "stabilityai/sd-turbo": _sd2(keys=_UNET_0_25, scheduler=_TRAILING, vae=_VAE_XL),
    "stabilityai/stable-diffusion-xl-base-1.0": _xl(
        keys=_UNET_0_18, index={"force_zeros_for_empty_prompt": True}
    ),
    "stabilityai/sdxl-turbo": _xl(
        {"sample_size": 64},
        keys=_UNET_0_25,
        scheduler={**_TRAILING, "_class_name": "EulerAncestralDiscreteScheduler"},
    ),
    "diffusers/stable-diffusion-xl-1.0-inpainting-0.1": _xl(
        {**_EMA, "in_channels": 9},
        pipeline="StableDiffusionXLInpaintPipeline",
        index={"force_zeros_for_empty_prompt": True, "requires_aesthetics_score": False},
    ),
    "cagliostrolab/animagine-xl-3.1": _xl(
        keys=_UNET_0_25,
        vae=_VAE_LATER,
        scheduler={
            **_BETAS,
            "_class_name": "EulerAncestralDiscreteScheduler",
            "prediction_type": "epsilon",
            "rescale_betas_zero_snr": False,
            "steps_offset": 1,
            "timestep_spacing": "leading",
        },
    ),
    "SG161222/RealVisXL_V4.0": _xl(
        {"upcast_attention": False}, vae={**_VAE_LATER, "force_upcast": False}
    ),
    "playgroundai/playground-v2-1024px-aesthetic": _xl(vae={**_VAE_XL, "force_upcast": False}),
    "latent-consistency/lcm-sdxl": _xl({"time_cond_proj_dim": 256}, scheduler=_LCM),
    # Not of ours, each for its own reason.
    "stabilityai/stable-diffusion-xl-refiner-1.0": _xl(
        {"cross_attention_dim": 1280, "projection_class_embeddings_input_dim": 2560},
        index={"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False},
        pipeline="StableDiffusionXLImg2ImgPipeline",
        refused="refiners are not supported",
    ),
    "playgroundai/playground-v2.5-1024px-aesthetic": _xl(
        vae={**_VAE_LATER, "latents_mean": [-1.7, 1.9, -1.4, 2.5], "latents_std": [8, 6, 7, 5]},
        scheduler=_EDM,
        refused="latents_mean",
    ),
    "segmind/SSD-1B": _xl(
        {
            **_DISTILLED,
            "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
            "transformer_layers_per_block": [0, [2, 2], [4, 4]],
        },
        keys=_UNET_0_25,
        refused="mid_block_type|reverse_transformer_layers_per_block",
    ),
    "segmind/Segmind-Vega": _xl(
        {**_DISTILLED, "transformer_layers_per_block": [0, [1, 1], [2, 2]]},
        keys=_UNET_0_25,
        refused="mid_block_type",
    ),
    "segmind/small-sd": PublicModel(
        unet={**_UNET_0_18, "layers_per_block": 1, "mid_block_type": None},
        refused="mid_block_type",
    ),
    "stabilityai/stable-diffusion-2-depth": _sd2(
        {"in_channels": 5},
        pipeline="StableDiffusionDepth2ImgPipeline",
        refused="takes 5 channels",
    ),
    "stabilityai/stable-diffusion-x4-upscaler": _sd2(
        {
            "in_channels": 7,
            "num_class_embeds": 1000,
            "only_cross_attention": [True, True, True, False],
        },
        pipeline="StableDiffusionUpscalePipeline",
        refused="num_class_embeds|only_cross_attention",
    ),
    "stabilityai/stable-diffusion-2-1-unclip": _sd2(
        {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2048},
        keys=_UNET_0_18,
        pipeline="StableUnCLIPImg2ImgPipeline",
        refused="class_embed_type",
    ),
    "timbrooks/instruct-pix2pix": PublicModel(
        unet={**_UNET_0_12, "in_channels": 8},
        pipeline="StableDiffusionInstructPix2PixPipeline",
        refused="takes 8 channels",
    ),
    "masterful/gligen-1-4-generation-text-box": PublicModel(
        unet={**_UNET_0_22, "attention_type": "gated"},
        pipeline="StableDiffusionGLIGENPipeline",
        refused="attention_type",
    ),
}
"""By their names on the hub."""

_WIDTHS = {128: 6, 256: 12, 512: 18, 320: 20, 640: 40, 1280: 80}
_CONTEXTS = {768: 48, 1024: 64, 1280: 80, 2048: 48 + 80}
_SHRUNKEN: Mapping[str, Mapping[Any, Any]] = {
    "addition_time_embed_dim": {256: 8},
    "cross_attention_dim": _CONTEXTS,
    "projection_class_embeddings_input_dim": {2816: 80 + 6 * 8},
    "hidden_size": _CONTEXTS,
    "intermediate_size": {3072: 96, 4096: 128, 5120: 160},
    "num_hidden_layers": {12: 2, 23: 2, 32: 3},
    "projection_dim": {768: 48, 512: 32, 1280: 80},
    "vocab_size": {49408: 674},
    "attention_head_dim": {8: 4},
}
_DEPTHS = {10: 3}


def shrunken(config: Config) -> dict[str, Any]:
    """A config of the same keys with small widths, and fewer layers of a depth that only costs."""
    found = {
        key: _SHRUNKEN.get(key, {}).get(_hashed(value), value) for key, value in config.items()
    }
    if "block_out_channels" in config:
        found["block_out_channels"] = [_WIDTHS[width] for width in config["block_out_channels"]]
        found["norm_num_groups"] = 6 if "latent_channels" in config else 4
    layers = config.get("transformer_layers_per_block")
    if isinstance(layers, list):
        found["transformer_layers_per_block"] = [_DEPTHS.get(_hashed(n), n) for n in layers]
    return found


def _hashed(value: Any) -> Any:
    return None if isinstance(value, (list, dict)) else value


def index(model: PublicModel) -> dict[str, Any]:
    """model_index.json."""
    told: dict[str, Any] = {
        "_class_name": model.pipeline,
        "_diffusers_version": "0.6.0",
        "scheduler": ["diffusers", model.scheduler["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if model.text_2 is not None:
        told["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        told["tokenizer_2"] = ["transformers", "CLIPTokenizer"]
    return told | dict(model.index)


def configs(model: PublicModel) -> dict[str, dict[str, Any]]:
    """Every config by its path, the networks' shrunken."""
    found = {
        "unet/config.json": shrunken(model.unet),
        "vae/config.json": shrunken(model.vae),
        "text_encoder/config.json": shrunken(model.text),
        "scheduler/scheduler_config.json": dict(model.scheduler),
        "model_index.json": index(model),
    }
    if model.text_2 is not None:
        found["text_encoder_2/config.json"] = shrunken(model.text_2)
    return found


def tiny(model: PublicModel) -> models.Tiny:
    """The same for `models.build_folder`, which makes weights of those sizes."""
    own = {k: _plain(v) for k, v in configs(model).items()}
    return models.Tiny(
        unet=own["unet/config.json"],
        vae=own["vae/config.json"],
        text=own["text_encoder/config.json"],
        second_text=own.get("text_encoder_2/config.json"),
    )


def _plain(config: Config) -> dict[str, Any]:
    """What the classes' constructors take."""
    notes = ("architectures", "transformers_version", "model_type", "torch_dtype", *_EMA)
    return {k: v for k, v in config.items() if not k.startswith("_") and k not in notes}


def write(model: PublicModel, weights: Path, folder: Path) -> Path:
    """The model as its repository has it: its own configs beside weights of `tiny(model)`."""
    shutil.copytree(weights, folder, ignore=shutil.ignore_patterns("image_encoder"))
    for name, config in configs(model).items():
        (folder / name).write_text(json.dumps(config))
    return folder


_CONTROLNET: dict[str, Any] = {
    **{k: v for k, v in _UNET_0_12.items() if not k.startswith(("up_block", "out_", "sample_"))},
    "_class_name": "ControlNetModel",
    "conditioning_embedding_out_channels": [16, 32, 96, 256],
    "controlnet_conditioning_channel_order": "rgb",
    "projection_class_embeddings_input_dim": None,
}
del _CONTROLNET["center_input_sample"], _CONTROLNET["dual_cross_attention"]
_CONTROLNET_XL: Config = {
    **_CONTROLNET,
    **{k: v for k, v in _XL.items() if k not in {"sample_size", "up_block_types"}},
    "addition_embed_type_num_heads": 64,
    "conditioning_channels": 3,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "global_pool_conditions": False,
    "num_attention_heads": None,
}
_T2I: Config = {
    "_class_name": "T2IAdapter",
    "_diffusers_version": "0.16.0.dev0",
    "adapter_type": "full_adapter",
    "channels": [320, 640, 1280, 1280],
    "downscale_factor": 8,
    "in_channels": 3,
    "num_res_blocks": 2,
}
_VISION: Config = {
    "_name_or_path": "./image_encoder",
    "architectures": ["CLIPVisionModelWithProjection"],
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "image_size": 224,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 5120,
    "layer_norm_eps": 1e-05,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 32,
    "patch_size": 14,
    "projection_dim": 1024,
    "torch_dtype": "float16",
    "transformers_version": "4.28.0.dev0",
}
_GENERATION: Config = {
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
    "diversity_penalty": 0.0,
    "forced_bos_token_id": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "is_decoder": False,
    "length_penalty": 1.0,
    "max_length": 20,
    "num_beams": 1,
    "pruned_heads": {},
    "return_dict": True,
    "temperature": 1.0,
    "tie_word_embeddings": True,
    "top_k": 50,
    "torchscript": False,
    "typical_p": 1.0,
    "use_bfloat16": False,
}
"""Some of what transformers 4 wrote of every model where one was kept inside another's config."""

COMPONENTS: Mapping[str, tuple[str, Config]] = {
    "lllyasviel/sd-controlnet-canny": ("controlnet", _CONTROLNET),
    "lllyasviel/control_v11e_sd15_shuffle": (
        "controlnet",
        {**_CONTROLNET, "global_pool_conditions": True},
    ),
    "thibaud/controlnet-sd21-canny-diffusers": ("controlnet", {**_CONTROLNET, **_SD2}),
    "diffusers/controlnet-canny-sdxl-1.0": ("controlnet", _CONTROLNET_XL),
    "TencentARC/t2iadapter_canny_sd15v2": ("t2i_adapter", {**_T2I, "in_channels": 1}),
    "TencentARC/t2iadapter_color_sd14v1": (
        "t2i_adapter",
        {**_T2I, "adapter_type": "light_adapter", "channels": [320, 640, 1280]},
    ),
    "TencentARC/t2i-adapter-canny-sdxl-1.0": (
        "t2i_adapter",
        {**_T2I, "adapter_type": "full_adapter_xl", "downscale_factor": 16},
    ),
    "stabilityai/sd-vae-ft-mse": ("vae", {**_VAE, "sample_size": 256}),
    "madebyollin/sdxl-vae-fp16-fix": ("vae", {**_VAE_XL, "force_upcast": False}),
    "madebyollin/taesd": (
        "tiny_vae",
        {
            "_class_name": "AutoencoderTiny",
            "act_fn": "relu",
            "decoder_block_out_channels": [64, 64, 64, 64],
            "encoder_block_out_channels": [64, 64, 64, 64],
            "force_upcast": False,
            "in_channels": 3,
            "latent_channels": 4,
            "latent_magnitude": 3,
            "latent_shift": 0.5,
            "num_decoder_blocks": [3, 3, 3, 1],
            "num_encoder_blocks": [1, 3, 3, 3],
            "out_channels": 3,
            "scaling_factor": 1.0,
            "shift_factor": 0.0,
            "upsample_fn": "nearest",
            "upsampling_scaling_factor": 2,
        },
    ),
    "h94/IP-Adapter: models/image_encoder": ("image_encoder", _VISION),
    "h94/IP-Adapter: sdxl_models/image_encoder": (
        "image_encoder",
        {
            **_VISION,
            **_GENERATION,
            "hidden_size": 1664,
            "intermediate_size": 8192,
            "num_hidden_layers": 48,
            "projection_dim": 1280,
        },
    ),
}
"""Networks that are repositories or folders of their own, at their true sizes."""

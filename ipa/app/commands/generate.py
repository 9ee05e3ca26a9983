"""`ipa-mlx generate`: a picture from words and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ipa.app import autoencoder as decoding
from ipa.app import controls as structure
from ipa.app import editing as edit
from ipa.app import encoding as code
from ipa.app import references as look
from ipa.app import sampling
from ipa.app import texts as words
from ipa.app.faces import FaceOption, FindOption, KindOption
from ipa.app.generate import REQUEST_OPTIONS, check_arguments, load_named_adapters, parse_scale
from ipa.app.generate import generate as run_generate
from ipa.app.influence import InfluenceOption, check_influence, save_influence
from ipa.app.loras import LoraFolderOption, LoraOption, load_loras, parse_loras
from ipa.app.masks import MaskFitOption, MaskOption
from ipa.app.options import (
    Backend,
    CurveChoice,
    DefaultScale,
    EmbedsScalingChoice,
    FromPicture,
    IgnoreOption,
    ImageEncoderOption,
    ImagePrompts,
    Json,
    LayerChoice,
    Overwrite,
    PictureFiles,
    ProfileChoice,
    Quantize,
)
from ipa.app.output import output_paths
from ipa.app.prompt_options import PromptOptions
from ipa.app.prompt_words import TextArgument, one_prompt
from ipa.app.show import cancel_on_interrupt
from ipa.app.summary import summary
from ipa.app.terminal import explained, print_json, say, warn
from ipa.loading import choose_backend, load
from ipa.prepare.other_vae import with_vae
from ipa.prepare.sources import resolve_model


def generate(  # one parameter per option
    context: typer.Context,
    text: TextArgument = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png file.")] = Path("out.png"),
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="Text; may be left out.")] = "",
    negative_prompt: Annotated[str | None, typer.Option(help="What to steer away from.")] = None,
    prompt_2: words.SecondOption = None,
    negative_prompt_2: words.SecondNegativeOption = None,
    prompt_syntax: words.SyntaxOption = words.PLAIN,
    long_prompts: words.LongPromptsOption = words.CUT,
    clip_skip: words.ClipSkipOption = None,
    textual_inversion: words.InversionOption = None,
    image_prompt: ImagePrompts = None,
    fit: look.FitOption = None,
    sharpen: look.SharpenOption = 0.0,
    negative_image: look.NegativeOption = None,
    show_reference: look.ShowOption = None,
    encoder_mask: code.EncoderMaskOption = None,
    enhance_tiles: code.EnhanceTilesOption = 1,
    enhance_ratio: code.EnhanceRatioOption = 1.0,
    neg_content_prompt: code.ContentOption = None,
    neg_content_scale: code.ContentScaleOption = 1.0,
    mask: MaskOption = None,
    mask_fit: MaskFitOption = None,
    face: FaceOption = None,
    adapter_kind: KindOption = None,
    find_faces: FindOption = False,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Folder, file, hub id, or demo.")
    ] = "demo",
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            "-a",
            metavar="[NAME=]SOURCE",
            help="An IP-Adapter: a file, or owner/repository/path on the hub; may be repeated.",
        ),
    ] = None,
    image_encoder: ImageEncoderOption = None,
    lora: LoraOption = None,
    lora_folder: LoraFolderOption = None,
    scale: DefaultScale = "1.0",
    layers: LayerChoice = None,
    curve: CurveChoice = None,
    embeds_scaling: EmbedsScalingChoice = None,
    profile: ProfileChoice = None,
    width: Annotated[int | None, typer.Option(help="Pixels", show_default="the model's")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels", show_default="the model's")] = None,
    steps: sampling.StepsOption = None,
    timesteps: sampling.TimestepsOption = None,
    sigmas: sampling.SigmasOption = None,
    guidance_scale: sampling.GuidanceOption = None,
    guidance_rescale: sampling.RescaleOption = 0.0,
    scheduler: sampling.SchedulerOption = None,
    eta: sampling.EtaOption = 0.0,
    timestep_spacing: sampling.SpacingOption = None,
    seed: sampling.SeedOption = "0",
    num_images: Annotated[int, typer.Option(help="Pictures, with seeds seed, seed + 1, …")] = 1,
    influence: InfluenceOption = None,
    control: structure.ControlOption = None,
    control_preprocessor: structure.PreprocessorOption = None,
    guess_mode: structure.GuessOption = False,
    controlnet: structure.ControlNetOption = None,
    vae: decoding.VaeOption = None,
    vae_tiling: decoding.TilingOption = None,
    vae_tile: decoding.TileOption = None,
    preview: decoding.PreviewOption = None,
    preview_decoder: decoding.PreviewDecoderOption = None,
    image: edit.StartOption = None,
    mask_image: edit.StartMaskOption = None,
    strength: edit.StrengthOption = 0.8,
    padding_mask_crop: edit.CropOption = None,
    mask_blur: edit.BlurOption = 0.0,
    overlay: edit.OverlayOption = False,
    ignore: IgnoreOption = None,
    backend: Backend = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16")] = None,
    device: Annotated[str | None, typer.Option(help="For torch: cpu, cuda, mps")] = None,
    quantize: Quantize = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    variant: Annotated[str | None, typer.Option(help="fp16 and the like.")] = None,
    offline: Annotated[bool, typer.Option(help="Never ask the hub.")] = False,
    from_: FromPicture = None,
    picture: PictureFiles = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a picture from words and pictures; the whole request is kept inside the PNG."""
    with explained(), cancel_on_interrupt() as cancel:
        context.params.update(prompt=one_prompt(text, prompt), seed=sampling.parse_seed(seed))
        paths = output_paths(output, max(1, num_images))
        default_scale = parse_scale(scale)
        prompts, loras = PromptOptions.of(context.params).prompts(), parse_loras(lora)
        check_influence(influence, prompts, max(1, num_images), output)
        arguments: dict[str, Any] = {
            **{name: context.params[name] for name in REQUEST_OPTIONS},
            "image_prompts": prompts,
            **sampling.step_arguments(steps, timesteps, sigmas),
            "influence": influence is not None,
            "controls": structure.parse_controls(
                control, control_preprocessor, guess_mode=guess_mode, mask_image=mask_image
            ),
            **decoding.preview_arguments(context.params),
            **edit.opened(context.params),
        }
        chosen = choose_backend(backend)
        folder = resolve_model(model, revision=revision, variant=variant, offline=offline)
        folder = with_vae(folder, vae, offline=offline)
        check_arguments(arguments, folder, default_scale)
        options: dict[str, Any] = {"dtype": dtype, "device": device, "quantize": quantize}
        pipe = load(folder, backend=chosen, ignore=ignore, **options)
        decoding.prepare(pipe, context.params)
        pipe.lora_folder = lora_folder
        load_loras(pipe, loras, offline=offline)
        load_named_adapters(pipe, context.params, default_scale)
        structure.load_controlnets(pipe, controlnet or (), arguments["controls"], offline=offline)
        words.load_inversions(pipe, textual_inversion, offline=offline)
        look.save_views(pipe, prompts, show_reference, profile)
        result, paths = run_generate(pipe, output, paths, arguments, cancel, preview)
        paths += save_influence(result, prompts, influence)
    if as_json:
        print_json({"files": [str(path.resolve()) for path in paths], **result.info})
        return
    warn(result.info["warnings"])
    for path in paths:
        typer.echo(path)
    say("[dim]made:[/]", summary(result.info))

"""`ipa-mlx generate`: pictures from words and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

from ipa.app.options import (
    autoencoder as decoding,
)
from ipa.app.options import (
    controls as structure,
)
from ipa.app.options import (
    editing as edit,
)
from ipa.app.options import (
    pictures as code,
)
from ipa.app.options import (
    pictures as look,
)
from ipa.app.options import (
    sampling,
)
from ipa.app.options import (
    texts as words,
)
from ipa.app.options.editing import steps_done
from ipa.app.options.faces import FaceOption, FindOption, KindOption
from ipa.app.options.image_prompts import PromptOptions
from ipa.app.options.influence import InfluenceOption, check_influence, save_influence
from ipa.app.options.loading import ModelOptions, check_arguments
from ipa.app.options.loras import LoraFolderOption, LoraOption
from ipa.app.options.model import (
    Adapters,
    Backend,
    CurveChoice,
    DefaultScale,
    Device,
    Dtype,
    EmbedsScalingChoice,
    EventsOption,
    FromPicture,
    IgnoreOption,
    ImageEncoderOption,
    ImagePrompts,
    Json,
    LayerChoice,
    MemoryBudget,
    Model,
    Offline,
    Overwrite,
    PictureFiles,
    ProfileChoice,
    Quantize,
    Revision,
    Variant,
)
from ipa.app.options.pictures import MaskFitOption, MaskOption
from ipa.app.options.saving import (
    EmbedOption,
    MetadataOption,
    NoMetadataOption,
    OutputOption,
    QualityOption,
    saved_as,
)
from ipa.app.options.texts import TextArgument, one_prompt
from ipa.app.output import Saving, output_paths, picture_name
from ipa.app.preview_file import ENLARGED, PreviewFile, preview_path
from ipa.app.provenance import provenance
from ipa.app.request_options import plain_arguments
from ipa.app.session import session
from ipa.app.summary import summary
from ipa.app.terminal import (
    cancel_on_interrupt,
    explained,
    print_json,
    progress_bar,
    say,
    telling,
    warn,
)
from ipa.metadata.ours import FileHashes
from ipa.metadata.writing import AS_USUAL, QUALITY, Saved
from ipa.pipeline.documents.one_picture import picture_info
from ipa.pipeline.pipeline import Pipeline
from ipa.request.result import Result
from ipa.watching import CancelSignal


def run_generate(
    pipe: Pipeline,
    output: Path,
    paths: Sequence[Path],
    arguments: dict[str, Any],
    cancel: CancelSignal,
    preview: Path | None = None,
    saved: Saved = AS_USUAL,
) -> tuple[Result, list[Path]]:
    """Run a call with a progress bar and write its pictures, the request inside each.

    Returns:
        What was made, and where the pictures are: at `paths`, or numbered where those were taken.
    """
    is_told = saved.metadata == "full"
    with ThreadPoolExecutor(1) as beside, progress_bar(steps_done(arguments)) as bar:
        hashes = beside.submit(pipe.file_hashes if is_told else FileHashes)
        bar.describe("generating")
        enlarged = ENLARGED if arguments.get("preview") == "latent" else 1
        events = PreviewFile(bar, preview and preview_path(preview), enlarged)
        with events.kept_if_cancelled():
            result = pipe(**arguments, on_progress=events, cancel=cancel)
    saving = Saving(picture_name(output), saved, hashes.result())
    for number, (image, path) in enumerate(zip(result.images, paths, strict=True)):
        info, references = picture_info(result, number)
        saving.save(image, path, {**info, **provenance(info["request"])}, references)
    missing = result.references.missing if result.references else ()
    warn([*saving.notes, *(f"not embedded: {words}" for words in missing)])
    return result, saving.finish()


def call_arguments(context: typer.Context) -> dict[str, Any]:
    """The arguments of a call that the options of generate are; its files are opened.

    Pictures that --from took out of a picture stand for the options that name files.
    """
    given = context.params
    seed, prompt = sampling.parse_seed(given["seed"]), one_prompt(given["text"], given["prompt"])
    given.update(prompt=prompt, seed=seed)
    return {
        **plain_arguments(given),
        **sampling.step_arguments(given["steps"], given["timesteps"], given["sigmas"]),
        "influence": given["influence"] is not None,
        **decoding.preview_arguments(given),
        **(session().restored or _pictures(given)),
    }


def _pictures(given: Mapping[str, Any]) -> dict[str, Any]:
    """Image prompts, controls, and what a run starts from."""
    controls = structure.parse_controls(
        given["control"],
        given["control_preprocessor"],
        guess_mode=given["guess_mode"],
        mask_image=given["mask_image"],
    )
    prompts = PromptOptions.of(given).prompts()
    return {"image_prompts": prompts, "controls": controls, **edit.opened(given)}


def generate(  # one parameter per option
    context: typer.Context,
    text: TextArgument = None,
    output: OutputOption = Path("out.png"),
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
    model: Model = "demo",
    adapter: Adapters = None,
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
    guidance_start: sampling.GuidanceStartOption = 0.0,
    guidance_end: sampling.GuidanceEndOption = 1.0,
    cache_interval: sampling.CacheIntervalOption = 1,
    cache_branch: sampling.CacheBranchOption = 0,
    forecast: sampling.ForecastOption = False,
    forecast_window: sampling.ForecastWindowOption = 2.0,
    forecast_growth: sampling.ForecastGrowthOption = 0.75,
    forecast_warmup: sampling.ForecastWarmupOption = 5,
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
    vae_memory: decoding.MemoryOption = None,
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
    dtype: Dtype = None,
    device: Device = None,
    quantize: Quantize = None,
    memory_budget: MemoryBudget = None,
    revision: Revision = None,
    variant: Variant = None,
    offline: Offline = False,
    from_: FromPicture = None,
    picture: PictureFiles = None,
    embed_references: EmbedOption = False,
    metadata: MetadataOption = "full",
    no_metadata: NoMetadataOption = False,
    quality: QualityOption = QUALITY,
    overwrite: Overwrite = False,
    as_json: Json = False,
    events: EventsOption = None,
) -> None:
    """Make a picture from words and pictures; the whole request is kept inside the PNG."""
    with explained(), cancel_on_interrupt() as cancel:
        paths = output_paths(output, max(1, num_images), picture_name)
        saved = saved_as(context.params, output)
        opening, arguments = ModelOptions.of(context.params), call_arguments(context)
        prompts = arguments["image_prompts"]
        check_influence(influence, prompts, max(1, num_images), output)
        with telling(cancel):
            folder = opening.folder()
        check_arguments(arguments, folder, opening.default_scale)
        with telling(cancel):
            pipe = opening.open(folder, arguments["controls"])
        look.save_views(pipe, prompts, show_reference, profile)
        result, paths = run_generate(pipe, output, paths, arguments, cancel, preview, saved)
        paths += save_influence(result, prompts, influence)
    lines = session().events
    if lines is not None:
        files = [str(path.resolve()) for path in paths]
        lines.tell("result", {"files": files, "seed": result.info["request"]["seed"]})
    if as_json:
        print_json({"files": [str(path.resolve()) for path in paths], **result.info})
        return
    warn(result.info["warnings"])
    for path in paths:
        typer.echo(path)
    say("[dim]made:[/]", summary(result.info))

"""`tisdiss train DATA OUT`: train a network, fine-tune one with more repeats, or go on after an interruption."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tisdiss_cli.commands import app
from tisdiss_cli.commands.options import DeviceOption
from tisdiss_cli.errors import UserError


@app.command()
def train(
    data: Annotated[
        Path, typer.Argument(help="A set of mixtures (WSJ0-2mix, Libri2Mix, WHAMR!), or clean speech by speaker.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for weights, checkpoint, log and curve.")],
    valid: Annotated[Path | None, typer.Option(help="Set of mixtures to validate on.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="released, small, light, gpu, tiny, or a TOML file. [default: small]", show_default=False),
    ] = None,
    init: Annotated[str | None, typer.Option(help="Weights to fine-tune: a name or a file.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUT's checkpoint.")] = False,
    repeats: Annotated[str | None, typer.Option(help="Reconstructor repeats of a step: 4, or 1-6 drawn.")] = None,
    separator_loss: Annotated[
        bool | None, typer.Option("--separator-loss/--no-separator-loss", help="Supervise Separator outputs too.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Time budget, from now to the saved weights.")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget of steps.")] = None,
    open_ended: Annotated[
        bool | None, typer.Option("--open-ended/--no-open-ended", help="At a constant rate until it is told to stop.")
    ] = None,
    cooldown: Annotated[
        float | None, typer.Option(help="With --resume: minutes in which an open-ended run's rate falls to zero.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Mixtures in a step, on each device.")] = None,
    segment_seconds: Annotated[float | None, typer.Option(help="Length of a mixture.")] = None,
    turn_taking: Annotated[
        float | None, typer.Option(help="Share of mixtures whose voices begin and end somewhere.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest; Muon's keeps the proportion.")] = None,
    mixture: Annotated[str | None, typer.Option(help="DATA's folder of mixtures, where it is not detected.")] = None,
    references: Annotated[str | None, typer.Option(help="DATA's folders of references: s1,s2.")] = None,
    exclude: Annotated[Path | None, typer.Option(help="File of pairs of speakers (patterns) never mixed.")] = None,
    rirs: Annotated[Path | None, typer.Option(help="Room impulse responses to mix with, a folder a room.")] = None,
    noise: Annotated[Path | None, typer.Option(help="Noise to mix with: a folder.")] = None,
    valid_items: Annotated[int | None, typer.Option(help="Mixtures to validate on; 0: all.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")] = None,
    compile: Annotated[bool | None, typer.Option("--compile/--no-compile", help="torch.compile the paths.")] = None,
    activation_checkpointing: Annotated[
        bool | None,
        typer.Option("--activation-checkpointing/--no-activation-checkpointing", help="Less memory, more time."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and mixtures.")] = None,
    device: DeviceOption = "auto",
    devices: Annotated[int, typer.Option(help="How many of them, each with a whole batch.")] = 1,
) -> None:
    """Train the network by the paper's multi-loss; OUT/weights.safetensors is the best so far at any time."""
    import time

    started = time.monotonic()
    options: dict[str, Any] = {
        "repeats": repeats,
        "separator_loss": separator_loss,
        "minutes": minutes,
        "steps": steps,
        "open_ended": open_ended,
        "cooldown": cooldown,
        "batch_size": batch_size,
        "segment_seconds": segment_seconds,
        "turn_taking": turn_taking,
        "learning_rate": learning_rate,
        "rirs": None if rirs is None else str(rirs),
        "noise": None if noise is None else str(noise),
        "valid_items": valid_items,
        "precision": precision,
        "compile": compile,
        "activation_checkpointing": activation_checkpointing,
        "seed": seed,
    }
    options = {key: value for key, value in options.items() if value is not None}
    if devices < 1:
        raise UserError(f"--devices {devices}: it must be at least 1")
    if cooldown is not None and not cooldown > 0:
        raise UserError(f"--cooldown {cooldown:g}: it must be above 0 minutes")
    if resume and (recipe is not None or init is not None):
        raise UserError("--resume goes on with the run's own recipe and weights: leave --recipe and --init out")
    try:
        from lightning_fabric import Fabric
    except ImportError:
        raise UserError("training needs Lightning Fabric: pip install 'tisdiss[train]'") from None
    import logging

    import torch

    from tisdiss_cli.data.corpus import read_exclusions
    from tisdiss_cli.devices import choose_device, choose_training_precision
    from tisdiss_cli.training.curve import can_plot
    from tisdiss_cli.training.data import load_data, load_examples
    from tisdiss_cli.training.export import WEIGHTS
    from tisdiss_cli.training.loop import Training
    from tisdiss_cli.training.start import check_origin, start_again, start_new

    chosen = choose_device(device)
    if chosen.type == "cuda" and not devices <= torch.cuda.device_count():
        raise UserError(f"--devices {devices}: this machine has {torch.cuda.device_count()} CUDA devices")
    if exclude is not None:
        options["exclude"] = [list(pair) for pair in read_exclusions(exclude)]
    start = start_again(out, options) if resume else start_new(out, recipe, init, options)
    settings, config = start.recipe, start.recipe.config

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells what the options already say
    computed = choose_training_precision(settings.precision, chosen)
    # Applied once, the Separator reads no re-injection, whose parameters then get no gradient on any device.
    once = config.separator_repeats * config.separator_layers == 1 and not config.reconstructor_reinjection
    ddp = "ddp_find_unused_parameters_true" if once else "ddp"
    fabric = Fabric(
        accelerator=chosen.type,
        devices=devices if chosen.index is None or devices > 1 else [chosen.index],
        strategy=ddp if devices > 1 else "auto",
        precision="bf16-mixed" if computed == "bf16" else "32-true",
    )
    fabric.launch()
    if valid is None and start.origin.get("valid"):
        valid = Path(start.origin["valid"])
    examples = load_examples(valid, config.sample_rate, config.speakers, settings.valid_items) if valid else []
    names = None if references is None else [name.strip() for name in references.split(",")]
    loaded = load_data(data, settings, mixture, names, quiet=not fabric.is_global_zero)
    origin = {
        "valid": str(valid.resolve()) if valid else None,
        "data": loaded.checksum,
        "examples": sum(example.mixture.shape[0] for example in examples),
        "before": start.origin.get("before", start.before),
    }
    check_origin(start.origin, origin)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"OUT {out} cannot be made ({error.strerror}): name another folder") from None
    if fabric.is_global_zero:
        if not valid:
            paper = not (settings.minutes or settings.steps or settings.open_ended)
            kept = ", the rate is never halved" if paper else ""
            typer.echo(f"tisdiss: without --valid the last weights are kept{kept}", err=True)
        if not can_plot():
            typer.echo("tisdiss: no curve.png without matplotlib: pip install 'tisdiss[plot]'", err=True)
        typer.echo(
            f"tisdiss: ready on {fabric.device} in {computed} after {time.monotonic() - started:.0f} s", err=True
        )
    torch.manual_seed(settings.seed)
    Training(fabric, settings, start.network(), loaded, examples, out, origin).run(started, start.state)
    if fabric.is_global_zero:
        typer.echo(str(out / WEIGHTS))

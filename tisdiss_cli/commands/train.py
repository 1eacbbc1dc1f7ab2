"""`tisdiss train`: train from a folder of clean speech by speaker, or go on."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tisdiss_cli.commands import app
from tisdiss_cli.errors import UserError

# What may change when a run is resumed: none of it changes what the steps so far have learned.
RESUMABLE = {"minutes", "steps", "epochs", "precision", "compile", "activation_checkpointing", "checkpoint_minutes"}


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Folder of clean speech with one folder for each speaker.")],
    out: Annotated[Path, typer.Argument(help="Folder for weights, checkpoint and log.")],
    valid: Annotated[Path | None, typer.Option(help="Folder of fixed mixtures (mix, s1, s2) to validate on.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Name (released, small, tiny) or TOML file.")] = None,
    init: Annotated[str | None, typer.Option(help="Weights to start from: a name or a file.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUT's checkpoint.")] = False,
    repeats: Annotated[str | None, typer.Option(help="Reconstructor repeats of a step: 4, or 1-6 drawn.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Time budget, from now to the saved weights.")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget of steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Mixtures in a step, on each device.")] = None,
    segment_seconds: Annotated[float | None, typer.Option(help="Length of a mixture.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest learning rate.")] = None,
    exclude: Annotated[Path | None, typer.Option(help="File of pairs of speakers (patterns) never mixed.")] = None,
    valid_items: Annotated[int | None, typer.Option(help="Mixtures to validate on; 0: all.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16.")] = None,
    compile: Annotated[bool | None, typer.Option("--compile/--no-compile", help="torch.compile the paths.")] = None,
    activation_checkpointing: Annotated[
        bool | None, typer.Option("--activation-checkpointing/--no-activation-checkpointing", help="Less memory.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and mixtures.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    devices: Annotated[int, typer.Option(help="How many of them.")] = 1,
) -> None:
    """Train the network by the paper's multi-loss; OUT/weights.safetensors is the best so far at any time."""
    import time

    started = time.monotonic()
    options: dict[str, Any] = {
        "repeats": repeats,
        "minutes": minutes,
        "steps": steps,
        "batch_size": batch_size,
        "segment_seconds": segment_seconds,
        "learning_rate": learning_rate,
        "valid_items": valid_items,
        "precision": precision,
        "compile": compile,
        "activation_checkpointing": activation_checkpointing,
        "seed": seed,
    }
    options = {key: value for key, value in options.items() if value is not None}
    try:
        import lightning_fabric
    except ImportError:
        raise UserError("training needs Lightning Fabric: pip install 'tisdiss[train]'") from None
    import torch

    from tisdiss_cli.model.network import TISDiSS
    from tisdiss_cli.model.weights import load_weights
    from tisdiss_cli.training.checkpoint import NAME, load_checkpoint
    from tisdiss_cli.training.corpus import load_corpus, read_exclusions
    from tisdiss_cli.training.loop import Training
    from tisdiss_cli.training.recipe import Recipe, read_recipe
    from tisdiss_cli.training.validation import load_examples

    if exclude is not None:
        options["exclude"] = [list(pair) for pair in read_exclusions(exclude)]
    state, network = None, None
    if resume:
        if recipe is not None or init is not None:
            raise UserError("--resume goes on with the run's own recipe and weights: leave --recipe and --init out")
        state = load_checkpoint(out / NAME)
        stored = state["recipe"]
        for key, value in options.items():
            if key not in RESUMABLE and value != stored[key]:
                raise UserError(
                    f"--{key.replace('_', '-')} {value} differs from the run's {stored[key]}: leave it out to resume, "
                    "or start a run in another folder"
                )
        settings = Recipe.from_dict({**stored, **options})
    else:
        if (out / NAME).exists():
            raise UserError(f"{out} holds a run already: go on with --resume or name another OUT")
        values = {**read_recipe(recipe or "small"), **options}
        if init is not None:
            network = load_weights(init)
            trained = network.config.to_dict()
            for key, value in (values.get("network", {}) if recipe else {}).items():
                if key != "reconstructor_repeats" and trained.get(key) != value:
                    raise UserError(
                        f"--init {init} has {key} {trained.get(key)}, and the recipe {value}: they must agree"
                    )
            values["network"] = trained
        settings = Recipe.from_dict(values)
    config = settings.config

    examples = load_examples(valid, config.sample_rate, config.speakers, settings.valid_items) if valid else []
    pairs = [(a, b) for a, b in settings.exclude]
    corpus = load_corpus(data, config.sample_rate, settings.speeds, config.speakers, pairs)
    typer.echo(
        f"{data}: {len(corpus.names)} speakers, {int(corpus.lengths.sum()) / config.sample_rate / 60:.0f} min "
        f"at {len(settings.speeds)} speeds, ready after {time.monotonic() - started:.0f} s",
        err=True,
    )
    out.mkdir(parents=True, exist_ok=True)

    fabric = lightning_fabric.Fabric(
        accelerator=device,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
    )
    fabric.launch()
    torch.manual_seed(settings.seed)
    initial = TISDiSS(config)
    if network is not None:
        initial.load_state_dict(network.state_dict())
    Training(fabric, settings, initial, corpus, examples, out).run(started, state)
    typer.echo(str(out / "weights.safetensors"))

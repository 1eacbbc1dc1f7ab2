"""`tisdiss train DATA OUT`: train a network, fine-tune one with more repeats, or go on after an interruption."""

from dataclasses import fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tisdiss_cli.commands import app
from tisdiss_cli.commands.console import bar, log
from tisdiss_cli.commands.options import NETWORK, DeviceOption, check_folder, parse_names, positive
from tisdiss_cli.errors import UserError

if TYPE_CHECKING:
    from tisdiss_cli.training.loop import Training
    from tisdiss_cli.training.recipe import Recipe

_groups = ("Data", "Start", "Step", "Schedule", NETWORK)
_data, _start, _step, _schedule, _machine = (partial(typer.Option, rich_help_panel=group) for group in _groups)


@app.command()
def train(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(help="A set of mixtures, or clean speech with a folder for each speaker.")],
    out: Annotated[Path, typer.Argument(help="Folder for weights, checkpoint, log and curve.")],
    valid: Annotated[Path | None, _data(help="Set of mixtures to validate on.")] = None,
    valid_items: Annotated[int | None, _data(min=0, help="Number of mixtures to validate on; 0: all.")] = None,
    mixture: Annotated[str | None, _data(help="Folder of the mixtures in DATA, if it is not detected.")] = None,
    references: Annotated[str | None, _data(help="Folders of the references in DATA, as in s1,s2.")] = None,
    exclude: Annotated[Path | None, _data(help="File with pairs of speakers (patterns) that are never mixed.")] = None,
    rirs: Annotated[Path | None, _data(help="Room impulse responses, one folder per room.")] = None,
    noise: Annotated[Path | None, _data(help="Folder of noise to add.")] = None,
    turn_taking: Annotated[
        float | None, _data(min=0, max=1, help="Share of mixtures that are windows of conversations.")
    ] = None,
    recipe: Annotated[str | None, _start(help="released, small, light, gpu, or a TOML file. [default: small]")] = None,
    init: Annotated[str | None, _start(help="Weights to fine-tune: a name or a file.")] = None,
    resume: Annotated[bool, _start("--resume", help="Go on from OUT's checkpoint.")] = False,
    seed: Annotated[int | None, _start(min=0, help="Seed of weights and mixtures.")] = None,
    batch_size: Annotated[int | None, _step(min=1, help="Mixtures in a batch, on each device.")] = None,
    segment_seconds: Annotated[float | None, _step(help="Length of a mixture, in seconds.")] = None,
    repeats: Annotated[str | None, _step(help="Reconstructor repeats of a step: 4, or 1-6 to draw them.")] = None,
    separator_loss: Annotated[bool | None, _step(help="Supervise Separator outputs too.")] = None,
    learning_rate: Annotated[float | None, _step(help="The highest rate; Muon's changes in proportion.")] = None,
    minutes: Annotated[float | None, _schedule(callback=positive, help="Time, from now to the saved weights.")] = None,
    steps: Annotated[int | None, _schedule(min=1, help="Number of steps.")] = None,
    open_ended: Annotated[bool | None, _schedule(help="Train at a constant rate until stopped.")] = None,
    cooldown: Annotated[
        float | None, _schedule(callback=positive, help="With --resume: end an open-ended run in this many minutes.")
    ] = None,
    device: DeviceOption = "auto",
    devices: Annotated[int, _machine(min=1, max=1024, help="Number of devices, each with a whole batch.")] = 1,
    precision: Annotated[str | None, _machine(help="auto, fp32, bf16 or, on CUDA, tf32.")] = None,
    compile: Annotated[bool | None, _machine(help="torch.compile the network's paths.")] = None,
    activation_checkpointing: Annotated[bool | None, _machine(help="Less memory, more time.")] = None,
) -> None:
    """Train the network by the paper's multi-loss; OUT/weights.safetensors is the best so far at any time."""
    import time

    started = time.monotonic()
    for option, text in (("--recipe", recipe), ("--init", init), ("--repeats", repeats), ("--precision", precision)):
        if text is not None and not text.strip():
            raise UserError(f"{option} is empty: name one, or leave the option out")
    if resume and (recipe is not None or init is not None):
        raise UserError("--resume goes on with the run's own recipe and weights: leave --recipe and --init out")

    check_folder("OUT", out)

    import torch

    from tisdiss_cli.devices import choose_device, choose_precision
    from tisdiss_cli.training.fabric import launch
    from tisdiss_cli.training.loop import Training
    from tisdiss_cli.training.start import load_run_data, resume_run, start_run

    chosen = choose_device(device)
    options = recipe_options(context.params)
    start = resume_run(out, options) if resume else start_run(out, recipe=recipe, init=init, options=options)
    computed, _ = choose_precision(start.recipe.precision, chosen)
    fabric = launch(chosen, devices=devices, precision=computed, config=start.recipe.config)
    run_data = load_run_data(start, data, valid, mixture=mixture, references=parse_names(references))
    out.mkdir(parents=True, exist_ok=True)
    report_missing(start.recipe, bool(run_data.examples))
    log.info(f"ready on {fabric.device} in {computed} after {time.monotonic() - started:.0f} s")
    torch.manual_seed(start.recipe.seed)
    training = Training(
        fabric, start.recipe, network=start.network(), run_data=run_data, out=out, started=started, stored=start.state
    )
    _run(training)


def _run(training: "Training") -> None:
    """Trains under a bar and prints the weight file; after a signal, says how to go on, and exits as signals do."""
    from tisdiss_cli.training.checkpoint import CHECKPOINT
    from tisdiss_cli.training.export import WEIGHTS

    schedule, out = training.state.schedule, training.out
    endless = schedule.plan.open_ended and not schedule.plan.at(training.state.step).cooldown
    look = "{elapsed} {postfix}" if endless else "{l_bar}{bar}| {elapsed} {postfix}"
    with bar(total=100, unit="%", dynamic_ncols=True, bar_format=look) as shown:
        stopped = training.run(shown)
    if stopped:
        step = training.state.step
        log.info(f"stopped by {stopped.name} after step {step}, saved in {out / CHECKPOINT}: go on with --resume")
        raise typer.Exit(128 + stopped)
    if training.fabric.is_global_zero:
        typer.echo(str(out / WEIGHTS))


def recipe_options(parameters: dict[str, Any]) -> dict[str, Any]:
    """Returns the options that were given, by the recipe's key of the same name."""
    from tisdiss_cli.data.corpus import read_exclusions
    from tisdiss_cli.training.recipe import Recipe

    values = {field.name: parameters.get(field.name) for field in fields(Recipe)}
    options = {key: value for key, value in values.items() if value is not None}
    if "exclude" in options:
        options["exclude"] = [list(pair) for pair in read_exclusions(options["exclude"])]
    return {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}


def report_missing(recipe: "Recipe", validated: bool) -> None:
    """Logs what a run lacks without a validation set or matplotlib."""
    if not validated:
        paper = not (recipe.minutes or recipe.steps or recipe.open_ended)
        log.info(f"without --valid the last weights are kept{', the rate is never halved' if paper else ''}")
    if not find_spec("matplotlib"):
        log.info("no curve.png without matplotlib: pip install 'tisdiss[plot]'")

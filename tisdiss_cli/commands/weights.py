"""`tisdiss weights list | info | import | fetch | push | export | average | calibrate`: weight files."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from tisdiss_cli.commands import Commands, app
from tisdiss_cli.commands.console import bar, plain_console
from tisdiss_cli.commands.options import COUNT, DeviceOption, check_output, check_weights_output, print_json
from tisdiss_cli.errors import UserError
from tisdiss_cli.model.config import MOST_REPEATS

weights = Commands(help="List, describe, import, fetch, push, export, average and calibrate weights.")
app.add_typer(weights, name="weights")

_AUTHORS = "WingsingFung/TISDiSS"
_Name = Annotated[str, typer.Argument(metavar="NAME|FILE", help="Bundled name or .safetensors file.")]


@weights.command("list")
def list_(json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """List the bundled weights; the first is the default."""
    from tisdiss_cli.model.weights import bundled, read_info

    files = [read_info(path) for path in bundled()]
    if json:
        rows = [
            {"name": file.name, "default": file is files[0], "trained": file.trained, "sha256": file.digest}
            for file in files
        ]
        print_json({"weights": rows})
        return
    for file in files:
        print(f"{file.name}{'  (default)' if file is files[0] else ''}{'' if file.trained else '  (untrained)'}")


@weights.command()
def info(name: _Name) -> None:
    """Print configuration, parameters, rate and training facts."""
    from rich.table import Table

    from tisdiss_cli.model.weights import QUALITY, find_weights, load_weights, read_info
    from tisdiss_cli.separation.quality import INPUTS, QualityModel

    weights = read_info(find_weights(name))
    facts: dict[str, Any] = {
        "name": weights.name,
        "parameters": f"{load_weights(weights.path).parameter_count:,}",
        "trained": "yes" if weights.trained else "no: seeded only, does not separate",
        **weights.config.to_dict(),
        **{key: value for key, value in weights.info.items() if key != "trained"},
    }
    facts["sample_rate"] = f"{weights.config.sample_rate} Hz"
    if quality := QualityModel.of(facts.get(QUALITY)):
        facts[QUALITY] = f"{quality}; dB for each: " + ", ".join(
            f"{name} {value:+.2f}" for name, value in zip(INPUTS, quality.coefficients, strict=True)
        )
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in facts.items():
        table.add_row(key, _words(value))
    plain_console(soft_wrap=True).print(table)


def _words(value: Any) -> str:
    """Returns a fact as text; long lists are only counted, and a recipe's network, printed above, is left out."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(part)}" for key, part in value.items() if key != "network" and part != "")
    if isinstance(value, list):
        return " ".join(map(str, value)) if len(value) <= 8 else f"({len(value)})"
    return str(value)


@weights.command("import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT.pth", help="The authors' checkpoint.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="The weight file to write.")],
    config: Annotated[Path | None, typer.Option(help="Their config.yaml. [default: beside the checkpoint]")] = None,
) -> None:
    """Turn a published checkpoint (.pth and config.yaml) into a weight file."""
    check_weights_output("OUT", out)
    config = config or checkpoint.parent / "config.yaml"
    for path, what in ((checkpoint, "checkpoint"), (config, "--config")):
        if not os.path.isfile(path):
            raise UserError(f"{what} {path} does not exist: name the file")
    _import(checkpoint, config, out, source=checkpoint.name)


@weights.command()
def fetch(
    repository: Annotated[str, typer.Argument(metavar="REPO", help="On the Hugging Face Hub.")] = _AUTHORS,
    file: Annotated[str | None, typer.Option(help="Which .safetensors or .pth of REPO, if it has several.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The weight file. [default: a checkpoint's: REPO.safetensors]")
    ] = None,
) -> None:
    """Download weights from the Hugging Face Hub; a published checkpoint is imported.

    Weight files stay in the Hub's cache: --weights REPO finds them there, without a network.
    """
    from tisdiss_cli.model.hub import fetch_files
    from tisdiss_cli.model.weights import load_weights, read_info, save_weights

    if out is not None:
        check_weights_output("--out", out)
    path, *config = fetch_files(repository, file)
    if config:
        out = out or Path(repository.rsplit("/", 1)[-1].lower() + ".safetensors")
        check_weights_output("--out", out)
        _import(path, config[0], out, source=f"{repository}/{path.name}")
    elif out:
        fetched = read_info(path)
        save_weights(out, fetched.config, load_weights(path).state_dict(), info=fetched.info)
        print(out)
    else:
        read_info(path)  # raises UserError for a file that is not a weight file
        print(f"{path}: use it with --weights {repository}")


@weights.command()
def push(
    name: _Name,
    repository: Annotated[str, typer.Argument(metavar="REPO", help="On the Hugging Face Hub, as in you/name.")],
    card: Annotated[Path | None, typer.Option(help="The model card. [default: README.md beside the file]")] = None,
    private: Annotated[bool, typer.Option("--private", help="If the repository is new, make it private.")] = False,
) -> None:
    """Upload a weight file and its model card to the Hugging Face Hub; log in with `hf auth login` first."""
    from tisdiss_cli.model.hub import push_weights
    from tisdiss_cli.model.weights import find_weights, read_info

    file = read_info(find_weights(name))
    card = card or file.path.with_name("README.md")
    if not card.is_file():
        raise UserError(f"--card {card} does not exist: write a model card: data, licence, and measured quality")
    print(push_weights(file.path, repository, card, private=private))


def _import(checkpoint: Path, config: Path, out: Path, *, source: str) -> None:
    from tisdiss_cli.evaluation.calibrate import measure_agreement
    from tisdiss_cli.model.published import import_checkpoint, read_config
    from tisdiss_cli.model.weights import save_weights

    described = read_config(config)
    state = import_checkpoint(checkpoint, described)
    save_weights(out, described, state, info={"imported_from": source, **measure_agreement(described, state)})
    print(out)


@weights.command()
def export(
    name: _Name,
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The model to write.")],
    repeats: Annotated[
        int | None, typer.Option(**COUNT, help="Repeats of the Reconstructor. [default: by the weights]")
    ] = None,
    separator_repeats: Annotated[int | None, typer.Option(**COUNT, help="Repeats of the Separator (advanced).")] = None,
) -> None:
    """Write an ONNX model of the stages between the STFT and its inverse, for mixtures of any length.

    Before the file is kept, onnxruntime is compared with torch at three lengths.
    """
    if out.suffix != ".onnx":
        raise UserError(f"OUT {out} must end in .onnx")
    check_output("OUT", out)

    from tisdiss_cli.folder.pace import counted
    from tisdiss_cli.model.onnx_export import export_onnx
    from tisdiss_cli.model.weights import find_weights, load_weights, read_info

    file = read_info(find_weights(name))
    repeats = repeats or file.default_repeats
    difference = export_onnx(out, load_weights(file.path), file, repeats=repeats, separator_repeats=separator_repeats)
    print(f"{out}: {counted(repeats)}; onnxruntime differs from torch by {difference:.0e} of the largest value")


@weights.command()
def average(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Weight files of one or successive runs.")],
    out: Annotated[Path, typer.Option(help="The weight file to write.")],
) -> None:
    """Write the mean of weight files, often better than each of them; repeats and facts are the last file's."""
    if len(files) < 2:
        raise UserError("weights average: name at least two weight files")
    check_weights_output("--out", out)

    from tisdiss_cli.model.weights import average_weights

    average_weights(files, out)
    print(out)


@weights.command()
def calibrate(
    name: _Name,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Validation mixtures with references.")],
    out: Annotated[Path | None, typer.Option(help="The weight file to write. [default: the same file]")] = None,
    max_repeats: Annotated[int, typer.Option(min=2, max=MOST_REPEATS, help="Most repeats to try.")] = 8,
    chunk: Annotated[
        float | None, typer.Option(min=0.5, max=3600, help="Also store this chunk length, seconds.")
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Find the default repeats and the threshold of --repeats auto on validation data; store them in the weight file.

    The default is the smallest setting within 0.1 dB of the best. It also fits a predictor of SI-SNRi at that setting,
    by which separate estimates the quality of recordings without references.
    """
    if out is not None:  # else it is the weights' own path, checked once it is known
        check_weights_output("--out", out)
    elif "/" in name and not os.path.isfile(name):
        raise UserError(f"{name} is not a file: the Hub's cache stays as it is, so name a file with --out")
    from rich.table import Table

    from tisdiss_cli.data.datasets import find_dataset
    from tisdiss_cli.evaluation.calibrate import choose_threshold, fit_quality, trace
    from tisdiss_cli.evaluation.results import smallest_within
    from tisdiss_cli.folder.pace import counted
    from tisdiss_cli.model.weights import CHUNK, QUALITY, REPEATS, THRESHOLD, load_weights, save_weights
    from tisdiss_cli.separation.separator import Separator

    separator = Separator.load(name, device, "fp32")
    check_weights_output("--out", out or separator.weights.path)
    dataset = find_dataset(data)
    with bar(total=2 * len(dataset.items), unit="file", leave=False) as shown:
        choice = choose_threshold(trace(separator, dataset, most=max_repeats, advance=shown.update))
        default = smallest_within(dict(enumerate(choice.fixed, 1)))
        quality = fit_quality(separator, dataset, repeats=default, advance=shown.update)
    path = out or separator.weights.path
    info = {**separator.weights.info, THRESHOLD: choice.threshold_db, REPEATS: default}
    info.pop(QUALITY, None)  # an earlier fit is for other repeats
    if quality:
        info[QUALITY] = quality.facts()
    if chunk:
        info[CHUNK] = chunk
    save_weights(path, separator.config, load_weights(separator.weights.path).state_dict(), info=info)
    table = Table(box=None, pad_edge=False)
    for heading in ("repeats", "SI-SNRi"):
        table.add_column(heading, justify="right")
    for repeats, value in enumerate(choice.fixed, 1):
        table.add_row(str(repeats), f"{value:.2f} dB")
    table.add_row(f"auto, {choice.repeats:.2f}", f"{choice.si_snri:.2f} dB")
    plain_console(width=100).print(table)
    print(f"{path}: {counted(default)} by default; --repeats auto stops at {choice.threshold_db:g} dB")
    if quality:
        print(quality)

"""`tisdiss mix SPEECH OUT`: sets of fixed mixtures from clean speech."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tisdiss_cli.commands import app
from tisdiss_cli.commands.console import bar
from tisdiss_cli.commands.options import check_folder
from tisdiss_cli.errors import UserError

Format = StrEnum("Format", ["wav", "flac"])


@app.command()
def mix(
    speech: Annotated[Path, typer.Argument(help="Folder of clean speech, with one folder for each speaker.")],
    out: Annotated[Path, typer.Argument(help="New folder for mix, s1, s2 and mixtures.csv.")],
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of mixtures.")] = 1000,
    speakers: Annotated[int, typer.Option(min=2, max=100, help="Speakers in each mixture.")] = 2,
    level: Annotated[float, typer.Option(min=0, max=60, help="Relative levels are uniform within +- this, dB.")] = 5.0,
    noise: Annotated[Path | None, typer.Option(help="Folder of noise; adds WHAM!'s folders.")] = None,
    noise_level: Annotated[
        tuple[float, float], typer.Option(help="Lowest and highest level of the loudest speaker above the noise, dB.")
    ] = (-6.0, 3.0),
    rirs: Annotated[
        Path | None, typer.Option(help="Room impulse responses, one folder per room; adds WHAMR!'s folders.")
    ] = None,
    exclude: Annotated[Path | None, typer.Option(help="File with pairs of speakers that are never mixed.")] = None,
    sample_rate: Annotated[
        int | None, typer.Option(min=1000, max=192000, help="Rate of the mixtures, Hz. [default: that of most files]")
    ] = None,
    format: Annotated[Format, typer.Option(help="Format of the files, 16 bit.")] = Format.wav,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same seed draws the same mixtures.")] = 0,
) -> None:
    """Make WSJ0-2mix-style mixtures (min version): each file of mix is exactly the sum of those of s1, s2, ..."""
    if not -60 <= noise_level[0] <= noise_level[1] <= 60:
        raise UserError(f"--noise-level {noise_level[0]:g} {noise_level[1]:g}: give the lowest first, within +-60 dB")
    check_folder("OUT", out)
    if out.exists() and (not out.is_dir() or any(out.iterdir()) or out.resolve() == Path.cwd()):
        raise UserError(f"OUT {out} exists already: name a new folder")

    from tisdiss_cli.data.corpus import read_exclusions
    from tisdiss_cli.data.generate import MixtureSet, check_output_folder, write_set

    check_output_folder(out, {"SPEECH": speech, "--rirs": rirs, "--noise": noise})

    mixtures = MixtureSet(
        root=speech,
        speakers=speakers,
        level_db=level,
        exclude=read_exclusions(exclude) if exclude else (),
        rirs=rirs,
        noise=noise,
        noise_db=noise_level,
        seed=seed,
    )
    rate = sample_rate or mixtures.sample_rate()
    mixtures.check(count, rate)
    with bar(total=count, unit="mixture") as shown:
        write_set(mixtures, out, count=count, sample_rate=rate, format=format, advance=shown.update)
    typer.echo(str(out))

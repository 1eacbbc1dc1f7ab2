"""The table that `tisdiss score` prints."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from tisdiss_cli.evaluation.results import Mean, Summary

_NAMES = {"si_snri": "SI-SNRi", "sdri": "SDRi", "si_snr": "SI-SNR", "sdr": "SDR", "stoi": "STOI", "pesq": "PESQ"}


def results_table(results: "list[Summary]") -> "Table":
    """A row for each setting: means in dB with their intervals, what the setting gains over the one before, cost."""
    from rich.table import Table
    from rich.text import Text

    metrics = [metric for metric in _NAMES if any(metric in setting.means for setting in results)]
    several, timed = len(results) > 1, any(setting.rtf is not None for setting in results)
    table = Table(box=None, pad_edge=False)
    headings = ["repeats"] if results[0].repeats is not None else []
    for metric in metrics:
        headings.append(_NAMES[metric])
        headings += ["gain"] if several and metric in ("si_snri", "sdri") else []
    for heading in (*headings, *(["RTF"] if timed else []), "files"):
        table.add_column(heading, justify="right", no_wrap=True)
    before: Summary | None = None
    for setting in results:
        cells: list[str | Text] = [str(setting.repeats)] if setting.repeats is not None else []
        for metric in metrics:
            cells.append(_cell(setting.means.get(metric), 3 if metric == "stoi" else 2, metric in ("si_snri", "sdri")))
            if several and metric in ("si_snri", "sdri"):
                gain = f"{setting.means[metric].mean - before.means[metric].mean:+.2f}" if before else ""
                cells.append(Text(gain, style="dim"))
        cells += [f"{setting.rtf:.3f}" if setting.rtf is not None else ""] if timed else []
        table.add_row(*cells, str(setting.files))
        before = setting
    return table


def _cell(value: "Mean | None", digits: int, interval: bool) -> str:
    if value is None:
        return ""
    half = f" ± {value.ci95:.{digits}f}" if interval and value.ci95 is not None else ""
    return f"{value.mean:.{digits}f}{half}"

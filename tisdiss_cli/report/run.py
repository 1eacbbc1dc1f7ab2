"""Page of a run: its record, with pictures of the worst files and a few of the best."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from tisdiss_cli.activity.formats import read_segments
from tisdiss_cli.errors import UserError
from tisdiss_cli.libraries import require
from tisdiss_cli.report.entries import Entry, read_entries, read_scores, with_scores, worst_first
from tisdiss_cli.report.page import link, write_page
from tisdiss_cli.report.rows import FIELDS, as_row, root_of, settings_table
from tisdiss_cli.report.spectrograms import draw_tracks

log = logging.getLogger("tisdiss")

PAGE = Path("report") / "index.html"  # below OUT
MOST = 24  # files with pictures
_BEST = 6  # one in this many is from the best
_SCRIPTS = ("shared.js", "table.js", "charts.js", "player.js", "run.js")


def write_report(
    out: Path,
    *,
    source: Path | None = None,
    scores: Path | None = None,
    against: Path | None = None,
    html: Path | None = None,
    most: int = MOST,
    start: Callable[[int], None] = lambda files: None,
    advance: Callable[[], None] = lambda: None,
) -> Path:
    """Writes a run's page with its pictures beside it, and returns the page's path.

    Args:
        out: folder that `tisdiss separate` wrote.
        source: IN, if the record does not name it or its files were moved.
        scores: file that `tisdiss score --csv` wrote, for true SI-SNRi in place of predicted.
        against: folder of a run with other settings, to compare with.
        html: the page. Default: OUT/report/index.html.
        most: number of files with pictures: the worst, and one in six from the best.
        start: called with the number of files to draw.
        advance: called after each of them.

    Raises:
        UserError: the record, the scores or matplotlib are missing, or the page cannot be written.
    """
    page = html or out / PAGE
    pictures = page.parent / f"{page.stem}_files"
    entries, others = read_entries(out, source), read_entries(against, source) if against else []
    if scores:
        rows = read_scores(scores)
        entries, others = with_scores(entries, rows), with_scores(others, rows)
        if all(entry.si_snri is None for entry in entries):
            log.warning(f"warning: --scores {scores} has no scores of the files of {out} at their repeats")
    entries = worst_first(entries)
    matches = {entry.line.id: entry for entry in others}
    if against and not any(entry.line.id in matches for entry in entries):
        raise UserError(f"--against {against} and {out} have no file in common: name a run on the same recordings")
    if most:
        require("matplotlib", "the report's pictures need", "plot", ", or --most 0 for none")
    try:
        (pictures if most else page.parent).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{page.parent} cannot be created ({error.strerror}): name another file with --html") from None

    settings, roots = settings_table([*entries, *others]), list(dict.fromkeys(root_of(entry)[0] for entry in entries))
    table = [
        as_row(entry, roots.index(root_of(entry)[0]), settings=settings, other=matches.get(entry.line.id))
        for entry in entries
    ]
    chosen = choose(entries, most)
    start(len(chosen))
    for path in chain(pictures.glob("*-*.webp"), pictures.glob("*-*.wav")):  # of an earlier report
        with suppress(OSError):  # deleted already, or open in another program
            path.unlink()
    for index in chosen:
        entry = entries[index]
        facts = draw_tracks(entry, other=matches.get(entry.line.id), folder=pictures, number=index)
        segments = read_segments([out / path for path in entry.line.segments], len(entry.voices))
        first = entry.line.start  # the page plays the voices, which begin with the audio
        spoken = [[[round(begin - first, 2), round(end - first, 2)] for begin, end in voice] for voice in segments]
        table[index][-1].update(facts | ({"spoken": spoken} if any(spoken) else {}))
        advance()
    data = {
        "measure": "true" if scores else "predicted" if any(e.si_snri is not None for e in entries) else None,
        "out": link(out, page),
        "roots": [link(root, page) for root in roots],
        "pictures": link(pictures, page),
        "settings": [dict(pairs) for pairs in settings],
        "against": {"out": link(against, page), "title": against.absolute().name} if against else None,
        "fields": FIELDS,
        "rows": table,
    }
    write_page(page, "run.html", scripts=_SCRIPTS, data=data, title=out.absolute().name)
    return page


def choose(entries: Sequence[Entry], most: int) -> list[int]:
    """Returns the indices of the entries to draw, given worst first: the worst, and one in six from the best."""
    fit = [index for index, entry in enumerate(entries) if not entry.failed and entry.line.outputs]
    best = min(most, len(fit)) // _BEST
    return fit[: most - best] + [index for index in fit[len(fit) - best :] if index not in fit[: most - best]]

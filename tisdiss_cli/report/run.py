"""The page of a run: what its record has, with pictures of the files to distrust and a few of the best."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
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
_BEST = 6  # one of so many is from the other end
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
        out: a folder that `tisdiss separate` wrote.
        source: IN, where the record does not say it or its files were moved.
        scores: a file that `tisdiss score --csv` wrote: true SI-SNRi in place of predicted.
        against: another such folder, of other settings.
        html: the page; None: OUT/report/index.html.
        most: files that get pictures: the worst, and one of six from the best.
        start, advance: called with the number of those, and after each.

    Raises:
        UserError: no record, no scores, no matplotlib though pictures are wanted, or no place to write to.
    """
    page = html or out / PAGE
    pictures = page.parent / f"{page.stem}_files"
    entries, others = read_entries(out, source), read_entries(against, source) if against else []
    if scores:
        rows = read_scores(scores)
        entries, others = with_scores(entries, rows), with_scores(others, rows)
        if all(entry.si_snri is None for entry in entries):
            log.warning(f"warning: --scores {scores} has nothing on the files of {out} at their repeats")
    entries = worst_first(entries)
    matches = {entry.line.id: entry for entry in others}
    if against and not any(entry.line.id in matches for entry in entries):
        raise UserError(f"--against {against} has no file of {out}: name a folder made of the same recordings")
    if most:
        require("matplotlib", "the report's pictures need", "plot", ", or --most 0 for none")
    try:
        (pictures if most else page.parent).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{page.parent} cannot be made: {error.strerror}: name another file with --html") from None

    settings, roots = settings_table([*entries, *others]), list(dict.fromkeys(root_of(one)[0] for one in entries))
    found = [
        as_row(one, roots.index(root_of(one)[0]), settings=settings, other=matches.get(one.line.id)) for one in entries
    ]
    chosen = choose(entries, most)
    start(len(chosen))
    for path in pictures.glob("*-*.webp"):  # of an earlier report
        with suppress(OSError):  # gone already, or a program has it open
            path.unlink()
    for index in chosen:
        entry = entries[index]
        facts = draw_tracks(entry, other=matches.get(entry.line.id), folder=pictures, number=index)
        segments = read_segments([out / path for path in entry.line.segments], len(entry.line.outputs))
        first = entry.line.start  # the page plays the voices, which begin where the sound does
        spoken = [[[round(begin - first, 2), round(end - first, 2)] for begin, end in voice] for voice in segments]
        found[index][-1].update(facts | ({"spoken": spoken} if any(spoken) else {}))
        advance()
    data = {
        "measure": "true" if scores else "predicted" if any(e.si_snri is not None for e in entries) else None,
        "out": link(out, page),
        "roots": [link(root, page) for root in roots],
        "pictures": link(pictures, page),
        "settings": [dict(pairs) for pairs in settings],
        "against": {"out": link(against, page), "title": against.absolute().name} if against else None,
        "fields": FIELDS,
        "rows": found,
    }
    write_page(page, "run.html", scripts=_SCRIPTS, data=data, title=out.absolute().name)
    return page


def choose(entries: Sequence[Entry], most: int) -> list[int]:
    """Chooses the entries, worst first, to draw: from the front, and one of six from the end; none that failed."""
    fit = [index for index, entry in enumerate(entries) if not entry.failed and entry.line.outputs]
    best = min(most, len(fit)) // _BEST
    return fit[: most - best] + [index for index in fit[len(fit) - best :] if index not in fit[: most - best]]

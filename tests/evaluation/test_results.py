"""Rows of scores: kept, merged, summed up."""

import os
from itertools import permutations

import numpy as np
import pytest

from tisdiss_cli.errors import UserError
from tisdiss_cli.evaluation.results import Mean, Row, ScoreTable, mean_interval, merge_tables, student_t, summarize


def test_a_file_that_is_no_sheet_is_not_touched(tmp_path):
    path = tmp_path / "budget.csv"
    path.write_text("month,euro\nMay,3\n")
    with pytest.raises(UserError, match="holds no scores"):
        ScoreTable(path)
    assert path.read_text() == "month,euro\nMay,3\n"


def test_of_one_id_the_newest_file_counts_when_sheets_are_merged(tmp_path):
    """Whichever that is: the sheet, which may hold old rows and may have been scored anew, or any part."""
    values = {"scores.csv": 1.0, "scores.1-of-2.csv": 2.0, "scores.2-of-2.csv": 3.0}
    rest = {"stoi": None, "pesq": None, "permutation": "1 2", "seconds": 1.0, "network_seconds": None, "warnings": ""}
    for order in permutations(values):
        for seconds, name in enumerate(order, 1_000_000):
            number = dict.fromkeys(("si_snri", "sdri", "si_snr", "sdr"), values[name])
            rows = [Row("a", repeats, **number, **rest, key=name) for repeats in (1, 2)]
            (tmp_path / name).unlink(missing_ok=True)
            sheet = ScoreTable(tmp_path / name)
            sheet.keep({})
            sheet.append([*rows, Row(f"only {name}", 1, **number, **rest, key=name)])
            os.utime(tmp_path / name, (seconds, seconds))
        rows, shares = merge_tables(tmp_path / "scores.csv")
        assert shares == 2 and rows == ScoreTable(tmp_path / "scores.csv").rows
        assert {row.si_snri for row in rows if row.id == "a"} == {values[order[-1]]}
        assert sorted(row.id for row in rows) == ["a", "a", *sorted(f"only {name}" for name in values)]


def test_intervals_are_student_t():
    scipy_stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 3, 4, 5, 9, 10, 199, 3000):
        assert student_t(freedom) == pytest.approx(scipy_stats.t.ppf(0.975, freedom), rel=1e-9)
    sample = [1.0, 2.0, 4.0, 8.0]
    low, high = scipy_stats.t.interval(0.95, 3, np.mean(sample), scipy_stats.sem(sample))
    assert mean_interval(sample) == pytest.approx(((low + high) / 2, (high - low) / 2))
    assert mean_interval([3.0]) == (3.0, None)


def test_summary_means_over_files():
    def row(id: str, repeats: int, value: float, seconds: float, spent: float) -> Row:
        return Row(id, repeats, value, value, value, value, None, None, "1 2", seconds, spent, "", "k")

    first, second = summarize([row("a", 2, 1.0, 2.0, 1.0), row("a", 10, 5.0, 2.0, 4.0), row("b", 2, 3.0, 8.0, 1.5)])
    assert (first.repeats, second.repeats) == (2, 10)
    assert first.means["sdr"].mean == 2.0 and first.files == 2 and first.rtf == 0.25
    assert second.means["si_snri"] == Mean(5.0, None) and "stoi" not in first.means

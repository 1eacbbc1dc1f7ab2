"""STOI and PESQ, by the packages pystoi and pesq, and where they are not defined."""

import warnings

import numpy as np


class NotDefined(ValueError):
    """The measure has no value for these signals; the words say why."""


def stoi(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Of (L,) signals; NotDefined where less than 0.4 s is left once pauses are taken out."""
    import pystoi

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            value = float(pystoi.stoi(reference, estimate, sample_rate))
        except ValueError:  # not even one of its frames: NumPy's, of an axis that is not there
            value = np.nan
    # Of too few frames pystoi makes 1e-5 and a warning.
    if not np.isfinite(value) or any("STFT frames" in str(one.message) for one in said):
        raise NotDefined("STOI needs 0.4 s of speech")
    return value


def pesq(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
    """Of (L,) signals, narrow band at 8 kHz, wide band at 16 kHz; NotDefined below 1/4 s and without an utterance."""
    import pesq as package

    if not estimate.any():
        raise NotDefined("PESQ has no value for silence")
    try:
        value = float(package.pesq(sample_rate, reference, estimate, "wb" if sample_rate == 16000 else "nb"))
    except package.BufferTooShortError:
        raise NotDefined("PESQ needs a quarter of a second") from None
    except (package.PesqError, ValueError):  # ValueError: it meets a NaN of its own
        raise NotDefined("PESQ finds no utterance") from None
    if not np.isfinite(value):
        raise NotDefined("PESQ finds no utterance")
    return value

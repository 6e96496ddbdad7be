"""The studies of an evaluation on disk: written once, found again, each beside its truth.

cases/<phantom seed>/plain/*.dcm and plain.json; mirrored, blank and shuffled copies of some lie beside them. A truth
is written last, so a study that has one is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np

from medvl.errors import InputError
from medvl.evaluate.acquisition import Acquisition, draw_acquisition
from medvl.evaluate.counterfactuals import ALTERATIONS, Alteration, write_altered
from medvl.evaluate.phantoms import Phantom, draw_phantom
from medvl.evaluate.write import Truth, read_truth, study_truth, write_study, write_truth
from medvl.files import cannot_write

Variant = Literal["plain"] | Alteration
Draw = Callable[[int], tuple[Phantom, Acquisition]]
Told = Callable[[int], None]  # how many of the studies asked for are there


@dataclass(frozen=True, slots=True)
class Case:
    """One study and what is true of it."""

    variant: Variant
    study: Path
    truth: Truth


def draw_case(seed: int) -> tuple[Phantom, Acquisition]:
    """Draw a chest, its lesions and how it is scanned."""
    phantom = draw_phantom(seed)
    return phantom, draw_acquisition(seed, phantom)


def case_seeds(seed: int, count: int) -> tuple[int, ...]:
    """Return the phantoms' seeds of an evaluation; more cases begin with the same ones."""
    return tuple(int(np.random.SeedSequence([seed, i]).generate_state(1)[0]) for i in range(count))


def write_cases(
    folder: Path, seeds: Sequence[int], *, draw: Draw = draw_case, jobs: int = 1, told: Told = lambda _: None
) -> tuple[Case, ...]:
    """Write the studies that are not there yet and return all of them.

    jobs: processes that write; with more than one, `draw` must be importable. Raises OutputError.
    """
    with ExitStack() as stack:
        write = partial(_write_case, folder, draw)
        if jobs > 1:  # spawned: a fork of a process with threads can hang
            pool = stack.enter_context(ProcessPoolExecutor(jobs, mp_context=get_context("spawn")))
            written = pool.map(write, seeds)
        else:
            written = map(write, seeds)
        cases = []
        for count, case in enumerate(written, 1):
            cases.append(case)
            told(count)
    return tuple(cases)


def write_counterfactuals(case: Case) -> tuple[Case, ...]:
    """Write the altered copies of a plain case that are not there yet and return all three. Raises OutputError."""
    return tuple(_write_copy(case, how) for how in ALTERATIONS)


def _write_case(folder: Path, draw: Draw, seed: int) -> Case:
    phantom, acquisition = draw(seed)
    truth, study = study_truth(phantom, acquisition), folder / str(seed) / "plain"
    if _known_truth(study) != truth:
        try:
            shutil.rmtree(study.parent, ignore_errors=True)  # an older phantom's slices and copies, or half a study
            write_study(phantom, study, acquisition)
            write_truth(truth, study.with_suffix(".json"))
        except OSError as error:
            raise cannot_write(study, error) from error
    return Case("plain", study, truth)


def _write_copy(case: Case, how: Alteration) -> Case:
    study = case.study.with_name(how)
    truth = _known_truth(study)
    if truth is None:
        try:
            truth = write_altered(case.study, case.truth, study, how)
            write_truth(truth, study.with_suffix(".json"))
        except OSError as error:
            raise cannot_write(study, error) from error
    return Case(how, study, truth)


def _known_truth(study: Path) -> Truth | None:
    """Read the truth beside a study; None if the study is not there or not whole."""
    try:
        return read_truth(study.with_suffix(".json")) if study.is_dir() else None
    except InputError:  # not there, or cut short by a crash
        return None

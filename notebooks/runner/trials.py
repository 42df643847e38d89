"""One trial of an Optuna study as one job. The study lies in a journal file beside its jobs, which any number of them
on any node may write; no server is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .folder import Folder, Job

JOURNAL, STUDY = "study.journal", "trials"
PRUNED = "pruned"


def study(folder: Path, direction: Any) -> Any:
    """Of the sweep whose folder this is; made by whoever comes first."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = str(folder / JOURNAL)
    storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    return optuna.create_study(storage=storage, study_name=STUDY, direction=direction, load_if_exists=True)


def begin(folder: Folder, job: Job) -> Any:
    """A new trial; for a job that was preempted, the one that it had."""
    import optuna

    made = study(folder.path.parent, job.trials)
    known = folder.read_if_there("trial.json")
    if known is not None:
        number = int(json.loads(known)["number"])
        frozen = made.get_trials(deepcopy=False)[number]
        if not frozen.state.is_finished():
            return optuna.trial.Trial(made, frozen._trial_id)
    trial = made.ask()
    folder.write("trial.json", json.dumps({"number": trial.number}))
    return trial


def end(main: dict[str, Any], error: BaseException | None) -> dict[str, Any]:
    """Tells the study; a summary of the trial for lists. The value is that of the cell's last line."""
    import optuna

    trial = main["trial"]
    value = None if error is not None else _number(main.get("_"))
    if isinstance(error, optuna.TrialPruned):
        trial.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        state = PRUNED
    elif value is None:
        trial.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        state = "failed"
    else:
        trial.study.tell(trial, value)
        state = "complete"
    return {"number": trial.number, "state": state, "value": value, "params": trial.params}


def _number(value: Any) -> float | None:
    """Of numbers of any package: Python's, numpy's, a tensor's."""
    try:
        found = None if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return None
    return found if found == found else None  # not of "not a number"

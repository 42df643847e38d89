"""One trial of an Optuna study as one job. The study lies in a journal file beside its jobs, which any number of them
on any node may write; no server is needed."""

from __future__ import annotations

import json
from typing import Any

from .folder import Folder, Job

JOURNAL = "study.journal"


def study(folder: Folder, job: Job) -> Any:
    """Of the sweep that ``job`` is a part of; made by whoever comes first."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = str(folder.path.parent / JOURNAL)
    storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    name, direction = job.id.partition("/")[0], optuna.study.StudyDirection[job.trials.upper()]
    return optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)


def begin(folder: Folder, job: Job) -> Any:
    """A new trial; for a job that was preempted, the one that it had."""
    import optuna

    made = study(folder, job)
    known = folder.read_if_there("trial.json")
    if known is not None:
        number = int(json.loads(known)["number"])
        frozen = made.get_trials(deepcopy=False)[number]
        if not frozen.state.is_finished():
            return optuna.trial.Trial(made, frozen._trial_id)
    trial = made.ask()
    folder.write("trial.json", json.dumps({"number": trial.number}))
    return trial


def end(folder: Folder, job: Job, main: dict[str, Any], error: BaseException | None) -> dict[str, Any]:
    """Tells the study; a summary of the trial for lists. The value is that of the cell's last line."""
    import optuna

    trial, value = main["trial"], main.get("_")
    if isinstance(error, optuna.TrialPruned):
        trial.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        state = "pruned"
    elif error is not None or not isinstance(value, int | float):
        trial.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        state = "failed"
    else:
        trial.study.tell(trial, float(value))
        state = "complete"
    return {
        "number": trial.number,
        "state": state,
        "value": value if state == "complete" else None,
        "params": trial.params,
    }

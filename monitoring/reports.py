"""Evidently: runs its metrics and keeps what they drew where its own pages find it.

The one module that touches Evidently. It is imported when first used, since that takes 7 to 9 s.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway import reports_mirror

if TYPE_CHECKING:
    import pandas as pd

    from monitoring.windows import Window
    from slipway.environment import Environment

_NAMES = uuid.uuid5(uuid.NAMESPACE_DNS, "reports.slipway")


def load_evidently() -> Any:
    """Evidently without telemetry."""
    os.environ["DO_NOT_TRACK"] = "1"
    import evidently

    return evidently


def measure(
    metrics: Sequence[Any],
    current: pd.DataFrame,
    reference: pd.DataFrame | None,
    *,
    numerical: Sequence[str] = (),
    categorical: Sequence[str] = (),
    classification: tuple[str, str] | None = None,
) -> tuple[Any, dict[tuple[str, str | None], Any]]:
    """Run metrics over the named columns; returns Evidently's run and each value by (metric, column).

    `classification` names the columns of label and score of a binary classifier.
    """
    evidently = load_evidently()
    tasks = None
    if classification is not None:
        label, score = classification
        tasks = [evidently.BinaryClassification(target=label, prediction_probas=score, pos_label=1)]
    definition = evidently.DataDefinition(
        numerical_columns=list(numerical), categorical_columns=list(categorical), classification=tasks
    )
    columns = [*numerical, *categorical]
    data = [
        None if frame is None else evidently.Dataset.from_pandas(frame[columns], data_definition=definition)
        for frame in (current, reference)
    ]
    run = evidently.Report(list(metrics), include_tests=False).run(data[0], data[1])
    values = {}
    for result in run.dict()["metrics"]:
        config = result["config"]
        values[(str(config["type"]).rsplit(":", 1)[-1], config.get("column"))] = result["value"]
    return run, values


class Reports:
    """The Evidently workspace of one environment: a project a model, a run a window and kind."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.folder = environment.state.reports
        self._drafts = self.folder / reports_mirror.DRAFTS
        self._known: set[str] = set()

    def keep(self, run: Any, *, model: str, kind: str, version: int, window: Window, facts: Mapping[str, str]) -> str:
        """Show a run on the reports page and return its identifier, the same for the same window, kind and version.

        The page watches the folder and takes a file when its name appears; one written in place would be read half,
        and a half one left by a crash would keep the page from starting. So the file is written aside and linked.
        """
        from evidently.ui.storage.local.base import SNAPSHOTS_DIR_NAME, LocalState

        project = self._prepare_project(model)
        identifier = uuid.uuid5(_NAMES, f"{model}/{kind}/{version}/{window}")
        run.set_name(f"{kind} of version {version}, {window.start:%Y-%m-%d} to {window.end:%Y-%m-%d}")
        snapshot = run.to_snapshot_model()
        snapshot.timestamp = window.end.replace(tzinfo=None)  # Evidently compares it with naive moments
        snapshot.tags = [kind, f"version {version}"]
        snapshot.metadata = {**snapshot.metadata, "kind": kind, "version": str(version), **facts}
        LocalState(str(self._drafts)).write_snapshot(project, identifier, snapshot)
        draft = self._drafts / str(project) / SNAPSHOTS_DIR_NAME / f"{identifier}.json"
        target = self._path(project, identifier)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        os.link(draft, target)
        draft.unlink()
        reports_mirror.send(self._environment, target)
        return str(identifier)

    def remove(self, model: str, identifier: str) -> None:
        """Take a report away, here and where those who show it fetch theirs; one that is gone already is no error."""
        target = self._path(uuid.uuid5(_NAMES, model), identifier)
        reports_mirror.withdraw(self._environment, target)
        target.unlink(missing_ok=True)

    def _path(self, project: uuid.UUID, identifier: object) -> Path:
        from evidently.ui.storage.local.base import SNAPSHOTS_DIR_NAME

        folder: Path = self.folder / str(project) / SNAPSHOTS_DIR_NAME
        return folder / f"{identifier}.json"

    def _prepare_project(self, model: str) -> uuid.UUID:
        project = uuid.uuid5(_NAMES, model)
        if model in self._known:
            return project
        load_evidently()
        from evidently.sdk.models import ProjectModel
        from evidently.ui.workspace import Workspace

        target, draft = self.folder / str(project), self._drafts / str(project)
        if not (target / "metadata.json").exists():
            self._drafts.mkdir(parents=True, exist_ok=True)
            workspace = Workspace(str(self._drafts))
            workspace.add_project(ProjectModel(id=project, name=model, description=f"Monitors of {model}"))
            workspace.save_dashboard(project, _dashboard())
            # The page reads this folder as soon as the project is there, and never again after it has read half a file.
            (target / "snapshots").mkdir(parents=True, exist_ok=True)
            for name in ("dashboard.json", "metadata.json"):
                (target / name).unlink(missing_ok=True)
                os.link(draft / name, target / name)
                (draft / name).unlink()
                reports_mirror.send(self._environment, target / name)
        self._known.add(model)
        return project


def _dashboard() -> Any:
    """What is drawn over time: one line a panel, from the runs of its kind."""
    from evidently.sdk.models import DashboardModel, DashboardTabModel, PanelMetric
    from evidently.sdk.panels import line_plot_panel

    panels = [
        line_plot_panel(
            title=title,
            size="half",
            values=[PanelMetric(metric=metric, metadata={"kind": kind}, metric_labels=labels, legend=legend)],
        )
        for title, kind, metric, labels, legend in (
            ("AUC on due labels", "performance", "RocAuc", {}, "AUC"),
            ("Log loss on due labels", "performance", "LogLoss", {}, "log loss"),
            ("Distance of predictions from training", "drift", "ValueDrift", {"column": "prediction"}, "prediction"),
            ("Rows in the window", "quality", "RowCount", {}, "rows"),
            ("Rows whose features are equal offline", "skew", "MeanValue", {"column": "equal"}, "share"),
        )
    ]
    return DashboardModel(
        tabs=[DashboardTabModel(title="Monitors", panels=[panel.id for panel in panels])], panels=panels
    )


@contextlib.contextmanager
def quiet() -> Any:
    """Silence what numpy and Evidently say about empty bins and constant columns: it is no news to a reader."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

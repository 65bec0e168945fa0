"""An opened prediction: models checked, networks loaded once, cases run in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from stu_pipeline.datasets.cases import Case
from stu_pipeline.log import Listener, Notice
from stu_pipeline.nnunet.model import build_empty_network
from stu_pipeline.prediction.combining.ensemble import Ensemble
from stu_pipeline.prediction.config import PredictConfig
from stu_pipeline.prediction.device import choose_autocast, choose_device
from stu_pipeline.prediction.forecast import Forecast, forecast_prediction
from stu_pipeline.prediction.models.model_folder import ModelFolder, open_model_folder
from stu_pipeline.prediction.models.networks import InferenceSettings
from stu_pipeline.prediction.models.same_labels import require_same_labels
from stu_pipeline.prediction.proof.manifest import Manifest
from stu_pipeline.prediction.run.case_runner import CaseRunner, Outcome
from stu_pipeline.prediction.run.finish import CaseFinisher
from stu_pipeline.prediction.run.saving import describe_saving

_DEFAULT_AHEAD = 1


class Session:
    """The models of a prediction.

    Args:
        config: which models, and how they run.
        listen: is told which folds are used, and what is worth knowing about them.

    Raises:
        ModelError: a model folder cannot be used, or the models do not fit each other.
        UsageError: the device is not there, or cannot compute in the precision asked for.
    """

    def __init__(self, config: PredictConfig, listen: Listener) -> None:
        self.config = config
        self.listen = listen
        self.settings = choose_settings(config)
        self.folders = _open_models(config, listen)
        require_same_labels(self.folders)
        for folder in self.folders:
            require_network(folder)
        self._ensemble: Ensemble | None = None

    @property
    def ensemble(self) -> Ensemble:
        """The networks, loaded when they are first asked for."""
        if self._ensemble is None:
            self._ensemble = Ensemble(self.folders, self.settings, self.config.model_weights)
            for text in self._ensemble.notices:
                self.listen(Notice(text=text, is_warning=True))
        return self._ensemble

    @property
    def _num_ahead(self) -> int:
        """Cases that may be read while one is predicted."""
        return _DEFAULT_AHEAD if self.config.num_workers is None else self.config.num_workers

    def forecast(self, cases: Sequence[Case]) -> Forecast:
        """Say what cases would take, without doing anything to them."""
        return forecast_prediction(cases, self.ensemble, self.config, num_ahead=self._num_ahead)

    def run(self, cases: Sequence[Case], manifest: Manifest) -> Iterator[Outcome]:
        """Predict cases and yield what became of each, in order.

        Raises:
            StorageError: an output could not be written.
        """
        finisher = CaseFinisher(self.config, self.ensemble, manifest)
        for text in finisher.notices:
            self.listen(Notice(text=text, is_warning=True))
        forecast = self.forecast(cases)
        for share in forecast.shares:
            yield from CaseRunner(
                self.ensemble, finisher, self.listen, num_ahead=share.num_ahead, admit=forecast.admit
            ).run(share.cases)
        for text in describe_saving(finisher.saving) if len(cases) > 1 else ():
            self.listen(Notice(text=f"all cases: {text}"))


def choose_settings(config: PredictConfig) -> InferenceSettings:
    """Return the device, the computing type and the options of the window.

    Raises:
        UsageError: the device is not there, or cannot compute in the precision asked for.
    """
    device = choose_device(config.device)
    return InferenceSettings(
        device=device,
        autocast=choose_autocast(config.precision, device),
        may_choose_type=config.precision == "auto",
        step=config.step,
        tta=config.tta,
        effort=config.effort,
    )


def require_network(folder: ModelFolder) -> None:
    """Build the network of a plan without memory, so that a plan that cannot be used is refused before any case.

    Raises:
        ModelError: an unknown network, or arguments that do not fit it.
    """
    with torch.device("meta"):
        build_empty_network(folder.model)
    if folder.previous is not None:
        require_network(folder.previous)


def _open_models(config: PredictConfig, listen: Listener) -> list[ModelFolder]:
    folders = []
    for path in config.models:
        folder = open_model_folder(path, config.folds, config.checkpoint, configuration=config.configuration)
        listen(Notice(text=f"model: {folder.summary}"))
        for text in folder.notices:
            listen(Notice(text=text, is_warning=True))
        folders.append(folder)
    return folders

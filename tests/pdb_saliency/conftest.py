"""Models in place of the trained ones, for the tests of every folder below."""

import pytest

from helpers.fake_model import GreyModel
from pdb_saliency import cli


@pytest.fixture
def use_model(monkeypatch):
    """use_model(model): from now on `load_model` returns this model, whatever weights are asked for."""

    def use(model):
        monkeypatch.setattr("pdb_saliency.model.weights.load_model", lambda _: model)

    return use


@pytest.fixture
def grey_model(use_model):
    """A GreyModel that `load_model` returns."""
    model = GreyModel()
    use_model(model)
    return model


@pytest.fixture
def predict(grey_model):
    """The command `predict` with a GreyModel: predict(*arguments) -> exit code."""
    return lambda *arguments: cli.main(["predict", *map(str, arguments)])

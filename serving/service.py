"""The BentoML service: its health, metrics and lifecycle around the app of `http`.

The model's path comes in `XTRAIN_MODEL`, the device in `XTRAIN_DEVICE`; `xserve` sets both.
"""

import os

import bentoml

from serving.http import create_app
from serving.predictor import Predictor

MODEL_VARIABLE, DEVICE_VARIABLE = "XTRAIN_MODEL", "XTRAIN_DEVICE"
DEFAULT_MODEL = "/models/model.onnx"  # where a container finds it mounted

app = create_app()


@bentoml.service(
    name="xtrain",
    description="Image classification with one exported file. For research, not for diagnosis.",
    # Request tracing is always on in BentoML and its largest single cost: excluded, 1.6-2.8 x the requests a second.
    tracing={"excluded_urls": "v1"},
)
@bentoml.asgi_app(app)
class Classifier:
    """Loads the model once a worker; the routes are the mounted app's."""

    def __init__(self) -> None:
        predictor = Predictor(os.environ.get(MODEL_VARIABLE, DEFAULT_MODEL), os.environ.get(DEVICE_VARIABLE, "auto"))
        predictor.warm_up()
        app.state.predictor = predictor

    def __is_ready__(self) -> bool:
        return app.state.predictor is not None

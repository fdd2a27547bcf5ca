"""The same app and batcher on uvicorn alone: the ceiling of Python HTTP.

python -m benchmarks.peers.bare MODEL PORT
"""

import sys
from pathlib import Path

import uvicorn

from serving import process
from serving.http.app import create_app, load_model
from serving.model.predictor import Predictor

if __name__ == "__main__":
    app = create_app()
    predictor = Predictor(Path(sys.argv[1]), "cpu")
    predictor.warm_up()
    load_model(app, predictor)
    process.freeze_garbage_collector()
    process.silence_access_log()
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)

"""What one would write without this project: a FastAPI handler that calls `model.predict`.

uvicorn keras_resnet.benchmarks.plain_server:app        with MODEL=FILE.keras in the environment
"""

import io
import os

import keras
import numpy as np
from fastapi import FastAPI, Request
from PIL import Image

app = FastAPI()
model = keras.models.load_model(os.environ["MODEL"])
height, width = model.input_shape[1:3]
mean, std = (np.array(os.environ[name].split(","), np.float32) for name in ("MEAN", "STD"))


@app.post("/predict")
async def predict(request: Request) -> dict[str, list[float]]:
    """Returns the probabilities of the image that is the body."""
    image = Image.open(io.BytesIO(await request.body())).convert("RGB").resize((width, height))
    pixels = (np.asarray(image, np.float32) / 255 - mean) / std
    scores = model.predict(pixels[np.newaxis], verbose=0)
    return {"probabilities": np.asarray(keras.ops.softmax(scores))[0].tolist()}

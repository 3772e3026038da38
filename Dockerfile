# The server with .tflite files alone: neither TensorFlow nor Keras is inside.
#   docker build --tag keras-resnet-server .
#   docker run --rm --publish 127.0.0.1:8501:8501 --volume "$PWD/saved_models:/models:ro" keras-resnet-server
FROM python:3.11-slim

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /app

COPY requirements-serve.txt ./
RUN pip install --no-cache-dir --requirement requirements-serve.txt
COPY serve.py ./
COPY keras_resnet ./keras_resnet

# By its number, so that an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 8501
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/readyz', timeout=4)"]

# Inside the container every network is the container's own; --publish decides who reaches it.
ENTRYPOINT ["python", "serve.py", "--host", "0.0.0.0", "--port", "8501", "--backend", "tflite"]
CMD ["/models"]

# docker build -t ibisa-onnx .
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" ibisa-onnx run model.onnx photo.jpg
#
# For CUDA: docker build --build-arg EXTRAS=gpu …, and docker run --gpus all …
# A model server: --build-arg EXTRAS=cpu,serve, and docker run -p 8080:8080 -p 8081:8081
# ibisa-onnx serve model.onnx --host 0.0.0.0; it ends gracefully on the SIGTERM of docker stop.

ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS build
ARG EXTRAS=cpu
COPY . /src
RUN python -m venv /opt/ibisa-onnx \
    && /opt/ibisa-onnx/bin/pip install --no-cache-dir "/src[${EXTRAS}]"

FROM python:${PYTHON}-slim
COPY --from=build /opt/ibisa-onnx /opt/ibisa-onnx
# Anyone may be the user that `docker run --user` names, so anyone may write the cache.
RUN useradd --create-home ibisa && mkdir /cache /work && chmod 1777 /cache && chown ibisa /work
ENV PATH=/opt/ibisa-onnx/bin:$PATH \
    IBISA_ONNX_CACHE=/cache \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER ibisa
WORKDIR /work
ENTRYPOINT ["ibisa-onnx"]
CMD ["--help"]

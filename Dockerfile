# docker build -t cmr-bench .   for the CPU; for CUDA beside it
#   --build-arg BASE=nvidia/cuda:12.6.3-runtime-ubuntu24.04 --build-arg TORCH_INDEX=
# docker run --rm -v "$PWD/data:/data" -v "$PWD/runs:/work/runs" cmr-bench run --model vsepp --data flickr8k
ARG BASE=python:3.12-slim
FROM ${BASE}
# An empty index takes the CUDA build of PyPI.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 CMR_BENCH_DATA=/data CMR_BENCH_CACHE=/cache
# The CUDA images come without Python; no version is pinned, as every base has its own.
# hadolint ignore=DL3008
RUN if ! python3 -m venv --help >/dev/null 2>&1; then \
    apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*; fi
RUN python3 -m venv /venv
ENV PATH=/venv/bin:$PATH
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY benchmark benchmark
COPY datamodules datamodules
COPY models models
COPY experiments experiments
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt .
RUN useradd --create-home user && mkdir -p /work /cache /data && chown user /work /cache
# By name, as the number may be taken in the base.
# hadolint ignore=DL3066
USER user
WORKDIR /work
VOLUME ["/data", "/cache", "/work/runs"]
ENTRYPOINT ["cmr-bench"]
CMD ["--help"]

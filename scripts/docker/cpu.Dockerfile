# syntax=docker/dockerfile:1
# asrbatch without a GPU. From the repository, with the address of a package index that has torch's CPU builds:
#
#     docker build -f scripts/docker/cpu.Dockerfile --build-arg TORCH_INDEX=ADDRESS -t asrbatch:cpu .
#
# Linted; not built by those who wrote it (no registry of images was in reach).
FROM python:3.11-slim AS build
ARG TORCH_INDEX=""
WORKDIR /src
COPY requirements/cpu.txt requirements/cpu-overrides.txt requirements/
COPY pyproject.toml README.md LICENSE ./
COPY asrbatch asrbatch
# The versions that the tests run with; those of development tools bind nothing that is not installed.
RUN python -m venv /opt/asrbatch \
    && /opt/asrbatch/bin/python -m pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
       --constraint requirements/cpu.txt ".[cpu,vad,zstd,lhotse,s3,gs]"

FROM python:3.11-slim
# Of vLLM's CPU build.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends libnuma1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/asrbatch /opt/asrbatch
RUN useradd --create-home --uid 1000 asrbatch && install -d -o asrbatch /cache
ENV PATH=/opt/asrbatch/bin:$PATH HF_HOME=/cache/huggingface VLLM_CACHE_ROOT=/cache/vllm XDG_CACHE_HOME=/cache
VOLUME /cache
USER 1000
WORKDIR /home/asrbatch
ENTRYPOINT ["python", "-m", "asrbatch"]
CMD ["--help"]

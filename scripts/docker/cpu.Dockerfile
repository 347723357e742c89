# syntax=docker/dockerfile:1
# asrbatch without a GPU. From the repository:
#
#     docker build -f scripts/docker/cpu.Dockerfile -t asrbatch:cpu .
#
# Linted; not built by those who wrote it (no registry of images was in reach).
FROM python:3.11-slim AS build
WORKDIR /src
COPY requirements/cpu.txt requirements/cpu-overrides.txt requirements/
COPY pyproject.toml README.md LICENSE ./
COPY asrbatch asrbatch
# The versions that the tests run with; those of development tools bind nothing that is not installed. By uv, as pip
# knows neither overrides nor where torch's CPU builds are.
RUN pip install --no-cache-dir "uv>=0.9,<1" && python -m venv /opt/asrbatch \
    && uv pip install --no-cache --python /opt/asrbatch/bin/python --torch-backend cpu \
       --overrides requirements/cpu-overrides.txt --constraints requirements/cpu.txt \
       ".[cpu,vad,zstd,lhotse,s3,gs]"

FROM python:3.11-slim
# Of vLLM's CPU build.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends libnuma1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/asrbatch /opt/asrbatch
# An id that no base has; that of its group is `fsGroup` of `submit --to kubernetes`.
RUN groupadd --gid 10001 asrbatch && useradd --create-home --uid 10001 --gid 10001 asrbatch \
    && install -d -o asrbatch -g asrbatch /cache
ENV PATH=/opt/asrbatch/bin:$PATH HF_HOME=/cache/huggingface VLLM_CACHE_ROOT=/cache/vllm XDG_CACHE_HOME=/cache
VOLUME /cache
USER 10001:10001
WORKDIR /home/asrbatch
ENTRYPOINT ["python", "-m", "asrbatch"]
CMD ["--help"]

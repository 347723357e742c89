# syntax=docker/dockerfile:1
# asrbatch on GPUs, in vLLM's own image. From the repository:
#
#     docker build -f scripts/docker/gpu.Dockerfile -t asrbatch:gpu .
#
# Linted; not built by those who wrote it (no registry of images was in reach).
ARG VLLM=v0.32.0
FROM vllm/vllm-openai:${VLLM}

# vLLM, torch and CUDA stay those of the image.
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY asrbatch asrbatch
# hadolint ignore=DL3013
RUN python3 -m pip install --no-cache-dir ".[vad,zstd,lhotse,s3,gs]"

# Whoever runs it needs no rights. Models and compiled kernels are kept on a volume.
RUN useradd --create-home --uid 1000 asrbatch && install -d -o asrbatch /cache
ENV HF_HOME=/cache/huggingface VLLM_CACHE_ROOT=/cache/vllm XDG_CACHE_HOME=/cache
VOLUME /cache
USER 1000
WORKDIR /home/asrbatch
ENTRYPOINT ["python3", "-m", "asrbatch"]
CMD ["--help"]

# syntax=docker/dockerfile:1
# asrbatch on GPUs, in vLLM's own image. From the repository:
#
#     docker build -f scripts/docker/gpu.Dockerfile -t asrbatch:gpu .
#
# Linted; not built by those who wrote it (no registry of images was in reach).
ARG VLLM=v0.32.0
FROM vllm/vllm-openai:${VLLM}

# What the image has stays as it is, vLLM, torch and what they were built with: nothing but what is missing comes. Not
# `pip freeze`, which names files of the image's own build that are gone.
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY asrbatch asrbatch
# hadolint ignore=DL3013
RUN python3 -m pip list --format=freeze --exclude-editable > /tmp/image.txt \
    && python3 -m pip install --no-cache-dir --constraint /tmp/image.txt ".[vad,zstd,lhotse,s3,gs]" \
    && rm /tmp/image.txt

# Whoever runs it needs no rights. Models and compiled kernels are kept on a volume. An id that no base has; that of its
# group is `fsGroup` of `submit --to kubernetes`.
RUN groupadd --gid 10001 asrbatch && useradd --create-home --uid 10001 --gid 10001 asrbatch \
    && install -d -o asrbatch -g asrbatch /cache
ENV HF_HOME=/cache/huggingface VLLM_CACHE_ROOT=/cache/vllm XDG_CACHE_HOME=/cache
VOLUME /cache
USER 10001:10001
WORKDIR /home/asrbatch
ENTRYPOINT ["python3", "-m", "asrbatch"]
CMD ["--help"]

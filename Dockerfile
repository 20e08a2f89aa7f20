# The image that bin/docker-build.sh makes; docs/container.md argues the choices and gives the sizes.
ARG BASE_IMAGE=python:3.13-slim
# yes: also big_vision, the reference implementation, for its parity test
ARG BIG_VISION=no

FROM ${BASE_IMAGE} AS packages
# cuda12 (driver 525 or newer, almost every card), cuda13 (driver 580 or newer) or cpu: JAX's own wheels bring CUDA.
ARG ACCELERATOR=cuda12
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PATH=/opt/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
RUN python3 -m venv /opt/venv
COPY docker/requirements-${ACCELERATOR}.txt /opt/rolltune/requirements.txt
# The cache is a mount and the certificate a secret: neither is left in the image. The lock is complete: pip resolves
# nothing (it would ask for the newest coverage[toml] beside the pinned coverage, and refuse that for want of a hash).
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=ca_bundle \
    if [ -s /run/secrets/ca_bundle ]; then export PIP_CERT=/run/secrets/ca_bundle; fi && \
    pip install --no-deps --require-hashes -r /opt/rolltune/requirements.txt

FROM packages AS big-vision-no

# big_vision is not on the package index: its source at one commit, and the packages that its PaliGemma imports.
FROM packages AS big-vision-yes
ARG BIG_VISION_COMMIT=0127fb6b337ee2a27bf4e54dea79cff176527356
COPY docker/requirements-big-vision.txt /opt/rolltune/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=ca_bundle \
    if [ -s /run/secrets/ca_bundle ]; then export PIP_CERT=/run/secrets/ca_bundle; fi && \
    pip install --no-deps --require-hashes -r /opt/rolltune/requirements-big-vision.txt
ADD https://github.com/google-research/big_vision/archive/${BIG_VISION_COMMIT}.tar.gz /tmp/big_vision.tar.gz
RUN mkdir /opt/big_vision && tar -xzf /tmp/big_vision.tar.gz --strip-components=1 -C /opt/big_vision && \
    rm /tmp/big_vision.tar.gz && \
    echo /opt/big_vision > "$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/big_vision.pth"

# hadolint ignore=DL3006
FROM big-vision-${BIG_VISION}
ARG ACCELERATOR=cuda12
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="rolltune" \
      org.opencontainers.image.description="Fine-tune vision-language models on your own labelled images" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      rolltune.accelerator="${ACCELERATOR}"
# Any numeric user must be able to work here: a home that everybody may write to, and a USER for programs that look up
# a name in /etc/passwd. The card is shared with a desktop, so JAX must not take three quarters of it at once;
# CUDA's own allocator joins free pieces, as rolltune's commands have it outside the container, too.
ENV HOME=/home/rolltune USER=rolltune \
    ROLLTUNE_ACCELERATOR=${ACCELERATOR} \
    ROLLTUNE_CACHE=/rolltune/cache \
    HF_HOME=/rolltune/cache/huggingface KAGGLEHUB_CACHE=/rolltune/cache/kagglehub \
    JAX_COMPILATION_CACHE_DIR=/rolltune/cache/xla \
    XLA_PYTHON_CLIENT_PREALLOCATE=false XLA_PYTHON_CLIENT_ALLOCATOR=cuda_async \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN mkdir -p /home/rolltune /rolltune/cache /rolltune/checkpoints /rolltune/playground && \
    chmod 0777 /home/rolltune /rolltune/cache /rolltune/checkpoints /rolltune/playground
COPY --chmod=0755 docker/entrypoint.sh /usr/local/bin/rolltune-entrypoint
RUN --mount=type=bind,target=/mnt/source cp -r /mnt/source /tmp/source && \
    pip install --no-cache-dir --no-deps --no-build-isolation --no-index /tmp/source && \
    rm -r /tmp/source
# Where big_vision is, the image is only made if its model and ours agree.
RUN --mount=type=bind,target=/mnt/source if [ -d /opt/big_vision ]; then \
      JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR='' PYTHONDONTWRITEBYTECODE=1 \
      python3 -m pytest -q -p no:cacheprovider /mnt/source/tests/models/test_big_vision.py; \
    fi
COPY playground /rolltune/playground
WORKDIR /rolltune/playground
USER 1000:1000
ENTRYPOINT ["rolltune-entrypoint"]
CMD ["bash"]

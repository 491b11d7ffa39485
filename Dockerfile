# An image of mlm_jax with its configs, for --target gke. EXTRAS: tpu or cuda, and what else a config needs.
#   docker build -t REGISTRY/mlm_jax --build-arg EXTRAS=tpu,wandb . && docker push REGISTRY/mlm_jax
FROM python:3.12-slim-bookworm
ARG EXTRAS=tpu,wandb
WORKDIR /mlm_jax
COPY setup.py pyproject.toml README.md ./
COPY mlm_jax mlm_jax
COPY configs configs
RUN pip install --no-cache-dir --editable ".[${EXTRAS}]"
CMD ["mlm-jax", "--help"]

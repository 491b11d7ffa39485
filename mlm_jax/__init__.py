"""Train, measure and adapt multilingual Transformers on TPU and GPU meshes."""

__version__ = "0.1.0"

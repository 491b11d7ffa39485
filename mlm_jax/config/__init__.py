"""Every key that a run can set, and how a config file is loaded and checked."""

from mlm_jax.config.check import renamed_options
from mlm_jax.config.load import (
    check_keys,
    default_config,
    file_and_argument,
    import_config,
    load_config,
    located,
    set_key,
)

__all__ = [
    "check_keys",
    "default_config",
    "file_and_argument",
    "import_config",
    "load_config",
    "located",
    "renamed_options",
    "set_key",
]

"""Kedro settings of the project."""

from kedro.config import OmegaConfigLoader

from deepnoise.hooks import (
    InputHooks,
    LockHooks,
    OutputHooks,
    OwnVersionHooks,
    ParameterHooks,
    SharedMemoryHooks,
    TimingHooks,
)

HOOKS = (  # the last one is called first
    ParameterHooks(),
    LockHooks(),
    OwnVersionHooks(),
    SharedMemoryHooks(),
    InputHooks(),
    OutputHooks(),
    TimingHooks(),
)
CONFIG_LOADER_CLASS = OmegaConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "merge_strategy": {"parameters": "soft"},
}

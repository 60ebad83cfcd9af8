"""Kedro settings of the project."""

from kedro.config import OmegaConfigLoader

from deepnoise.hooks import InputHooks, OutputHooks, ParameterHooks, TimingHooks

HOOKS = (ParameterHooks(), InputHooks(), OutputHooks(), TimingHooks())  # the last one is called first
CONFIG_LOADER_CLASS = OmegaConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "merge_strategy": {"parameters": "soft"},
}

"""The Kedro pipelines: thin adapters between the catalog and the library."""

"""Write the pages that are generated from the code: ``python docs/generate.py``, with the package installed."""

from pathlib import Path

import yaml

from deepnoise.reference import parameters_page, tables_page

DOCS = Path(__file__).parent
blocks = [yaml.safe_load(file.read_text()) for file in sorted((DOCS.parent / "conf" / "base").glob("parameters*.yml"))]
(DOCS / "tables.md").write_text(tables_page())
(DOCS / "parameters.md").write_text(parameters_page({name: block for part in blocks for name, block in part.items()}))

"""What the build adds to the pages: the JSON schema of explanation records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ibisa_onnx import Explanation


def on_post_build(config: Any) -> None:
    """Write the schema beside the page that links to it."""
    schema = Path(config["site_dir"]) / "reference" / "explanation.schema.json"
    schema.write_text(json.dumps(Explanation.schema(), indent=2) + "\n")

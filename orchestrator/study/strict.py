"""Values of YAML files as they are written: true is not 1, and "4" is not 4."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A mapping of a file: no other keys, and no value taken for one of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

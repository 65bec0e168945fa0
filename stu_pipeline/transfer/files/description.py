"""The JSON beside a `.safetensors`: what the weights are, and the hash that binds the two files together.

Reads and writes: `<name>.json` beside `<name>.safetensors`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.errors import DataError, ModelError
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.networks.weights import RecognisedNetwork
from stu_pipeline.storage import hash_file, read_json, write_json
from stu_pipeline.transfer.files.facts import describe_facts, parse_facts
from stu_pipeline.transfer.weight_file import WeightFacts, WeightFile

DESCRIPTION_SCHEMA = 1
_WHAT = "STU-Net weights: what the tensors in 'file' are, and what is known of their training"
_MAX_BYTES = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightDescription:
    """What the JSON says."""

    sha256: str
    """Of the whole `.safetensors`."""
    identity: str
    """Of the tensors alone, as in `WeightFile`."""
    network: RecognisedNetwork
    num_axes: int
    facts: WeightFacts


def find_description_path(safetensors: Path) -> Path:
    """Name the JSON that belongs to a `.safetensors`; it need not be there."""
    return safetensors.with_suffix(".json")


def write_description(safetensors: Path, weights: WeightFile) -> Path:
    """Write the JSON for a `.safetensors` that is written already, and return its path.

    Args:
        safetensors: the file that holds the tensors of `weights`; it is hashed.
        weights: what they are.

    Raises:
        StorageError: the JSON cannot be written.
    """
    path = find_description_path(safetensors)
    write_json(path, build_description(safetensors, weights))
    return path


def build_description(safetensors: Path, weights: WeightFile) -> dict[str, Any]:
    """Return the content of the JSON for a `.safetensors` that is written already."""
    return {
        "schema": DESCRIPTION_SCHEMA,
        "what": _WHAT,
        "file": safetensors.name,
        "sha256": hash_file(safetensors),
        "identity": weights.identity,
        "scale": weights.network.scale,
        "num_input_channels": weights.network.num_input_channels,
        "num_classes": weights.network.num_classes,
        "num_axes": weights.num_axes,
        "facts": describe_facts(weights.facts),
    }


def read_description(path: Path) -> WeightDescription:
    """Read the JSON.

    Raises:
        ModelError: missing, damaged, malformed or of another schema.
    """
    if not path.is_file():
        raise ModelError(f"'{path.name}' not found", where=path.parent)
    if path.stat().st_size > _MAX_BYTES:
        raise ModelError(
            f"'{path.name}' is {path.stat().st_size >> 20} MiB long, expected a few KiB", where=path.parent
        )
    try:
        return parse_description(read_json(path), f"'{path.name}'")
    except DataError as error:
        raise ModelError(error.problem, where=error.where) from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)[:200]
        raise ModelError(f"'{path.name}' does not describe weights: {reason}", where=path.parent) from error


def parse_description(content: Any, source: str) -> WeightDescription:
    """Check the content of the JSON.

    Raises:
        KeyError: something is missing; `TypeError` or `ValueError` where it is malformed.
    """
    if not isinstance(content, dict) or not isinstance(content.get("facts", {}), dict):
        raise TypeError("not an object")
    if content["schema"] != DESCRIPTION_SCHEMA:
        raise ValueError(f"its schema is '{str(content['schema'])[:20]}', known: {DESCRIPTION_SCHEMA}")
    counts = [content[name] for name in ("num_input_channels", "num_classes", "num_axes")]
    if content["scale"] not in SCALES or any(type(count) is not int or not 0 < count < 1 << 20 for count in counts):
        raise ValueError("scale, channels, outputs or axes are malformed")
    if any(not isinstance(content[name], str) for name in ("sha256", "identity")):
        raise ValueError("a hash is malformed")
    return WeightDescription(
        sha256=content["sha256"],
        identity=content["identity"],
        network=RecognisedNetwork(content["scale"], counts[0], counts[1]),
        num_axes=counts[2],
        facts=parse_facts(content["facts"], source),
    )

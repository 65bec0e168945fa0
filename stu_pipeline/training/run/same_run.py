"""Refuse to continue a checkpoint of something else: another dataset, network, label set or version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.partial_labels import PARTIAL_LABELS_KEY
from stu_pipeline.errors import ModelError
from stu_pipeline.plan_architecture import resolve_configuration

SCHEMA = 2
"""Of our block in a checkpoint."""
_MISSING = "nothing"


def require_same_run(
    checkpoint: Mapping[str, Any],
    plan: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    *,
    configuration: str,
    fold: int | str,
    where: Path,
) -> None:
    """Compare what a checkpoint says it was trained on with what is asked for now.

    Raises:
        ModelError: they differ, with both values; nothing was written.
    """
    schema = (checkpoint.get("stu") or {}).get("schema", 1)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise ModelError(
            f"checkpoint has schema {schema}, this version reads up to {SCHEMA}",
            where=where,
            hint="continue with the version that wrote it",
        )
    arguments = checkpoint["init_args"]
    stored = _describe(arguments.get("plans") or {}, arguments.get("dataset_json") or {}, configuration)
    wanted = _describe(plan, dataset_json, configuration)
    stored |= {"configuration": arguments.get("configuration"), "fold": arguments.get("fold")}
    wanted |= {"configuration": configuration, "fold": fold}
    problems = [
        f"{name}: {_shorten(stored[name])} in the checkpoint, {_shorten(wanted[name])} here"
        for name in wanted
        if stored[name] not in (wanted[name], _MISSING)
    ]
    if problems:
        raise ModelError(
            f"checkpoint belongs to another training, it differs in {problems[0]}",
            where=where,
            hint="train another plan with --plan NAME, or start anew with --force",
            details=tuple(problems[1:]),
        )


def _describe(plan: Mapping[str, Any], dataset_json: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    known = plan.get("configurations") or {}
    resolved = resolve_configuration(known, configuration) if configuration in known else {}
    architecture = resolved.get("architecture") or {}
    return {
        "dataset": plan.get("dataset_name", _MISSING),
        "labels": _make_comparable(dataset_json.get("labels", _MISSING)),
        "channels": _make_comparable(dataset_json.get("channel_names", _MISSING)),
        # Cases may come and go, as in any dataset; what was looked for in a source is part of the loss.
        "marked labels": _make_comparable((dataset_json.get(PARTIAL_LABELS_KEY) or {}).get("sources", _MISSING)),
        "network": architecture.get("network_class_name", _MISSING),
        "its arguments": _make_comparable(architecture.get("arch_kwargs", _MISSING)),
        "spacing": _make_comparable(resolved.get("spacing", _MISSING)),
    }


def _make_comparable(value: Any) -> Any:
    """JSON knows no tuples, and its keys are text."""
    if isinstance(value, Mapping):
        return {str(key): _make_comparable(item) for key, item in value.items()}
    return [_make_comparable(item) for item in value] if isinstance(value, (list, tuple)) else value


def _shorten(value: Any) -> str:
    text = str(value)
    return f"'{text if len(text) <= 80 else text[:77] + '...'}'"

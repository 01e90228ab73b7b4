"""The rows of a result file that lm-eval writes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import InputError

_NOT_METRICS = ("alias", "name", "sample_len", "sample_count")


def lm_eval_rows(text: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    """lm-eval: results[task]["metric,filter"] = value, "metric_stderr,filter" beside it.

    A metric of filter `none` has its own name. Other filters grade the same answers in other ways
    (strictly, flexibly), which are not comparable: there the name stays "metric,filter". An error
    that is not a number is unknown. Raises InputError for what is not such a file.
    """
    try:
        content = json.loads(text)
        config = content.get("config") or {}
        known = {
            "model": content.get("model_name") or str(config.get("model_args", "")),
            "n_params": config.get("model_num_parameters"),
            "limit": _limit(config.get("limit")),
        }
        return [
            (f"results.{task}.{key}", known | {"task": task} | row)
            for task, metrics in content["results"].items()
            for key, row in _metrics(metrics, (content.get("n-samples") or {}).get(task) or {})
        ]
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        reason = f"not an lm-eval result file: {place}: not JSON: {error.msg}"
        raise InputError(f"{path}: {reason}") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        reason = "not an lm-eval result file: it needs `results` of tasks and their metrics"
        raise InputError(f"{path}: {reason}") from None


def _metrics(
    metrics: Mapping[str, Any], samples: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in metrics.items():
        metric, _, kind = key.partition(",")
        if not kind or metric in _NOT_METRICS or metric.endswith("_stderr"):
            continue
        if not _is_number(value):
            continue
        error: Any = metrics.get(f"{metric}_stderr,{kind}")
        yield (
            key,
            {
                "metric": metric if kind == "none" else key,
                "value": value,
                "stderr": error if _is_number(error) and math.isfinite(error) else None,
                "n_items": samples.get("effective", metrics.get("sample_len")),
            },
        )


def _limit(limit: Any) -> int | None:
    """Items of each task, where lm-eval was told a number of them (it also takes a share)."""
    return int(limit) if _is_number(limit) and limit >= 1 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

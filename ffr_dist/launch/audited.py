"""audit.json as a report shows it, and the contact sheets that it names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ffr_dist.errors import BrokenError, MissingError
from ffr_dist.evaluate.intervals import wilson
from ffr_dist.report import content
from ffr_dist.report.sheets import compact
from ffr_dist.shards import layout
from ffr_dist.store import Store

Values = Mapping[str, Any]
T = TypeVar("T")


def read_audit(store: Store) -> dict[str, Any] | None:
    """audit.json; None where nothing was audited, BrokenError where it is not what an audit leaves."""
    try:
        found: dict[str, Any] = json.loads(store.get(layout.AUDIT))
        if not {"asked", "failures", "summary"} <= found.keys():
            raise _broken()
    except MissingError:
        return None
    except (ValueError, AttributeError) as error:
        raise _broken() from error
    return found


def _broken() -> BrokenError:
    return BrokenError(f"{layout.AUDIT} does not tell of an audit; delete it and run 'ffr audit' again")


def audit_content(found: Values) -> content.Audit:
    """What audit.json tells; BrokenError where it lacks something."""
    try:
        return _content(found)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise _broken() from error


def _content(found: Values) -> content.Audit:
    distances, telling, features = found["distances"], found["real_or_fake"], found["feature_distances"]
    gaps = found["gaps"]
    order = [group["group"] for group in found["groups"]]
    return content.Audit(
        groups=tuple(content.GroupAudit(**group) for group in found["groups"]),
        overall=content.GroupAudit(**found["overall"]),
        distances=None if distances is None else content.Distances(**{k: _frozen(v) for k, v in distances.items()}),
        checks=tuple(content.Check(**check) for check in found["checks"]),
        failures=tuple(found["failures"]),
        real_or_fake=None if telling is None else content.RealOrFake(**telling),
        feature_distances=None if features is None else _features(features),
        gaps=None
        if gaps is None
        else content.Gaps(
            trained_on_generated=_gaps(gaps["trained_on_generated"], order),
            trained_on_real=_gaps(gaps["trained_on_real"], order),
        ),
        duplicates=content.Duplicates(
            **{**found["duplicates"], "groups": _ordered(found["duplicates"]["groups"], order)}
        ),
    )


def audit_sheets(store: Store, listed: Sequence[Values]) -> Iterator[content.Sheet]:
    """The sheets of audit.json that are there, small enough for a page."""
    for sheet in listed:
        try:
            image = store.get(sheet["file"])
        except MissingError:
            continue
        yield content.Sheet(group=sheet["group"], image=compact(image), caption=sheet["caption"], kind=sheet["kind"])


def _features(found: Values) -> content.FeatureDistances:
    return content.FeatureDistances(
        features=found["features"],
        weights_sha256=found["weights_sha256"],
        groups=tuple(
            content.FeatureDistance(
                group=group["group"],
                real=group["real"],
                generated=group["generated"],
                fd=_estimate(group, "fd"),
                kid=_estimate(group, "kid"),
                fd_real=group["fd_real"],
                kid_real=group["kid_real"],
            )
            for group in found["groups"]
        ),
    )


def _estimate(values: Values, name: str) -> content.Estimate:
    return content.Estimate(values[name], values[f"{name}_low"], values[f"{name}_high"])


def _gaps(found: Mapping[str, Values], order: Sequence[str]) -> tuple[content.Gap, ...]:
    return tuple(
        content.Gap(group=name, generated=_share(of["generated"]), real=_share(of["real"]))
        for name, of in _ordered(found, order).items()
    )


def _ordered(found: Mapping[str, T], order: Sequence[str]) -> dict[str, T]:
    """By group as declared; JSON has sorted the keys."""
    return {name: found[name] for name in dict.fromkeys((*order, *found)) if name in found}


def _share(count: Values) -> content.Estimate | None:
    if not count["count"]:
        return None
    return content.Estimate(count["correct"] / count["count"], *wilson(count["correct"], count["count"]))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value

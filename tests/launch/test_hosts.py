"""A host whose link is cut in the middle of a run: Ray takes its node for alive for a minute or more."""

from dataclasses import replace

import noisy
import pytest
from hosts import hosts  # noqa: F401 - a fixture
from watching import commits, same_set, wait_for

from ffr_dist.shards import layout
from ffr_dist.store import open_store

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(400)]


def test_what_a_silent_host_had_is_made_by_another_without_waiting_for_ray(hosts, data, quiet, tmp_path):  # noqa: F811
    """Its worker is in the middle of an interval, and stays there for good."""
    recipe, out, sign = tmp_path / "noisy.yaml", tmp_path / "out", tmp_path / "held"
    recipe.write_text(noisy.noisy_text(data, workers="auto"))
    held = noisy.Fault("hold", "high_temple", 15, once=str(sign), until=str(tmp_path / "never"))
    patience = replace(noisy.UNHURRIED, silent=5.0)  # a live worker that is late is only asked again
    argv = noisy.command(recipe, out, faults=[held], patience=patience)
    process = hosts.start(1, argv, environment=hosts.environment)
    wait_for(sign.exists, process)
    lost = hosts.of(int(sign.read_text()))
    hosts.cut(lost)
    before = len(commits(out))

    told, _ = process.communicate(timeout=240)
    assert process.returncode == 0, told
    assert quiet in told
    assert len(commits(out)) > before
    same_set(out, quiet)
    assert not list(open_store(str(out)).list(layout.FAILURES))
    events = "".join(path.read_text() for path in (out / "events").iterdir())
    assert "does not answer; others get what it was making" in events
    assert '"worker_down"' not in events  # Ray still takes its node for alive
    assert hosts.workers(lost)  # nothing has told it to end
    (other,) = {2, 3} - {lost}
    wait_for(lambda: not hosts.workers(other))

import pytest
from small_run import write_data


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_data(folder)
    return folder


@pytest.fixture(scope="session")
def quiet(data, tmp_path_factory):
    """The manifest of the noisy method, made in one process that nothing disturbed."""
    import noisy

    from ffr_dist.launch.pool import make_pool

    return make_pool(noisy.noisy_run(data, tmp_path_factory.mktemp("quiet"), delay_s=0.0), inline=True).manifest_sha256


@pytest.fixture(scope="module")
def cluster():
    """A head with two CPU slots, which this process is connected to."""
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()

"""What hosts must have alike before they start; how they agree is in tests/test_hosts.py."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from store import Store

from rolltune.errors import UserError
from rolltune.hosts import Hosts, Place
from rolltune.jobs.together import check_folder


@pytest.mark.parametrize("shared", [True, False])
def test_a_folder_of_its_own_on_one_host_is_refused_on_both(tmp_path, shared):
    store = Store()

    def work(host: int) -> str:
        folder = tmp_path / ("one" if shared or host == 0 else "other")
        folder.mkdir(exist_ok=True)
        try:
            check_folder(Hosts(Place(host, 2), store), SimpleNamespace(state=folder / "best.state"))
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(work, (0, 1)))
    assert [("host 1 has another" in text) for text in said] == [not shared] * 2
    assert not list(tmp_path.glob("*/*"))

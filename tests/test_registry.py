import subprocess
import sys

import pytest

from offbeat import registry
from offbeat.checkpoints.open import adapter_of
from offbeat.errors import OffbeatError, UnknownNameError


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed package, as pip leaves it: its module and its metadata."""
    (tmp_path / "oddity.py").write_text("class Odd:\n    'A method.'\n")
    info = tmp_path / "oddity-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: oddity\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[offbeat.methods]\nodd = oddity:Odd\nbroken = oddity:Missing\n"
        "low-probability = oddity:Odd\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("oddity", None)


def test_plugin_is_listed_without_import_and_found_by_name(plugin):
    assert "odd" in registry.names("method")
    assert "oddity" not in sys.modules
    assert registry.find("method", "odd").__name__ == "Odd"


def test_plugin_cannot_take_a_built_in_name(plugin):
    assert registry.names("method").count("low-probability") == 1
    assert registry.BUILT_IN["method"]["low-probability"].startswith("offbeat.")


def test_broken_plugin_is_named(plugin):
    with pytest.raises(OffbeatError, match="plug-in oddity cannot be imported"):
        registry.find("method", "broken")


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean pocket"):
        registry.find("backbone", "poket")
    with pytest.raises(UnknownNameError, match="unknown kind"):
        registry.names("colour")


def test_every_built_in_name_resolves():
    for kind, table in registry.BUILT_IN.items():
        for name in table:
            assert callable(registry.find(kind, name)), (kind, name)


def test_folder_and_hub_id_mean_an_unclip_checkpoint(tmp_path):
    wanted = registry.find("backbone", "pocket")
    assert adapter_of("someone/weights") is wanted
    assert adapter_of(tmp_path) is wanted


def test_listing_names_loads_no_torch():
    code = (
        "import sys; from offbeat import registry; registry.names('backbone');"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

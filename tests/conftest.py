import os

os.environ["HF_HUB_OFFLINE"] = "1"

from importlib.util import find_spec

import pytest
import torch

from offbeat.backbones.unclip.adapter import UnclipBackbone

collect_ignore_glob = ["fixtures/*"]  # programs that made files there need packages of their own
if find_spec("sqlalchemy") is None:  # pip install 'offbeat[study]'
    collect_ignore_glob.append("study/*")

torch.set_num_threads(1)  # two busy processes on two cores wait for each other's threads


@pytest.fixture(scope="session")
def pocket():
    return UnclipBackbone.load("pocket")


@pytest.fixture(scope="session")
def pocket_sd():
    from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone

    return StableDiffusionBackbone.load("pocket-sd")


@pytest.fixture(scope="session", params=["2.2", "2.1"])
def tiny_folder(request, tmp_path_factory):
    """A random checkpoint of each version, saved as the published ones are."""
    import tiny

    return tiny.build(tmp_path_factory.mktemp(f"kandinsky-{request.param}"), request.param)


@pytest.fixture(scope="session")
def tiny_backbone(tiny_folder):
    return UnclipBackbone.load(tiny_folder)


@pytest.fixture(scope="session", params=["sd", "xl"])
def tiny_sd_folder(request, tmp_path_factory):
    """A random Stable Diffusion checkpoint of each kind, with an IP-Adapter."""
    import tiny

    return tiny.build_sd(tmp_path_factory.mktemp("stable-diffusion") / request.param, request.param)


@pytest.fixture(scope="session")
def tiny_sd(tiny_sd_folder):
    from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone

    return StableDiffusionBackbone.load(tiny_sd_folder)


@pytest.fixture(scope="session", params=["sd3", "sd3-without-t5", "flux", "flux-schnell"])
def tiny_flow_folder(request, tmp_path_factory):
    """A random checkpoint of each kind of rectified-flow transformer."""
    import tiny_flow

    folder = tmp_path_factory.mktemp("flow") / request.param
    if request.param.startswith("sd3"):
        return tiny_flow.build_sd3(folder, t5=request.param == "sd3")
    return tiny_flow.build_flux(folder, distilled=request.param == "flux")


@pytest.fixture(scope="session")
def tiny_flow_backbone(tiny_flow_folder):
    from offbeat.backbones.flow.flux import FluxBackbone
    from offbeat.backbones.flow.sd3 import SD3Backbone

    kind = SD3Backbone if "sd3" in tiny_flow_folder.name else FluxBackbone
    return kind.load(tiny_flow_folder)


@pytest.fixture(scope="session")
def tiny_of(tmp_path_factory):
    """Return a tiny checkpoint of a kind, such as ``2.2``, ``xl`` or ``flux``, loaded once."""
    import tiny
    import tiny_flow
    import tiny_language
    from offbeat import load_backbone

    builds = {
        **dict.fromkeys(("2.1", "2.2"), tiny.build),
        **dict.fromkeys(("sd", "xl"), tiny.build_sd),
        "one-step": lambda folder, kind: tiny.build_one_step(folder),
        "sd3": lambda folder, kind: tiny_flow.build_sd3(folder),
        "flux": lambda folder, kind: tiny_flow.build_flux(folder),
        **dict.fromkeys(("chroma", "z-image", "qwen-image", "sana"), tiny_language.build_language),
    }
    known = {}

    def of(kind):
        if kind not in known:
            known[kind] = load_backbone(builds[kind](tmp_path_factory.mktemp("tiny") / kind, kind))
        return known[kind]

    return of


def pytest_terminal_summary(terminalreporter):
    """Say aloud what was not tested, where there is no browser or no database server."""
    skipped = terminalreporter.stats.get("skipped", [])
    for mark, title, package in (
        ("NO BROWSER", "THE STUDIO'S PAGE WAS NOT TESTED", "chromium"),
        ("NO POSTGRESQL", "STUDIES ON POSTGRESQL WERE NOT TESTED", "postgresql"),
        ("NO RAY", "SWEEPS ON A CLUSTER WERE NOT TESTED", None),
    ):
        told = [report for report in skipped if mark in str(report.longrepr)]
        if told:
            terminalreporter.section(title, red=True, bold=True)
            reason = told[0].longrepr[2]
            terminalreporter.write_line(f"{len(told)} tests skipped. {reason}", red=True)
            how = f"Debian: apt install {package}; then: make test"
            how = how if package else "pip install 'offbeat[ray]'; then: make test"
            terminalreporter.write_line(how, red=True)

"""The figure with sliders: plain where nobody is, live where somebody is."""

import os
import sys
from types import ModuleType, SimpleNamespace

import matplotlib.pyplot as plt
import pytest
from jupyter_client.manager import start_new_kernel

from common import ROOT, interactive
from common.interactive import explore

CELL = """
import matplotlib.pyplot as plt
from common.interactive import explore
def draw(eta):
    figure, ax = plt.subplots()
    ax.plot([0, eta])
    return figure
figure = explore(draw, eta=(0.0, 1.0, 0.1, 0.5))
"""
VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def kernel():
    env = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
    manager, client = start_new_kernel(cwd=str(ROOT), env=env)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def outputs(client, code, allow_stdin):
    """What a cell shows, as (kind of message, content)."""
    found = []
    reply = client.execute_interactive(
        code,
        allow_stdin=allow_stdin,
        stdin_hook=lambda _: None,
        output_hook=lambda m: found.append((m["msg_type"], m["content"])),
        timeout=60,
    )
    assert reply["content"]["status"] == "ok", found
    return [o for o in found if o[0] in ("display_data", "update_display_data", "stream")]


def test_executed_by_a_program_it_is_one_picture_and_nothing_else(kernel):
    ((kind, content),) = outputs(kernel, CELL, allow_stdin=False)
    assert kind == "display_data" and "image/png" in content["data"]


def test_without_ipywidgets_somebody_sees_the_same(kernel):
    hide = "import sys; sys.modules['ipywidgets'] = None\n"
    ((_, content),) = outputs(kernel, hide + CELL, allow_stdin=True)
    assert "image/png" in content["data"]
    outputs(kernel, "del sys.modules['ipywidgets']", allow_stdin=False)


def test_somebody_gets_sliders_and_they_redraw_the_picture(kernel):
    pytest.importorskip("ipywidgets")
    (_, sliders), (_, first) = outputs(kernel, CELL, allow_stdin=True)
    assert VIEW in sliders["data"] and "image/png" in first["data"]
    move = """
from ipywidgets import FloatSlider
import ipywidgets.widgets.widget as all_widgets
(slider,) = [w for w in all_widgets._instances.values() if isinstance(w, FloatSlider)]
slider.value = 0.8
"""
    ((kind, second),) = outputs(kernel, move, allow_stdin=True)
    assert kind == "update_display_data"
    assert second["transient"] == first["transient"]
    assert second["data"]["image/png"] != first["data"]["image/png"]


class Slider(SimpleNamespace):
    """What `explore` needs of ipywidgets, which is an optional dependency."""

    def __init__(self, value, **rest):
        super().__init__(value=value, **rest)

    def observe(self, call, name):
        assert name == "value"
        self.call = call


def test_sliders_start_at_the_defaults_and_redraw(monkeypatch):
    plt.close("all")  # of other tests
    fake, drawn, shown = ModuleType("ipywidgets"), [], []
    fake.FloatSlider, fake.HBox = Slider, list
    monkeypatch.setitem(sys.modules, "ipywidgets", fake)
    monkeypatch.setattr(interactive, "somebody_there", lambda: True)
    handle = SimpleNamespace(update=shown.append)
    made = []

    def display(thing, display_id=False):
        made.append(thing)
        return handle

    monkeypatch.setattr(interactive, "display", display)

    def draw(eta, beta):
        drawn.append((eta, beta))
        return plt.figure()

    figure = explore(draw, eta=(0, 1, 0.1, 0.3), beta=(0, 0.9, 0.1, 0.5))
    (eta, beta), picture = made
    assert picture is figure and drawn == [(0.3, 0.5)]
    eta.value = 0.9
    eta.call(None)
    assert drawn[-1] == (0.9, 0.5) and len(shown) == 1 and shown[0] is not figure
    assert not plt.get_fignums(), "an open figure would be shown a second time"


def test_without_ipywidgets_there_are_no_sliders(monkeypatch):
    plt.close("all")  # of other tests
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setattr(interactive, "somebody_there", lambda: True)
    assert explore(lambda eta: plt.figure(), eta=(0, 1, 0.1, 0.3))
    assert not plt.get_fignums()


def test_a_slider_must_start_within_its_range():
    with pytest.raises(ValueError, match="'eta'"):
        explore(lambda eta: plt.figure(), eta=(0, 1, 0.1, 2))


def test_nobody_is_there_outside_of_a_kernel():
    assert not interactive.somebody_there()

"""Claims: bands, verdicts, controls, the printed text and the two tables."""

import math

import pandas as pd
import pytest

from common.claims import COLUMNS, Check, Claims

NAN, INF = math.nan, math.inf


@pytest.fixture
def claims(tmp_path) -> Claims:
    return Claims("01_demo", "quick", tmp_path)


def add(claims: Claims, *checks: Check, id: str = "1.1", **keywords):
    seeds = range(len(checks[0].values))
    claims.add(id, "S rises", "paper 001, fig 1", checks, seeds, **keywords)
    return claims.claims[id]


# One check


@pytest.mark.parametrize(
    "band, criterion",
    [
        ({"low": 2}, "S >= 2"),
        ({"high": 0.25}, "S <= 0.25"),
        ({"low": 0.9, "high": 1.1}, "S in [0.9, 1.1]"),
        ({"low": -1e-6, "high": 1e6}, "S in [-1e-06, 1e+06]"),
    ],
)
def test_criterion(band, criterion):
    assert Check("S", [1.0], **band).criterion == criterion


@pytest.mark.parametrize(
    "value, inside",
    [(0.9, True), (1, True), (1.1, True), (0.89, False), (1.11, False), (NAN, False)],
)
def test_band_includes_its_ends(value, inside):
    assert Check("S", [value], low=0.9, high=1.1).holds(value) is inside


@pytest.mark.parametrize("band", [{"low": 0}, {"high": 0}, {"low": -INF, "high": 1e300}])
def test_nan_never_holds(band):
    assert not Check("S", [NAN], **band).holds(NAN)


@pytest.mark.parametrize(
    "values, band, margin",
    [
        ([1.0], {"low": 0, "high": 2}, 0.5),  # in the middle of the band
        ([0.5, 1.0], {"low": 0, "high": 2}, 0.25),  # the worst seed counts
        ([1.0, 3.0], {"low": 0, "high": 2}, -0.5),
        ([3.0, 4.0], {"low": 2}, 0.5),  # in units of the bound
        ([1.0], {"low": 2}, -0.5),
        ([-3.0], {"high": -2}, 0.5),
        ([0.25], {"low": 0}, 0.25),  # a bound of zero has no unit
        ([INF], {"low": 2}, INF),
        ([NAN, 3.0], {"low": 2}, -INF),
        ([3.0, NAN], {"low": 2}, -INF),
        ([3.0, NAN], {"high": 2}, -INF),
        ([NAN], {"low": 0, "high": 2}, -INF),
    ],
)
def test_margin(values, band, margin):
    assert Check("S", values, **band).margin == margin


def test_margin_of_an_exact_value():
    # ZeroDivisionError as long as a band without width is a unit.
    assert Check("rises", [0, 0], low=0, high=0).margin == 0
    assert Check("rises", [0, 2], low=0, high=0).margin < 0


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"values": [], "low": 0}, "no values"),
        ({"values": [1.0]}, "no band"),
        ({"values": [1.0], "low": 0, "control": []}, "control values"),
        ({"values": [1.0], "low": 0, "control": [1.0, 2.0]}, "control values"),
    ],
)
def test_check_refuses(keywords, message):
    with pytest.raises(ValueError, match=message):
        Check("S", **keywords)


def test_values_of_any_kind():
    check = Check("S", pd.Series([1, 2], index=[5, 7]), low=0, control=(True, False))
    assert check.values == [1.0, 2.0] and check.control == [1.0, 0.0]


# Verdicts and controls


@pytest.mark.parametrize(
    "values, verdict",
    [
        ([2.0, 3.0], "reproduced"),
        ([2.0, 1.0], "partly"),
        ([1.0, 1.0], "not reproduced"),
        ([2.0, NAN], "partly"),
        ([NAN, NAN], "not reproduced"),
    ],
)
def test_verdict(claims, values, verdict):
    assert add(claims, Check("S", values, low=2)).verdict == verdict


def test_all_checks_must_hold_on_the_same_seed(claims):
    claim = add(claims, Check("a", [1, 0, 1], low=1), Check("b", [1, 1, 0], low=1))
    assert claim.passed == [True, False, False]
    assert claim.verdict == "partly"
    apart = add(claims, Check("a", [1, 0], low=1), Check("b", [0, 1], low=1), id="1.2")
    assert apart.verdict == "not reproduced"


@pytest.mark.parametrize(
    "controls, outcome",
    [
        ([None, None], "none"),
        ([[0, 0], None], "rejected"),
        ([[0, 1], None], "not rejected"),  # it must fail on every seed
        ([[1, 1], [0, 0]], "rejected"),
        ([[0, 1], [1, 0]], "rejected"),  # one failed check on each seed is enough
        ([[0, 1], [0, 1]], "not rejected"),
    ],
)
def test_control(claims, controls, outcome):
    checks = [Check("S", [1, 1], low=1, control=control) for control in controls]
    assert add(claims, *checks).control == outcome


def test_add_refuses(claims):
    add(claims, Check("S", [1.0], low=0))
    with pytest.raises(ValueError, match="1.1 is already judged"):
        add(claims, Check("S", [1.0], low=0))
    with pytest.raises(ValueError, match="unknown verdict 'yes'"):
        add(claims, Check("S", [1.0], low=0), id="1.2", expected="yes")
    two = [Check("S", [1.0, 2.0], low=0), Check("T", [1.0], low=0)]
    with pytest.raises(ValueError, match="'T': 1 values for 2 seeds"):
        claims.add("1.3", "c", "s", two, seeds=(0, 1))
    assert list(claims.claims) == ["1.1"]


def test_claim_without_checks_is_refused(claims):
    # Fails as long as `add` takes a claim without checks: it would be "reproduced".
    with pytest.raises(ValueError):
        claims.add("1.1", "c", "s", [], seeds=(0, 1))


# The text


def judged(folder, shift: float) -> Claims:
    """Every kind of claim; the numbers move with the shift, the verdicts do not."""
    claims = Claims("01_demo", "quick", folder)
    rise = Check("S(end)/S(0)", [3 + shift, 4], low=2, control=[1, 1.5 - shift])
    count = Check("steps to the edge", [80, 90 + shift], high=100)
    claims.add("1.1", "S rises", "paper 001, fig 1", [rise, count], (0, 1))
    some = Check("S/(2/eta)", [1 + shift / 100, 2], low=0.9, high=1.1)
    claims.add("1.2", "S hovers", "fig 2", [some], (0, 1), "partly", "seed 1 is late")
    none = Check("p", [5 + shift, 5], high=1, control=[0, 0])
    claims.add("1.3", "p stays", "fig 3", [none], (0, 1))
    return claims


SHOWN = """\
1.1  REPRODUCED (all 2 seeds; control rejected)
     S rises [paper 001, fig 1]
     - S(end)/S(0) >= 2
     - steps to the edge <= 100
1.2  PARTLY (1 of 2 seeds; no control)
     S hovers [fig 2]
     - S/(2/eta) in [0.9, 1.1]
     ! seed 1 is late
1.3  NOT REPRODUCED (0 of 2 seeds; control not rejected)
     p stays [fig 3]
     - p <= 1
"""


@pytest.mark.parametrize("shift", [0, 0.25, 1])
def test_show(tmp_path, capsys, shift):
    judged(tmp_path, shift).show()
    assert capsys.readouterr().out == SHOWN


# The tables


def test_table(tmp_path):
    table = judged(tmp_path, 0).table
    row = table.loc[("1.1", "S(end)/S(0) >= 2")]
    assert row.to_dict() == {
        "median": 3.5,
        "low": 3,
        "high": 4,
        "margin": 0.5,
        "control": 1.25,
    }
    assert math.isnan(table.control[("1.1", "steps to the edge <= 100")])
    assert len(table) == 4


def test_save(tmp_path):
    claims = judged(tmp_path, 0)
    claims.save()
    folder = tmp_path / "quick" / "01_demo"
    assert sorted(p.name for p in folder.iterdir()) == ["checks.csv", "claims.csv"]
    saved = pd.read_csv(folder / "claims.csv", dtype=str)
    names = "id claim source criterion measured low high seeds verdict control"
    assert list(saved) == names.split() == list(COLUMNS)
    assert saved.iloc[0].tolist() == [
        "1.1",
        "S rises",
        "paper 001, fig 1",
        "S(end)/S(0) >= 2; steps to the edge <= 100",
        "3.5",
        "3",
        "4",
        "2",
        "reproduced",
        "rejected",
    ]
    assert saved.verdict.tolist() == ["reproduced", "partly", "not reproduced"]
    assert saved.control.tolist() == ["rejected", "none", "not rejected"]


def test_save_checks(tmp_path):
    judged(tmp_path, 0).save()
    checks = pd.read_csv(tmp_path / "quick" / "01_demo" / "checks.csv", dtype={"id": str})
    assert list(checks) == ["id", "check", "seed", "value", "holds", "control"]
    assert len(checks) == 8  # 4 checks on 2 seeds
    first = checks[checks.check == "S/(2/eta) in [0.9, 1.1]"]
    assert first.seed.tolist() == [0, 1]
    assert first.value.tolist() == [1, 2]
    assert first.holds.tolist() == [True, False]
    assert first.control.isna().all()
    assert checks.control[:2].tolist() == [1, 1.5]


def test_save_nan(claims):
    add(claims, Check("S", [NAN, 1.0], low=0))
    claims.save()
    text = (claims.folder / "checks.csv").read_text()
    assert "1.1,S >= 0,0,nan,False," in text


def test_save_again_replaces(tmp_path):
    judged(tmp_path, 0).save()
    claims = Claims("01_demo", "quick", tmp_path)
    add(claims, Check("S", [1.0], low=0))
    claims.save()
    assert len(pd.read_csv(claims.folder / "claims.csv")) == 1
    assert len(pd.read_csv(claims.folder / "checks.csv")) == 1
    assert len(list(claims.folder.iterdir())) == 2


def test_interrupted_save_keeps_the_old_table(tmp_path, monkeypatch):
    claims = judged(tmp_path, 0)
    claims.save()
    before = (claims.folder / "claims.csv").read_bytes()

    def half(table, path, **_):
        path.write_text("id,cla")
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_csv", half)
    with pytest.raises(KeyboardInterrupt):
        claims.save()
    assert (claims.folder / "claims.csv").read_bytes() == before


# What the notebook insists on


@pytest.mark.parametrize(
    "values, expected, fine",
    [
        ([1, 1], "reproduced", True),
        ([1, 0], "reproduced", False),
        ([0, 0], "reproduced", False),
        ([1, 1], "partly", True),
        ([1, 0], "partly", True),
        ([0, 0], "partly", False),
        ([0, 0], "not reproduced", True),
        ([1, 1], "not reproduced", True),
    ],
)
def test_require_verdict(claims, values, expected, fine):
    add(claims, Check("S", values, low=1, control=[0, 0]), expected=expected)
    if fine:
        assert claims.require() is None
    else:
        with pytest.raises(AssertionError, match=f"1.1 .*expected: {expected}"):
            claims.require()


def test_require_control(claims):
    add(claims, Check("S", [1, 1], low=1, control=[0, 1]))
    with pytest.raises(AssertionError, match="1.1: the control was not rejected"):
        claims.require()


def test_require_names_every_claim(tmp_path):
    with pytest.raises(AssertionError) as caught:
        judged(tmp_path, 0).require()
    text = str(caught.value)
    assert "1.3 not reproduced (expected: reproduced)" in text
    assert "1.3: the control was not rejected" in text
    assert "1.1" not in text and "1.2" not in text


def test_require_without_control(claims):
    add(claims, Check("S", [1, 1], low=1))
    assert claims.require() is None


def test_claims_are_listed_by_id_whatever_the_order_of_the_story(tmp_path):
    claims = Claims("00_test", "quick", tmp_path)
    for id in ("1.10", "1.2", "1.9"):
        claims.add(id, "a claim", "a source", [Check("x", [1.0], high=2)], [0])
    assert list(claims.claims) == ["1.2", "1.9", "1.10"]


def test_a_partial_claim_is_partly_reproduced_at_best(claims):
    held, failed = Check("S", [2.0, 3.0], low=1), Check("S", [0.0, 0.0], low=1)
    add(claims, held, partial=True, note="not on images")
    assert claims.claims["1.1"].verdict == "partly"
    add(claims, failed, id="1.2", partial=True, note="not on images")
    assert claims.claims["1.2"].verdict == "not reproduced"
    with pytest.raises(ValueError, match="1.3 is partial: a note must say"):
        add(claims, held, id="1.3", partial=True)

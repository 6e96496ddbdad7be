from __future__ import annotations

import pytest

from medvl.findings.wording import broad_name


@pytest.mark.parametrize(
    ("observation", "name"),
    [
        ("solid nodule", "nodule"),
        ("Ground-glass nodules", "nodule"),
        ("calcified nodule", "nodule"),  # both words stand in families; the last is the thing
        ("pleural effusion", "effusion"),
        ("spiculated mass in the right upper lobe", "mass"),
        ("several liver metastases", "metastasis"),
        ("实性结节", "结节"),
        ("磨玻璃结节", "结节"),
        ("左侧胸腔积液", "积液"),
    ],
)
def test_a_broad_name_is_the_thing_without_what_is_said_of_it(observation: str, name: str) -> None:
    assert broad_name(observation) == name


@pytest.mark.parametrize("observation", ["", "bronchiectasis", "Tree-in-bud pattern", "小叶间隔"])
def test_what_names_no_known_thing_stays_as_it_is(observation: str) -> None:
    assert broad_name(observation) == observation

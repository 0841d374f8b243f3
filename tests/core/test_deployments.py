"""Which model a deployment stands for: the team's own mapping first, then everybody's, never another team's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.deployments import NAME, deployment_id, model_of, parts_of
from bursar.core.directory import Deployment
from bursar.core.errors import Refusal

NAMES = st.from_regex(NAME, fullmatch=True)
TEAMS = st.sampled_from(["", "ads", "search"])


@given(st.dictionaries(st.tuples(TEAMS, NAMES), st.sampled_from(["m1", "m2"]), max_size=6), TEAMS, NAMES | st.text())
def test_a_name_stands_for_what_its_team_or_everybody_mapped(
    table: dict[tuple[str, str], str], team: str, asked: str
) -> None:
    made = [Deployment(id=deployment_id(name, owner), model=model) for (owner, name), model in table.items()]
    assert [parts_of(one) for one in made] == [(name, owner) for owner, name in table]
    book = {one.id: one for one in made}
    for name in {asked, *(name for _, name in table), *book}:
        expected = table.get((team, name)) or table.get(("", name))
        if expected is not None:
            assert model_of(book, team, name) == expected
            continue
        with pytest.raises(Refusal) as raised:
            model_of(book, team, name)
        assert raised.value.word == "deployment_unknown"

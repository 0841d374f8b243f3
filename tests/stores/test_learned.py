"""What was learned about tokens outlives the process, however that ends; a file that is no use is no harm."""

from pathlib import Path

from bursar.app.learning import Learning
from bursar.core.calls import Usage
from bursar.core.content import CONTENTS
from bursar.core.estimate import Estimate
from bursar.stores.learned import load_priors, read_learned, write_learned

ASKED = "gpt-4o-mini", "prose", "vk_1", 10_000, 4_000


def taught(estimate: Estimate, rounds: int = 300) -> None:
    for _ in range(rounds):
        estimate.learn("gpt-4o-mini", "prose", "vk_1", 1_000, Usage(input_tokens=700, output_tokens=40))


def test_the_shipped_priors_know_every_class_of_text() -> None:
    families = load_priors()
    assert families[-1].models == ("*",), "some family fits any model"
    for family in families:
        assert set(CONTENTS) - {"attached"} == set(family.ratios)
        assert all(0 < p50 <= p95 < 1 for p50, p95 in family.ratios.values())


async def test_it_is_kept_and_read_again(tmp_path: Path) -> None:
    before = Learning(tmp_path)
    taught(before.estimate)
    await before.keep()
    after = Learning(tmp_path)
    assert after.estimate.expected(*ASKED) == before.estimate.expected(*ASKED)
    assert after.estimate.expected(*ASKED)[0] > 6_500
    assert (tmp_path / "estimates.json").stat().st_mode & 0o777 == 0o600


async def test_nothing_new_is_not_written(tmp_path: Path) -> None:
    learning = Learning(tmp_path)
    await learning.keep()
    assert not (tmp_path / "estimates.json").exists()


async def test_what_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    learning = Learning(folder)
    taught(learning.estimate)
    await learning.keep()
    folder.mkdir()
    await learning.keep()
    assert read_learned(folder / "estimates.json") == learning.estimate.state()


def test_a_death_while_writing_leaves_what_was_before(tmp_path: Path) -> None:
    path, estimate = tmp_path / "estimates.json", Estimate()
    taught(estimate)
    write_learned(path, estimate.state())
    (tmp_path / "estimates.part").write_bytes(path.read_bytes()[:40])
    assert read_learned(path) == estimate.state()
    taught(estimate, 1)
    write_learned(path, estimate.state())
    assert read_learned(path) == estimate.state()


def test_a_file_that_is_no_use_is_as_none(tmp_path: Path) -> None:
    path = tmp_path / "estimates.json"
    for data in (
        b"",
        b"{",
        b'{"format":1,"learned":{"ratios":[["m","prose",["x",0,0,0,0]]]}}',
        b'{"format":9,"learned":{}}',
    ):
        path.write_bytes(data)
        assert not read_learned(path).ratios

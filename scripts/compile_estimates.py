"""Compile the priors of estimates, and the counts that their error is measured on, from sets of texts.

``compile_estimates.py FOLDER`` reads every ``*.jsonl`` there (rows with a `text`), and adds what such sets lack: code
(this repository's), base64 (made up), texts beyond ASCII (below). Each becomes a chat body, whose tokens are counted
by PyPI's `bpe-openai` (needed here only, and not locked: ``pip install bpe-openai``; it needs no network). Half of
them, drawn by lot, make the priors, the others the counts. Only sizes and counts are written, no text.
"""

import argparse
import base64
import importlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from bursar.core.content import CONTENTS, classify

ROOT = Path(__file__).parent.parent
PRIORS = ROOT / "bursar" / "stores" / "data" / "estimates.json"
COUNTS = ROOT / "bench" / "estimate_counts.json"
FRAME_TOKENS = 7  # OpenAI's cookbook: 3 a message, its role, 3 to prime the answer
LEAST_ROWS = 20  # a class with fewer has no prior of its own
ENCODINGS = {
    "cl100k_base": ("gpt-4", "gpt-4-*", "gpt-3.5*"),
    "o200k_base": ("*",),  # of OpenAI's models since 2024; the best that is known of others
}
BEYOND_ASCII = (
    "我们需要在周五之前完成这份报告、请把数据整理好以后发给我。",
    "这个函数读取配置文件、并检查所有字段是否合法。",
    "会議は来週の月曜日に延期されました。資料を準備しておいてください。",
    "このエラーの原因を調べて、修正方法を教えてください。",
    "다음 주까지 예산 보고서를 작성해서 팀에 공유해 주세요.",
    "Пожалуйста, составьте краткое описание проекта и перечислите основные риски.",
    "Мы хотим узнать, сколько стоит один запрос и кто за него платит.",
    "Παρακαλώ γράψε μια σύντομη περίληψη του κειμένου και εξήγησε τα βασικά σημεία.",
    "يرجى تلخيص التقرير التالي وذكر أهم النتائج والتوصيات.",
    "कृपया इस दस्तावेज़ का सारांश लिखें और मुख्य बिंदु बताएं।",
    "กรุณาสรุปเอกสารนี้และอธิบายขั้นตอนถัดไปให้ชัดเจน",
    "אנא כתוב סיכום קצר של המסמך והסבר את הצעדים הבאים.",
)


class Sample(NamedTuple):
    """One body: which set, its class, its bytes, its tokens by encoding."""

    set: str
    content: str
    size: int
    tokens: dict[str, int]


def texts(folder: Path, chance: random.Random) -> Iterator[tuple[str, str]]:
    """(set, text) of everything that is measured."""
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_text().strip().split("\n")
        for line in lines:
            yield path.stem, json.loads(line)["text"]
        for first in range(0, len(lines), 8):  # short rows together are prose of some length; the rows themselves, JSON
            rows = lines[first : first + 8]
            yield f"{path.stem}, joined", "\n".join(json.loads(line)["text"] for line in rows)[:16_000]
            yield f"{path.stem}, as JSON", "[" + ",".join(rows)[:8_000] + "]"
    for path in sorted((ROOT / "bursar").rglob("*.py")):
        code = path.read_text()
        yield from (("this repository", code[at : at + 3_000]) for at in range(0, len(code), 3_000))
    for _ in range(200):
        yield "base64, made up", base64.b64encode(chance.randbytes(chance.randrange(200, 3_000))).decode()
    for _ in range(400):
        yield "beyond ASCII, written for this", " ".join(chance.choices(BEYOND_ASCII, k=chance.randrange(2, 20)))


def samples(folder: Path) -> Iterator[Sample]:
    counters: dict[str, Callable[[str], list[int]]] = {}
    for name in ENCODINGS:
        counters[name] = importlib.import_module("bpe_openai").get_encoding(name).encode_ordinary
    chance = random.Random(2026)
    for number, (name, text) in enumerate(texts(folder, chance)):
        escaped = name.startswith("beyond") and number % 4 < 2  # as many a client's JSON writer does it
        message = {"role": "user", "content": text}
        body = json.dumps({"model": "gpt-4o-mini", "messages": [message]}, ensure_ascii=escaped).encode()
        tokens = {encoding: len(count(text)) + FRAME_TOKENS for encoding, count in counters.items()}
        yield Sample(name, classify(body), len(body), tokens)


def quantile(values: list[float], share: float) -> float:
    return round(sorted(values)[int(share * (len(values) - 1))], 4)


def priors(rows: list[Sample]) -> list[dict[str, object]]:
    families: list[dict[str, object]] = []
    for encoding, models in ENCODINGS.items():
        ratios: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            ratios[row.content].append(row.tokens[encoding] / row.size)
        known = {
            content: (quantile(ratios[content], 0.5), quantile(ratios[content], 0.95))
            for content in CONTENTS
            if len(ratios[content]) >= LEAST_ROWS
        }
        families.append({"models": models, "ratios": known})
    return families


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    rows = list(samples(arguments.parse_args().folder))
    random.Random(1).shuffle(rows)
    half = len(rows) // 2
    made_from = sorted({row.set.partition(",")[0] for row in rows})
    made = {"format": 1, "made_from": made_from, "families": priors(rows[:half])}
    PRIORS.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
    kept = [(row.set, row.content, row.size, *row.tokens.values()) for row in rows[half:]]
    COUNTS.write_bytes(
        msgspec.json.encode({"encodings": list(ENCODINGS), "rows": kept}).replace(b"],[", b"],\n[") + b"\n"
    )
    print(f"{len(rows)} bodies; priors: {PRIORS.name}, counts: {COUNTS.name}")


if __name__ == "__main__":
    main()
